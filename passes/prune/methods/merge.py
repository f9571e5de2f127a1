"""Merging redundant neurons: of two that compute alike, one takes over the outgoing weights of the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats, check

Order = NDArray[np.intp]

#: Of squares of rows, as a share of them.
_ROUNDING = 1e-14


class Merging(NamedTuple):
    """gone: units that go, in order; into: which takes each over, and scale: how many times, [merges] each.

    saliencies: of each merge, at its time. differences: |W_j - c W_i| / |W_j|, how far the two are from alike.
    """

    gone: Order
    into: Order
    scale: Floats
    saliencies: Floats
    differences: Floats

    def first(self, count: int) -> Merging:
        """Only so many of the merges."""
        return Merging(
            self.gone[:count],
            self.into[:count],
            self.scale[:count],
            self.saliencies[:count],
            self.differences[:count],
        )


def merge(incoming: Array, outgoing: Array, count: int, *, scaled: bool = False, threshold: float = np.inf) -> Merging:
    """Merge up to `count` units into others, those first that change the outputs least.

        saliency of j into i = <a_j^2> |W_i - W_j|^2         a_i += a_j
                      scaled = <a_j^2> |W_j - c W_i|^2       a_i += c a_j        c = max(0, <W_i, W_j> / |W_i|^2)

    incoming: W, [units, in], biases among them. outgoing: a, [units, out]; <a_j^2> is their mean square. scaled: for
    units that are positively homogeneous in what comes in, f(c z) = c f(z). threshold: the largest |W_j - c W_i| /
    |W_j| of a merge. Memory of one matrix [units, units].

    Raises ValueError for shapes that do not fit. Source: Srinivas and Babu, Data-free Parameter Pruning for Deep Neural
    Networks, 2015, equation 8 and algorithm 1; with the scale, its section 3.2 on homogeneous activations.

    >>> merge(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([[3.0], [1.0], [1.0]]), 1)[:2]
    (array([0]), array([2]))
    """
    rows, out = check(incoming), check(outgoing).copy()
    if len(rows) != len(out) or not 0 <= count < max(len(rows), 1):
        raise ValueError(
            f"expected incoming and outgoing weights of the same units and fewer merges than units, found "
            f"{list(rows.shape)}, {list(out.shape)} and {count}"
        )
    apart = _apart(rows, scaled=scaled)
    norms = np.sqrt((rows * rows).sum(1))
    if np.isfinite(threshold):
        apart[apart > np.square(threshold * norms)[None, :]] = np.inf
    nearest, energies = apart.argmin(0), (out * out).mean(1)
    alive = np.ones(len(rows), np.bool_)
    found: list[tuple[int, int, float, float, float]] = []
    while len(found) < count:
        least = apart[nearest, np.arange(len(rows))]
        # no outgoing weight at all makes any merge free
        scores = np.where(np.isfinite(least) & alive, energies * np.where(np.isfinite(least), least, 0.0), np.inf)
        gone = int(scores.argmin())
        if not np.isfinite(scores[gone]):
            break
        into = int(nearest[gone])
        scale = _scale(rows[into], rows[gone]) if scaled else 1.0
        off = rows[gone] - scale * rows[into]
        length = float(np.sqrt(off @ off))
        relative = length / norms[gone] if norms[gone] else length
        found.append((gone, into, scale, float(energies[gone]) * length**2, relative))
        out[into] += scale * out[gone]
        energies[into] = (out[into] ** 2).mean()
        alive[gone] = False
        apart[gone] = np.inf
        for unit in np.flatnonzero(nearest == gone):
            nearest[unit] = int(apart[:, unit].argmin())
    gone_, into_, *numbers = zip(*found, strict=True) if found else ((), (), (), (), ())
    scales, saliencies, differences = (np.array(each, np.float64) for each in numbers)
    return Merging(np.array(gone_, np.intp), np.array(into_, np.intp), scales, saliencies, differences)


def _apart(rows: Floats, *, scaled: bool) -> Floats:
    """|W_j - c W_i|^2 at [i, j], infinite from a unit to itself."""
    products = rows @ rows.T
    squares = np.diagonal(products).copy()
    if scaled:
        # |W_j|^2 - <W_i, W_j>^2 / |W_i|^2 where the two point one way
        along = np.square(np.maximum(products, 0.0)) / np.where(squares > 0, squares, 1.0)[:, None]
        apart = squares[None, :] - along
    else:
        apart = squares[:, None] + squares[None, :] - 2.0 * products
    # what is left of equal rows is the rounding of their products
    apart[apart <= _ROUNDING * (squares[:, None] + squares[None, :])] = 0.0
    np.fill_diagonal(apart, np.inf)
    return np.asarray(apart, np.float64)


def _scale(one: Floats, other: Floats) -> float:
    """c of the nearest c * one to the other, not below zero."""
    square = float(one @ one)
    return max(0.0, float(one @ other) / square) if square > 0 else 0.0
