"""Polynomials over the names of dynamic dimensions: sizes and costs before the sizes are known.

`2*batch*sequence + 3` has the terms {("batch", "sequence"): 2, (): 3}. A division that does not come out even stays as
an atom of its own, `(sequence//2)`, and is settled when the dimension is; so does `Min(512, sequence)`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import prod
from typing import Union


@dataclass(frozen=True)
class Quotient:
    """numerator // divisor, rounded down, where it is no polynomial."""

    numerator: Polynomial
    divisor: Polynomial

    def __str__(self) -> str:
        parts = [f"({part})" if len(part.terms) > 1 else str(part) for part in (self.numerator, self.divisor)]
        return f"({'//'.join(parts)})"


@dataclass(frozen=True)
class Smallest:
    """The smallest of several, where which one it is depends on the sizes: what a slice leaves of a table."""

    parts: tuple[Polynomial, ...]

    def __str__(self) -> str:
        return f"Min({', '.join(map(str, self.parts))})"


#: `batch-size` is how people write a name, `batch - size` how exporters write a difference.
_HYPHEN = re.compile(r"\w-\w")

#: The largest exponent that a formula is multiplied out for.
_POWER = 8

Atom = Union[str, Quotient, Smallest]  # noqa: UP007  # an alias that names a class defined later
Monomial = tuple[Atom, ...]
Number = Union[int, "Polynomial"]


class Polynomial:
    """Sum of integer multiples of products of dimensions; compares and hashes by value.

    >>> n = Polynomial.of("n")
    >>> str((n + 1) * n * 2)
    '2*n*n + 2*n'
    >>> int(((n + 1) // 2).at({"n": 6}))
    3
    """

    __slots__ = ("_text", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        kept = {monomial: factor for monomial, factor in terms.items() if factor}
        in_order = kept if len(kept) < 2 else dict(sorted(kept.items(), key=lambda term: _order(term[0])))
        self.terms: dict[Monomial, int] = in_order
        self._text: str | None = None

    @classmethod
    def of(cls, value: int | str) -> Polynomial:
        """A number, or the dimension of that name."""
        return _of(value)

    @classmethod
    def parse(cls, text: str) -> Polynomial:
        """What an exporter wrote as a dimension: `2*(past + 1)`; what is no such formula is one name.

        `batch-size` is a name, `past - 1` a formula; a name that is spelled like a number is a name all the same.
        """
        return _parsed(text)

    @property
    def constant(self) -> int | None:
        """The number that it is, None where a dimension is left."""
        if not self.terms:
            return 0
        return self.terms.get(()) if len(self.terms) == 1 else None

    @property
    def nonnegative(self) -> bool:
        """Whether it is provably at least zero: a sum of products of dimensions, and no dimension is negative."""
        return all(
            factor > 0 and all(isinstance(atom, str) or _counts(atom) for atom in monomial)
            for monomial, factor in self.terms.items()
        ) or _above_smallest(self)

    @property
    def smallest(self) -> tuple[Polynomial, ...]:
        """What it is the smallest of; empty where it is no such thing."""
        if len(self.terms) != 1:
            return ()
        ((monomial, factor),) = self.terms.items()
        return monomial[0].parts if factor == 1 and len(monomial) == 1 and isinstance(monomial[0], Smallest) else ()

    @property
    def open(self) -> bool:
        """Whether a `Min` is in it, so that a bound on the sizes would say more."""
        return any(isinstance(atom, Smallest) for monomial in self.terms for atom in monomial)

    @property
    def names(self) -> frozenset[str]:
        """The dimensions it depends on."""
        return frozenset(name for monomial in self.terms for atom in monomial for name in _names(atom))

    def at(self, sizes: Mapping[str, Number]) -> Polynomial:
        """Put numbers or formulas in for dimensions; those without one stay."""
        if not sizes:
            return self
        return total(
            product(_atom(atom, sizes) for atom in monomial) * factor for monomial, factor in self.terms.items()
        )

    def at_smallest(self, settle: Callable[[tuple[Polynomial, ...]], Polynomial]) -> Polynomial:
        """Put what `settle` says of its parts in for each `Min`."""
        if not self.open:
            return self
        return total(
            product(settle(atom.parts) if isinstance(atom, Smallest) else _atom(atom, {}) for atom in monomial) * factor
            for monomial, factor in self.terms.items()
        )

    def __add__(self, other: Number) -> Polynomial:
        terms = dict(self.terms)
        for monomial, factor in _lift(other).terms.items():
            terms[monomial] = terms.get(monomial, 0) + factor
        return Polynomial(terms)

    def __mul__(self, other: Number) -> Polynomial:
        factor = _lift(other)
        for number, multiple in ((factor, self), (self, factor)):
            if len(number.terms) == 1 and number.terms.get(()) == 1:
                return multiple
        terms: dict[Monomial, int] = {}
        for left, first in self.terms.items():
            for right, second in factor.terms.items():
                monomial = tuple(sorted(left + right, key=str))
                terms[monomial] = terms.get(monomial, 0) + first * second
        return Polynomial(terms)

    def __floordiv__(self, other: Number) -> Polynomial:
        divisor = _lift(other)
        exact = _divide(self, divisor)
        if exact is not None:
            return exact
        if self.constant is not None and divisor.constant:
            return Polynomial.of(self.constant // divisor.constant)
        return Polynomial({(Quotient(self, divisor),): 1})

    def __neg__(self) -> Polynomial:
        return self * -1

    def __sub__(self, other: Number) -> Polynomial:
        return self + -_lift(other)

    def __rsub__(self, other: int) -> Polynomial:
        return _lift(other) - self

    __radd__ = __add__
    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Polynomial):
            return self is other or self.terms == other.terms
        return isinstance(other, int) and self.constant == other

    def __hash__(self) -> int:
        return hash(tuple(self.terms.items()))

    def __int__(self) -> int:
        """The number that it is; ValueError while dimensions are open."""
        if self.constant is None:
            raise ValueError(f"{self} is no number: give sizes for {', '.join(sorted(self.names))}")
        return self.constant

    __index__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __str__(self) -> str:
        if self._text is None:
            text = " + ".join(_term(monomial, factor) for monomial, factor in self.terms.items())
            self._text = text.replace("+ -", "- ") or "0"
        return self._text

    def __repr__(self) -> str:
        return f"Polynomial({self})"

    def __format__(self, spec: str) -> str:
        return format(str(self) if self.constant is None else self.constant, spec if self.constant is not None else "")


def total(parts: Iterable[Polynomial]) -> Polynomial:
    """The sum; 0 of nothing. One pass, where adding in turn would copy the sum each time."""
    terms: dict[Monomial, int] = {}
    for part in parts:
        for monomial, factor in part.terms.items():
            terms[monomial] = terms.get(monomial, 0) + factor
    return Polynomial(terms)


def smaller(left: Polynomial, right: Polynomial) -> Polynomial:
    """The smaller of two.

    >>> n = Polynomial.of("n")
    >>> str(smaller(n, n + 3)), str(smaller(n, Polynomial.of(8)))
    ('n', 'Min(8, n)')
    """
    parts: list[Polynomial] = []
    for part in (*(left.smallest or (left,)), *(right.smallest or (right,))):
        if not any((part - other).nonnegative for other in parts):
            parts = [*(other for other in parts if not (other - part).nonnegative), part]
    return parts[0] if len(parts) == 1 else Polynomial({(Smallest(tuple(sorted(parts, key=str))),): 1})


def product(parts: Iterable[Polynomial]) -> Polynomial:
    """The product; 1 of nothing."""
    return prod(parts, start=Polynomial.of(1))


@lru_cache(maxsize=4096)
def _of(value: int | str) -> Polynomial:
    return Polynomial({(value,): 1} if isinstance(value, str) else {(): value})


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Polynomial:
    if text.isidentifier() or _HYPHEN.search(text):
        return Polynomial.of(text)
    try:
        found = _parse(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError):
        return Polynomial.of(text)
    return found if found.names else Polynomial.of(text)


def _counts(atom: Quotient | Smallest) -> bool:
    return all(part.nonnegative for part in _parts(atom))


def _parts(atom: Quotient | Smallest) -> tuple[Polynomial, ...]:
    return atom.parts if isinstance(atom, Smallest) else (atom.numerator, atom.divisor)


def _above_smallest(number: Polynomial) -> bool:
    """Min(a, b) is a or b: what is taken away is at most either of them, what is added is one of them."""
    for monomial, factor in number.terms.items():
        for atom in monomial:
            if isinstance(atom, Smallest):
                rest = Polynomial({kept: times for kept, times in number.terms.items() if kept != monomial})
                around = list(monomial)
                around.remove(atom)
                cases = (rest + Polynomial({tuple(around): factor}) * part for part in atom.parts)
                if factor > 0:
                    return all(case.nonnegative for case in cases)
                counted = all(isinstance(other, str) or _counts(other) for other in around)
                return counted and any(case.nonnegative for case in cases)
    return False


def _lift(value: Number) -> Polynomial:
    return value if isinstance(value, Polynomial) else Polynomial.of(value)


def _order(monomial: Monomial) -> tuple[int, str]:
    return -len(monomial), str([str(atom) for atom in monomial])


def _term(monomial: Monomial, factor: int) -> str:
    names = [str(atom) for atom in monomial]
    if abs(factor) == 1 and names:
        return ("-" if factor < 0 else "") + "*".join(names)
    return "*".join([str(factor), *names])


def _names(atom: Atom) -> frozenset[str]:
    return frozenset([atom]) if isinstance(atom, str) else frozenset().union(*(part.names for part in _parts(atom)))


def _atom(atom: Atom, sizes: Mapping[str, Number]) -> Polynomial:
    if isinstance(atom, Quotient):
        return atom.numerator.at(sizes) // atom.divisor.at(sizes)
    if isinstance(atom, Smallest):
        return reduce(smaller, (part.at(sizes) for part in atom.parts))
    return _lift(sizes[atom]) if atom in sizes else Polynomial.of(atom)


def _divide(number: Polynomial, divisor: Polynomial) -> Polynomial | None:
    """The quotient where the division comes out even for all sizes, else None: term by term from the highest."""
    if not divisor:
        return None
    highest = _highest(divisor)
    found, rest = Polynomial({}), number
    while rest:
        monomial = _highest(rest)
        left = _without(monomial, highest)
        if left is None or rest.terms[monomial] % divisor.terms[highest]:
            return None
        term = Polynomial({left: rest.terms[monomial] // divisor.terms[highest]})
        found, rest = found + term, rest - term * divisor
    return found


def _highest(number: Polynomial) -> Monomial:
    """The first monomial in an order that products keep: more atoms first, then by their names."""
    return min(number.terms, key=lambda monomial: (-len(monomial), [str(atom) for atom in monomial]))


def _without(monomial: Monomial, atoms: Monomial) -> Monomial | None:
    """What is left of a product without some of its factors, None where one is missing."""
    rest = list(monomial)
    for atom in atoms:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def _parse(node: ast.expr) -> Polynomial:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Polynomial.of(node.value)
    if isinstance(node, ast.Name):
        return Polynomial.of(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_parse(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _parse(node.left), _parse(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Pow) and right.constant is not None and 0 <= right.constant <= _POWER:
            return prod([left] * right.constant, start=Polynomial.of(1))
        if isinstance(node.op, ast.FloorDiv) and right:
            return left // right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Min" and node.args:
        return reduce(smaller, map(_parse, node.args))
    raise ValueError("no formula of dimensions")
