"""Fold a number that scales the queries or the keys of Attention into its scale.

    before   Attention{scale=s}(q * c, k, v)         after   Attention{scale=s*c}(q, k, v)

Exact: the scores are (q c) k^T s = q k^T (s c), whatever cap, mask and bias come behind, and however the heads are laid
out or rotated between. Left alone: numbers that are not positive, of which the op takes the square root; what something
else reads as well; types below float32; keys that join a past or are kept for one; scores that are themselves an
output; heads of unknown size where the scale follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.constants import is_constant, scalar_of, tensor_of
from ...ir.content import dimensions
from ..base import Match, Miss, Rewrite
from ..edit import Attribute, Tape, attribute, is_op, replace
from .carriers import above
from .dense import PRECISE, RANGE


@dataclass(frozen=True, kw_only=True)
class Scaled(Match):
    """What multiplies queries or keys, what it multiplies, and the scale that stands for both."""

    product: ir.Node
    x: ir.Value
    scale: float


@dataclass(frozen=True, kw_only=True)
class FoldAttentionScale(Rewrite):
    """Attention(q * c, k, v) -> Attention{scale=c}(q, k, v)"""

    name: ClassVar[str] = "fold-attention-scale"
    anchors: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        missed: Miss | None = None
        for index in (0, 1):
            found = _scaled(node, index)
            if isinstance(found, Scaled):
                return found
            missed = found if missed is None or (missed.far and not found.far) else missed
        assert missed is not None
        return missed

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Scaled)
        node, result = found.node, found.product.outputs[0]
        attributes: dict[str, Attribute] = {**node.attributes} | {"scale": found.scale}
        inputs = [found.x if value is result else value for value in node.inputs]
        tape = Tape()
        made = tape.node("Attention", inputs, attributes, outputs=len(node.outputs))
        replace(tape, node.outputs, made.outputs, matched=[node, found.product])
        if found.product.graph is not None:
            replace(Tape(), [result], [found.x])


def _scaled(node: ir.Node, index: int) -> Scaled | Miss:
    value = node.inputs[index] if len(node.inputs) > index else None
    which = ("queries", "keys")[index]
    if value is None:
        return Miss(which, node.name or "", "given", far=True)
    source, passed = above(value, attention=False)
    product = source.producer()
    operands = (*product.inputs, None)[:2] if is_op(product, "Mul", "Div") else (None, None)
    if is_op(product, "Mul") and is_constant(operands[0]):
        operands = (operands[1], operands[0])
    x, factor = operands
    if product is None or x is None or is_constant(x) or not is_constant(factor) or factor is None:
        return Miss(which, value.name or "", "a value times a constant", far=True)
    number = scalar_of(factor)
    if number is None or factor.dtype not in PRECISE:
        return Miss("factor", factor.name or "", "one number of float32 or float64")
    tensor, dims = tensor_of(factor), dimensions(x)
    if tensor is None or len(tensor.shape) > len(dims or ()):
        return Miss("broadcast", f"{x.name}: {dims}", "a value of at least as many axes as the number")
    if product.graph is not node.graph or any(step.graph is not node.graph for step in passed):
        return Miss("graph", source.name or "", "a product in the graph of the attention")
    if len(source.uses()) != 1 or source.is_graph_output():
        return Miss("readers", source.name or "", "a product that nothing but the attention reads")
    if _read(node, 3):
        return Miss("scores", node.outputs[3].name or "", "scores that nothing else reads")
    if index == 1 and (_read(node, 1) or (len(node.inputs) > 4 and node.inputs[4] is not None)):
        return Miss("cache", value.name or "", "keys that are neither joined to a past nor kept")
    scale = _scale(node)
    if scale is None:
        return Miss("scale", f"{node.inputs[0]}", "heads of known size, or a scale that is given")
    product_of = scale / number if product.op_type == "Div" and number else scale * number
    if not (number > 0 and scale > 0 and 1 / RANGE <= product_of <= RANGE):
        return Miss(
            "factor", f"{factor.name}: {number:g}", f"a positive one, the scale between {1 / RANGE:g} and {RANGE:g}"
        )
    return Scaled(node=node, product=product, x=x, scale=product_of)


def _scale(node: ir.Node) -> float | None:
    """By what the scores are multiplied."""
    given = node.attributes.get("scale")
    if given is not None:
        return given.as_float()
    dims, heads = dimensions(node.inputs[0]), attribute(node, "q_num_heads", 0)
    width = dims[-1] if dims else None
    if dims is None or not isinstance(width, int) or width <= 0 or (len(dims) == 3 and (not heads or width % heads)):
        return None
    return float((width // heads if len(dims) == 3 else width) ** -0.5)


def _read(node: ir.Node, output: int) -> bool:
    return len(node.outputs) > output and bool(node.outputs[output].uses() or node.outputs[output].is_graph_output())
