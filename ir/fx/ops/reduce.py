"""Reductions over axes, given as an attribute in older opsets and as an input in newer ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..host import larger
from ..lowering import Lowering, Table, standard

Axes = Sequence[int] | int | None
Kernel = Callable[[torch.Tensor, list[int], bool], torch.Tensor]


def _over(kernel: Kernel, x: torch.Tensor, axes: Axes, keepdims: int, noop: int) -> torch.Tensor:
    """Reduce the given axes; where there are none, all of them, or nothing at all if `noop`."""
    places = [axes] if isinstance(axes, int) else list(axes or ())
    if not places:
        places = [] if noop else list(range(x.dim()))
    # reducing over no axes still applies what the reduction does to one element (squares, absolute values, logarithms)
    return kernel(x, places, bool(keepdims)) if places else kernel(x.unsqueeze(0), [0], False)


def _total(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    count = 1
    for axis in axes:
        count = count * x.shape[axis]
    # of nothing it is the sum, 0
    return torch.div(_total(x, axes, keep), larger(count, 1), rounding_mode="trunc")


def _product(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _bound(x: torch.Tensor, axes: list[int], keep: bool, *, upper: bool) -> torch.Tensor:
    """Maximum or minimum; of nothing, the lowest or highest number of the type."""
    if x.dtype is torch.bool:
        return _bound(x.to(torch.uint8), axes, keep, upper=upper).bool()
    if any(isinstance(x.shape[axis], int) and x.shape[axis] == 0 for axis in axes):
        if x.is_floating_point():
            worst = float("-inf") if upper else float("inf")
        else:
            worst = torch.iinfo(x.dtype).min if upper else torch.iinfo(x.dtype).max
        return x.sum(axes, keepdim=keep, dtype=x.dtype) + worst
    return x.amax(axes, keepdim=keep) if upper else x.amin(axes, keepdim=keep)


def _max(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _bound(x, axes, keep, upper=True)


def _min(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _bound(x, axes, keep, upper=False)


def _l1(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _total(x.abs(), axes, keep)


def _l2(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    squares = _total(x * x, axes, keep)
    return squares.sqrt().to(x.dtype)


def _log_total(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _total(x, axes, keep).log().to(x.dtype)


def _log_total_exp(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return torch.logsumexp(x, axes, keepdim=keep)
    return torch.logsumexp(x.double(), axes, keepdim=keep).to(x.dtype)


def _squares(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return _total(x * x, axes, keep)


def reduce_sum(x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> torch.Tensor:
    return _over(_total, x, axes, keepdims, noop_with_empty_axes)


def reduce_mean(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    return _over(_mean, x, axes, keepdims, noop_with_empty_axes)


def reduce_prod(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    return _over(_product, x, axes, keepdims, noop_with_empty_axes)


def reduce_max(x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> torch.Tensor:
    return _over(_max, x, axes, keepdims, noop_with_empty_axes)


def reduce_min(x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> torch.Tensor:
    return _over(_min, x, axes, keepdims, noop_with_empty_axes)


def reduce_l1(x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> torch.Tensor:
    return _over(_l1, x, axes, keepdims, noop_with_empty_axes)


def reduce_l2(x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> torch.Tensor:
    return _over(_l2, x, axes, keepdims, noop_with_empty_axes)


def reduce_log_sum(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    return _over(_log_total, x, axes, keepdims, noop_with_empty_axes)


def reduce_log_sum_exp(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    return _over(_log_total_exp, x, axes, keepdims, noop_with_empty_axes)


def reduce_sum_square(
    x: torch.Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> torch.Tensor:
    return _over(_squares, x, axes, keepdims, noop_with_empty_axes)


def arg_max(x: torch.Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> torch.Tensor:
    """The first place of the largest value, or the last where `select_last_index`."""
    return _arg(x, axis, keepdims, select_last_index, largest=True)


def arg_min(x: torch.Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> torch.Tensor:
    """The first place of the smallest value, or the last where `select_last_index`."""
    return _arg(x, axis, keepdims, select_last_index, largest=False)


def _arg(x: torch.Tensor, axis: int, keepdims: int, last: int, *, largest: bool) -> torch.Tensor:
    if isinstance(x.shape[axis], int) and x.shape[axis] == 0:
        kept = [1 if i == axis % x.dim() else size for i, size in enumerate(x.shape) if keepdims or i != axis % x.dim()]
        if 0 not in kept:
            raise ValueError(f"axis {axis} of {list(x.shape)} is empty: its largest and smallest element have no place")
        return x.new_zeros(kept, dtype=torch.int64)
    y = x.flip(axis) if last else x
    place = y.argmax(axis, bool(keepdims)) if largest else y.argmin(axis, bool(keepdims))
    return x.shape[axis] - 1 - place if last else place


def determinant(x: torch.Tensor) -> torch.Tensor:
    """Of each matrix [..., n, n]; torch has none of half types."""
    found: torch.Tensor = torch.linalg.det(x if x.dtype in (torch.float32, torch.float64) else x.float())
    return found.to(x.dtype)


_REDUCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "ReduceL1": reduce_l1,
    "ReduceL2": reduce_l2,
    "ReduceLogSum": reduce_log_sum,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "ReduceMax": reduce_max,
    "ReduceMean": reduce_mean,
    "ReduceMin": reduce_min,
    "ReduceProd": reduce_prod,
    "ReduceSum": reduce_sum,
    "ReduceSumSquare": reduce_sum_square,
}
REDUCE: Table = standard(
    {
        **{op: Lowering(function=function, ints=(1,)) for op, function in _REDUCTIONS.items()},
        "ArgMax": arg_max,
        "ArgMin": arg_min,
        "Det": determinant,
    }
)
