"""Tensor networks: a matrix as small tensors that are multiplied and summed over what they share.

    weight[i1 i2, j1 j2] = sum over r of A[i1, j1, r] B[r, i2, j2]        ins (i1, i2), outs (j1, j2)

Each axis of a factor has a label. Labels of `ins` and `outs` are the digits of rows and columns, the slowest first; all
others are summed over. One that more than two factors share multiplies them number by number, as in CP.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats

Labels = tuple[str, ...]
_LETTERS = string.ascii_letters


@dataclass(frozen=True, eq=False)
class Factor:
    """A tensor and the label of each of its axes."""

    array: Array
    labels: Labels


#: The product of factors, summed over all labels but some.
Product = Callable[[Sequence[Factor], Labels], Array]


@dataclass(frozen=True)
class Network:
    """weight = the first `shape` of the product, [in, out]; the product may have more rows and columns than that."""

    factors: tuple[Factor, ...]
    ins: Labels
    outs: Labels
    shape: tuple[int, int]

    @property
    def sizes(self) -> Mapping[str, int]:
        """How many values each label takes."""
        return {
            label: size
            for factor in self.factors
            for label, size in zip(factor.labels, factor.array.shape, strict=True)
        }

    @property
    def whole(self) -> tuple[int, int]:
        """Rows and columns of the product."""
        sizes = self.sizes
        return math.prod(sizes[label] for label in self.ins), math.prod(sizes[label] for label in self.outs)

    @property
    def numbers(self) -> int:
        """How many numbers the factors hold."""
        return sum(factor.array.size for factor in self.factors)

    def dense(self) -> Array:
        """The weight it stands for, [in, out], in the dtype of the factors."""
        found = summed(self.factors, self.ins + self.outs).reshape(self.whole)
        return found[: self.shape[0], : self.shape[1]].astype(self.factors[0].array.dtype)

    def astype(self, dtype: np.dtype[np.generic]) -> Network:
        """The same with its numbers in another type."""
        factors = tuple(replace(each, array=each.array.astype(dtype)) for each in self.factors)
        return replace(self, factors=factors)

    def times(self, label: str, matrix: Floats) -> Network:
        """The factors that have a label with their axis of it multiplied by a matrix, [size, size]."""
        return replace(self, factors=tuple(_times(each, label, matrix) for each in self.factors))


def merged(network: Network, product: Product | None = None) -> Network:
    """With neighbours that hold no fewer numbers than their product multiplied: a core of full rank is none.

    product: of two factors, summed over all labels but some; `summed` unless told.
    """
    times, factors = product or summed, list(network.factors)
    while True:
        every = ((first, second) for at, first in enumerate(factors) for second in factors[at + 1 :])
        pair = next((pair for pair in every if _pays(network, factors, *pair)), None)
        if pair is None:
            return replace(network, factors=tuple(factors))
        kept = _kept(network, factors, *pair)
        made = Factor(times(pair, kept), kept)
        factors = [made if each is pair[0] else each for each in factors if each is not pair[1]]


def _kept(network: Network, factors: Sequence[Factor], first: Factor, second: Factor) -> Labels:
    """The labels of a product of two."""
    others = {label for each in factors if each is not first and each is not second for label in each.labels}
    both = dict.fromkeys(first.labels + second.labels)
    return tuple(label for label in both if label in others or label in network.ins + network.outs)


def _pays(network: Network, factors: Sequence[Factor], first: Factor, second: Factor) -> bool:
    sizes = network.sizes
    size = math.prod(sizes[label] for label in _kept(network, factors, first, second))
    return bool(set(first.labels) & set(second.labels)) and size <= first.array.size + second.array.size


def summed(factors: Sequence[Factor], kept: Labels) -> Floats:
    """The product of tensors, summed over all labels but some, in float64."""
    letters = dict(zip(dict.fromkeys(label for each in factors for label in each.labels), _LETTERS, strict=False))
    given = ",".join("".join(letters[label] for label in each.labels) for each in factors)
    wide = [np.asarray(each.array, np.float64) for each in factors]
    found: Floats = np.einsum(f"{given}->{''.join(letters[label] for label in kept)}", *wide, optimize="greedy")
    return found


def folded(matrix: Array, ins: Sequence[int], outs: Sequence[int]) -> Floats:
    """A matrix with zeros below and to the right of it as a tensor of its digits, [*ins, *outs], in float64.

    Raises ValueError where there are not digits enough.
    """
    rows, columns = math.prod(ins), math.prod(outs)
    if rows < matrix.shape[0] or columns < matrix.shape[1]:
        raise ValueError(
            f"expected modes of at least {matrix.shape[0]} rows and {matrix.shape[1]} columns, "
            f"found {'x'.join(map(str, ins))} and {'x'.join(map(str, outs))}"
        )
    padded: Floats = np.zeros((rows, columns))
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded.reshape(*ins, *outs)


def _times(factor: Factor, label: str, matrix: Floats) -> Factor:
    if label not in factor.labels:
        return factor
    axis = factor.labels.index(label)
    return replace(factor, array=along(np.asarray(factor.array, np.float64), matrix, axis))


def along(tensor: Floats, matrix: Floats, axis: int) -> Floats:
    """A tensor with one axis multiplied by a matrix, [new, old]: the mode-n product of De Lathauwer et al., 2000."""
    found: Floats = np.moveaxis(np.tensordot(matrix, tensor, (1, axis)), 0, axis)
    return found
