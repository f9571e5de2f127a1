"""How many bits each weight gets under a budget: the least predicted drop of the answers, or the least size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...ir.errors import OptionError
from ..base import Curve
from ..numerics.knapsack import Frontier, knapsack

_UNITS: Mapping[str, float] = {
    "bits": 1, "drop": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*([A-Za-z]+)\s*")

#: Points of a curve that a report draws.
_DRAWN = 64


@dataclass(frozen=True)
class Option:
    """One way to store a weight. bits: of each number; bytes: of all that is stored; drop: what it costs."""

    bits: int
    bytes: int
    drop: float


@dataclass(frozen=True)
class Item:
    """A weight of `count` numbers, and the ways to store it."""

    count: int
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Plan:
    """The option of each item, and the curve on which they lie."""

    taken: tuple[Option, ...]
    curve: Curve

    @property
    def drop(self) -> float:
        """The drop that is predicted: the sum of the weights' own."""
        return math.fsum(option.drop for option in self.taken)


@dataclass(frozen=True)
class Budget:
    """bits: on average, of each number of the weights. bytes: of all constants of the model. drop: as predicted."""

    amount: float
    unit: Literal["bits", "bytes", "drop"]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From `5.0 bits`, `10 MB` or `0.01 drop`. Raises OptionError for anything else.

        >>> Budget.parse("10 MB")
        Budget(amount=10000000.0, unit='bytes')
        """
        found = _TEXT.fullmatch(text)
        unit = found[2].lower() if found else ""
        if found is None or unit not in _UNITS:
            raise OptionError(f"expected a budget such as '5.0 bits', '10 MB' or '0.01 drop', found {text!r}")
        return cls(float(found[1]) * _UNITS[unit], "bits" if unit == "bits" else "drop" if unit == "drop" else "bytes")

    def plan(self, items: Sequence[Item], *, rest: int = 0) -> Plan:
        """What fits and drops least, or drops no more and is smallest. rest: bytes of the model's other constants.

        Raises OptionError where nothing does, with the least and the greatest that is possible.
        """
        total = max(sum(item.count for item in items), 1)
        axis = _Axis("bits on average", total, 0) if self.unit == "bits" else _Axis("MB of constants", 1e6, rest)
        counted = self.unit == "bits"
        sizes = [[option.bits * item.count if counted else option.bytes for option in item.options] for item in items]
        found = knapsack(sizes, [[option.drop for option in item.options] for item in items])
        limit = math.floor(self.amount * total) if counted else math.floor(self.amount) - rest
        indices = self._met(found, axis) if self.unit == "drop" else _within(found, axis, limit)
        taken = tuple(item.options[index] for item, index in zip(items, indices, strict=True))
        size = sum(each[index] for each, index in zip(sizes, indices, strict=True))
        drop = math.fsum(option.drop for option in taken)
        return Plan(
            taken,
            Curve(
                axis.name, "predicted drop", _points(found, axis), (axis.of(size), drop), _uniform(items, sizes, axis)
            ),
        )

    def _met(self, found: Frontier, axis: _Axis) -> list[int]:
        if found.best[-1] > self.amount:
            raise OptionError(
                f"the budget of {self.amount:g} drop cannot be met: from {found.best[-1]:.3g} to {found.best[0]:.3g} "
                "is possible; smaller groups, a better algorithm or keep=true drop less"
            )
        return found.costing(self.amount)


@dataclass(frozen=True)
class _Axis:
    """What sizes are for people."""

    name: str
    unit: float
    start: int

    def of(self, size: int) -> float:
        return (size + self.start) / self.unit


def _within(found: Frontier, axis: _Axis, limit: int) -> list[int]:
    if limit < found.least:
        unit = axis.name.split(" ", 1)[0]
        least, greatest, asked = (f"{axis.of(size):.4g} {unit}" for size in (found.least, found.greatest, limit))
        raise OptionError(
            f"the budget of {asked} cannot be met: from {least} to {greatest} is possible; fewer bits, larger groups "
            "or more kinds of weights (embeddings=true) take less"
        )
    return found.within(limit)


def _points(found: Frontier, axis: _Axis) -> tuple[tuple[float, float], ...]:
    """The curve, both of its ends and some points between them."""
    columns = found.columns
    drawn = columns[np.unique(np.linspace(0, len(columns) - 1, _DRAWN).round().astype(np.int64))]
    return tuple((axis.of(found.least + int(column) * found.unit), float(found.best[column])) for column in drawn)


def _uniform(
    items: Sequence[Item], sizes: Sequence[Sequence[int]], axis: _Axis
) -> tuple[tuple[str, float, float], ...]:
    """All weights in the same number of bits, as far as each can be."""
    found = []
    for bits in sorted({option.bits for item in items for option in item.options}):
        at = [next((i for i, option in enumerate(item.options) if option.bits == bits), None) for item in items]
        chosen = [index for index in at if index is not None]
        if len(chosen) < len(items):
            continue
        size = sum(each[index] for each, index in zip(sizes, chosen, strict=True))
        drop = math.fsum(item.options[index].drop for item, index in zip(items, chosen, strict=True))
        found.append((f"all {bits} bits", axis.of(size), drop))
    return tuple(found)
