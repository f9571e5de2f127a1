"""What factors do to the speed of recurrent layers, timed on the target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.constants import is_constant
from ...ir.feeds import Feeds
from ...ir.site import Kind, computed_constants, sites
from ..base import Context, Contract, Lossy, Outcome, Pass
from ..choosing import outcome
from ..edit import declare_functions
from ..trail import cut_out
from .costs import first_time, middle, remember, timed_ranks
from .projected import unprojected
from .projecting import Projecting
from .recurrences import Item, items, layers, sizes, unprojected_input
from .recurrent_costs import Spent, Stepped


@dataclass(frozen=True, kw_only=True)
class Thin(Pass):
    """inputs of recurrent layers, or their states with the steps written out, through so many features"""

    name: ClassVar[str] = "factorize-recurrent"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=2.0)
    rank: int
    hidden: bool

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        kind = Kind.RECURRENT_HIDDEN if self.hidden else Kind.RECURRENT_INPUT
        every = {site.weight: site for site in reversed(sites(model)) if site.kind is kind}
        able = [site for site in every.values() if not self.hidden or unprojected(site.node) is None]
        taken = [(item, min(self.rank, item.most)) for item in items(able, shared=False)]
        stepped = {item.node for item, _ in taken} if self.hidden else set()
        Projecting({}, leading=False, damping=0.0, stepped=stepped).run(taken)
        declare_functions(model)
        return outcome([(site, None) for site in able])


@dataclass(eq=False)
class TimedLayers(Spent):
    """Nanoseconds of recurrent layers on the target, each alone, on what it reads on the middle batch of the data.

    What factors of W and of R save of a layer is timed apart and added up. feeds: what layers read, by name. constant:
    what nodes compute from constants alone. _times: of layers as they are; _thin: through some features, by what layers
    have in common.
    """

    less: ClassVar[str] = "take less time on the target"
    known: ClassVar[str] = "a layer of the main graph that the target can time; give the budget in bytes"
    model: ir.Model
    context: Context
    loops: Stepped
    feeds: Feeds
    constant: Set[ir.Value]
    _times: dict[ir.Node, float] = field(default_factory=dict, repr=False)
    _thin: dict[tuple[object, ...], list[float]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_model(cls, model: ir.Model, loops: Stepped, context: Context) -> TimedLayers:
        """Raises OptionError where there is no target or no data."""
        constant = computed_constants(model.graph)
        read = [value for node in layers(model) for value in _read(node, constant)]
        return cls(model, context, loops, middle(model, read, context), constant)

    def whole(self, item: Item) -> float:
        return sum(self._time(site.node) for site in item.sites)

    def of(self, item: Item, rank: int) -> float:
        states = item.own.kind is Kind.RECURRENT_HIDDEN
        saved = 0.0 if states and not self.loops(item, rank) else self._saved(item.node, rank, hidden=states)
        saved += sum(self._saved(site.node, rank * item.ways, hidden=False) for site in item.above)
        return self.whole(item) - saved

    def around(self, found: Sequence[Item]) -> tuple[float, float]:
        every = layers(self.model)
        # a layer is part of the items of W and of R
        rest = sum(map(self._time, every)) - sum(map(self.whole, found))
        return rest, sum(first_time(node, self._time(node)) for node in every)

    def first(self, items: Iterable[Item]) -> dict[str, float]:
        """What the layers of items took before any weight of theirs was factored, by the names of their outputs."""
        nodes = {site.node for item in items for site in item.sites}
        times = {node: first_time(node, self._time(node)) for node in nodes}
        return {value.name: time for node, time in times.items() for value in node.outputs if value.name}

    def _time(self, node: ir.Node) -> float:
        """Of a layer as it is, with the projections that its input is narrowed by; 0 where nothing can be timed."""
        if node not in self._times:
            read = _read(node, self.constant) if node.graph is self.model.graph else ()
            able = node.graph is self.model.graph and all(value.name in self.feeds for value in read)
            self._times[node] = self._run(self._alone(node)) if able else 0.0
        return self._times[node]

    def _saved(self, node: ir.Node, rank: int, *, hidden: bool) -> float:
        """Of a layer, where its R, or else its W, is two products through so many features."""
        weight = node.inputs[2 if hidden else 1]
        if not self._time(node) or weight is None:
            return 0.0
        ranks, key = timed_ranks(sizes(weight)[2]), (hidden, *self._alike(node))
        if key not in self._thin:
            alone = self._alone(node)
            self._thin[key] = []
            for each in ranks:
                thinner = alone.clone()
                Thin(rank=each, hidden=hidden).apply(thinner, Context())
                self._thin[key].append(self._run(thinner))
        return self._time(node) - float(np.interp(rank, ranks, self._thin[key]))

    def _alone(self, node: ir.Node) -> ir.Model:
        return cut_out(self.model, _read(node, self.constant), [value for value in node.outputs if value.name])

    def _run(self, alone: ir.Model) -> float:
        assert self.context.latency is not None
        names = [value.name or "" for value in alone.graph.inputs]
        return 1e9 * self.context.latency(alone, {name: self.feeds[name] for name in names})

    def _alike(self, node: ir.Node) -> Iterator[object]:
        """What layers have in common where one timing serves all."""
        yield node.op_type
        yield tuple(sorted((name, str(attr.value)) for name, attr in node.attributes.items()))
        yield tuple(self.feeds[value.name or ""].shape for value in _read(node, self.constant))
        yield tuple(None if value is None else (str(value.shape), value.dtype) for value in node.inputs)


def remember_first(model: ir.Model, first: Mapping[str, float]) -> None:
    """Note at layers what they took at first, by the names of their outputs; true of one target and batch.

    What took the place of a node has the names of its outputs.
    """
    for node in layers(model):
        took = next((first[name] for value in node.outputs if (name := value.name or "") in first), None)
        if took is not None:
            remember(node, nanoseconds=took)


def _read(node: ir.Node, constant: Set[ir.Value]) -> list[ir.Value]:
    """What a layer reads that no constant gives, before it is narrowed."""
    given = [value for value in dict.fromkeys(node.inputs) if value is not None]
    return [unprojected_input(value) for value in given if not (is_constant(value) or value in constant)]
