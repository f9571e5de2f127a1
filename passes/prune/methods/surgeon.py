"""SparseGPT: optimal brain surgeon with one order of inputs for all outputs, masks chosen as it goes.

The error of a layer's output is tr(E.T @ gram @ E), E = w - w'. With gram = U D U.T, U upper triangular with ones on
its diagonal, it is

    sum over rows k of D_k * |f_k|^2        f_k = e_k + sum over j < k of U_jk e_j

so that what a kept weight k should become, once the rows before it are settled, is

    t_k = w_k + sum over j < k of U_jk e_j          w'_k = t_k where it stays, 0 where it goes, at a cost of D_k t_k^2

D_k is 1 / [H^-1]_kk among the rows that are not settled, so that the cost is the surgeon's saliency w^2 / [H^-1]_kk.

Hassibi and Stork, Second Order Derivatives for Network Pruning: Optimal Brain Surgeon, 1993, equation 5; Frantar and
Alistarh, SparseGPT, 2023, arXiv 2301.00774, algorithm 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.gram import check_gram, damped, factored, level
from .patterns import Bools, Pattern, check_sparsity, choose


class Pruned(NamedTuple):
    """A weight [in, out] in float64, zero where the mask is not set."""

    weight: Floats
    mask: Bools


def surgeon(
    weight: Array, gram: Array, sparsity: float, pattern: Pattern, *, block: int = 128, damping: float = 0.01
) -> Pruned:
    """A weight [in, out] with zeros, close to it in what it makes of inputs with this Gram matrix [in, in].

    block: rows whose masks are chosen at one time, with what the rows before have made of them; rounded up to whole
    tiles. N:M and banks are chosen as each set of theirs is reached. damping: what is added to the Gram matrix'
    diagonal, as a share of that diagonal's mean; raised tenfold, up to one, as long as the matrix is not positive
    definite. Weights of inputs that are always zero cost nothing and go first.

    Raises ValueError as `choose`, `check_gram` and `damped` do, and for a block of no row. Sources: see above.

    Inputs that are nearly the same, of which one does for both:

    >>> x = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.1]])
    >>> surgeon(np.array([[1.0], [2.0]]), x.T @ x, 0.5, Pattern(), damping=0.0).weight.round(2).tolist()
    [[0.0], [3.0]]
    """
    if block < 1:
        raise ValueError(f"expected a block of at least one row, found {block}")
    wide = check(weight)
    check_sparsity(sparsity)
    misfit = pattern.misfit((len(wide), wide.shape[1]))
    if misfit:
        raise ValueError(f"expected a weight with {misfit}, found {list(wide.shape)}")
    feedback, costs = _factored(gram, len(wide), damping)
    size = -(-block // pattern.rows) * pattern.rows
    each = pattern.run or size
    mask = np.ones(wide.shape, np.bool_)
    found, error, target = np.zeros_like(wide), np.zeros_like(wide), wide.copy()
    for start in range(0, len(wide), size):
        stop = min(start + size, len(wide))
        for row in range(start, stop):
            past = slice(start, row)
            if (row - start) % each == 0:
                run = slice(row, min(row + each, stop))
                moved = target[run] - wide[run] + feedback[run, past] @ error[past]
                # where all rows from here on stay: f = 0
                optimum = wide[run] + np.linalg.solve(feedback[run, run], moved)
                scores = costs[run, None] * optimum**2
                mask[run] = choose(scores, sparsity, pattern, pool="sum")
            wanted = target[row] + feedback[row, past] @ error[past]
            found[row] = np.where(mask[row], wanted, 0.0)
            error[row] = wide[row] - found[row]
        target[stop:] += feedback[stop:, start:stop] @ error[start:stop]
    return Pruned(found, mask)


def refitted(weight: Array, gram: Array, mask: Bools, *, damping: float = 0.01) -> Floats:
    """The least squares answer, [in, out], of each output on the weights that a mask keeps.

        minimises (w - w').T (gram + damping) (w - w')          w'_K = w_K + H_KK^-1 H_KG w_G

    Time grows with outputs times the cube of the weights that an output keeps. Raises ValueError as `surgeon` does.
    """
    import torch

    wide = check(weight)
    hessian = _live(gram, len(wide))
    raised = torch.from_numpy(damped(hessian, damping)[0])
    found = np.zeros_like(wide)
    for output in range(wide.shape[1]):
        kept = torch.from_numpy(np.flatnonzero(mask[:, output]))
        gone = torch.from_numpy(np.flatnonzero(~mask[:, output]))
        column = torch.from_numpy(np.ascontiguousarray(wide[:, output]))
        lower = torch.linalg.cholesky(raised[kept][:, kept])
        missing = (raised[kept][:, gone] @ column[gone])[:, None]
        found[kept.numpy(), output] = (column[kept] + torch.cholesky_solve(missing, lower)[:, 0]).numpy()
    return found


def _live(gram: Array, rows: int) -> Floats:
    """The matrix with inputs that are always zero as ones that are correlated with none."""
    hessian = check_gram(gram, rows)
    diagonal = np.diagonal(hessian).copy()
    np.fill_diagonal(hessian, np.where(diagonal == 0, level(hessian), diagonal))
    return hessian


def _factored(gram: Array, rows: int, damping: float) -> tuple[Floats, Floats]:
    """U.T and D, which is zero for inputs that are always zero."""
    feedback, costs = factored(_live(gram, rows), damping)
    return feedback, np.where(np.diagonal(gram) == 0, 0.0, costs)
