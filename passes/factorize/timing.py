"""What factors do to the speed of recurrent layers, timed on the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.constants import tensor_of
from ...ir.feeds import Feeds
from ...ir.site import Kind, sites
from ..base import Context, Contract, Lossy, Outcome, Pass
from ..choosing import outcome
from ..edit import declare_functions, is_op
from ..trail import cut_out
from .costs import first_time, middle, remember, timed_ranks
from .projected import unprojected
from .projecting import Projecting
from .recurrences import Item, items, layers, thin
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
class Timed(Spent):
    """Nanoseconds of recurrent layers on the target, each alone, on what it reads on the middle batch of the data.

    What factors of W and of R save of a layer is timed apart and added up. feeds: what layers read, by name.
    """

    model: ir.Model
    context: Context
    loops: Stepped
    feeds: Feeds
    _times: dict[ir.Node, float] = field(default_factory=dict, repr=False)
    _first: dict[str, float] = field(default_factory=dict, repr=False)
    _thin: dict[tuple[object, ...], list[float]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_model(cls, model: ir.Model, loops: Stepped, context: Context) -> Timed:
        """Raises OptionError where there is no target or no data."""
        read = [value for node in layers(model) for value in _read(node)]
        return cls(model, context, loops, middle(model, read, context))

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

    def remember(self, model: ir.Model) -> None:
        """Note at the layers of what became of the model what they took at first."""
        for node in layers(model):
            took = next((self._first[value.name] for value in node.outputs if value.name in self._first), None)
            if took is not None:
                remember(node, nanoseconds=took)

    def _time(self, node: ir.Node) -> float:
        """Of a layer as it is, with the projections that its input is narrowed by; 0 where nothing can be timed."""
        if node not in self._times:
            self._times[node] = self._run(self._alone(node)) if node.graph is self.model.graph else 0.0
            # what takes the place of a node has the names of its outputs
            took = first_time(node, self._times[node])
            self._first |= {value.name: took for value in node.outputs if value.name}
        return self._times[node]

    def _saved(self, node: ir.Node, rank: int, *, hidden: bool) -> float:
        if not self._time(node):
            return 0.0
        key = (hidden, *_alike(node), *(self.feeds[value.name or ""].shape for value in _read(node)))
        weight = node.inputs[2 if hidden else 1]
        assert weight is not None and weight.shape is not None
        width = weight.shape[2]
        assert isinstance(width, int)
        ranks = timed_ranks(width)
        if key not in self._thin:
            alone = self._alone(node)
            self._thin[key] = []
            for each in ranks:
                thinner = alone.clone()
                Thin(rank=each, hidden=hidden).apply(thinner, Context())
                self._thin[key].append(self._run(thinner))
        return self._time(node) - float(np.interp(rank, ranks, self._thin[key]))

    def _alone(self, node: ir.Node) -> ir.Model:
        return cut_out(self.model, list(_read(node)), [value for value in node.outputs if value.name])

    def _run(self, alone: ir.Model) -> float:
        assert self.context.latency is not None
        names = [value.name or "" for value in alone.graph.inputs]
        return 1e9 * self.context.latency(alone, {name: self.feeds[name] for name in names})


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """What a layer reads that no constant gives, before it is narrowed."""
    for value in dict.fromkeys(node.inputs):
        if value is not None and not _fixed(value):
            yield _before(value)


def _fixed(value: ir.Value) -> bool:
    """Whether a value follows from constants alone."""
    node = value.producer()
    if node is None:
        return tensor_of(value) is not None
    return all(each is None or _fixed(each) for each in node.inputs)


def _before(value: ir.Value) -> ir.Value:
    """What an input was before projections narrowed it."""
    node = value.producer() if thin(value) is not None else None
    if node is None or node.inputs[0] is None:
        return value
    part = node.inputs[0].producer() if is_op(node, "Concat") else node
    split = None if part is None or part.inputs[0] is None else part.inputs[0].producer()
    found = split if is_op(node, "Concat") and is_op(split, "Split") else part
    return value if found is None or found.inputs[0] is None else found.inputs[0]


def _alike(node: ir.Node) -> Iterator[object]:
    """What layers have in common where one timing serves all."""
    yield node.op_type
    yield tuple(sorted((name, str(attr.value)) for name, attr in node.attributes.items()))
    yield from (
        (str(value.shape), value.dtype) if value is not None and _fixed(value) else None for value in node.inputs
    )
