"""Gradual pruning: weights go a few at a time while a model trains, the smallest first.

train -> prune a little -> train -> prune a little -> ... -> train what is left

cubic    sparsity at a step   s_f (1 - (1 - (t - t_0) / (t_1 - t_0))^3)        Zhu and Gupta 2017, equation 1
ramps    magnitude at a step, below which weights go, in two slopes            Narang et al. 2017, algorithm 1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..ir.errors import OptionError
from ..passes.prune.methods.schedules import cubic, gradual
from .tickets import masks as selection
from .tickets.masks import Group, Scope
from .tickets.ticket import Ticket, copied

Schedule = Literal["cubic", "ramps"]


class GradualPruning:
    """Prunes a module in place as it is trained.

        with tersor.GradualPruning(model, sparsity=0.8, begin=100, end=1000, every=50) as pruning:
            for step in range(2000):
                ...                          # backward, optimizer.step()
                pruning.after_step()
        pruning.save_masks("masks.npz")      # for prune-ticket{masks=masks.npz}

    sparsity: the share of what can be pruned that is zero in the end, at least 0 and less than 1. begin, end: the first
    step that prunes, and the last; every: how many steps apart. schedule: `cubic` has the share grow, quickly at first;
    `ramps` the magnitude below which weights of a layer go, up to the one below which the share of its weights lies as
    the module is now, so that it wants to be trained already. scope: the smallest of all, or of each layer; ramps are
    of each. structured, only, ignore: as of `lottery`.

    What is pruned stays zero, has no gradient, and does not come back. Each layer keeps its largest weight. Raises
    OptionError for options that make no sense, and for a model with nothing to prune.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sparsity: float,
        begin: int,
        end: int,
        every: int = 1,
        schedule: Schedule = "cubic",
        scope: Scope = "global",
        structured: bool = False,
        only: Sequence[str] = (),
        ignore: Sequence[str] = (),
    ) -> None:
        for right, name, wanted, value in (
            (0 <= sparsity < 1, "sparsity", "at least 0 and less than 1", sparsity),
            (0 <= begin < end, "begin", f"a step from 0 on and before the end, {end}", begin),
            (every >= 1, "every", "at least 1 step", every),
            (schedule in ("cubic", "ramps"), "schedule", "cubic or ramps", schedule),
            (scope in ("global", "layer"), "scope", "global or layer", scope),
        ):
            if not right:
                raise OptionError(f"gradual pruning: expected {name} to be {wanted}, found {value!r}")
        self.step = 0
        self._model, self._final, self._begin, self._end, self._every = model, sparsity, begin, end, every
        self._schedule, self._scope = schedule, scope
        self._groups = selection.groups(model, structured=structured, only=only, ignore=ignore)
        self._kept = selection.everything(self._groups)
        weights = copied(model)
        self._reach = {group.name: _quantile(group.scores(weights), sparsity) for group in self._groups}
        self._held = self._hold()

    @property
    def sparsity(self) -> float:
        """The share of what can be pruned that is zero now."""
        return self._held.sparsity

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """By parameter, True where a weight stays."""
        return {name: mask.numpy() for name, mask in selection.spread(self._groups, self._kept).items()}

    def save_masks(self, path: str | Path) -> None:
        """Write the masks for the pass `prune-ticket{masks=path}`."""
        selection.save(Path(path), self.masks, selection.rows_of(self._model))

    def after_step(self) -> None:
        """To be called after each step of the optimizer: prunes where it is time to, and keeps what is pruned zero."""
        self.step += 1
        due = (self.step - self._begin) % self._every == 0 or self.step == self._end
        if due and self._begin <= self.step <= self._end:
            self._kept = self._fewer()
            self._held.__exit__()
            self._held = self._hold()
        self._held.after_step()

    def __enter__(self) -> GradualPruning:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._held.__exit__()

    def _hold(self) -> Ticket:
        return Ticket(self._model, selection.spread(self._groups, self._kept), kind="ticket").__enter__()

    def _fewer(self) -> dict[str, Tensor]:
        """What stays at this step."""
        weights = copied(self._model)
        if self._schedule == "ramps":
            return {group.name: self._above(group, group.scores(weights)) for group in self._groups}
        wanted = cubic(self.step, start=self._begin, end=self._end, final=self._final)
        left = sum(int(mask.sum()) for mask in self._kept.values()) / sum(group.units for group in self._groups)
        rate = max(0.0, 1 - (1 - wanted) / left)
        return selection.pruned(self._groups, self._kept, weights, rate, self._scope)

    def _above(self, group: Group, scores: Tensor) -> Tensor:
        """The units of a group at or above the threshold, the largest in any case."""
        # the paper's bounds are the steps before the first and behind the last that prune
        start, end = self._begin - 1, self._end + 1
        low = gradual(self.step, start=start, ramp=(start + end) // 2, end=end, reach=self._reach[group.name], every=1)
        scores = scores.masked_fill(~self._kept[group.name], -torch.inf)
        stays = scores >= low
        stays[scores.argmax()] = True
        return stays & self._kept[group.name]


def _quantile(scores: Tensor, share: float) -> float:
    """The score below which this share of the units lies."""
    at = min(int(share * len(scores)), len(scores) - 1)
    return float(scores.sort().values[at])
