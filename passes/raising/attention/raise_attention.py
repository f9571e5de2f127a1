"""Raise softmax attention to one Attention node.

    before   scale Q K^T + mask --> Softmax --> [NaN guard] --> (_) V        spelled in any way
    after    Attention(Q, K, V, mask){scale, softcap}        Q, K, V: [batch, heads, sequence, size]

Exact: softmax(scale Q K^T + mask) V, Vaswani et al., Attention Is All You Need, 2017, equation 1; grouped queries:
Ainslie et al., GQA, 2023; soft caps: Gemma 2, 2024. The walk starts at the softmax (`scores`) and proves what lies
between it and the two products that bracket it; heads that were split, merged, repeated or moved are followed through
every rearrangement (`ir.layout`); scores that are filled become a mask that is added (`terms`). Rows whose keys are all
hidden by minus infinity become zero, as ONNX says; without a guard they were NaN. Left alone, with the reason: softmax
over another axis, probabilities that are read elsewhere, scores that are no product of two computed values, scales that
are not positive, masks that broadcast in ways that Attention has no place for, and fills that it cannot say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.arrangement import Arrangement, arrange
from ....ir.atoms import Atom, Axis, fresh, regroup, size_of
from ....ir.content import dimensions
from ....ir.layout import after, rearranges, whole
from ....ir.text import place
from ...arrange import arranged
from ...base import Match, Miss, Rewrite
from ...edit import Tape, attribute, is_op, only_reader, replace, scalar_of
from .operands import Operand, Split, operand, splits
from .origins import sizes
from .scores import Scores, is_guard, scores_of, shown
from .terms import Term, terms_of, total
from .weighs import weighs

_SMALLEST, _LARGEST = (float(limit) for limit in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


@dataclass(frozen=True)
class Back:
    """The value that Attention's output takes the place of, and how its axes come to be those."""

    old: ir.Value
    plan: Arrangement


@dataclass(frozen=True, kw_only=True)
class Bracket(Match):
    """The operands of the two products around a softmax, and what lies between.

    kind: the type of queries and keys. scale: of the product. cap: 0 for none.
    """

    query: Operand
    key: Operand
    value: Operand
    terms: tuple[Term, ...]
    kind: ir.DataType
    scale: float
    cap: float
    precision: ir.DataType | None
    back: Back


@dataclass(frozen=True)
class _Weighted:
    """The product of probabilities, laid out as `axes`, and values; `zeroed` is what hides probabilities again."""

    product: ir.Node
    axes: tuple[Axis, ...]
    zeroed: tuple[tuple[ir.Value, bool], ...]


@dataclass(frozen=True, kw_only=True)
class RaiseAttention(Rewrite):
    """softmax(scale Q K^T + mask) V -> Attention"""

    name: ClassVar[str] = "raise-attention"
    anchors: ClassVar[tuple[str, ...]] = ("Softmax",)
    subject: ClassVar[str] = "attention"
    whole: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        found = _found(node)
        if isinstance(found, Miss) and not found.near and weighs(node.outputs[0]):
            return dataclasses.replace(found, near=True)
        return found

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Bracket)
        tape = Tape()
        inputs = [arranged(tape, item.plan) for item in (found.query, found.key, found.value)]
        mask = total(tape, found.terms, found.kind)
        fused = tape(
            "Attention",
            *inputs,
            *([] if mask is None else [mask]),
            scale=found.scale,
            softcap=found.cap or None,
            softmax_precision=None if found.precision is None else int(found.precision),
        )
        output = arranged(tape, dataclasses.replace(found.back.plan, value=fused))
        replace(tape, [found.back.old], [output], matched=[found.node])


def _found(node: ir.Node) -> Match | Miss:
    """What a softmax is the middle of."""
    dims = dimensions(node.outputs[0]) or dimensions(node.inputs[0])
    if dims is None or len(dims) < 2:
        return Miss("rank", node.outputs[0].name or "", "scores of known rank, at least 2")
    if attribute(node, "axis", -1) not in (-1, len(dims) - 1):
        return Miss("axis", f"axis {attribute(node, 'axis', -1)}", "softmax over the last axis")
    scores = scores_of(node.inputs[0])
    if isinstance(scores, Miss):
        return scores
    weighted = _weighted_sum(node.outputs[0], scores)
    found = weighted if isinstance(weighted, Miss) else _bracket(node, scores, weighted)
    if isinstance(found, Match):
        return found
    return dataclasses.replace(found, near=True, reached=tuple(map(place, scores.nodes[::-1])))


def _bracket(node: ir.Node, scores: Scores, weighted: _Weighted) -> Match | Miss:
    """Find a batch and heads in which queries, keys, values and masks all fit."""
    product = whole(scores.product.outputs[0])
    assert product is not None
    leading, rows, columns = product[:-2], product[-2], product[-1]
    if scores.axes[-1:] != (columns,):
        return Miss("axis", shown(scores.axes), "softmax over the keys alone")
    if weighted.axes[-2:] != (rows, columns):
        return Miss("layout", shown(weighted.axes), "probabilities of shape [.., queries, keys]")
    atoms = [atom for axis in weighted.axes[:-2] for atom in axis]
    if not _in_order(atoms, leading):
        return Miss("layout", shown(weighted.axes), "leading axes in the order of the product of queries and keys")
    points = [product, *(bias.axes for bias in scores.biases), scores.axes, weighted.axes]
    ordered = [axes for axes in points if axes[-2:] == (rows, columns)]
    missed: Miss | None = None
    for split in splits(ordered, atoms):
        found = _fit(node, scores, weighted, split)
        if not isinstance(found, Miss):
            return found
        missed = missed or found
    assert missed is not None
    return missed


def _fit(node: ir.Node, scores: Scores, weighted: _Weighted, split: Split) -> Match | Miss:
    """Queries, keys, values, scale, mask and output as Attention has them for one batch and heads."""
    operands = _operands(scores, weighted, split)
    if isinstance(operands, Miss):
        return operands
    scale = _scale(scores, operands[0].scale * operands[1].scale)
    if isinstance(scale, Miss):
        return scale
    kind = scores.product.outputs[0].dtype or ir.DataType.FLOAT
    terms = terms_of(scores, weighted.zeroed, split, kind)
    if isinstance(terms, Miss):
        return terms
    back = _back(weighted, split)
    if back is None:
        return Miss("output", sizes(weighted.product.outputs[0]), "axes that batch, heads and queries make up")
    query, key, value = operands
    return Bracket(
        node=node,
        query=query,
        key=key,
        value=value,
        terms=terms,
        kind=kind,
        scale=scale,
        # tanh(-x) == -tanh(x)
        cap=abs(scores.capped or 0.0),
        precision=scores.precision,
        back=back,
    )


def _operands(scores: Scores, weighted: _Weighted, split: Split) -> tuple[Operand, Operand, Operand] | Miss:
    """Queries with all heads; keys and values with as few as serve them, the same number of both."""
    if split.heads.constant is None:
        return Miss("heads", str(split.heads), "a known number of heads")
    query, key = scores.product.inputs
    value, product = weighted.product.inputs[1], whole(scores.product.outputs[0])
    assert query is not None and key is not None and value is not None and product is not None
    leading = product[:-2]
    queries = operand(query, leading, split, turned=False, scalars=True, grouped=False)
    if queries is None:
        return Miss("queries", sizes(query), f"[{split.batch}, {split.heads}, queries, size]")
    keys: Operand | None = None
    for grouped in (True, False):
        keys = operand(key, leading, split, turned=True, scalars=True, grouped=grouped)
        values = operand(value, weighted.axes[:-2], split, turned=False, scalars=False, grouped=grouped)
        if keys is not None and values is not None and keys.heads == values.heads:
            return queries, keys, values
    which, what = (key, "keys") if keys is None else (value, "values")
    return Miss(what, sizes(which), f"[{split.batch}, {split.heads}, keys, size]")


def _scale(scores: Scores, outside: float) -> float | Miss:
    """What Attention multiplies the product with: behind a soft cap the cap takes part."""
    scale = scores.scale * outside * (1.0 if scores.capped is None else scores.capped)
    if scores.capped == 0.0 or not _SMALLEST <= scale <= _LARGEST:
        return Miss("scale", f"{scale:g}", "a positive scale: Attention scales queries and keys by its root")
    return scale


def _weighted_sum(probabilities: ir.Value, scores: Scores) -> _Weighted | Miss:
    """The product with the values, behind a NaN guard, a second masking, a cast back or rearrangements."""
    value, axes = probabilities, scores.axes
    zeroed: list[tuple[ir.Value, bool]] = []
    filled = {(bias.value, bias.hides): bias.axes for bias in scores.biases if bias.low is not None}
    while True:
        readers = value.consumers()
        guard = next((node for node in readers if is_op(node, "Where")), None) if len(readers) > 1 else None
        if guard is not None and not (is_guard(guard, value) and _rank(guard.inputs[1]) <= len(axes)):
            return Miss("guard", f"Where at {guard.name}", "zeros where a probability is NaN")
        if len(readers) != (1 if guard is None else 2) or value.is_graph_output():
            return Miss("probabilities", value.name or "", "to be read by the product with the values alone")
        node = guard or readers[0]
        if is_op(node, "MatMul") and node.inputs[0] is value:
            if node.inputs[1] is value:
                return Miss("values", f"MatMul at {node.name}", "MatMul(probabilities, values)")
            kinds = {scores.product.outputs[0].dtype, node.outputs[0].dtype} - {None}
            if len(kinds) > 1:
                return Miss("precision", f"MatMul at {node.name}", "values of the type of queries and keys")
            return _Weighted(node, axes, tuple(zeroed))
        if guard is None and is_op(node, "Where"):
            hides = scalar_of(node.inputs[1]) == 0.0
            kept, other = (node.inputs[2], node.inputs[1]) if hides else (node.inputs[1], node.inputs[2])
            condition = node.inputs[0]
            zero = kept is value and scalar_of(other) == 0.0 and _rank(other) <= len(axes)
            if condition is None or not zero or filled.get((condition, hides)) != axes:
                return Miss(
                    "guard", f"Where at {node.name}", "zeros where a probability is NaN, or where its score is hidden"
                )
            zeroed.append((condition, hides))
        elif is_op(node, "Cast"):
            if scores.precision is None or node.outputs[0].dtype is not scores.product.outputs[0].dtype:
                return Miss("precision", f"Cast at {node.name}", "a cast back to the type of queries and keys")
        elif guard is None and rearranges(node):
            moved = after(node, axes)
            if moved is None:
                return Miss("layout", f"{node.op_type} at {node.name}", "a rearrangement of whole axes")
            axes = moved
        elif guard is None:
            return Miss("values", f"{node.op_type} at {node.name}", "MatMul(probabilities, values)")
        value = node.outputs[0]


def _rank(value: ir.Value | None) -> int:
    """Axes of a constant: more than those of what it meets would give that more."""
    return len(dimensions(value) or ())


def _back(weighted: _Weighted, split: Split) -> Back | None:
    """Where the output of Attention takes over: the product, or a rearrangement of it that comes nearer to its axes."""
    found = _as_product(weighted, split)
    if found is None:
        return None
    own, first = found
    axes: tuple[Axis, ...] | None = first
    value, best = weighted.product.outputs[0], None
    while axes is not None:
        plan = arrange(value, own, axes)
        if plan is not None and (best is None or len(plan.steps) < len(best.plan.steps)):
            best = Back(value, plan)
        reader = only_reader(value)
        if reader is None or not rearranges(reader) or best is None or not best.plan.steps:
            break
        axes, value = after(reader, axes), reader.outputs[0]
    return best


def _as_product(weighted: _Weighted, split: Split) -> tuple[tuple[Axis, ...], tuple[Axis, ...]] | None:
    """The axes of Attention's output, [batch, heads, queries, size], and those of the product in atoms of it."""
    product, leading, rows = whole(weighted.product.outputs[0]), weighted.axes[:-2], weighted.axes[-2]
    groups = split.groups([atom for axis in leading for atom in axis])
    if product is None or groups is None:
        return None
    named = [atom for index, group in enumerate(groups) for atom in fresh(index, group)]
    lead = regroup(named, [size_of(axis) for axis in leading])
    if lead is None:
        return None
    own = tuple(fresh(index, (Atom(index, size_of(axis)),)) for index, axis in enumerate((*groups, rows, product[-1])))
    return own, (*lead, fresh(2, rows), fresh(3, product[-1]))


def _in_order(atoms: Sequence[Atom], leading: Sequence[Axis]) -> bool:
    """Whether atoms run through the axes of the product in their own order."""
    groups = regroup(atoms, [size_of(axis) for axis in leading])
    if groups is None:
        return False
    for group, axis in zip(groups, leading, strict=True):
        end = size_of(axis)
        for atom in group:
            if atom.axis != axis[0].axis or atom.stride * atom.size != end:
                return False
            end = atom.stride
    return True
