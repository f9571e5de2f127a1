"""Fourier transforms, their windows, the mel scale.

A complex tensor has a last axis of two, real part first; a real one has a last axis of one.
"""

from __future__ import annotations

import math

import torch

from ..dtypes import torch_dtype
from ..host import Nested, flat
from ..lowering import Lowering, Table, merged, standard
from .axes import placed


def dft_17(
    x: torch.Tensor, length: Nested | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> torch.Tensor:
    return _dft(x, None if length is None else _int(length), axis, inverse, onesided)


def dft(
    x: torch.Tensor, length: Nested | None = None, axis: Nested = -2, *, inverse: int = 0, onesided: int = 0
) -> torch.Tensor:
    return _dft(x, None if length is None else _int(length), _int(axis), inverse, onesided)


def _int(value: Nested) -> int:
    """A scalar, or the only element of a list; a SymInt stays one."""
    (leaf,) = flat(value)
    return leaf  # type: ignore[return-value]


def _dft(x: torch.Tensor, length: int | None, axis: int, inverse: int, onesided: int) -> torch.Tensor:
    """The transform along one axis, cut or padded to `length` first; the inverse divides by it.

    `onesided`: half a spectrum, [n / 2 + 1], of a real signal; inverse, the real signal (last axis of one) of half a
    spectrum, `length` being that of the signal. Raises ValueError for an axis or an input that cannot be transformed.
    """
    place = placed(axis, x.dim())
    if place == x.dim() - 1:
        raise ValueError(f"axis {axis} is the last, which holds the real and imaginary parts; expected another")
    signal = _signal(x)
    if inverse and onesided:
        whole: torch.Tensor = torch.fft.irfft(signal, length, dim=place)
        return whole.unsqueeze(-1).to(x.dtype)
    if inverse:
        spectrum = torch.fft.ifft(signal, length, dim=place)
    elif not onesided:
        spectrum = torch.fft.fft(signal, length, dim=place)
    elif signal.is_complex():
        raise ValueError("onesided is for real signals; expected a last axis of 1, found 2")
    else:
        spectrum = torch.fft.rfft(signal, length, dim=place)
    return torch.view_as_real(spectrum).to(x.dtype)


def _signal(x: torch.Tensor) -> torch.Tensor:
    """Without its last axis; the transforms have no kernels for half precision."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    parts = x.shape[-1]
    if parts not in (1, 2):
        raise ValueError(f"the last axis has {parts} elements; expected 1 (real) or 2 (real and imaginary)")
    return wide.squeeze(-1) if parts == 1 else torch.view_as_complex(wide.contiguous())


def stft(
    signal: torch.Tensor,
    step: Nested,
    window: torch.Tensor | None = None,
    length: Nested | None = None,
    *,
    onesided: int = 1,
) -> torch.Tensor:
    """Transforms of windowed frames: [batch, signal, 1 or 2] -> [batch, frames, bins, 2].

    Raises ValueError for a window that is not as long as a frame.
    """
    n = signal.shape[1] if window is None else window.shape[0]
    size = n if length is None else _int(length)
    if window is not None and size != n:
        raise ValueError(f"the window has {n} elements and a frame {size}; expected as many")
    frames = signal.unfold(1, size, _int(step)).transpose(-1, -2)
    if window is not None:
        frames = frames * window.unsqueeze(-1)
    return _dft(frames, None, 2, 0, onesided)


def hann_window(
    size: Nested, *, output_datatype: int = 1, periodic: int = 1, like: torch.Tensor | None = None
) -> torch.Tensor:
    return _window(size, (0.5, 0.5, 0.0), output_datatype, periodic, like)


def hamming_window(
    size: Nested, *, output_datatype: int = 1, periodic: int = 1, like: torch.Tensor | None = None
) -> torch.Tensor:
    return _window(size, (25 / 46, 21 / 46, 0.0), output_datatype, periodic, like)


def blackman_window(
    size: Nested, *, output_datatype: int = 1, periodic: int = 1, like: torch.Tensor | None = None
) -> torch.Tensor:
    return _window(size, (0.42, 0.5, 0.08), output_datatype, periodic, like)


def _window(
    size: Nested, weights: tuple[float, float, float], dtype: int, periodic: int, like: torch.Tensor | None
) -> torch.Tensor:
    """a - b cos(t) + c cos(2 t), t from 0 to 2 pi: the end left out where `periodic`, else in."""
    n = _int(size)
    device = None if like is None else like.device
    angle = torch.arange(n, dtype=torch.float64, device=device) * (2 * math.pi)
    # a symmetric window of one element is 0 / 0
    angle = angle.div(n if periodic else n - 1)
    a, b, c = weights
    return (a - b * torch.cos(angle) + c * torch.cos(2 * angle)).to(torch_dtype(dtype))


def mel_weight_matrix(
    bins: Nested,
    length: Nested,
    rate: Nested,
    lowest: torch.Tensor | float | list[float],
    highest: torch.Tensor | float | list[float],
    *,
    output_datatype: int = 1,
    like: torch.Tensor | None = None,
) -> torch.Tensor:
    """Triangles of peak 1 that are evenly spaced in mel(f) = 2595 log10(1 + f / 700): [length / 2 + 1, bins]."""
    device = None if like is None else like.device
    n, size, samples = _int(bins), _int(length), _int(rate)
    for name, number in (("num_mel_bins", n), ("dft_length", size), ("sample_rate", samples)):
        if isinstance(number, int) and number < 1:
            raise ValueError(f"{name} is {number}; expected 1 or more")
    low, high = (_mel(edge, device) for edge in (lowest, highest))
    mels = torch.arange(n + 2, device=device) * ((high - low) / (n + 2)) + low
    hertz = 700 * torch.expm1(mels * (math.log(10) / 2595))
    edges = torch.floor((size + 1) * hertz / samples)
    left, peak, right = edges[:-2], edges[1:-1], edges[2:]
    f = torch.arange(size // 2 + 1, dtype=torch.float64, device=device).unsqueeze(1)
    one = torch.ones_like(peak)
    rising = torch.where(peak == left, (f == peak) * one, (f - left) / (peak - left))
    rising = torch.where((f >= left) & (f <= peak), rising, 0)
    falling = (right - f) / (right - peak)
    return torch.where((f >= peak) & (f < right), falling, rising).to(torch_dtype(output_datatype))


def _mel(hertz: torch.Tensor | float | list[float], device: torch.device | None) -> torch.Tensor:
    value = torch.as_tensor(hertz, dtype=torch.float64, device=device).reshape(())
    return 2595 / math.log(10) * torch.log1p(value / 700)


SIGNAL: Table = merged(
    standard(
        {
            "DFT": Lowering(function=dft_17, ints=(1,)),
            "STFT": Lowering(function=stft, ints=(1, 3)),
            "HannWindow": Lowering(function=hann_window, ints=(0,), like=True),
            "HammingWindow": Lowering(function=hamming_window, ints=(0,), like=True),
            "BlackmanWindow": Lowering(function=blackman_window, ints=(0,), like=True),
            "MelWeightMatrix": Lowering(function=mel_weight_matrix, ints=(0, 1, 2), numbers=(3, 4), like=True),
        },
        since=17,
    ),
    standard({"DFT": Lowering(function=dft, ints=(1, 2))}, since=20),
)
