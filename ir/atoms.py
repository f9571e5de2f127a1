"""Axes as products of atoms: the parts of the axes of a value that a rearrangement of it (`ir.layout`) is made of.

x: [batch, sequence, 768] split into 12 heads: (batch) (sequence) (768 / 64) (768 % 64)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from .polynomial import Polynomial

ONE = Polynomial.of(1)


@dataclass(frozen=True)
class Atom:
    """A factor of an axis.

    axis: the root's axis that it is part of; None where it repeats the root.
    stride: how far one step of it goes along that axis.
    """

    axis: int | None
    size: Polynomial
    stride: Polynomial = ONE

    @property
    def place(self) -> tuple[int | None, Polynomial]:
        """Where in the root it lies: no two atoms of a value that repeats nothing lie at one place."""
        return self.axis, self.stride


#: Outermost first.
Axis = tuple[Atom, ...]


def size_of(axis: Sequence[Atom]) -> Polynomial:
    """Elements along a group of atoms."""
    return prod((atom.size for atom in axis), start=ONE)


def fresh(axis: int | None, group: Sequence[Atom]) -> Axis:
    """Atoms of the same sizes that make up another axis, or repeat it where `axis` is None."""
    made: list[Atom] = []
    stride = ONE
    for atom in reversed(group):
        made.append(Atom(axis, atom.size, stride))
        stride = stride * atom.size
    return tuple(made[::-1])


def regroup(atoms: Sequence[Atom], sizes: Sequence[Polynomial]) -> tuple[Axis, ...] | None:
    """Consecutive groups of atoms of the given sizes, atoms split where they must be; None where they do not divide.

    >>> n, twelve = Polynomial.of("n"), Polynomial.of(12)
    >>> [[str(atom.size) for atom in axis] for axis in regroup([Atom(0, n), Atom(1, twelve)], [n * 3, twelve // 3])]
    [['n', '3'], ['4']]
    """
    waiting = deque(atoms)
    groups: list[Axis] = []
    for size in sizes:
        group: list[Atom] = []
        left = size
        while left != ONE:
            if not waiting or not left:
                return None
            atom = waiting.popleft()
            rest = exactly(left, atom.size)
            if rest is not None:
                group.append(atom)
                left = rest
                continue
            inner = exactly(atom.size, left)
            if inner is None:
                return None
            group.append(replace(atom, size=left, stride=atom.stride * inner))
            waiting.appendleft(replace(atom, size=inner))
            left = ONE
        groups.append(tuple(group))
    return None if waiting else tuple(groups)


def exactly(size: Polynomial, divisor: Polynomial) -> Polynomial | None:
    """size / divisor, None where that is no polynomial.

    >>> n = Polynomial.of("n")
    >>> str(exactly((n + 1) * 4, n + 1)), exactly(n, n + 1)
    ('4', None)
    """
    if not divisor:
        return None
    if len(divisor.terms) == 1:
        found = size // divisor
        return found if found * divisor == size else None
    # long division: each step takes the leading term away
    first, left, found = _leading(divisor), size, ONE * 0
    for _ in range(len(size.terms)):
        if not left:
            break
        part = exactly(_leading(left), first)
        if part is None:
            return None
        left, found = left - part * divisor, found + part
    return None if left else found


def _leading(size: Polynomial) -> Polynomial:
    return Polynomial(dict([next(iter(size.terms.items()))]))
