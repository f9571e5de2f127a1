"""GPTQ: weights rounded one input after the other, each rounding error made good by the inputs that are still to come.

The error of a layer's output is tr(E.T @ gram @ E), E = w - w'. Let U be upper triangular with ones on its diagonal
and D a diagonal for which gram = U D U.T. Then it is

    sum over rows k of D_k * |f_k|^2        f_k = e_k + sum over j < k of U_jk e_j

and as the later errors are still free, the best next row is the point nearest to

    t_k = w_k + sum over j < k of U_jk e_j          w'_k = round(t_k)          f_k = t_k - w'_k

Those are the numbers of algorithm 1 of the paper, which finds them by a Cholesky factor of the inverse: given the rows
before k, t_k is the least-squares optimum for row k, and 1 / D_k the pivot of the inverse. Here nothing is inverted.

Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, 2023, arXiv
2210.17323; the equality: Chee et al., QuIP, 2023, arXiv 2307.13304, theorem 6.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.gram import check_gram, factored, level
from ...numerics.grid import Scheme, fit, float_of, nonzero
from ...weights import Quantized

#: How much of a group's range its grid may span where `clip` looks for the best.
_RATIOS = np.linspace(1.0, 0.4, 25)


def gptq(
    weight: Array,
    gram: Array,
    scheme: Scheme,
    *,
    order: Literal["activation", "natural"] = "activation",
    damping: float = 0.01,
    block: int = 128,
    clip: bool = False,
) -> Quantized:
    """A weight [in, out] on the scheme's grid, close to it in what it makes of inputs with this Gram matrix [in, in].

    order: `activation` rounds the inputs with the largest squares first; scales are those of the weight as it is, so
    that groups stay runs of neighbouring rows ("static groups"). `natural` goes from the first row to the last; a group
    finds its scales when it is reached, from its weights as the errors before it have moved them.
    damping: what is added to the Gram matrix' diagonal, as a share of that diagonal's mean over live inputs; raised
    tenfold, up to one, as long as the matrix is not positive definite.
    block: rows between two updates of all later rows; the numbers do not depend on it but for rounding.
    clip: let each group's scale cut off weights, down to 0.4 of their range, where sum of D_k * (w_k - round(w_k))^2 is
    less that way; D_k is what an error that row k cannot pass on costs.

    The weights of an input that is always zero (0 on the diagonal) are rounded to the nearest. With inputs that are not
    correlated all are, and the answer is RTN's. Else the error on the damped Gram matrix is at most the sum of D_k
    scale^2 / 4 where no t_k is cut off, and below RTN's on average, though not for every single column.

    A 1536 x 384 weight takes less than a second on one core, a 3072 x 768 one about three. Raises ValueError for a
    weight that is no finite matrix, for a Gram matrix of another size, not finite, not symmetric or not positive
    definite even with a damping of one, and for other options. Source: Frantar et al., 2023, algorithm 1.

    Two inputs that are always equal, so that half a step lost by one is had back by the other:

    >>> x = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    >>> gptq(np.array([[15.0], [0.4], [0.4]]), x.T @ x, Scheme(bits=4, symmetric=False)).values.tolist()
    [[15], [0], [1]]
    """
    if order not in ("activation", "natural"):
        raise ValueError(f"expected the order activation or natural, found {order!r}")
    if block < 1:
        raise ValueError(f"expected a block of at least one row, found {block}")
    wide, dtype = check(weight), float_of(weight)
    hessian = check_gram(gram, len(wide))
    diagonal = np.diagonal(hessian).copy()
    # an input that is always zero is correlated with none: any number on the diagonal leaves the others alone
    np.fill_diagonal(hessian, np.where(diagonal == 0, level(hessian), diagonal))
    natural = order == "natural"
    ranks = np.arange(len(wide)) if natural else np.argsort(-diagonal, kind="stable")
    feedback, costs = factored(hessian[np.ix_(ranks, ranks)], damping)
    scale, zero = _scales(wide, costs[np.argsort(ranks)], scheme, dtype, clip)
    size = scheme.group or max(len(wide), 1)
    values = np.empty(wide.shape, np.int16)
    given = wide[ranks]
    target, error = given.copy(), np.empty_like(given)
    for start in range(0, len(wide), block):
        part = slice(start, min(start + block, len(wide)))
        for row in range(start, part.stop):
            past, group = slice(start, row), ranks[row] // size
            if natural and scheme.group and row % size == 0:
                run = slice(row, min(row + size, len(wide)))
                moved = target[run] - given[run] + feedback[run, past] @ error[past]
                # later errors at their best, f = 0: U.T e == -moved
                optimum = given[run] + np.linalg.solve(feedback[run, run], moved)
                scale[group], zero[group] = _scales(optimum, costs[run], scheme, dtype, clip)
            wanted = target[row] + feedback[row, past] @ error[past]
            codes = np.clip(np.rint(wanted / scale[group]) + zero[group], scheme.low, scheme.high)
            error[row] = given[row] - (codes - zero[group]) * scale[group]
            values[ranks[row]] = codes
        target[part.stop :] += feedback[part.stop :, part] @ error[part]
    return scheme.quantized(values, scale, zero, dtype)


def _scales(
    weight: Floats, costs: Floats, scheme: Scheme, dtype: np.dtype[np.generic], clip: bool
) -> tuple[Floats, Floats]:
    """Scales and zero points of each group, [groups, out], as `dtype` holds them; `costs` are those of the rows."""
    given, zero = fit(weight.astype(dtype), scheme)
    scale = given.copy()
    for group, rows in enumerate(scheme.groups(len(weight)) if clip else ()):
        part, ends = weight[rows], (scheme.low - zero[group], scheme.high - zero[group])
        least = np.full(part.shape[1], np.inf)
        for ratio in _RATIOS:
            tried = nonzero(given[group] * ratio, given[group], dtype)
            missed = np.clip(np.rint(part / tried), *ends) * tried - part
            cost = costs[rows] @ (missed * missed)
            better = cost < least
            least[better], scale[group, better] = cost[better], tried[better]
    return scale, zero
