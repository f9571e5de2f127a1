"""How the rows that a statistic takes in are read from a value, where they are not its features as they lie.

A view gives an array whose features are the last axis and whose other axes are named as far as they are known, so that
padding can be told (`passes.padding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from ..ir.content import Element
from .edit import Array

Dims = Sequence[Element] | None


class View(Protocol):
    """Equal where it reads the same."""

    def __call__(self, array: Array, dims: Dims) -> tuple[Array, Dims]:
        """What is read from an array, features last, and what is known of its sizes."""


@dataclass(frozen=True)
class Steps:
    """States that a recurrence hands on: of one direction, all but those of its last step.

    [time, directions, batch, hidden], or with `late` [batch, time, directions, hidden] -> the same without directions.
    """

    direction: int
    backward: bool = False
    late: bool = False

    def __call__(self, array: Array, dims: Dims) -> tuple[Array, Dims]:
        time, ways = (1, 2) if self.late else (0, 1)
        kept = [slice(None)] * array.ndim
        kept[time] = slice(1, None) if self.backward else slice(None, -1)
        return np.take(array[tuple(kept)], self.direction, ways), _without(dims, ways)


@dataclass(frozen=True)
class State:
    """The state that one direction starts from, [directions, batch, hidden], or with `late` [batch, directions, ..]."""

    direction: int
    late: bool = False

    def __call__(self, array: Array, dims: Dims) -> tuple[Array, Dims]:
        ways = 1 if self.late else 0
        return np.take(array, self.direction, ways), _without(dims, ways)


@dataclass(frozen=True)
class Windows:
    """What a convolution multiplies its kernel by, [batch, channels, *sizes] -> [batch, *places, features].

    The features of a place are those of the weight's inputs: channels of the group, and of each the kernel's taps.
    channels: which part of so many has the group. pads: begin and end of each axis, or how they are found, by ONNX's
    name for it. places: what is known of their numbers.
    """

    group: tuple[int, int]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] | str
    places: tuple[Element, ...] | None = None

    @classmethod
    def of(
        cls, node: ir.Node, group: int, groups: int, kernel: Sequence[int], places: tuple[Element, ...] | None
    ) -> Windows:
        """The windows of one group of a Conv node."""
        ones = (1,) * len(kernel)
        automatic = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
        ends = _integers(node, "pads", (0,) * (2 * len(kernel)))
        pairs = tuple(zip(ends[: len(kernel)], ends[len(kernel) :], strict=True))
        return cls(
            (group, groups), tuple(kernel), _integers(node, "strides", ones), _integers(node, "dilations", ones),
            pairs if automatic == "NOTSET" else automatic, places,
        )  # fmt: skip

    def __call__(self, array: Array, dims: Dims) -> tuple[Array, Dims]:
        index, count = self.group
        width = array.shape[1] // count
        part = array[:, index * width : (index + 1) * width]
        spans = [(taps - 1) * step + 1 for taps, step in zip(self.kernel, self.dilations, strict=True)]
        padded = np.pad(part, [(0, 0), (0, 0), *self._padding(part.shape[2:], spans)])
        axes = tuple(range(2, array.ndim))
        seen = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
        every = [slice(None)] * 2
        seen = seen[(*every, *(slice(None, None, step) for step in (*self.strides, *self.dilations)))]
        # [batch, channels, *places, *taps] -> [batch, *places, channels, *taps]
        seen = np.moveaxis(seen, 1, len(axes) + 1)
        rows = seen.reshape(*seen.shape[: len(axes) + 1], -1)
        batch = None if dims is None else dims[0]
        return rows, [batch, *(self.places or (None,) * len(axes)), None]

    def _padding(self, sizes: Sequence[int], spans: Sequence[int]) -> list[tuple[int, int]]:
        if not isinstance(self.pads, str):
            return list(self.pads)
        if self.pads == "VALID":
            return [(0, 0)] * len(sizes)
        found = []
        for size, span, stride in zip(sizes, spans, self.strides, strict=True):
            whole = max((-(-size // stride) - 1) * stride + span - size, 0)
            less, more = whole // 2, whole - whole // 2
            found.append((less, more) if self.pads == "SAME_UPPER" else (more, less))
        return found


def _without(dims: Dims, axis: int) -> Dims:
    return None if dims is None else [dim for index, dim in enumerate(dims) if index != axis]


def _integers(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default
