"""Raise an Einsum of two operands to the product that it is, between transposes and reshapes.

    before   Einsum{equation="bind,bjnd->bnij"}(q, k)      q: [b, i, n, d], k: [b, j, n, d]
    after    MatMul(Transpose(q), Transpose(k))            [b, n, i, d] [b, n, d, j]
    before   Einsum{equation="bsd,dhe->bshe"}(x, W)
    after    Reshape(MatMul(x, Reshape(W, [d, h e])), [b, s, h, e])

Exact: letters of both operands and the result are the batch, letters of both alone are summed over, the others are
rows and columns. Several of one kind are joined to one axis, where all but one of their sizes are numbers; a constant
operand is turned and joined when its bytes are read. Left alone: one operand or more than two, ellipses, letters that
repeat within an operand or that only one operand has, products without anything to sum over, sizes that differ (Einsum
stretches a 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.constants import tensor_of
from ....ir.content import Element, dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Array, Tape, replace


@dataclass(frozen=True)
class _Side:
    """How an operand is brought to its place: the order of its axes, then the sizes they are joined to."""

    value: ir.Value
    perm: list[int]
    target: list[int] | None
    shape: list[int] | None


@dataclass(frozen=True, kw_only=True)
class Product(Match):
    """[batch, rows, inner] times [batch, inner, columns], cut apart and put in the order of the result."""

    left: _Side
    right: _Side
    target: list[int] | None
    perm: list[int]


@dataclass(frozen=True, kw_only=True)
class RaiseEinsum(Rewrite):
    """Einsum of two operands -> MatMul"""

    name: ClassVar[str] = "raise-einsum"
    anchors: ClassVar[tuple[str, ...]] = ("Einsum",)

    def match(self, node: ir.Node) -> Match | Miss:
        equation = node.attributes["equation"].as_string().replace(" ", "")
        terms, arrow, result = equation.partition("->")
        operands = terms.split(",")
        if len(operands) != 2 or len(node.inputs) != 2 or not arrow or "." in equation:
            return Miss("equation", equation, "two operands and a result, without an ellipsis")
        left, right = operands
        if any(len(set(term)) != len(term) for term in (left, right, result)):
            return Miss("equation", equation, "letters that differ within each operand")
        sizes = _sizes(node, left, right)
        if isinstance(sizes, Miss):
            return sizes
        batch = [letter for letter in result if letter in left and letter in right]
        inner = [letter for letter in left if letter in right and letter not in result]
        rows = [letter for letter in result if letter in left and letter not in right]
        columns = [letter for letter in result if letter in right and letter not in left]
        if {*left, *right} != {*batch, *inner, *rows, *columns} or not set(result) <= {*left, *right}:
            return Miss("equation", equation, "the letters of one operand alone in the result, and no others")
        if not inner:
            return Miss("equation", equation, "letters to sum over")
        # without a batch, MatMul keeps all rows as axes of their own
        spread = not batch and len(rows) > 1
        apart = [[letter] for letter in rows] if spread else [rows]
        alone = [[letter] for letter in batch]
        sides = [
            _side(node.inputs[0], left, [*alone, *apart, inner], sizes),
            _side(node.inputs[1], right, [*alone, inner, columns], sizes),
        ]
        first, second = sides
        ordered = [*batch, *rows, *columns]
        groups = [*alone, *apart, columns]
        target = _cut(ordered, groups, sizes)
        if first is None or second is None or (target is not None and target.count(-1) > 1):
            return Miss("sizes", equation, "numbers for all sizes but one of what is joined")
        perm = [ordered.index(letter) for letter in result]
        return Product(node=node, left=first, right=second, target=target, perm=perm)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Product)
        tape, output = Tape(), found.node.outputs[0]
        product = tape("MatMul", _brought(tape, found.left), _brought(tape, found.right))
        product.type = output.type
        if found.target is not None:
            product = tape("Reshape", product, tape.constant(found.target, "shape"))
            product.type = output.type
        if found.perm != sorted(found.perm):
            product = tape("Transpose", product, perm=found.perm)
        replace(tape, [output], [product], matched=[found.node])


def _sizes(node: ir.Node, left: str, right: str) -> dict[str, Element] | Miss:
    """Letter -> size. Einsum stretches a size of 1, MatMul none that it sums over: shared sizes have to be the same."""
    found: dict[str, Element] = {}
    for value, term in zip(node.inputs, (left, right), strict=True):
        dims = dimensions(value)
        if dims is None or len(dims) != len(term):
            return Miss("rank", value.name or "" if value is not None else "", f"{len(term)} axes, as in {term}")
        for letter, dim in zip(term, dims, strict=True):
            if dim == 0 or (letter in found and (dim is None or found[letter] != dim)):
                return Miss("sizes", f"{letter}: {dim}", "the same size in both operands, and none of zero")
            found[letter] = dim
    return found


def _side(
    value: ir.Value | None, term: str, groups: Sequence[Sequence[str]], sizes: dict[str, Element]
) -> _Side | None:
    """An operand with each group of letters as one axis; None where the sizes of what is joined are not known."""
    assert value is not None
    letters = [letter for group in groups for letter in group]
    perm = [term.index(letter) for letter in letters]
    if all(len(group) == 1 for group in groups):
        return _Side(value, perm, None, _numbers(groups, sizes))
    kept = next(index for index, group in enumerate(groups) if len(group) != 1)
    target = [0] * kept + [_joined(group, sizes) for group in groups[kept:]]
    return _Side(value, perm, target, _numbers(groups, sizes)) if target.count(-1) <= 1 else None


def _cut(ordered: Sequence[str], groups: Sequence[Sequence[str]], sizes: dict[str, Element]) -> list[int] | None:
    """The target that cuts groups apart, None where none is joined."""
    kept = next((index for index, group in enumerate(groups) if len(group) != 1), None)
    return None if kept is None else [0] * kept + [_joined([letter], sizes) for letter in ordered[kept:]]


def _joined(group: Sequence[str], sizes: dict[str, Element]) -> int:
    """The product of sizes, -1 where one is not known."""
    numbers = [dim for dim in (sizes[letter] for letter in group) if isinstance(dim, int)]
    return math.prod(numbers) if len(numbers) == len(group) else -1


def _numbers(groups: Sequence[Sequence[str]], sizes: dict[str, Element]) -> list[int] | None:
    shape = [_joined(group, sizes) for group in groups]
    return None if -1 in shape else shape


def _brought(tape: Tape, side: _Side) -> ir.Value:
    value = side.value
    moved = side.perm != sorted(side.perm)
    if not moved and side.target is None:
        return value
    tensor = tensor_of(value)
    if tensor is not None and side.shape is not None and not value.is_graph_input() and len(value.uses()) == 1:
        return _turned(tape, value, tensor, side.perm, side.shape)
    made = tape("Transpose", value, perm=side.perm) if moved else value
    made.type = value.type
    if side.target is not None:
        made = tape("Reshape", made, tape.constant(side.target, "shape"))
        made.type = value.type
    return made


def _turned(tape: Tape, x: ir.Value, tensor: ir.TensorProtocol, perm: Sequence[int], shape: Sequence[int]) -> ir.Value:
    """A constant with its axes moved and joined when its bytes are read."""

    def turned() -> Array:
        return tensor.numpy().transpose(perm).reshape(shape)

    return tape.derived(x.name or "weight", shape, tensor.dtype, turned)
