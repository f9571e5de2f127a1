"""What columns of a group cost as they are and at each rank: counted, or timed on the target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.feeds import Array, Feeds
from ...ir.runner import watch
from ...ir.site import Site
from ..base import Context, Pass
from ..budget import Unit, costs_by_name
from ..pairs import Pair
from ..trail import cut_out
from .beside import Beside
from .groups import Group

#: Ranks that are timed of each shape; what lies between them is interpolated.
_TIMED = 6
#: In the metadata of a model: the nanoseconds that a latency's share is of.
_FIRST = "tersor.factorize.nanoseconds"


class Costs(ABC):
    """In one unit."""

    @abstractmethod
    def whole(self, group: Group, part: slice | None) -> float:
        """Of some columns of a group as they are, all unless told."""

    @abstractmethod
    def of(self, group: Group, part: slice | None, rank: int) -> float:
        """Of the same in two factors."""

    @abstractmethod
    def around(self, taken: Sequence[Group]) -> tuple[float, float]:
        """What the model costs beside these, and what it cost at first, before any was factored."""


@dataclass(frozen=True, eq=False)
class Counted(Costs):
    """prices: of a number of each group. pairs: what was factored before costs now, and what it cost then. total: what
    all costs now; None where the groups that are taken on and the pairs alone count. beside: what stays beside factors.
    """

    prices: Mapping[ir.Node, float]
    pairs: tuple[float, float]
    total: float | None
    beside: Beside

    @classmethod
    def of_model(
        cls, model: ir.Model, every: Sequence[Group], pairs: Sequence[Pair], unit: Unit, beside: Beside
    ) -> Counted:
        """unit: `weights`, of which the groups and pairs alone count; `flops`; `bytes`."""
        if unit == "weights":
            prices = dict.fromkeys((group.key for group in every), 1.0)
            held = sum(pair.numbers for pair in pairs), sum(pair.whole for pair in pairs)
            return cls(prices, held, None, beside)
        known = costs_by_name(model, unit)

        def spent(sites: Sequence[Site]) -> float:
            names = ((site.weight.name if unit == "bytes" else site.node.name) or "" for site in sites)
            return sum(known[name] for name in dict.fromkeys(names))

        costs = [spent(pair.sites) for pair in pairs]
        then = sum(now * pair.whole / pair.numbers for now, pair in zip(costs, pairs, strict=True))
        prices = {group.key: spent(group.sites) / group.numbers for group in every}
        return cls(prices, (sum(costs), then), sum(known.values()), beside)

    def whole(self, group: Group, part: slice | None) -> float:
        return self.prices[group.key] * group.inputs * group.width(part)

    def of(self, group: Group, part: slice | None, rank: int) -> float:
        rows, columns = group.inputs, group.width(part)
        beside = self.beside.numbers(rows, columns, 8 * group.first.view.array().itemsize)
        return self.prices[group.key] * (rank * (rows + columns) + beside)

    def around(self, taken: Sequence[Group]) -> tuple[float, float]:
        here, (now, then) = sum(self.whole(group, None) for group in taken), self.pairs
        total = here + now if self.total is None else self.total
        return total - here, total + then - now


@dataclass(eq=False)
class Timed(Costs):
    """Nanoseconds on the target, each group alone, on what it reads on the middle batch of the data.

    factored: a pass that factors at one rank, whatever it loses; `at` makes it.
    """

    model: ir.Model
    context: Context
    pairs: Sequence[Pair]
    at: Callable[[int], Pass]
    _feeds: dict[str, Array] = field(default_factory=dict)
    _known: dict[tuple[object, ...], tuple[float, list[int], list[float]]] = field(default_factory=dict)

    @classmethod
    def of_model(
        cls, model: ir.Model, every: Sequence[Group], pairs: Sequence[Pair], context: Context, at: Callable[[int], Pass]
    ) -> Timed:
        """Raises OptionError where there is no target or no data."""
        if context.calibration is None or context.latency is None:
            raise OptionError(
                "a budget of latency is one of a target on some data: compile for one and give --data, or give the "
                "budget in flops or bytes"
            )
        batches = context.calibration.batches
        made = cls(model, context, pairs, at)
        made._watch([*(group.first for group in every), *(pair.left for pair in pairs)], batches[len(batches) // 2])
        return made

    def whole(self, group: Group, part: slice | None) -> float:
        return self._times(group, part)[0]

    def of(self, group: Group, part: slice | None, rank: int) -> float:
        _, ranks, times = self._times(group, part)
        return float(np.interp(rank, ranks, times))

    def around(self, taken: Sequence[Group]) -> tuple[float, float]:
        rest = sum(self._time(pair.sites, cut_out(self.model, [pair.left.activation], _given(pair.rights)))
                   for pair in self.pairs)  # fmt: skip
        here = rest + sum(self.whole(group, None) for group in taken)
        # a second timing is never quite the first
        first = float(self.model.metadata_props.setdefault(_FIRST, repr(here)))
        return rest, first

    def _times(self, group: Group, part: slice | None) -> tuple[float, list[int], list[float]]:
        sites = group.of(part)
        key = (*(_alike(site) for site in sites), self._feeds[group.first.activation.name or ""].shape, part is None)
        if key not in self._known:
            alone = cut_out(self.model, [group.first.activation], _given(sites))
            most = min(group.inputs, group.width(part))
            ranks = sorted({max(1, round(most * share)) for share in np.linspace(0, 1, _TIMED)})
            times = []
            for rank in ranks:
                factored = alone.clone()
                self.at(rank).apply(factored, Context())
                times.append(self._time(sites, factored))
            self._known[key] = self._time(sites, alone), ranks, times
        return self._known[key]

    def _time(self, sites: Sequence[Site], model: ir.Model) -> float:
        assert self.context.latency is not None
        name = sites[0].activation.name or ""
        return 1e9 * self.context.latency(model, {name: self._feeds[name]})

    def _watch(self, read: Sequence[Site], feeds: Feeds) -> None:
        names = {site.activation.name or "" for site in read}
        self._feeds |= {name: np.asarray(feeds[name]) for name in names & feeds.keys()}
        left = names - self._feeds.keys()

        def see(name: str, array: Array) -> bool:
            self._feeds[name] = array.copy()
            left.discard(name)
            return bool(left)

        if left:
            watch(self.model, feeds, sorted(left), see)


def _given(sites: Sequence[Site]) -> list[ir.Value]:
    return [site.node.outputs[0] for site in sites]


def _alike(site: Site) -> tuple[object, ...]:
    """What sites have in common where one timing serves all."""
    attributes = sorted((name, str(attr.value)) for name, attr in site.node.attributes.items())
    return site.node.op_type, site.view.shape, site.view.dtype, tuple(attributes)
