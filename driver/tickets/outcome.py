"""What a search has found: masks, a curve, and a verdict at each sparsity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...ir.errors import OptionError
from .folder import Folder
from .masks import Group, save, spread
from .student import Mean, deviation
from .ticket import Kind

Better = Literal["higher", "lower"]
Control = Literal["random-mask", "reinit"]


@dataclass(frozen=True)
class Point:
    """One sparsity: the metric of every seed, of the ticket and of each control; the verdict.

    gains: by how much the ticket is better than each control, over seeds. matching: whether it is as good as the dense
    model, within the tolerance. winning: whether every gain's interval lies above zero; None where nobody can tell, for
    want of controls or of a second seed.
    """

    round: int
    sparsity: float
    metrics: Mapping[Kind, tuple[float, ...]]
    gains: Mapping[Control, Mean]
    matching: bool
    winning: bool | None

    @property
    def means(self) -> dict[Kind, Mean]:
        return {kind: Mean.of(values) for kind, values in self.metrics.items()}

    @property
    def ticket(self) -> Mean:
        """The metric of the ticket; at round 0 of the dense model."""
        return Mean.of(self.metrics["ticket" if self.round else "dense"])


@dataclass(frozen=True)
class Lottery:
    """The outcome of `tersor.lottery`. Printed, it is a table.

    curve: one point for each round, round 0 being the dense model. tolerance: how much worse than dense still matches.
    folder: what `weights` and `masks` read.
    """

    curve: tuple[Point, ...]
    better: Better
    tolerance: float
    seeds: tuple[int, ...]
    folder: Folder
    groups: tuple[Group, ...]
    rows: frozenset[str]
    #: lives as long as the outcome: the temporary folder, for one
    keep: object = field(default=None, repr=False, compare=False)

    @property
    def sparsest(self) -> Point | None:
        """The sparsest point with a matching ticket; None where no pruned one matches."""
        return next((point for point in reversed(self.curve) if point.round and point.matching), None)

    def masks(self, round: int, seed: int) -> dict[str, NDArray[np.bool_]]:
        """The masks by parameter, True where a weight stays, of the ticket that was trained in a round."""
        done = self._done(round, seed, "kept")
        return {name: mask.numpy() for name, mask in spread(self.groups, done).items()}

    def weights(self, round: int, seed: int) -> dict[str, Tensor]:
        """The trained weights of that ticket, for `load_state_dict`; pruned ones are zero."""
        return self._done(round, seed, "weights")

    def save_masks(self, path: str | Path, round: int, seed: int) -> None:
        """Write the masks for the pass `prune-ticket{masks=path}`."""
        save(Path(path), self.masks(round, seed), self.rows)

    def table(self) -> list[dict[str, object]]:
        """One row for each sparsity, as it is printed."""
        return [self._row(point) for point in self.curve]

    def __str__(self) -> str:
        rows = [{name: _cell(value) for name, value in row.items()} for row in self.table()]
        heads = list(dict.fromkeys(name for row in rows for name in row))
        widths = {head: max(len(head), *(len(row.get(head, "")) for row in rows)) for head in heads}
        lines = [{head: head for head in heads}, *rows]
        text = ["  ".join(line.get(head, "").rjust(widths[head]) for head in heads).rstrip() for line in lines]
        found = self.sparsest
        told = f"sparsest matching ticket: {found.sparsity:.1%} pruned" if found else "no pruned ticket matches"
        seeds = "seed" if len(self.seeds) == 1 else "seeds"
        last = (
            f"{len(self.seeds)} {seeds}, {self.better} is better, matching within {self.tolerance:.3g} of dense; {told}"
        )
        return "\n".join([*text, last])

    def _row(self, point: Point) -> dict[str, object]:
        row: dict[str, object] = {"pruned": f"{point.sparsity:.1%}", "ticket": str(point.ticket)}
        for control in point.gains:
            row[control] = str(point.means[control])
        for control, gain in point.gains.items():
            row[f"gain over {control}"] = str(gain)
        return row | ({"matching": point.matching, "winning": point.winning} if point.round else {})

    def _done(self, round: int, seed: int, what: Literal["kept", "weights"]) -> dict[str, Tensor]:
        done = self.folder.read(seed, round, "ticket" if round else "dense")
        if done is None or seed not in self.seeds or not 0 <= round < len(self.curve):
            raise OptionError(
                f"lottery: there is no round {round} of seed {seed}; rounds are 0 to {len(self.curve) - 1}, seeds "
                f"{', '.join(map(str, self.seeds))}"
            )
        return dict(getattr(done, what))


def judged(
    round: int,
    sparsity: float,
    metrics: Mapping[Kind, tuple[float, ...]],
    dense: tuple[float, ...],
    better: Better,
    tolerance: float,
) -> Point:
    """A point with its verdict. Seeds are paired: a ticket is compared to the controls of its own seed.

    Matching: Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, 2020.
    """
    sign = 1.0 if better == "higher" else -1.0
    ticket = metrics["ticket" if round else "dense"]
    gains: dict[Control, Mean] = {}
    for control in ("random-mask", "reinit"):
        if control in metrics:
            gains[control] = Mean.of([sign * (a - b) for a, b in zip(ticket, metrics[control], strict=True)])
    matching = sign * (Mean.of(ticket).mean - Mean.of(dense).mean) >= -tolerance
    known = bool(gains) and len(ticket) > 1
    winning = all(gain.low > 0 for gain in gains.values()) if known else None
    return Point(round, sparsity, metrics, gains, matching, winning)


def tolerance_of(dense: tuple[float, ...], given: float | None) -> float:
    """What was given, else one standard deviation of the dense runs."""
    if given is not None:
        return given
    found = deviation(dense)
    if math.isnan(found):
        raise OptionError("lottery: the dense runs say nothing of their spread: give tolerance=, or two seeds at least")
    return found


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)
