"""Ops of no family, most of them older spellings of standard ones (domain com.microsoft)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from ...lowering import Lowering, Table, standard
from ..index import arange, gather_nd, unique
from ..linear import conv_transpose, padding
from ..shape import pad, trilu, unsqueeze

Tensor = torch.Tensor
Ints = Sequence[int]


def unique_in_order(x: Tensor, *, outputs: int) -> object:
    """Values in the order of their first places, the number of each element's value, counts."""
    found = unique(x, sorted=0, outputs=4)
    assert isinstance(found, tuple)
    values, _, inverse, counts = found
    return values if outputs == 1 else (values, inverse, counts)[:outputs]


def range_(start: object, limit: object, delta: object = 1, *, like: Tensor | None = None) -> Tensor:
    return arange(start, limit, delta, like=like)


def pad_any(x: Tensor, pads: Ints | Sequence[Ints], value: object = None, *, mode: str = "constant") -> Tensor:
    """`pads` of shape [2 rank] or [1, 2 rank]."""
    if mode not in ("constant", "edge", "reflect"):
        raise ValueError(f"mode is {mode!r}, expected constant, edge or reflect")
    flat = [amount for part in pads for amount in ([part] if isinstance(part, int | torch.SymInt) else part)]
    return pad(x, flat, value, mode=mode)


def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Tensor:
    return functional.grid_sample(x, grid, mode, padding_mode, bool(align_corners))


def embedding(weight: Tensor, indices: Tensor, padding: int | None = None, by_frequency: object = False) -> Tensor:
    """Rows of a table; that of `padding` has no gradient."""
    if by_frequency not in (False, [False], None):
        raise ValueError("scale_grad_by_freq is a setting of training; leave it out")
    return functional.embedding(indices, weight, padding)


def conv_transpose_padded(
    x: Tensor,
    weight: Tensor,
    pads: list[int] | None = None,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """ConvTranspose whose pads are an input, [2 * spatial axes]."""
    return conv_transpose(
        x,
        weight,
        bias,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        output_padding=output_padding,
        pads=pads,
        strides=strides,
    )


def unfold(x: Tensor, *, size: int, dim: int = -1, step: int = 1) -> Tensor:
    return x.unfold(dim, size, step)


def nhwc_max_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """The maximum over windows of 8-bit x [batch, ..., channels]; padding never wins."""
    y = x.movedim(-1, 1)
    deep = y.dim() - 2
    steps, spread = list(strides or [1] * deep), list(dilations or [1] * deep)
    around = padding(y, kernel_shape, steps, spread, pads, auto_pad)
    lowest = torch.iinfo(x.dtype).min
    extra = [step - 1 if ceil_mode else 0 for step in steps]
    amounts = [
        amount
        for (before, after), more in reversed(list(zip(around, extra, strict=True)))
        for amount in (before, after + more)
    ]
    y = functional.pad(y, amounts, value=lowest)
    for axis, (size, step, apart) in enumerate(zip(kernel_shape, steps, spread, strict=True), 2):
        y = y.unfold(axis, (size - 1) * apart + 1, step)[..., ::apart].amax(-1)
    return y.movedim(1, -1)


def crop_and_resize(
    x: Tensor,
    boxes: Tensor,
    images: Tensor,
    size: list[int],
    *,
    mode: str = "bilinear",
    extrapolation_value: float = 0.0,
) -> Tensor:
    """Boxes [count, (y1, x1, y2, x2)] of images [batch, channels, height, width], in units of the image, brought to one
    size; what lies outside the image is `extrapolation_value`. Corners meet corners."""
    rows, row_in = _places(boxes[:, 0], boxes[:, 2], size[0], x.shape[2])
    columns, column_in = _places(boxes[:, 1], boxes[:, 3], size[1], x.shape[3])
    chosen = x[images.long()]
    inside = (row_in.unsqueeze(2) & column_in.unsqueeze(1)).unsqueeze(1)
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"mode is {mode!r}, expected bilinear or nearest")
    if mode == "nearest":
        # halves go up
        y = _picked(_picked(chosen, torch.floor(rows + 0.5), 2), torch.floor(columns + 0.5), 3)
    else:
        y = _mixed(_mixed(chosen, rows, 2), columns, 3)
    return torch.where(inside, y, extrapolation_value)


def _places(low: Tensor, high: Tensor, count: int, length: int) -> tuple[Tensor, Tensor]:
    """Where `count` samples between two ends lie, [boxes, count], and whether that is in the image."""
    if count > 1:
        step = (high - low) * (length - 1) / (count - 1)
        place = (low * (length - 1)).unsqueeze(1) + step.unsqueeze(1) * torch.arange(count, device=low.device)
    else:
        place = (0.5 * (low + high) * (length - 1)).unsqueeze(1)
    return place, (place >= 0) & (place <= length - 1)


def _picked(x: Tensor, place: Tensor, axis: int) -> Tensor:
    """x [boxes, channels, height, width] at whole places [boxes, count] along an axis."""
    shape = [place.shape[0], 1, 1, 1]
    shape[axis] = place.shape[1]
    index = place.long().clamp(0, x.shape[axis] - 1).reshape(shape)
    wanted = list(x.shape)
    wanted[axis] = place.shape[1]
    return torch.gather(x, axis, index.expand(wanted))


def _mixed(x: Tensor, place: Tensor, axis: int) -> Tensor:
    low = torch.floor(place)
    shape = [place.shape[0], 1, 1, 1]
    shape[axis] = place.shape[1]
    return torch.lerp(_picked(x, low, axis), _picked(x, torch.ceil(place), axis), (place - low).reshape(shape))


def n_gram_repeat_block(ids: Tensor, scores: Tensor, *, ngram_size: int) -> Tensor:
    """-inf for each token that would repeat an n-gram of ids [batch, sequence]; scores [batch, words]."""
    length = ids.shape[1]
    if length < ngram_size:
        return scores
    ids = ids.long()
    windows = ids.unfold(1, ngram_size, 1)
    tail = ids[:, length - ngram_size + 1 :].unsqueeze(1)
    again = (windows[..., :-1] == tail).all(-1)
    banned = torch.zeros_like(scores, dtype=torch.int32).scatter_add(1, windows[..., -1], again.to(torch.int32))
    return scores.masked_fill(banned > 0, float("-inf"))


def cdist(a: Tensor, b: Tensor, *, metric: str = "sqeuclidean") -> Tensor:
    """Distances between the rows of a and those of b."""
    if metric not in ("sqeuclidean", "euclidean"):
        raise ValueError(f"metric {metric!r} is not lowered; there are sqeuclidean and euclidean")
    squares = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
    return squares if metric == "sqeuclidean" else squares.sqrt()


def is_all_finite(*values: Tensor, isinf_only: int = 0, isnan_only: int = 0) -> Tensor:
    """One bool: no value is infinite or NaN, or only the one of these that is asked for."""
    test = torch.isinf if isinf_only else torch.isnan if isnan_only else _unbounded
    found: Tensor = torch.stack([test(value).any() for value in values]).any()
    return found.logical_not()


def _unbounded(x: Tensor) -> Tensor:
    return torch.isfinite(x).logical_not()


def complex_mul(a: Tensor, b: Tensor) -> Tensor:
    """Products of complex numbers held as pairs on the last axis."""
    return _product(a, b, 1)


def complex_mul_conj(a: Tensor, b: Tensor) -> Tensor:
    """a times the conjugate of b."""
    return _product(a, b, -1)


def _product(a: Tensor, b: Tensor, sign: int) -> Tensor:
    (p, q), (r, s) = a.unbind(-1), b.unbind(-1)
    s = sign * s
    return torch.stack([p * r - q * s, p * s + q * r], -1)


def rfft(x: Tensor, *, signal_ndim: int = 1, normalized: int = 0, onesided: int = 1) -> Tensor:
    return torch.view_as_real(torch.fft.rfftn(x, dim=list(range(-signal_ndim, 0))))


def irfft(x: Tensor, *, signal_ndim: int, normalized: int = 0, onesided: int = 1) -> Tensor:
    y: Tensor = torch.fft.irfftn(torch.view_as_complex(x.contiguous()), dim=list(range(-signal_ndim, 0)))
    return y


TENSORS: Table = standard(
    {
        "Trilu": Lowering(function=trilu, ints=(1,)),
        "Unique": Lowering(function=unique_in_order, many=True),
        "Range": Lowering(function=range_, numbers=(0, 1, 2), like=True),
        "ExpandDims": Lowering(function=unsqueeze, ints=(1,)),
        "Inverse": torch.linalg.inv,
        "Pad": Lowering(function=pad_any, ints=(1,), numbers=(2,)),
        "GatherND": gather_nd,
        "GridSample": grid_sample,
        "TorchEmbedding": Lowering(function=embedding, ints=(2,), numbers=(3,)),
        "UnfoldTensor": unfold,
        "NhwcMaxPool": nhwc_max_pool,
        "ConvTransposeWithDynamicPads": Lowering(function=conv_transpose_padded, ints=(2,)),
        "CropAndResize": Lowering(function=crop_and_resize, ints=(3,)),
        "NGramRepeatBlock": n_gram_repeat_block,
        "CDist": cdist,
        "IsAllFinite": is_all_finite,
        "ComplexMul": complex_mul,
        "ComplexMulConj": complex_mul_conj,
        "Rfft": rfft,
        "Irfft": irfft,
    },
    domain="com.microsoft",
)
