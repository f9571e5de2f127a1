"""Optimal brain surgeon on whole units: which to remove one after the other, the rest making up for each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.gram import check_gram, damped

Order = NDArray[np.intp]

#: The share of inputs that are left at which the matrices are packed: below it, more is computed on zeros than copied.
_WHOLE = 7 / 8


class Elimination(NamedTuple):
    """order: units, the first to go first. errors: |X W - X' W'|^2 once so many are gone, [units + 1], from zero on."""

    order: Order
    errors: Floats


def eliminate(weight: Array, gram: Array, units: Array, *, step: int = 8, damping: float = 1e-2) -> Elimination:
    """Remove units of inputs greedily, `step` at a time, with the least squares answer of the rest after each step.

        saliency of unit u = tr(W_u.T ([H^-1]_uu)^-1 W_u)         W -= H^-1_:u ([H^-1]_uu)^-1 W_u

    weight: W, [in, out]. gram: H = X.T X, [in, in]. units: of which unit each input is, [in]; -1 for inputs that stay.
    step: how many units are chosen by one look; errors between are straight lines. damping: as a share of H's mean
    diagonal.

    Memory of three matrices [in, in]. Raises ValueError for shapes that do not fit. Sources: Hassibi and Stork, Second
    Order Derivatives for Network Pruning: Optimal Brain Surgeon, 1993, equation 5, for rows of one unit together as
    Kurtic et al., ZipLM, 2023, equation 4.

    >>> x = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
    >>> eliminate(np.array([[0.1], [1.0], [3.0]]), x.T @ x, np.arange(3), step=1, damping=0).order.tolist()
    [0, 1, 2]
    """
    import torch

    wide = check(weight)
    owners = np.asarray(units, np.intp)
    if owners.shape != (len(wide),) or step < 1:
        raise ValueError(
            f"expected the unit of each of {len(wide)} inputs and a step of at least 1, found {owners.shape}"
        )
    count = int(owners.max(initial=-1)) + 1
    rows = {unit: np.flatnonzero(owners == unit) for unit in range(count)}
    left = torch.from_numpy(wide.copy())
    inverse = torch.cholesky_inverse(torch.from_numpy(damped(check_gram(gram, len(wide)), damping)[1]))
    alive = list(range(count))
    stays: NDArray[np.bool_] = np.ones(len(wide), np.bool_)
    order: list[int] = []
    errors = [0.0]
    while alive:
        scores = _saliencies(left, inverse, [rows[unit] for unit in alive])
        chosen = [alive[at] for at in np.argsort(scores, kind="stable")[:step]]
        gone = torch.from_numpy(np.concatenate([rows[unit] for unit in chosen]))
        block = inverse[gone][:, gone]
        column = inverse[:, gone]
        answer = torch.linalg.solve(block, left[gone])
        lost = float((left[gone] * answer).sum())
        left.addmm_(column, answer, alpha=-1)
        inverse.addmm_(column, torch.linalg.solve(block, column.T), alpha=-1)
        # what is gone stays gone: rounding must not bring it back
        left[gone] = 0
        stays[gone.numpy()] = False
        order += chosen
        errors += list(errors[-1] + max(lost, 0.0) * (np.arange(len(chosen)) + 1) / len(chosen))
        taken = set(chosen)
        alive = [unit for unit in alive if unit not in taken]
        if stays.mean() < _WHOLE:
            rest, places = torch.from_numpy(np.flatnonzero(stays)), np.cumsum(stays) - 1
            left, inverse = left[rest], inverse[rest][:, rest]
            rows = {unit: places[rows[unit]] for unit in alive}
            stays = np.ones(len(rest), np.bool_)
    return Elimination(np.array(order, np.intp), np.array(errors))


def _saliencies(weight: object, inverse: object, rows: list[NDArray[np.intp]]) -> Floats:
    """What removing each unit alone adds to the error."""
    import torch

    assert isinstance(weight, torch.Tensor)
    assert isinstance(inverse, torch.Tensor)
    sizes = {len(each) for each in rows}
    found = np.zeros(len(rows))
    for size in sizes:
        which = [at for at, each in enumerate(rows) if len(each) == size]
        index = torch.from_numpy(np.stack([rows[at] for at in which]))
        if size == 1:
            flat = index[:, 0]
            scores = (weight[flat] ** 2).sum(1) / inverse[flat, flat]
        else:
            blocks = inverse[index[:, :, None], index[:, None, :]]
            scores = (weight[index] * torch.linalg.solve(blocks, weight[index])).sum((1, 2))
        found[which] = scores.numpy()
    return found
