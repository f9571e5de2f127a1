"""One initializer in the place of another that holds the same numbers, transposed or not.

    before   y = MatMul(x, B)                 B == A.T           after   y = MatMul(x, Transpose(A))
             y = Gemm(x, B)                                              y = Gemm{transB=1}(x, A)
             y = MatMul(x, Transpose(B))                                 y = MatMul(x, A)

Whatever reads an initializer reads its twin. Its transpose only matrix products and transpositions can read without a
copy at run time: for a lookup of rows, a sum or a kernel of a convolution the axes are what they are.
"""

from __future__ import annotations

import onnx_ir as ir

from ..edit import Tape, attribute, drop, is_op, reroute, sweep

#: The inputs of each op that may come transposed.
_TURNING = {"MatMul": (0, 1), "Gemm": (1,), "Transpose": (0,)}


def stand_for(value: ir.Value, twin: ir.Value) -> None:
    """Let `twin`, which holds the same numbers, be read where `value` is, and drop that."""
    value.replace_all_uses_with(twin)
    drop(value)


def turnable(value: ir.Value) -> bool:
    """Whether all that reads a matrix can read its transpose."""
    return bool(value.uses()) and all(
        not use.node.domain and use.idx in _TURNING.get(use.node.op_type, ()) and _plain(use.node)
        for use in value.uses()
    )


def turned_for(value: ir.Value, twin: ir.Value) -> None:
    """Let `twin`, which holds the transpose, be read where the turnable `value` is, and drop that."""
    for node, index in [(use.node, use.idx) for use in value.uses()]:
        if is_op(node, "Gemm"):
            node.attributes["transB"] = ir.AttrInt64("transB", 1 - attribute(node, "transB", 0))
            node.replace_input_with(index, twin)
        elif is_op(node, "Transpose"):
            node.outputs[0].replace_all_uses_with(twin)
            sweep([node])
        else:
            tape = Tape()
            made = tape("Transpose", twin, perm=[1, 0])
            made.type, made.shape = value.type, value.shape
            reroute(tape, node, value, made)
    drop(value)


def _plain(node: ir.Node) -> bool:
    """Whether a transposition swaps the axes of a matrix, and is no output that has to stay."""
    if node.op_type != "Transpose":
        return True
    perm = node.attributes.get("perm")
    return (perm is None or list(perm.as_ints()) == [1, 0]) and not node.outputs[0].is_graph_output()
