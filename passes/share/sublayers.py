"""What of a block is attention and what is feed-forward.

    x -> [ norm, q, k, v, Attention, o, Add ] -> s -> [ norm, up, Gelu, down, Add ] -> y
           attention                                    ffn

A block falls into sublayers where one value is all that goes on. One around an `Attention`, or a `Softmax` where that
was not raised, is attention: what leads to it and from it; what lies beside it there, as in blocks whose branches are
parallel, is feed-forward. A norm between two sublayers is of the one before it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import onnx_ir as ir

from ...ir.block import Block
from ...ir.constants import is_constant, tensor_of

_ATTENDS = ("Attention", "Softmax")
_SIZES = ("Shape", "Size")


class Part(enum.Enum):
    """What a node of a block belongs to."""

    ATTENTION = "attention"
    FFN = "ffn"


def parts(block: Block) -> dict[ir.Node, Part]:
    """The part of each node of a block."""
    found: dict[ir.Node, Part] = {}
    carried = _carried(block)
    for segment in _joined(_segments(block, carried)):
        attending = _around(segment)
        for node in segment:
            found[node] = Part.ATTENTION if node in attending else Part.FFN
    # what is off the stream belongs to what reads it
    for node in reversed(block.nodes):
        if node not in found:
            readers = [found[reader] for value in node.outputs for reader in value.consumers() if reader in found]
            found[node] = readers[0] if readers else Part.FFN
    return found


def _carried(block: Block) -> set[ir.Value]:
    """The values of a block that the stream flows through."""
    found = {block.input}
    for node in block.nodes:
        if node.op_type not in _SIZES and any(value in found for value in node.inputs):
            found.update(value for value in node.outputs if value.dtype is None or value.dtype.is_floating_point())
    return found


def _segments(block: Block, carried: set[ir.Value]) -> list[list[ir.Node]]:
    """The nodes on the stream between values that are all that goes on."""
    path = [node for node in block.nodes if any(value in carried for value in node.outputs)]
    last = {value: at for at, node in enumerate(path) for value in node.inputs if value in carried}
    found: list[list[ir.Node]] = [[]]
    needed = last.get(block.input, -1)
    for at, node in enumerate(path):
        found[-1].append(node)
        live = [value for value in node.outputs if last.get(value, -1) > at]
        if needed <= at and len(live) == 1:
            found.append([])
        needed = max([needed, *(last[value] for value in live)])
    return [segment for segment in found if segment]


def _joined(segments: Sequence[list[ir.Node]]) -> list[list[ir.Node]]:
    """Segments without attention and weights joined to those before them, or behind where there is none."""
    found: list[list[ir.Node]] = []
    waiting: list[ir.Node] = []
    for segment in segments:
        if any(node.op_type in _ATTENDS or _weighs(node) for node in segment):
            found.append([*waiting, *segment])
            waiting = []
        elif found:
            found[-1] += segment
        else:
            waiting += segment
    return found or [waiting]


def _weighs(node: ir.Node) -> bool:
    """Whether a node reads a matrix, through nodes that lay it out or not."""
    stack, seen = [value for value in node.inputs if value is not None], set[ir.Value]()
    while stack:
        value = stack.pop()
        tensor, producer = tensor_of(value), value.producer()
        if tensor is not None:
            if len(tensor.shape) > 1 and tensor.size > max(tensor.shape.numpy()) and tensor.dtype.is_floating_point():
                return True
        elif producer is not None and value not in seen and _laid(producer):
            seen.add(value)
            stack += [each for each in producer.inputs if each is not None]
    return False


def _laid(node: ir.Node) -> bool:
    return all(value is None or is_constant(value) or value.producer() is not None for value in node.inputs) and (
        node.op_type in ("Transpose", "Reshape", "Cast", "DequantizeLinear", "Identity", "Squeeze", "Unsqueeze")
    )


def _around(segment: Sequence[ir.Node]) -> set[ir.Node]:
    """The nodes of a segment that lead to its attention or from it."""
    inside = set(segment)
    attends = [node for node in segment if node.op_type in _ATTENDS]
    found = set(attends)
    for forward in (False, True):
        stack = list(attends)
        while stack:
            node = stack.pop()
            near = (
                [reader for value in node.outputs for reader in value.consumers()]
                if forward
                else [value.producer() for value in node.inputs if value is not None]
            )
            more = [each for each in near if each is not None and each in inside and each not in found]
            found.update(more)
            stack += more
    return found
