"""What calibration gathers: one streaming run over the data for all that a pass asks, kept for the passes after it.

    wants = [Want(site.activation, Gram, site.in_features) for site in chosen]
    found = context.statistics(model, wants)            one run, unless an earlier pass asked the same
    gram = found.of(site.activation, Gram)

Memory is that of the statistics: an activation is taken in and dropped as soon as it is computed, and what lies behind
the last wanted value is not computed at all. Runs along a `Trail` keep the activations of all batches that the next one
starts at. Padding never counts (`passes.padding`). What was gathered stays true for a later pass as long as nothing
before the value has changed; methods that go block by block ask again and see the blocks that are quantized already.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx_ir as ir

from ..ir.content import Element, dimensions
from ..ir.errors import ModelError, OptionError
from ..ir.feeds import Array, Feeds
from ..ir.runner import Watcher
from .accumulator import Accumulator
from .accumulators import TokenCounts
from .checkpoint import Checkpoints, Origins, digest, digest_of_data, surroundings
from .padding import Padding
from .trail import Pasts, Tail, Trail
from .views import Dims, View

if TYPE_CHECKING:
    from ..ir.fx.held import Held

A = TypeVar("A", bound=Accumulator)

#: Told how far a run is, as it starts and after each batch: batches done, and of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Want:
    """One statistic of one value, whose features lie along `axis`.

    size: what the kind is made for, features or rows of a table; 0 for those that are made for any. view: how the rows
    are read, where they do not lie in the value as they are.
    """

    value: ir.Value
    kind: type[Accumulator]
    size: int = field(default=0, compare=False)
    axis: int = -1
    view: View | None = None

    def new(self) -> Accumulator:
        """An accumulator that has seen nothing."""
        make: Callable[..., Accumulator] = self.kind
        return make(self.size) if self.size else make()


@dataclass(frozen=True)
class Statistics:
    """What was gathered, by what was wanted."""

    found: Mapping[Want, Accumulator]

    def of(self, value: ir.Value, kind: type[A], axis: int = -1, view: View | None = None) -> A:
        """The statistic of a value. KeyError where it was not wanted."""
        found = self.found[Want(value, kind, axis=axis, view=view)]
        assert isinstance(found, kind)
        return found

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return sum(accumulator.bytes for accumulator in self.found.values())


@dataclass(frozen=True)
class Part:
    """A value of a model by name, its features along `axis`, for `Calibration.together`.

    like: a value whose dimensions, but for features, are its own; of whichever model. keep: whether a trail keeps it
    even where all that reads it has run, as that is going to change.
    """

    model: ir.Model
    name: str
    like: ir.Value
    axis: int = -1
    view: View | None = None
    keep: bool = False


@dataclass(eq=False)
class Calibration:
    """Batches of real data, and what was gathered on them so far.

    runs: how often the data were run through a model, for reports. checkpoints: where `gather` keeps how far a run is,
    for another process to go on from there.
    """

    batches: Sequence[Feeds]
    progress: Progress | None = None
    runs: int = 0
    checkpoints: Checkpoints | None = None
    _kept: dict[Want, tuple[int, Accumulator]] = field(default_factory=dict, repr=False)
    _pasts: Pasts = field(default_factory=Pasts, repr=False)
    _data: str = field(default="", repr=False)
    _hold: Held | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.batches:
            raise OptionError("calibration needs at least one batch of data")

    def over(self, batches: Sequence[Feeds]) -> Calibration:
        """The same on other batches; nothing was gathered on them yet."""
        return Calibration(batches, self.progress, checkpoints=self.checkpoints)

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
        # memory of what has changed since is of no use
        self._kept = {want: kept for want, kept in self._kept.items() if kept[0] == past.get(want.value)}
        known = {want: self._kept[want][1] for want in asked if want in self._kept}
        missing = [want for want in asked if want not in known]
        if missing:
            gathered = self._run(model, missing)
            self._kept |= {want: (past[want.value], found) for want, found in gathered.items()}
            known |= gathered
        return Statistics({want: known[want] for want in asked})

    def beside(
        self, before: ir.Model, name: str, model: ir.Model, value: ir.Value, found: Accumulator, *, axis: int = -1
    ) -> None:
        """Let `found` take in a value of the model side by side with one of another model that has its shape.

        name: of the value in `before`. Real tokens only, [tokens, 2 * features], what `value` is now first. Raises
        ModelError as `gather` does.
        """
        parts = [Part(model, value.name or "", value, axis), Part(before, name, value, axis)]
        for now, then in self.together(parts):
            try:
                found.add(np.concatenate([now, then], axis=1))
            except ModelError as error:
                raise ModelError(f"calibration: {name}: {error}") from error

    def together(self, parts: Sequence[Part], trail: Trail | None = None) -> Iterator[list[Array]]:
        """Values of several models, batch by batch: of each part the rows of the real tokens, [tokens, features].

        Each model runs once a batch, as far as the last of its parts, and from where it was in the last run with the
        same trail. Raises ModelError for a value that is never computed.
        """
        self.runs += 1
        padding, hold = Padding.of(parts[0].model), _held()
        known: list[Dims] = [dimensions(part.like) for part in parts]
        sides = {id(part.model): _Side.of(part.model, parts, trail, hold) for part in parts}
        if self.progress is not None:
            self.progress(0, len(self.batches))
        for number, feeds in enumerate(self.batches):
            seen = {key: side.on(feeds, number) for key, side in sides.items()}
            rows = []
            for part, dims in zip(parts, known, strict=True):
                array, sizes = seen[id(part.model)][part.name], dims
                if part.view is not None:
                    array, sizes = part.view(array, dims)
                rows.append(padding.rows(array, sizes, feeds, part.axis))
            yield rows
            if self.progress is not None:
                self.progress(number + 1, len(self.batches))
        if trail is not None:
            for side in sides.values():
                trail.keep(side.model, side.kept)

    def _run(self, model: ir.Model, wants: Sequence[Want]) -> dict[Want, Accumulator]:
        made = {want: want.new() for want in wants}
        named: dict[str, list[Want]] = {}
        for want in wants:
            named.setdefault(want.value.name or "", []).append(want)
        known = {name: dimensions(each[0].value) for name, each in named.items()}
        padding = Padding.of(model)
        fed = {value.name or "" for value in model.graph.inputs}
        key = self._key(model, wants, [padding.masks, known])
        done = self._resumed(key, made.values())
        self._hold = self._hold or _held()
        self.runs += done < len(self.batches)
        if self.progress is not None:
            self.progress(done, len(self.batches))
        watcher: Watcher | None = None
        for number, feeds in enumerate(self.batches[done:], done + 1):
            left = set(named)

            def see(name: str, array: Array, feeds: Feeds = feeds, left: set[str] = left) -> bool:
                for want in named[name]:
                    _take(made[want], want, array, known[name], padding, feeds)
                left.discard(name)
                return bool(left)

            for name in sorted(left & fed):
                see(name, np.asarray(feeds[name]))
            if left:
                watcher = watcher or Watcher(model, self._hold)
                watcher.watch(feeds, [name for name in named if name in left], see)
            if left:
                raise ModelError(f"calibration: the value {min(left)!r} is not computed on batch {number} of the data")
            if self.checkpoints is not None:
                last = number == len(self.batches)
                self.checkpoints.save(key, number, (each.state() for each in made.values()), last=last)
            if self.progress is not None:
                self.progress(number, len(self.batches))
        return made

    def _key(self, model: ir.Model, wants: Sequence[Want], rows: object) -> str:
        """What decides the outcome of a run, `rows` being what its rows are chosen by; empty without checkpoints."""
        if self.checkpoints is None:
            return ""
        self._data = self._data or digest_of_data(self.batches)
        kinds = [
            (want.kind.__module__, want.kind.__qualname__, want.size, want.axis, repr(want.view)) for want in wants
        ]
        return digest(surroundings(), self._data, kinds, Origins(model).of([want.value for want in wants]), rows)

    def _resumed(self, key: str, accumulators: Collection[Accumulator]) -> int:
        """Batches that an earlier run has done, its statistics restored."""
        if self.checkpoints is None:
            return 0
        done, states = self.checkpoints.read(key, len(accumulators))
        for accumulator, state in zip(accumulators, states, strict=False):
            accumulator.restore(state)
        return done


@dataclass(eq=False)
class _Side:
    """One of several models that run beside each other, by names of values.

    given, known, computed: what is asked for, or to be kept, that is fed, that was seen in an earlier run, that has to
    be run for. ahead: what the next run may start at. kept: that, batch by batch.
    """

    model: ir.Model
    tail: Tail
    given: Set[str]
    known: Set[str]
    computed: Set[str]
    ahead: Set[str]
    hold: Held
    kept: dict[str, list[Array]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ir.Model, parts: Iterable[Part], trail: Trail | None, hold: Held) -> _Side:
        """What the parts that are this model's ask of it."""
        asked = {part.name: part for part in parts if part.model is model}
        given = asked.keys() & {value.name or "" for value in model.graph.inputs}
        if trail is None:
            return cls(model, Tail(model, {}), given, set(), asked.keys() - given, set(), hold)
        tail = trail.tail(model, asked.keys() - given)
        ahead = ({name for name, part in asked.items() if part.keep} | trail.ahead(model, asked)) - given
        known = tail.known.keys() & (asked.keys() | ahead)
        return cls(model, tail, given, known, asked.keys() - given - known, ahead, hold)

    @cached_property
    def watcher(self) -> Watcher:
        """Of what is left to run."""
        return Watcher(self.tail.model, self.hold)

    def on(self, feeds: Feeds, number: int) -> dict[str, Array]:
        """What is asked for, on the batch of that number, the first being 0."""
        seen = {name: np.asarray(feeds[name]) for name in self.given}
        if self.computed:
            seen |= self._watched(feeds, number)
        for name in self.ahead & seen.keys():
            # what runs next may write over it
            self.kept.setdefault(name, []).append(seen[name].copy())
        held = {name: self.tail.known[name][number] for name in self.known}
        for name in self.ahead & held.keys():
            self.kept.setdefault(name, []).append(held[name])
        return seen | held

    def _watched(self, feeds: Feeds, number: int) -> dict[str, Array]:
        """What runs, and on the way to it what is ahead."""
        seen: dict[str, Array] = {}
        left = {*self.computed, *self.ahead} - self.known

        def see(name: str, array: Array) -> bool:
            seen[name] = array
            left.discard(name)
            return bool(left)

        self.watcher.watch(self.tail.feeds(feeds, number), left.copy(), see)
        missing = sorted(self.computed - seen.keys())
        if missing:
            raise ModelError(f"calibration: the value {missing[0]!r} is not computed on batch {number + 1} of the data")
        return seen


def _held() -> Held:
    """Imported when it is needed, torch with it."""
    from ..ir.fx.held import Held

    return Held()


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
    if want.view is not None:
        array, dims = want.view(array, dims)
    try:
        accumulator.add(padding.rows(array, dims, feeds, -1 if ids else want.axis))
    except ModelError as error:
        raise ModelError(f"calibration: {want.value.name}: {error}") from error
