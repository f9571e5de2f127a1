"""Which blocks of a model are gone: what is left keeps the numbers that it had at first.

0 1 2 3 | 4 5     without 1 and 4     0 2 3 | 5
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from .stream import Stack

#: In the metadata of a model: how many blocks its stacks had, and which of all are gone.
_KEY = "tersor.blocks"


@dataclass(frozen=True)
class Gone:
    """sizes: how many blocks each stack had at first. numbers: of those that are gone, counted over all stacks."""

    sizes: tuple[int, ...]
    numbers: frozenset[int]

    @classmethod
    def of(cls, model: ir.Model, now: Sequence[Stack]) -> Gone:
        """now: the stacks that the model has; what it had at first where nothing is noted."""
        noted = model.metadata_props.get(_KEY)
        if noted is None:
            return cls(tuple(len(stack.numbers) for stack in now), frozenset())
        known = json.loads(noted)
        return cls(tuple(known["sizes"]), frozenset(known["gone"]))

    @property
    def first(self) -> list[tuple[int, ...]]:
        """The numbers of the blocks of each stack as it was."""
        starts = [sum(self.sizes[:at]) for at in range(len(self.sizes))]
        return [tuple(range(start, start + size)) for start, size in zip(starts, self.sizes, strict=True)]

    def left(self, first: Iterable[int]) -> tuple[int, ...]:
        """Those of some numbers that are not gone."""
        return tuple(number for number in first if number not in self.numbers)

    def numbered(self, now: Sequence[Stack]) -> list[tuple[tuple[int, ...], Stack]] | None:
        """The stacks that there are, by the numbers of their first blocks and with those that they had at first.

        A single block that is left repeats no more, so it is none. None where the stacks are others than were left.
        """
        able = [first for first in self.first if len(self.left(first)) > 1]
        if [len(self.left(first)) for first in able] != [len(stack.numbers) for stack in now]:
            return None
        return [(first, replace(stack, numbers=self.left(first))) for first, stack in zip(able, now, strict=True)]

    def note(self, model: ir.Model, more: Iterable[int]) -> None:
        """Note that these went too."""
        gone = sorted(self.numbers.union(more))
        model.metadata_props[_KEY] = json.dumps({"sizes": list(self.sizes), "gone": gone})
