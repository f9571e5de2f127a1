"""Pooling over sliding windows, over whole axes and over regions of interest.

A pool goes to torch's own kernel where that computes exactly what the op says, and over a view of all windows where
torch has none: uneven pads, dilated averages, norms, more than three spatial axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from ..lowering import Lowering, Table, merged, standard
from .linear import same_padding
from .reduce import reduce_max

Ints = Sequence[int]
Kernel = Callable[..., torch.Tensor]

# the comparison of sizes that may be symbolic
_smaller: Callable[[int, int], int] = torch.sym_min


def _max_pool1d(
    x: torch.Tensor, kernel: Ints, strides: Ints, pads: Ints, dilations: Ints, ceil: bool, places: bool
) -> object:
    """By the kernel that finds places as well: with the other, torch.export (2.13) fixes the length."""
    options = (list(kernel), list(strides), list(pads), list(dilations), ceil, True)
    found, at = functional.max_pool1d_with_indices(x, *options)
    return (found, at) if places else found


_MAX: dict[int, Callable[..., object]] = {
    1: _max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: dict[int, Kernel] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """Where the windows of a pool lie: `before` and `after` are the op's pads, `out` how many windows an axis has.

    The last windows may reach beyond the pads (`ceil_mode`); what lies there belongs to no window's count.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    out: list[int]
    ceil: bool

    @staticmethod
    def of(
        x: torch.Tensor,
        kernel: Ints,
        strides: Ints | None,
        dilations: Ints | None,
        pads: Ints | None,
        auto_pad: str,
        ceil_mode: int,
    ) -> _Windows:
        deep = x.dim() - 2
        if len(kernel) != deep:
            raise ValueError(f"kernel_shape {list(kernel)} needs {len(kernel)} spatial axes, the input has {deep}")
        steps, spread = list(strides or [1] * deep), list(dilations or [1] * deep)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            around = same_padding(x.shape[2:], kernel, steps, spread, upper=auto_pad == "SAME_UPPER")
        elif auto_pad == "VALID" or not pads:
            around = [(0, 0)] * deep
        else:
            around = [(pads[i], pads[deep + i]) for i in range(deep)]
        ceil = bool(ceil_mode) and auto_pad in ("NOTSET", "")
        out = []
        for n, k, step, gap, (before, after) in zip(x.shape[2:], kernel, steps, spread, around, strict=True):
            free = n + before + after - (k - 1) * gap - 1
            if ceil:
                # a window that would begin behind the input is left out
                out.append(_smaller(-(-free // step) + 1, -(-(n + before) // step)))
            else:
                out.append(free // step + 1)
        return _Windows(
            kernel=list(kernel),
            strides=steps,
            dilations=spread,
            before=[before for before, _ in around],
            after=[after for _, after in around],
            out=out,
            ceil=ceil,
        )

    @property
    def spans(self) -> list[int]:
        """From a window's first element to its last, inclusive."""
        return [(k - 1) * gap + 1 for k, gap in zip(self.kernel, self.dilations, strict=True)]

    @property
    def plain(self) -> bool:
        """torch's pools take these pads themselves: the same on both sides, and at most half a window."""
        return all(
            isinstance(a, int) and isinstance(b, int) and a == b and 0 <= 2 * a <= k
            for a, b, k in zip(self.before, self.after, self.kernel, strict=True)
        )

    def padded(self, x: torch.Tensor, value: float) -> torch.Tensor:
        """x [batch, channels, ...] with the pads, cut or grown to what the windows cover."""
        amounts: list[int] = []
        axes = zip(x.shape[2:], self.before, self.out, self.strides, self.spans, strict=True)
        for n, before, out, step, span in reversed(list(axes)):
            amounts += [before, (out - 1) * step + span - n - before]
        if all(isinstance(amount, int) and amount == 0 for amount in amounts):
            return x
        return functional.pad(x, amounts, value=value)

    def view(self, padded: torch.Tensor) -> torch.Tensor:
        """[batch, channels, *out, *kernel], without a copy."""
        for axis, (span, step, gap) in enumerate(zip(self.spans, self.strides, self.dilations, strict=True)):
            padded = padded.unfold(2 + axis, span, step)[..., ::gap]
        return padded

    def counts(self, x: torch.Tensor, *, pads: bool) -> torch.Tensor:
        """[*out]: how many elements each window has, those of the pads included where `pads`."""
        total = torch.ones((), dtype=x.dtype, device=x.device)
        for axis, (k, step, gap) in enumerate(zip(self.kernel, self.strides, self.dilations, strict=True)):
            first = torch.arange(self.out[axis], device=x.device) * step - self.before[axis]
            place = first.unsqueeze(1) + torch.arange(k, device=x.device) * gap
            end = x.shape[2 + axis] + (self.after[axis] if pads else 0)
            inside = (place < end) if pads else (place >= 0) & (place < end)
            total = total.unsqueeze(-1) * inside.sum(1).to(x.dtype)
        return total


def max_pool(
    x: torch.Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
    outputs: int,
) -> object:
    """The greatest of each window of x [batch, channels, ...]; the second output is its place in the flattened x."""
    windows = _Windows.of(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    deep = len(windows.kernel)
    # 8-bit integers are exact in float32, for which every device has a kernel
    y = x if x.is_floating_point() else x.float()
    lowest = float("-inf") if x.is_floating_point() else float(torch.iinfo(x.dtype).min)
    plain = windows.plain and deep in _MAX
    even = windows.before if plain else [0] * deep
    data = y if plain else windows.padded(y, lowest)
    if deep not in _MAX:
        flat = windows.view(data).flatten(2 + deep)
        if outputs == 1:
            return flat.amax(-1).to(x.dtype)
        greatest, tap = flat.max(-1)
        return greatest.to(x.dtype), _flat(x, _places(windows, tap), storage_order)
    ceil = windows.ceil and plain
    found = _MAX[deep](data, windows.kernel, windows.strides, even, windows.dilations, ceil, outputs > 1)
    if outputs == 1:
        assert isinstance(found, torch.Tensor)
        return found.to(x.dtype)
    assert isinstance(found, tuple)
    places = []
    rest = found[1]
    for axis in reversed(range(deep)):
        places.append(rest % data.shape[2 + axis] - (windows.before[axis] - even[axis]))
        rest = rest // data.shape[2 + axis]
    return found[0].to(x.dtype), _flat(x, places[::-1], storage_order)


def _places(windows: _Windows, tap: torch.Tensor) -> list[torch.Tensor]:
    """Coordinates in x of the elements that windows chose, `tap` counting the elements of one window."""
    deep, places = len(windows.kernel), []
    for axis in reversed(range(deep)):
        dims = [-1 if i == axis else 1 for i in range(deep)]
        first = torch.arange(windows.out[axis], device=tap.device).reshape(dims) * windows.strides[axis]
        places.append(first + tap % windows.kernel[axis] * windows.dilations[axis] - windows.before[axis])
        tap = tap // windows.kernel[axis]
    return places[::-1]


def _flat(x: torch.Tensor, places: Sequence[torch.Tensor], storage_order: int) -> torch.Tensor:
    """Coordinates [batch, channels, *out] as places in all of x; the first spatial axis runs fastest in order 1."""
    axes = list(range(len(places)))
    within = torch.zeros_like(places[0])
    for axis in axes[::-1] if storage_order else axes:
        n = x.shape[2 + axis]
        # a window of nothing but pads and negative infinities still names an element
        within = within * n + places[axis].clamp(min=0).minimum(torch.full_like(within, n - 1))
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape([x.shape[0], x.shape[1], *[1] * len(axes)])
    return planes * math.prod(x.shape[2:]) + within


def average_pool(
    x: torch.Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> torch.Tensor:
    """The mean of each window of x [batch, channels, ...], of its pads too where `count_include_pad`."""
    windows = _Windows.of(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    deep = len(windows.kernel)
    if windows.plain and deep in _AVERAGE and all(gap == 1 for gap in windows.dilations):
        pool = _AVERAGE[deep]
        return pool(x, windows.kernel, windows.strides, windows.before, windows.ceil, bool(count_include_pad))
    axes = list(range(2 + deep, 2 + 2 * deep))
    total = windows.view(windows.padded(x, 0.0)).sum(axes)
    return total / windows.counts(x, pads=bool(count_include_pad))


def lp_pool(
    x: torch.Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> torch.Tensor:
    """The p-norm of each window of x [batch, channels, ...]."""
    _check_norm(p)
    windows = _Windows.of(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    deep = len(windows.kernel)
    view = windows.view(windows.padded(x, 0.0))
    norm: torch.Tensor = torch.linalg.vector_norm(view, p, list(range(2 + deep, 2 + 2 * deep)))
    return norm


def _spatial(x: torch.Tensor) -> list[int]:
    return list(range(2, x.dim()))


def global_average_pool(x: torch.Tensor) -> torch.Tensor:
    return x.mean(_spatial(x), keepdim=True) if x.dim() > 2 else x


def global_max_pool(x: torch.Tensor) -> torch.Tensor:
    return reduce_max(x, _spatial(x)) if x.dim() > 2 else x


def _check_norm(p: int) -> None:
    if p < 1:
        raise ValueError(f"p is {p}; expected 1 or more")


def global_lp_pool(x: torch.Tensor, *, p: int = 2) -> torch.Tensor:
    _check_norm(p)
    return torch.linalg.vector_norm(x, p, _spatial(x), keepdim=True) if x.dim() > 2 else x.abs()


def max_unpool(
    x: torch.Tensor,
    indices: torch.Tensor,
    output_shape: Ints | None = None,
    *,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> torch.Tensor:
    """Zeros but for x [batch, channels, ...] at the places of the flattened result that MaxPool's indices name.

    The indices count in the result that kernel, strides and pads imply; a given shape puts that at its beginning.
    """
    deep = len(kernel_shape)
    steps, around = list(strides or [1] * deep), list(pads or [0] * 2 * deep)
    dims = [*x.shape[:2]]
    for i, k in enumerate(kernel_shape):
        dims.append((x.shape[2 + i] - 1) * steps[i] + k - around[i] - around[deep + i])
    y = x.new_zeros(math.prod(dims)).scatter(0, indices.reshape(-1).long(), x.reshape(-1)).reshape(dims)
    if output_shape is None:
        return y
    amounts = [amount for have, want in zip(dims, output_shape, strict=True) for amount in (want - have, 0)]
    return functional.pad(y, amounts[::-1])


def max_roi_pool(
    x: torch.Tensor, rois: torch.Tensor, *, pooled_shape: Ints, spatial_scale: float = 1.0
) -> torch.Tensor:
    """x [batch, channels, height, width], rois [n, 5] of (image, x1, y1, x2, y2), ends included; a bin that holds no
    element is zero."""
    corners = rois[:, 1:] * spatial_scale
    # halves away from zero
    corners = torch.where(corners < 0, (corners - 0.5).ceil(), (corners + 0.5).floor())
    image = x[rois[:, 0].long()]
    held = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, (first, last) in enumerate(((1, 3), (0, 2))):
        bins, n = pooled_shape[axis], x.shape[2 + axis]
        start = corners[:, first]
        step = (corners[:, last] - start + 1).clamp(min=1) / bins
        slots = torch.arange(bins, device=x.device, dtype=step.dtype)
        low = ((slots * step[:, None]).floor() + start[:, None]).clamp(0, n)
        high = (((slots + 1) * step[:, None]).ceil() + start[:, None]).clamp(0, n)
        places = torch.arange(n, device=x.device, dtype=step.dtype)
        inside = (places >= low[..., None]) & (places < high[..., None])
        dims = [rois.shape[0], 1, 1, 1]
        dims[2 + axis] = n
        parts = [
            image.masked_fill(~inside[:, i].reshape(dims), float("-inf")).amax(2 + axis, keepdim=True)
            for i in range(bins)
        ]
        image = torch.cat(parts, 2 + axis)
        dims[2 + axis] = bins
        held = held & inside.any(-1).reshape(dims)
    return image.masked_fill(~held, 0.0)


POOL: Table = merged(
    standard(
        {
            "MaxPool": Lowering(function=max_pool, many=True),
            "AveragePool": average_pool,
            "GlobalAveragePool": global_average_pool,
            "GlobalMaxPool": global_max_pool,
            "MaxRoiPool": max_roi_pool,
        }
    ),
    standard({"LpPool": lp_pool, "GlobalLpPool": global_lp_pool}, since=2),
    standard({"MaxUnpool": Lowering(function=max_unpool, ints=(2,))}, since=9),
)
