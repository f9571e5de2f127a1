"""What columns of a group cost as they are and at each rank: counted, or timed on the target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.feeds import Feeds
from ...ir.runner import values
from ...ir.site import Site, sites
from ...ir.walk import every_node
from ..base import Context, Pass
from ..budget import Unit, costs_by_name
from ..pairs import Pair
from ..trail import cut_out
from .beside import Beside
from .groups import Group, groups, taken_apart

#: Ranks that are timed of each shape; what lies between them is interpolated.
_TIMED = 6
#: In the metadata of what stands for a weight: what that cost, in the unit of the pass that factored it, and of a sum
#: that is stored what it costs now.
_NANOSECONDS, _STORED = "tersor.factored.nanoseconds", "tersor.factored.numbers"


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
            noted = [(now, then) for now, then, _ in _sums(model)]
            noted += [(float(pair.numbers), float(pair.whole)) for pair in pairs]
            return cls(prices, (sum(now for now, _ in noted), sum(then for _, then in noted)), None, beside)
        known = costs_by_name(model, unit)

        def spent(sites: Sequence[Site]) -> float:
            names = ((site.weight.name if unit == "bytes" else site.node.name) or "" for site in sites)
            # what only one of several branches costs is counted of the dearest
            return sum(known.get(name, 0.0) for name in dict.fromkeys(names))

        costs = [(spent(pair.sites), spent(pair.sites) * pair.whole / pair.numbers) for pair in pairs]
        costs += [(now * width, then * width) for now, then, width in _sums(model) if unit == "bytes"]
        held = sum(now for now, _ in costs), sum(then for _, then in costs)
        prices = {group.key: spent(group.sites) / group.numbers for group in every}
        return cls(prices, held, sum(known.values()), beside)

    def whole(self, group: Group, part: slice | None) -> float:
        return self.prices[group.key] * group.inputs * group.width(part)

    def of(self, group: Group, part: slice | None, rank: int) -> float:
        rows, columns = group.inputs, group.width(part)
        beside = self.beside.numbers(rows, columns, group.bits, straight=group.straight(part))
        return self.prices[group.key] * (rank * (rows + columns) + beside)

    def around(self, taken: Sequence[Group]) -> tuple[float, float]:
        here, (now, then) = sum(self.whole(group, None) for group in taken), self.pairs
        total = here + now if self.total is None else self.total
        return total - here, total + then - now


@dataclass(eq=False)
class Timed(Costs):
    """Nanoseconds on the target, each group alone, on what it reads on the middle batch of the data.

    at: makes a pass that factors at one rank, whatever it loses, all together or apart. feeds: what groups read, by
    name.
    """

    model: ir.Model
    context: Context
    pairs: Sequence[Pair]
    at: Callable[[int, bool], Pass]
    feeds: Feeds
    _known: dict[tuple[object, ...], tuple[float, list[int], list[float]]] = field(default_factory=dict)

    @classmethod
    def of_model(
        cls,
        model: ir.Model,
        every: Sequence[Group],
        pairs: Sequence[Pair],
        context: Context,
        at: Callable[[int, bool], Pass],
    ) -> Timed:
        """Raises OptionError where there is no target or no data."""
        read = [group.first.activation for group in every] + [pair.left.activation for pair in pairs]
        return cls(model, context, pairs, at, middle(model, read, context))

    def whole(self, group: Group, part: slice | None) -> float:
        return self._times(group, part)[0]

    def of(self, group: Group, part: slice | None, rank: int) -> float:
        _, ranks, times = self._times(group, part)
        return float(np.interp(rank, ranks, times))

    def around(self, taken: Sequence[Group]) -> tuple[float, float]:
        parts = [cut_out(self.model, [pair.left.activation], _given(pair.rights)) for pair in self.pairs]
        times = [self._time(pair.left, part) for pair, part in zip(self.pairs, parts, strict=True)]
        then = [first_time(pair.left.node, time) for pair, time in zip(self.pairs, times, strict=True)]
        rest = sum(times)
        return rest, sum(then) + sum(self.whole(group, None) for group in taken)

    def _times(self, group: Group, part: slice | None) -> tuple[float, list[int], list[float]]:
        sites, width = group.of(part), group.width(part)
        key = (*(_alike(site) for site in sites), self.feeds[group.first.activation.name or ""].shape, width)
        if key not in self._known:
            alone = self._alone(group, part)
            most = min(group.inputs, width)
            ranks = timed_ranks(most)
            times = []
            for rank in ranks:
                factored = alone.clone()
                self.at(rank, part is None).apply(factored, Context())
                times.append(self._time(group.first, factored))
            self._known[key] = self._time(group.first, alone), ranks, times
        return self._known[key]

    def _alone(self, group: Group, part: slice | None) -> ir.Model:
        """A model of the sites of a part; of one that is split, of that part alone."""
        if part is None or group.cut is None:
            return cut_out(self.model, [group.first.activation], _given(group.of(part)))
        model = cut_out(self.model, [group.first.activation], list(group.cut.outputs))
        (same,) = groups(sites(model))
        made = taken_apart(model, same, same.first, same.weight(), None)
        return cut_out(model, list(model.graph.inputs), _given([made[group.parts.index(part)]]))

    def _time(self, site: Site, model: ir.Model) -> float:
        assert self.context.latency is not None
        name = site.activation.name or ""
        return 1e9 * self.context.latency(model, {name: self.feeds[name]})


def timed_ranks(most: int) -> list[int]:
    """The ranks up to the full one that are timed, smallest first."""
    return sorted({max(1, round(most * share)) for share in np.linspace(0, 1, _TIMED)})


def middle(model: ir.Model, read: Iterable[ir.Value], context: Context) -> Feeds:
    """Values on the middle batch of the data, by name. Raises OptionError where there is no target to time on, or no
    data.
    """
    if context.calibration is None or context.latency is None:
        raise OptionError(
            "a budget of latency is one of a target on some data: compile for one and give --data, or give the "
            "budget in flops or bytes"
        )
    batches = context.calibration.batches
    return values(model, batches[len(batches) // 2], {value.name or "" for value in read})


def _given(sites: Sequence[Site]) -> list[ir.Value]:
    return [site.node.outputs[0] for site in sites]


def _alike(site: Site) -> tuple[object, ...]:
    """What sites have in common where one timing serves all."""
    attributes = sorted((name, str(attr.value)) for name, attr in site.node.attributes.items())
    return site.node.op_type, site.view.shape, site.view.dtype, tuple(attributes)


def remember(
    node: ir.Node, *, nanoseconds: float | None = None, stored: tuple[float, float, float] | None = None
) -> None:
    """Note at what stands for a weight what that cost: the time that it took, or the numbers that a sum takes now and
    took then, and the bytes of one.
    """
    if nanoseconds is not None:
        node.metadata_props[_NANOSECONDS] = repr(nanoseconds)
    if stored is not None:
        node.metadata_props[_STORED] = " ".join(map(repr, stored))


def first_time(node: ir.Node, now: float) -> float:
    """The nanoseconds that a weight took before it was factored, where that is noted; else what it takes now."""
    return float(node.metadata_props.get(_NANOSECONDS, now))


def _sums(model: ir.Model) -> list[tuple[float, float, float]]:
    """What weights cost that are added up when the model is loaded: numbers now and then, and bytes of one."""
    noted = (node.metadata_props.get(_STORED) for node in every_node(model.graph))
    found = [tuple(map(float, text.split())) for text in noted if text]
    return [(now, then, width) for now, then, width in found]
