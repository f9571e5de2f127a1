"""Whether the probabilities of a softmax weigh computed values: what attention does and a classifier does not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from ....ir.constants import is_constant
from ....ir.content import dimensions
from ...edit import is_op

#: Ops whose result is made of the same probabilities, rearranged, picked, hidden or joined, and the inputs they may be.
_THROUGH: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Identity", "Tile"), (0,)),
    **dict.fromkeys(("Slice", "Gather", "GatherElements", "GatherND", "Split", "Pad", "Trilu"), (0,)),
    **dict.fromkeys(("Cast", "CastLike", "Dropout"), (0,)),
    "Where": (1, 2),
    "Mul": (0, 1),
    "ScatterND": (0, 2),
    "ScatterElements": (0, 2),
}
#: Nodes that a walk visits at most: probabilities that are cut into blocks have some dozens of readers.
_REACH = 96


def weighs(probabilities: ir.Value) -> bool:
    """Whether probabilities, rearranged, cut, masked or cast, are multiplied as a matrix with values that are computed.

    Either side of the product may be the probabilities. A walk of bounded length.
    """
    queue, seen = deque([probabilities]), {probabilities}
    visited = 0
    while queue:
        value = queue.popleft()
        for node, index in value.uses():
            visited += 1
            if visited > _REACH:
                return False
            if is_op(node, "MatMul", "Einsum") and len(node.inputs) == 2:
                other = node.inputs[1 - index]
                if other is not None and other not in seen and not is_constant(other):
                    return True
            for result in _handed_on(node, index):
                if result not in seen:
                    seen.add(result)
                    queue.append(result)
    return False


def _handed_on(node: ir.Node, index: int) -> Iterator[ir.Value]:
    """Results that hold the probabilities that a node reads as its input `index`."""
    if node.domain or not (node.op_type == "Concat" or index in _THROUGH.get(node.op_type, ())):
        return
    # a mask leaves the size as it is, a gate spreads over features
    if not is_op(node, "Mul") or dimensions(node.outputs[0]) == dimensions(node.inputs[index]):
        yield from node.outputs
