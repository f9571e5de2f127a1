"""Where the sizes of a mask come from, for a miss."""

from __future__ import annotations

from collections import deque

import onnx_ir as ir

from ....ir.content import dimensions
from ...edit import is_op

#: Ops of which the sizes of the results depend on the numbers that they read.
_COUNTING = ("NonZero", "Unique", "Compress", "NonMaxSuppression")
#: Nodes that a walk visits at most.
_REACH = 64


def sizes(value: ir.Value) -> str:
    """A value with its dimensions, for a miss."""
    return f"{value.name}: {dimensions(value)}"


def origin_of(value: ir.Value) -> str:
    """A value with its dimensions, and how they come to depend on data where they do."""
    steps = _steps(value)
    if not steps:
        return sizes(value)
    *between, last = steps
    how = f"{' of '.join(between)} on the output of {last}" if between else f"the output of {last}"
    return f"{value.name} is data-dependent ({how}), {dimensions(value)}"


def _steps(value: ir.Value) -> list[str]:
    """The ops from the one that makes a value up to the nearest whose sizes are data, which comes last."""
    origin = value.producer()
    queue = deque([] if origin is None else [(origin, [origin.op_type])])
    seen = {node for node, _ in queue}
    while queue and len(seen) <= _REACH:
        node, steps = queue.popleft()
        if is_op(node, *_COUNTING):
            return steps
        for above in node.predecessors():
            if above not in seen:
                seen.add(above)
                queue.append((above, [*steps, above.op_type]))
    return []
