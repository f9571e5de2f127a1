"""What a pass that takes numbers out of a vocabulary changes about feeds and answers.

    ids     0 1 2 3 4 5            kept: 0 2 3         unknown: 0
    now     0 0 1 2 0 0            the model takes these (`renumbered`), or the old ones and reads them so

Models before and after are then compared in the terms of the one after: `reference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..ir.feeds import Array, Feeds
from .edit import Tape, take_name

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Renumbering:
    """A vocabulary of `size` numbers of which some are kept.

    inputs: those of the model that are such numbers. old: of each number that is kept, in order, the old one. unknown:
    the new number that the others are read as. renumbered: whether the inputs take new numbers. outputs: those
    with an axis over the vocabulary, which is as long as `old` now.
    """

    inputs: tuple[str, ...]
    size: int
    old: Ids
    unknown: int
    renumbered: bool = False
    outputs: Mapping[str, int] | None = None

    @cached_property
    def new(self) -> Ids:
        """Of each old number the new one, [size]."""
        found = np.full(self.size, self.unknown, np.int64)
        found[self.old] = np.arange(len(self.old))
        return found

    def feeds(self, feeds: Feeds) -> Feeds:
        """Feeds of the model before as the model after takes them."""
        if not self.renumbered:
            return feeds
        # as in ONNX's Gather, negative numbers count from the end
        return {
            name: self.new[array].astype(array.dtype) if name in self.inputs else array for name, array in feeds.items()
        }

    def known(self, feeds: Feeds) -> Feeds:
        """Feeds of the model before with what is read as unknown in place of what is not kept."""
        read = self.old[self.new]
        return {
            name: read[array].astype(array.dtype) if name in self.inputs else array for name, array in feeds.items()
        }

    def answers(self, answers: Mapping[str, Array]) -> dict[str, Array]:
        """Answers of the model before, of what the model after answers for."""
        axes = self.outputs or {}
        return {
            name: np.take(array, self.old, axes[name]) if name in axes else array for name, array in answers.items()
        }

    def trimmed(self, batches: Sequence[Feeds]) -> tuple[int, int]:
        """How many of the numbers in feeds of the model before are not kept, and how many there are."""
        kept = np.zeros(self.size, np.bool_)
        kept[self.old] = True
        arrays = [feeds[name] for feeds in batches for name in self.inputs if name in feeds]
        return sum(int(np.count_nonzero(~kept[array])) for array in arrays), sum(array.size for array in arrays)

    def reference(self, model: ir.Model) -> ir.Model:
        """A copy of the model before that takes feeds and gives answers as the model after does."""
        made = model.clone()
        numbers = self.old if self.renumbered else self.old[self.new]
        for value in [value for value in made.graph.inputs if value.name in self.inputs]:
            _read_through(made.graph, value, numbers)
        for value in [value for value in made.graph.outputs if value.name in (self.outputs or {})]:
            _narrow(made.graph, value, (self.outputs or {})[value.name or ""], self.old)
        return made


def _read_through(graph: ir.Graph, value: ir.Value, numbers: Ids) -> None:
    """Let whatever reads an input read the numbers at the places that it names."""
    uses = list(value.uses())
    if not uses:
        return
    tape = Tape()
    dtype = np.int64 if value.dtype is None else value.dtype.numpy()
    read = tape("Gather", tape.constant(numbers.astype(dtype), f"{value.name}_numbers"), value)
    read.type, read.shape = value.type, value.shape
    _put(graph, tape, next(iter(graph)), f"{value.name}_read")
    for use in uses:
        use.node.replace_input_with(use.idx, read)


def _narrow(graph: ir.Graph, value: ir.Value, axis: int, kept: Ids) -> None:
    """Let an output be its own elements at some places of an axis."""
    tape = Tape()
    narrowed = tape("Gather", value, tape.constant(kept, f"{value.name}_kept"), axis=axis)
    narrowed.type = value.type
    if value.shape is not None:
        narrowed.shape = ir.Shape([len(kept) if at == axis else dim for at, dim in enumerate(value.shape)])
    for constant in tape.constants:
        graph.register_initializer(constant)
    graph.extend(tape.nodes)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = narrowed
    name = value.name
    take_name(value, narrowed)
    value.name = f"{name}_whole"


def _put(graph: ir.Graph, tape: Tape, before: ir.Node, name: str) -> None:
    for constant in tape.constants:
        graph.register_initializer(constant)
    graph.insert_before(before, tape.nodes)
    for node in tape.nodes:
        node.outputs[0].name = name
