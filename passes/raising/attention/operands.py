"""Bring queries, keys, values and masks to the axes of ai.onnx Attention, [batch, heads, sequence, size]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ....ir.arrangement import Arrangement, arrange
from ....ir.content import dimensions
from ....ir.layout import ONE, Atom, Axis, View, fresh, regroup, size_of, views, whole
from ....ir.polynomial import Polynomial
from ...base import Miss
from .scores import Bias


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
    sizes = [size_of(axis) for axis in bias.axes]
    shown = f"sizes that broadcast to [{', '.join(map(str, sizes))}]"
    own = whole(bias.value)
    if dims is None or own is None or not 1 <= len(dims) <= len(bias.axes):
        return Miss("mask", f"{bias.value.name}: {dims}", shown)
    padded = [*([()] * (len(bias.axes) - len(own))), *own]
    given = [size_of(axis) for axis in padded]
    if given[-1] != size_of(columns):
        return Miss("mask", f"{bias.value.name}: {dims}", f"{shown}, with a place for each key")
    if any(mine not in (ONE, size) for mine, size in zip(given, sizes, strict=True)):
        return Miss("mask", f"{bias.value.name}: {dims}", shown)
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
            f"{bias.value.name}: {dims}",
            "a mask that is the same for all or none of the batch and of the heads",
        )
    plan = arrange(bias.value, own, [*groups, padded[-2], padded[-1]])
    return plan if plan is not None else Miss("mask", f"{bias.value.name}: {dims}", shown)


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
