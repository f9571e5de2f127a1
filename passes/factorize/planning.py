"""What ranks of groups cost and lose, and which are taken: all together within a budget, or each by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..base import Context, Curve, Miss, Several
from ..budget import Budget, chosen
from ..numerics.arrays import Floats
from ..numerics.low_rank import Spectrum
from ..ranks import Way, apart, fastest, grid, step_of, ways
from .costs import Costs, Timed
from .groups import Group
from .measure import Measure

if TYPE_CHECKING:
    from .factorize_linear import FactorizeLinear

#: Ranks of which it is tried what is kept beside the factors.
_TRIED = 6
_ADVICE = "Take in more sites, or a smaller multiple"


@dataclass(frozen=True)
class Plan:
    """How each group is computed, the whole ones too, and why others have no ranks. whole: the nanoseconds of parts as
    they were, where these were timed.
    """

    taken: Sequence[tuple[Group, Way]]
    missed: Mapping[Group, Miss]
    curve: Curve | None = None
    whole: Callable[[Group, slice | None], float] | None = None


@dataclass(frozen=True, eq=False)
class Planning:
    """made: the pass with its options. budget: None where each rank is told. costs: in its unit."""

    made: FactorizeLinear
    model: ir.Model
    context: Context
    measure: Measure
    budget: Budget | None
    costs: Costs

    def run(self, every: Sequence[Group]) -> Plan:
        """The rank of each group. Raises OptionError for a budget that cannot be kept."""
        found: list[tuple[Group, list[Way]]] = []
        missed: dict[Group, Miss] = {}
        for group in every:
            able = self.ways(group)
            if isinstance(able, Miss):
                missed[group] = able
            else:
                found.append((group, able))
        groups, lists = [group for group, _ in found], [able for _, able in found]
        if not groups:
            return Plan((), missed)
        if self.budget is None:
            # of one rank what loses the least, of one energy what costs the least
            told = (lambda way: way.cost) if self.made.rank is None else (lambda way: way.loss)
            return Plan([(group, min(able[1:], key=told)) for group, able in found], missed)
        if self.made.scope == "layer":
            return self._each(found, missed, self.budget)
        rest, first = self.costs.around(groups)
        best, curve = chosen(lists, rest, self.budget, first, advice=_ADVICE)
        timed = self.costs.whole if isinstance(self.costs, Timed) else None
        return Plan(list(zip(groups, best, strict=True)), missed, curve, timed)

    def _each(self, found: Sequence[tuple[Group, list[Way]]], missed: dict[Group, Miss], budget: Budget) -> Plan:
        """The same share of each group."""
        taken: list[tuple[Group, Way]] = []
        for group, able in found:
            least = min(way.cost for way in able) / able[0].cost
            if least > budget.share:
                missed[group] = Miss("ratio", f"{least:.3f} at the least rank", f"at most {budget.share:g}", near=True)
            else:
                taken.append((group, chosen([able], 0, budget, advice=_ADVICE)[0][0]))
        return Plan(taken, missed)

    def ways(self, group: Group) -> list[Way] | Miss:
        """The group as it is, first, and the ranks that it may have; or why there are none."""
        joint, weight = self.made.joint, group.weight()
        found: list[Way] = []
        missed: list[Miss] = []
        if joint != "apart" or len(group.parts) == 1:
            able = self._ranks(group, None, weight)
            if isinstance(able, Miss):
                missed.append(able)
            else:
                found += able
        if joint != "together" and len(group.parts) > 1:
            members = [self._ranks(group, part, weight) for part in group.parts]
            whole = [Way((None,), self.costs.whole(group, part), 0.0) for part in group.parts]
            lists = [[one] if isinstance(able, Miss) else able for able, one in zip(members, whole, strict=True)]
            refused = [able for able in members if isinstance(able, Miss)]
            missed += refused
            if len(refused) < len(members):
                found += self._beside(lists)[0 if not found else 1 :]
        return found or missed[0]

    def _beside(self, members: list[list[Way]]) -> list[Way]:
        """All parts as they are, first, and with ranks of their own."""
        none: tuple[int | None, ...] = (None,) * len(members)
        whole = Way(none, sum(each[0].cost for each in members), 0.0)
        if self.budget is not None:
            return [whole, *(way for way in apart(members) if not way.whole)]
        taken = [each[-1] for each in members]
        ranks = tuple(rank for way in taken for rank in way.ranks)
        return [whole, Way(ranks, sum(way.cost for way in taken), sum(way.loss for way in taken))]

    def _ranks(self, group: Group, part: slice | None, weight: Floats) -> list[Way] | Miss:
        """Columns of a group as they are, first, and with fewer features; or why they stay. weight: the group's."""
        made, costs = self.made, self.costs
        found = self.measure.spectrum(group, weight if part is None else weight[:, part], part)
        whole, lost = costs.whole(group, part), self._lost(group, weight, found, part)
        if not whole:
            return Miss("cost", "none is counted", "a branch that costs the most; give the budget in bytes")
        if made.rank is not None or made.energy is not None:
            step = step_of(made.multiple, found.most)
            rank = made.rank or min(-(-found.rank_of(made.energy or 1.0) // step) * step, found.most)
            if rank > found.most:
                return Miss("rank", str(rank), f"a rank of at most {found.most}, the full one")
            if made.rank is None and costs.of(group, part, rank) >= whole:
                return Miss("energy", f"rank {rank} of {found.most}", "a rank that takes less; a smaller energy")
            way = Way((rank,), costs.of(group, part, rank), float(lost[rank]))
            return self._slow(group, part, rank) or [Way((None,), whole, 0.0), way]
        able = ways(lost, grid(made.multiple, found.most), whole, lambda rank: costs.of(group, part, rank))
        ranks = [way.ranks[0] or 0 for way in able[1:]]
        if not ranks:
            return Miss("size", f"full rank {found.most}", "a rank that takes less")
        fast = fastest(ranks, partial(self._slow, group, part))
        if isinstance(fast, Miss):
            return fast
        return [able[0], *(way for way in able[1:] if (way.ranks[0] or 0) <= fast)]

    def _lost(self, group: Group, weight: Floats, found: Spectrum, part: slice | None) -> Floats:
        """What the answers lose by each rank from 0 on. Of what is kept beside the factors a few ranks are tried."""
        if not self.made.beside.stored:
            return self.measure.lost(group, weight, found, part)
        mine = weight if part is None else weight[:, part]
        tried = np.unique(np.linspace(1, found.most, _TRIED).round().astype(np.int64))
        errors = [
            mine - self.made.beside.of(self.measure, group, part, mine, int(rank), rounds=1).dense() for rank in tried
        ]
        losses = [self.measure.lost_by(group, weight, error, part) for error in errors]
        every: Floats = np.interp(np.arange(found.most + 1), tried, losses)
        return every

    def _slow(self, group: Group, part: slice | None, rank: int) -> Miss | None:
        """Why a rank does not pay on the target, where there is one."""
        if self.context.pays is None or self.made.beside.stored:
            return None
        step = self.made.at(rank, part is None)
        return self.context.pays(step, self.model, Several(group.first.name, group.nodes(part)))
