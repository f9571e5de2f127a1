"""What calibration gathers: one streaming run over the data for all that a pass asks, kept for the passes after it.

    wants = [Want(site.activation, Gram, site.in_features) for site in chosen]
    found = context.statistics(model, wants)            one run, unless an earlier pass asked the same
    gram = found.of(site.activation, Gram)

Memory is that of the statistics: an activation is taken in and dropped as soon as it is computed, and what lies behind
the last wanted value is not computed at all. Padding never counts (`passes.padding`). What was gathered stays true for
a later pass as long as nothing before the value has changed; methods that go block by block ask again and see the
blocks that are quantized already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from ..ir.content import Element, dimensions
from ..ir.errors import ModelError, OptionError
from ..ir.feeds import Array, Feeds
from ..ir.runner import watch
from ..ir.walk import every_node
from .accumulators import Accumulator, TokenCounts
from .padding import Padding

A = TypeVar("A", bound=Accumulator)

#: What reads statistics is told how far a run is: batches done, and of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Want:
    """One statistic of one value, whose features lie along `axis`.

    size: what the kind is made for, features or rows of a table; 0 for those that are made for any.
    """

    value: ir.Value
    kind: type[Accumulator]
    size: int = field(default=0, compare=False)
    axis: int = -1

    def new(self) -> Accumulator:
        """An accumulator that has seen nothing."""
        make: Callable[..., Accumulator] = self.kind
        return make(self.size) if self.size else make()


@dataclass(frozen=True)
class Statistics:
    """What was gathered, by what was wanted."""

    found: Mapping[Want, Accumulator]

    def of(self, value: ir.Value, kind: type[A], axis: int = -1) -> A:
        """The statistic of a value. KeyError where it was not wanted."""
        found = self.found[Want(value, kind, axis=axis)]
        assert isinstance(found, kind)
        return found

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return sum(accumulator.bytes for accumulator in self.found.values())


@dataclass(frozen=True, eq=False)
class _Same:
    """An object that equals only itself, whatever its own equality says, and lives as long as it is remembered."""

    what: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


@dataclass(eq=False)
class _Pasts:
    """Numbers for what values are computed from: the same number where nothing before a value has changed."""

    _numbers: dict[tuple[object, ...], int] = field(default_factory=dict)

    def of(self, model: ir.Model) -> dict[ir.Value, int]:
        """The number of each value that nodes compute and of each input."""
        found: dict[ir.Value, int] = {}
        for node in every_node(model.graph):
            read = [None if value is None else found.get(value) or self._source(value) for value in node.inputs]
            made = self._number(_Same(node), *map(_Same, node.attributes.values()), *read)
            found |= dict.fromkeys(node.outputs, made)
        return {**found, **{value: self._source(value) for value in model.graph.inputs}}

    def _source(self, value: ir.Value) -> int:
        return self._number(_Same(value), _Same(value.const_value))

    def _number(self, *parts: object) -> int:
        return self._numbers.setdefault(parts, len(self._numbers) + 1)


@dataclass(eq=False)
class Calibration:
    """Batches of real data, and what was gathered on them so far.

    runs: how often the data were run through a model, for reports.
    """

    batches: Sequence[Feeds]
    progress: Progress | None = None
    runs: int = 0
    _kept: dict[Want, tuple[int, Accumulator]] = field(default_factory=dict, repr=False)
    _pasts: _Pasts = field(default_factory=_Pasts, repr=False)

    def __post_init__(self) -> None:
        if not self.batches:
            raise OptionError("calibration needs at least one batch of data")

    def gather(self, model: ir.Model, wants: Iterable[Want]) -> Statistics:
        """The statistics wanted, on the model as it is now.

        Raises ModelError that names the value, where an activation holds NaN or infinity or is never computed, and
        ValueError for a value of a subgraph, which is another one each time that its node runs.
        """
        asked = tuple(dict.fromkeys(wants))
        inside = next((want.value.name for want in asked if want.value.graph is not model.graph), None)
        if inside is not None:
            raise ValueError(f"expected values of the main graph, found {inside} of another")
        past = self._pasts.of(model)
        known = {want: kept for want in asked if (kept := self._found(want, past)) is not None}
        missing = [want for want in asked if want not in known]
        if missing:
            gathered = self._run(model, missing)
            self._kept |= {want: (past[want.value], found) for want, found in gathered.items()}
            known |= gathered
        return Statistics({want: known[want] for want in asked})

    def _found(self, want: Want, past: Mapping[ir.Value, int]) -> Accumulator | None:
        kept = self._kept.get(want)
        return None if kept is None or kept[0] != past.get(want.value) else kept[1]

    def _run(self, model: ir.Model, wants: Sequence[Want]) -> dict[Want, Accumulator]:
        self.runs += 1
        made = {want: want.new() for want in wants}
        named: dict[str, list[Want]] = {}
        for want in wants:
            named.setdefault(want.value.name or "", []).append(want)
        known = {name: dimensions(each[0].value) for name, each in named.items()}
        padding = Padding.of(model)
        fed = {value.name or "" for value in model.graph.inputs}
        for number, feeds in enumerate(self.batches, 1):
            left = set(named)

            def see(name: str, array: Array, feeds: Feeds = feeds, left: set[str] = left) -> bool:
                for want in named[name]:
                    _take(made[want], want, array, known[name], padding, feeds)
                left.discard(name)
                return bool(left)

            for name in sorted(left & fed):
                see(name, np.asarray(feeds[name]))
            if left:
                watch(model, feeds, [name for name in named if name in left], see)
            if left:
                raise ModelError(f"calibration: the value {min(left)!r} is not computed on batch {number} of the data")
            if self.progress is not None:
                self.progress(number, len(self.batches))
        return made


def _take(
    accumulator: Accumulator,
    want: Want,
    array: Array,
    dims: Sequence[Element] | None,
    padding: Padding,
    feeds: Feeds,
) -> None:
    ids = isinstance(accumulator, TokenCounts)
    if ids:
        # ids have no features: each is a token
        array, dims = array[..., None], None if dims is None else [*dims, 1]
    try:
        accumulator.add(padding.rows(array, dims, feeds, -1 if ids else want.axis))
    except ModelError as error:
        raise ModelError(f"calibration: {want.value.name}: {error}") from error
