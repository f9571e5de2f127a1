"""Bring queries, keys, values and masks to the axes of ai.onnx Attention, [batch, heads, sequence, size].

GPT-2 with batch and heads as one axis of its products, as Bloom has them: b sequences of n tokens, 12 heads of 64.
Behind each value its axes in *atoms* of another (`ir.layout`); `p0 / 12` and `p0 % 12` are the parts of axis 0 of p.

    q   = Transpose(Reshape(x, [b, n, 12, 64]))       x: [b, n, 768]      (x0) (x2 / 64) (x1) (x2 % 64)
    q3  = Reshape(q, [12*b, n, 64])                                       (x0, x2 / 64) (x1) (x2 % 64)
    p   = MatMul(q3, Transpose(k3))                   [12*b, n, n]        (p0) (p1) (p2)
    s   = Reshape(p, [b, 12, n, n])                                       (p0 / 12) (p0 % 12) (p1) (p2)
    a   = Softmax(Where(c, s, low))                   c: [1, 1, n, n]     as s
    a3  = Reshape(a, [12*b, n, n])                                        (p0) (p1) (p2)
    y3  = MatMul(a3, v3)                              [12*b, n, 64]

* `leading` are the axes of the product before the last two, here (p0): what queries and keys broadcast to.
* a `Split` says how its atoms fall into batch and heads. `splits` takes b and 12 from the axes of s, which has four.
* `operand` writes q3 in atoms of x, regroups its leading ones as (x0) and (x2 / 64), the sizes of the split, and has x
  arranged as [batch, heads, sequence, size], in no steps where a nearer root already is: q itself.
* `mask` broadcasts as [1, 1, n, n] already. Were it added to p, as [12*b, n, n], its leading atoms would be regrouped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ....ir.arrangement import Arrangement, arrange
from ....ir.atoms import ONE, Atom, Axis, fresh, regroup, size_of
from ....ir.content import dimensions
from ....ir.layout import View, views, whole
from ....ir.polynomial import Polynomial
from ...base import Miss
from .origins import origin_of
from .scores import Bias, shown


@dataclass(frozen=True)
class Operand:
    """An operand of a product as [batch, heads, sequence, size], the number of its heads, and a factor taken out."""

    plan: Arrangement
    heads: Polynomial
    scale: float


@dataclass(frozen=True)
class Split:
    """How the leading axes of the scores fall into a batch and heads."""

    batch: Polynomial
    heads: Polynomial

    def groups(self, atoms: Sequence[Atom]) -> tuple[Axis, Axis] | None:
        found = regroup(atoms, [self.batch, self.heads])
        return None if found is None else (found[0], found[1])


def operand(
    value: ir.Value, leading: Sequence[Axis], split: Split, *, turned: bool, scalars: bool, grouped: bool
) -> Operand | None:
    """`value`, whose last two axes are [sequence, size], or [size, sequence] where `turned`.

    leading: the leading axes of the product, to which those of the value broadcast. scalars: take constant factors
    out. grouped: let one head of the value serve several of the split.
    """
    best: Operand | None = None
    for view in views(value, scalars=scalars, repeats=grouped):
        found = _operand(view, leading, split, turned, grouped)
        if found is not None and (best is None or _better(found, best)):
            best = found
    return best


def mask(bias: Bias, split: Split) -> Arrangement | Miss:
    """A mask or bias as something that broadcasts to [batch, heads, queries, keys]."""
    dims = dimensions(bias.value)
    lead, columns = bias.axes[:-2], bias.axes[-1]
    wanted = [size_of(axis) for axis in bias.axes]
    need = f"sizes that broadcast to {shown(bias.axes)}"
    own = whole(bias.value)
    if dims is None or own is None:
        return Miss("mask", origin_of(bias.value), need)
    padded = [*([()] * (len(bias.axes) - len(own))), *own]
    given = [size_of(axis) for axis in padded]
    if given[-1] != size_of(columns):
        return Miss("mask", origin_of(bias.value), f"{need}, with a place for each key")
    if any(mine not in (ONE, size) for mine, size in zip(given, wanted, strict=True)):
        return Miss("mask", origin_of(bias.value), need)
    plain = len(lead) == 2 and [size_of(axis) for axis in lead] == [split.batch, split.heads]
    if 2 <= len(dims) <= 4 and (plain or all(size == ONE for size in given[:-2])):
        return Arrangement(bias.value)
    atoms = [
        part for axis, mine in zip(lead, padded, strict=False) for part in fresh(mine[0].axis if mine else None, axis)
    ]
    groups = split.groups(atoms)
    if groups is None or any(len({atom.axis is None for atom in group}) > 1 for group in groups):
        return Miss(
            "mask",
            origin_of(bias.value),
            "a mask that is the same for all or none of the batch and of the heads",
        )
    plan = arrange(bias.value, own, [*groups, padded[-2], padded[-1]])
    return plan if plan is not None else Miss("mask", origin_of(bias.value), need)


def splits(points: Sequence[Sequence[Axis]], leading: Sequence[Atom]) -> Iterator[Split]:
    """How the leading atoms may fall into batch and heads: as axes that were seen, then after each atom."""
    seen: list[Split] = []
    candidates = [Split(size_of(axes[0]), size_of(axes[1])) for axes in points if len(axes) == 4]
    order = [1, *range(2, len(leading) + 1), 0] if leading else [0]
    candidates += [Split(size_of(leading[:count]), size_of(leading[count:])) for count in order]
    for candidate in candidates:
        if candidate not in seen:
            seen.append(candidate)
            yield candidate


def _operand(view: View, leading: Sequence[Axis], split: Split, turned: bool, grouped: bool) -> Operand | None:
    if len(view.axes) < 2 or len(view.axes) - 2 > len(leading):
        return None
    own = view.axes[:-2]
    padded = [*([()] * (len(leading) - len(own))), *own]
    atoms: list[Atom] = []
    for mine, wide in zip(padded, leading, strict=True):
        atoms += mine if mine or not wide else (Atom(None, size_of(wide)),)
    groups = split.groups(atoms)
    if groups is None or any(atom.axis is None for atom in groups[0]):
        return None
    batch, heads = groups
    kept = tuple(atom for atom in heads if atom.axis is not None)
    # heads of queries that share a head of keys lie side by side: the repeated factor is the innermost
    if heads[: len(kept)] != kept or (not grouped and len(kept) != len(heads)):
        return None
    last, before = view.axes[-1], view.axes[-2]
    if any(atom.axis is None for atom in (*last, *before)):
        return None
    root = whole(view.root)
    plan = (
        None
        if root is None
        else arrange(view.root, root, [batch, kept, *((last, before) if turned else (before, last))])
    )
    return None if plan is None else Operand(plan, size_of(kept), view.scale)


def _better(found: Operand, best: Operand) -> bool:
    """Farther roots come later: they win where they take a factor out, need fewer heads, or no more steps."""
    if found.scale != best.scale:
        return True
    if found.heads != best.heads:
        return True
    return len(found.plan.steps) <= len(best.plan.steps)
