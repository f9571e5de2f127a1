"""Units out of a model, layer after layer: choose, cut, and fit what reads the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.site import Site
from ..cutting import cut
from ..numerics.arrays import Floats
from ..statistics import Calibration
from .fitting import Fitted, Moments, biased, fit, key_of, moments, repairable, write
from .units import Units


@dataclass(eq=False)
class Carver:
    """Takes units out of a model in place.

    original: what repair goes by, None for no repair. notes: what readers were not fitted, and why.
    """

    model: ir.Model
    original: ir.Model | None = None
    calibration: Calibration | None = None
    notes: list[str] = field(default_factory=list)

    def see(self, each: Units) -> dict[Fitted, Moments]:
        """What the readers of units that can be fitted get, and should give; nothing without repair."""
        return self.see_all([each])[0]

    def see_all(self, groups: Sequence[Units]) -> list[dict[Fitted, Moments]]:
        """As `see`, of several groups in one run."""
        if self.original is None or self.calibration is None:
            return [{} for _ in groups]
        fitting = [self._fitting(each) for each in groups]
        asked = [site for sites in fitting for site in sites]
        found = moments(self.original, self.model, self.calibration, asked) if asked else {}
        return [{key_of(site): found[key_of(site)] for site in sites} for sites in fitting]

    def _fitting(self, each: Units) -> list[Site]:
        """The readers that can be fitted; why the others cannot is noted."""
        others = {name for site in each.readers for name in site.tied} - {site.name for site in each.readers}
        others |= {site.name for site in each.makers}
        found: list[Site] = []
        for site in each.readers:
            shared = sorted(others & {site.name, *site.tied})
            reason = f"a weight that {shared[0]} has too" if shared else repairable(site)
            if reason is None:
                found.append(site)
            else:
                self.notes.append(f"{site.name}: {reason}")
        return found

    def take(self, each: Units, keep: NDArray[np.bool_], seen: dict[Fitted, Moments]) -> None:
        """Leave the units that `keep` names, and fit the readers."""
        new: list[tuple[Site, Floats, Floats | None]] = []
        done: set[Fitted] = set()
        for site in each.readers:
            owners, found = each.read_by(site), seen.get(key_of(site))
            if found is None or owners is None or key_of(site) in done:
                continue
            done.add(key_of(site))
            rows = np.flatnonzero((owners < 0) | keep[owners])
            weight, bias = fit(found, rows, site.dense(), biased=biased(site))
            if found.short:
                short = f"{found.count:,} tokens for {len(found.gram):,} inputs"
                self.notes.append(f"{site.name}: {short}, ridge raised to {found.ridge:.2g}")
            new.append((site, weight, bias))
        cut(each.found, {each.axis: keep})
        for site, weight, bias in new:
            write(site, weight, bias)
