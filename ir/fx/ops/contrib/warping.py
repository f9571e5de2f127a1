"""DynamicTimeWarping: the cheapest path through a matrix of costs (domain com.microsoft)."""

from __future__ import annotations

import numpy as np
import torch

from ...lowering import Table, standard

_DIAGONAL, _UP, _LEFT = 0, 1, 2


def dynamic_time_warping(costs: torch.Tensor) -> torch.Tensor:
    """Costs [rows, columns] or [1, rows, columns] -> the cells of the cheapest path, int32 [2, steps].

    A path goes from the first cell to the last, down, right or both at a time. It comes from the diagonal, or from
    above, where that is cheaper than both others, else from the left: of equals ONNX Runtime takes no minimum.
    """
    cells = costs.detach().cpu().numpy().reshape(costs.shape[-2:])
    rows, columns = cells.shape
    total = np.full((rows + 1, columns + 1), np.inf, cells.dtype)
    total[0, 0] = 0.0
    came = np.full((rows + 1, columns + 1), _LEFT, np.int8)
    came[:, 0] = _UP
    # all cells of one anti-diagonal depend on the two before it only
    for diagonal in range(2, rows + columns + 1):
        row = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        column = diagonal - row
        both, up, left = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        step = np.where((both < up) & (both < left), _DIAGONAL, np.where((up < both) & (up < left), _UP, _LEFT))
        total[row, column] = cells[row - 1, column - 1] + np.choose(step, (both, up, left))
        came[row, column] = step
    path = []
    i, j = rows, columns
    while i or j:
        path.append((i - 1, j - 1))
        last = came[i, j]
        i, j = i - int(last != _LEFT), j - int(last != _UP)
    return torch.from_numpy(np.array(path[::-1], np.int32).T.copy()).to(costs.device)


WARPING: Table = standard({"DynamicTimeWarping": dynamic_time_warping}, domain="com.microsoft")
