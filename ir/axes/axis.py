"""Axes that are cut together: each is one leaf, a product of factors (heads * size) or a sum of pieces (query, key).

    Linear [384] -> Reshape [12, 32]         384 = 12 * 32          heads outermost, as memory has them
    Linear [1024] -> Split [512, 512]        1024 = 512 + 512
    Add(x, y)                                the axes of x and y are one

What an axis falls into may be found in any order, from either end; two axes that are found to be one are refined until
the parts of both are the same. Where the parts do not divide, everything in both is held: nothing of it can be cut.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from ..atoms import ONE, exactly
from ..polynomial import Polynomial, total

Mask = NDArray[np.bool_]


class Why(enum.Enum):
    """Why an axis may not be cut unless a pass knows what to do about it."""

    INPUT = "an input of the model"
    OUTPUT = "an output of the model"
    NORMALIZED = "normalized over"
    ROWS = "looked up by number"
    HEAD_SIZE = "the size of a head, which scales its scores"
    FIXED = "fixed"


class Role(enum.Enum):
    """What the units of an axis are to an op that counts them."""

    HEADS = "heads"
    UNITS = "recurrent units"
    CHANNELS = "channels"
    HEAD_FEATURES = "features of a head"


@dataclass(frozen=True)
class Hold:
    """One reason not to cut an axis, and where in the graph it is."""

    why: Why
    where: str

    def __str__(self) -> str:
        return self.where if self.why is Why.FIXED else f"{self.why.value}: {self.where}"


class Form(enum.Enum):
    """What an axis is made of."""

    LEAF = enum.auto()
    PRODUCT = enum.auto()
    SUM = enum.auto()


class Axis:
    """An axis, or a part of one. `root()` is the same object for all that are cut together."""

    __slots__ = ("_holds", "_other", "_parts", "_roles", "form", "size")

    def __init__(self, size: Polynomial | int) -> None:
        self.size = Polynomial.of(size) if isinstance(size, int) else size
        self.form = Form.LEAF
        self._parts: tuple[Axis, ...] = ()
        self._other: Axis | None = None
        self._holds: dict[Hold, None] = {}
        self._roles: dict[tuple[Role, object], None] = {}

    def root(self) -> Axis:
        """What stands for this axis and all that it was tied to."""
        found = self
        while found._other is not None:
            found = found._other
        while self._other is not None:
            self._other, self = found, self._other  # the path is shortened on the way
        return found

    @property
    def parts(self) -> tuple[Axis, ...]:
        """The factors or pieces of the root, outermost or first one first; empty for a leaf."""
        root = self.root()
        found = [part.root() for part in root._parts]
        if root.form is not Form.LEAF and any(part.form is root.form for part in found):
            # a part that was split or cut since
            found = [inner for part in found for inner in (part.parts if part.form is root.form else (part,))]
            root._parts = tuple(found)
        return tuple(found)

    @property
    def count(self) -> int | None:
        """How long it is, None where that is dynamic."""
        return self.size.constant

    def leaves(self) -> Iterator[Axis]:
        """The leaves that it is made of, each once."""
        seen: dict[Axis, None] = {}
        stack = [self.root()]
        while stack:
            axis = stack.pop()
            if axis.form is Form.LEAF:
                seen.setdefault(axis)
            stack += axis.parts[::-1]
        yield from seen

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Why it may not be cut; of a leaf."""
        return tuple(self.root()._holds)

    @property
    def roles(self) -> tuple[tuple[Role, object], ...]:
        """What counts it, and the node that does; of a leaf."""
        return tuple(self.root()._roles)

    def hold(self, why: Why, where: str) -> None:
        """Let no leaf of it be cut."""
        for leaf in self.leaves():
            leaf._holds.setdefault(Hold(why, where))

    def count_as(self, role: Role, by: object) -> None:
        """Note what its leaves are to a node."""
        for leaf in self.leaves():
            leaf._roles.setdefault((role, by))

    def __repr__(self) -> str:
        sign = {Form.PRODUCT: " * ", Form.SUM: " + "}.get(self.root().form)
        return str(self.size) if sign is None else f"({sign.join(map(repr, self.parts))})"


def product(parts: Iterable[Axis]) -> Axis:
    """The axis whose factors these are, outermost first."""
    factors: list[Axis] = []
    for part in parts:
        root = part.root()
        factors += root.parts if root.form is Form.PRODUCT else () if root.size == ONE else (root,)
    return _made(Form.PRODUCT, factors, prod((factor.size for factor in factors), start=ONE))


def sum_of(parts: Iterable[Axis]) -> Axis:
    """The axis that joins these one after the other."""
    pieces: list[Axis] = []
    for part in parts:
        root = part.root()
        pieces += root.parts if root.form is Form.SUM else () if root.count == 0 else (root,)
    return _made(Form.SUM, pieces, total(piece.size for piece in pieces))


def _made(form: Form, parts: Sequence[Axis], size: Polynomial) -> Axis:
    if len(parts) == 1:
        return parts[0]
    made = Axis(size)
    if parts:
        made.form, made._parts = form, tuple(parts)
    return made


def split(axis: Axis, sizes: Sequence[Polynomial]) -> list[Axis] | None:
    """The axis as a product of factors of these sizes, outermost first; None where it does not divide so."""
    axis = axis.root()
    if prod(sizes, start=ONE) != axis.size:
        return None
    if len(sizes) == 1:
        return [axis]
    if sum(size != ONE for size in sizes) < 2:
        # ones are no factors: a product of one part would be two axes where there is one
        return [Axis(1) if size == ONE else axis for size in sizes]
    if axis.form is Form.LEAF:
        return _become(axis, Form.PRODUCT, sizes)
    if axis.form is Form.SUM:
        return _split_sum(axis, sizes)
    waiting, found = deque(axis.parts), []
    for size in sizes:
        group: list[Axis] = []
        left = size
        while left != ONE:
            factor = waiting.popleft().root()
            rest = exactly(left, factor.size)
            if rest is None:
                inner = exactly(factor.size, left)
                cut = None if inner is None else split(factor, [left, inner])
                if cut is None:
                    return None
                factor, rest = cut[0], ONE
                waiting.appendleft(cut[1])
            group.append(factor)
            left = rest
        found.append(product(group) if group else Axis(1))
    return found


def _split_sum(axis: Axis, sizes: Sequence[Polynomial]) -> list[Axis] | None:
    pieces, inner = axis.parts, prod(sizes[1:], start=ONE)
    outer = [exactly(piece.size, inner) for piece in pieces]
    if any(size is None for size in outer):
        return None
    # (a * c) + (b * c) = (a + b) * c
    split_up = [split(piece, [size, *sizes[1:]]) for piece, size in zip(pieces, outer, strict=True) if size is not None]
    known = [factors for factors in split_up if factors is not None]
    if len(known) < len(pieces):
        return None
    for factors in known[1:]:
        for one, other in zip(known[0][1:], factors[1:], strict=True):
            tie(one, other)
    found = [sum_of(factors[0] for factors in known), *known[0][1:]]
    axis.form, axis._parts = Form.PRODUCT, product(found).parts
    return found


def cut(axis: Axis, sizes: Sequence[Polynomial]) -> list[Axis] | None:
    """The axis as pieces of these sizes one after the other; None where it does not fall into them."""
    axis = axis.root()
    if total(sizes) != axis.size:
        return None
    wanted = [size for size in sizes if size.constant != 0]
    if len(wanted) == 1:
        found: list[Axis] | None = [axis]
    elif axis.form is Form.LEAF:
        found = _become(axis, Form.SUM, wanted)
    elif axis.form is Form.PRODUCT:
        found = _cut_product(axis, wanted)
    else:
        found = _cut_sum(axis, wanted)
    if found is None:
        return None
    left = iter(found)
    return [Axis(0) if size.constant == 0 else next(left) for size in sizes]


def _cut_product(axis: Axis, sizes: Sequence[Polynomial]) -> list[Axis] | None:
    first, *rest = axis.parts
    inner = prod((factor.size for factor in rest), start=ONE)
    outer = [exactly(size, inner) for size in sizes]
    if all(size is not None for size in outer):
        # (a + b) * c = (a * c) + (b * c)
        pieces = cut(first, [size for size in outer if size is not None])
        return None if pieces is None else [product([piece, *rest]) for piece in pieces]
    return None


def _cut_sum(axis: Axis, sizes: Sequence[Polynomial]) -> list[Axis] | None:
    waiting, found = deque(axis.parts), []
    for size in sizes:
        group: list[Axis] = []
        left = size
        while left.constant != 0:
            piece = waiting.popleft().root()
            rest = left - piece.size
            if not rest.nonnegative:
                halves = cut(piece, [left, piece.size - left]) if (piece.size - left).nonnegative else None
                if halves is None:
                    return None
                piece, rest = halves[0], left - left
                waiting.appendleft(halves[1])
            group.append(piece)
            left = rest
        found.append(sum_of(group))
    return found


def _become(axis: Axis, form: Form, sizes: Sequence[Polynomial]) -> list[Axis]:
    """Give a leaf parts. What holds it holds each of them."""
    made = [Axis(size) for size in sizes]
    held, counted = axis.holds, axis.roles
    axis.form, axis._parts = form, tuple(part for part in made if part.size != ONE or form is Form.SUM)
    for part in made:
        part._holds = dict.fromkeys(held)
        part._roles = dict.fromkeys(counted)
    return made


def tie(one: Axis, other: Axis) -> bool:
    """Let two axes be one. Where their parts do not fit, both are held and the answer is False."""
    one, other = one.root(), other.root()
    if one is other:
        return True
    if one.size == other.size and _tied(one, other):
        return True
    for axis, beside in ((one, other), (other, one)):
        axis.hold(Why.FIXED, f"read as {axis!r} and as {beside!r}")
    return False


def _tied(one: Axis, other: Axis) -> bool:
    if one.form is not Form.LEAF and other.form is Form.LEAF:
        one, other = other, one
    if one.form is Form.LEAF:
        for leaf in other.leaves():
            leaf._holds |= one._holds
            leaf._roles |= one._roles
        one._other = other
        return True
    refine = split if other.form is Form.PRODUCT else cut
    parts = refine(one, [part.size for part in other.parts])
    if parts is None and one.form is not other.form:
        one, other = other, one
        parts = (split if other.form is Form.PRODUCT else cut)(one, [part.size for part in other.parts])
    if parts is None or len(parts) != len(other.parts):
        return False
    fits = [tie(part, beside) for part, beside in zip(parts, other.parts, strict=True)]
    if all(fits) and one.root() is not other.root():
        one.root()._other = other.root()
    return all(fits)


def kept(axis: Axis, leaves: Mapping[Axis, Mask]) -> Mask:
    """Which places along an axis stay when these places of leaves do; leaves that are not named stay whole."""
    root = axis.root()
    if root.form is Form.LEAF:
        found = leaves.get(root)
        return np.ones(root.count or 0, np.bool_) if found is None else found
    parts = [kept(part, leaves) for part in root.parts]
    if root.form is Form.SUM:
        return np.concatenate(parts)
    mask = parts[0]
    for part in parts[1:]:
        mask = np.outer(mask, part).reshape(-1)
    return mask


def places(axis: Axis, leaf: Axis) -> NDArray[np.intp] | None:
    """Which place of a leaf each place along an axis is of; -1 for those that are none of it.

    None where a place is of two of them: the axis has the leaf as a factor twice.
    """
    root, leaf = axis.root(), leaf.root()
    if root.form is Form.LEAF:
        return np.arange(root.count or 0) if root is leaf else np.full(root.count or 0, -1)
    parts = [found for part in root.parts if (found := places(part, leaf)) is not None]
    if len(parts) < len(root.parts):
        return None
    if root.form is Form.SUM:
        return np.concatenate(parts)
    if sum(bool((part >= 0).any()) for part in parts) > 1:
        return None
    found = parts[0]
    for part in parts[1:]:
        found = np.maximum(found[:, None], part[None]).reshape(-1)
    return found


def length(axis: Axis, leaves: Mapping[Axis, Mask]) -> Polynomial:
    """How long an axis is when these places of leaves stay."""
    root = axis.root()
    if root.form is Form.LEAF:
        found = leaves.get(root)
        return root.size if found is None else Polynomial.of(int(found.sum()))
    sizes = [length(part, leaves) for part in root.parts]
    joined: Callable[[], Polynomial] = (
        (lambda: total(sizes)) if root.form is Form.SUM else (lambda: prod(sizes, start=ONE))
    )
    return joined()
