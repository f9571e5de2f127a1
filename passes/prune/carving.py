"""Units out of a model, layer after layer: choose, cut, and fit what reads the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.site import Site
from ..cutting import cut
from ..fitting import Fit, fit, refit, repairable, scarce, write
from ..moments import Fitted, Moments, Origins, biased, key_of, moments, target_of
from ..numerics.arrays import Floats
from ..statistics import Calibration
from ..trail import Trail
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
    _trail: Trail = field(default_factory=Trail)
    _outputs: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def see(self, each: Units) -> dict[Fitted, Moments]:
        """What the readers of units that can be fitted get, and should give; nothing without repair."""
        return self.see_all([each])[0]

    def see_all(self, groups: Sequence[Units]) -> list[dict[Fitted, Moments]]:
        """As `see`, of several groups in one run."""
        if self.original is None or self.calibration is None:
            return [{} for _ in groups]
        fitting = [self._fitting(each) for each in groups]
        asked = [site for sites in fitting for site in sites]
        found: dict[Fitted, Moments] = {}
        if asked:
            origins = self._origins(asked)
            # what many sites give at once would be too much to keep
            trail = self._trail if len(groups) == 1 else None
            found = moments(self.original, self.model, self.calibration, asked, origins, trail)
        return [{key_of(site): found[key_of(site)] for site in sites} for sites in fitting]

    def _fitting(self, each: Units) -> list[Site]:
        """The readers that can be fitted; why the others cannot is noted."""
        others = {name for site in each.readers for name in site.tied} - {site.name for site in each.readers}
        others |= {site.name for site in each.makers}
        found: list[Site] = []
        for site in each.readers:
            shared = sorted(others & {site.name, *site.tied})
            reason = f"a weight that {shared[0]} has too" if shared else repairable(site)
            if reason is None and each.read_by(site) is None:
                reason = "inputs that are of two units at once"
            if reason is None:
                found.append(site)
            else:
                self.notes.append(f"{site.name}: {reason}")
        return found

    def _origins(self, asked: Sequence[Site]) -> Origins:
        """Of what sites end in and cuts have shortened: which features of the original are left."""
        found: dict[str, tuple[str, Floats]] = {}
        for site in asked:
            left, stream = self._outputs.get(site.output.name or ""), target_of(site).stream
            if left is not None:
                found[stream] = (stream, np.eye(len(left))[:, left])
        return found

    def _shorten(self, each: Units, keep: NDArray[np.bool_]) -> None:
        """Remember what is left of the outputs of sites that make units."""
        for name, site in {site.output.name or "": site for site in each.makers}.items():
            owners = each.made_by(site)
            if owners is not None:
                left = self._outputs.setdefault(name, np.ones(site.out_features, np.bool_))
                left[left] = (owners < 0) | keep[owners]

    def refit(self, site: Site) -> bool:
        """Fit a site whose inputs all stay; False where that cannot be."""
        if self.original is None or self.calibration is None:
            return False
        return refit(self.model, self.original, self.calibration, site, self._origins([site]), self._trail)

    def take(self, each: Units, keep: NDArray[np.bool_], seen: dict[Fitted, Moments]) -> bool:
        """Leave the units that `keep` names, and fit the readers; whether any of them is another now."""
        new: list[tuple[Site, Fit]] = []
        done: set[Fitted] = set()
        for site in each.readers:
            owners, found = each.read_by(site), seen.get(key_of(site))
            if found is None or owners is None or key_of(site) in done:
                continue
            done.add(key_of(site))
            rows = np.flatnonzero((owners < 0) | keep[owners])
            made = fit(found, rows, site.dense(), bias=site.bias_array() if biased(site) else None)
            if few := scarce(found, len(rows)):
                solved = "left as it was" if made.ridge is None else f"ridge {made.ridge:.2g}"
                self.notes.append(f"{site.name}: {few}, {solved}")
            if not found.halves:
                self.notes.append("one batch of data, so that no fit was held against others")
            new.append((site, made))
        self._shorten(each, keep)
        cut(each.found, {each.axis: keep})
        for site, made in new:
            write(site, made)
        return any(made.ridge is not None for _, made in new)
