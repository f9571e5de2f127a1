"""Products with weights: MatMul, Gemm, Einsum, convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from ..host import larger
from ..lowering import Table, standard

Ints = Sequence[int]


def gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    trans_a: int = 0,
    trans_b: int = 0,
) -> torch.Tensor:
    """alpha * A B + beta * C, with A and B transposed on request."""
    left, right = a.T if trans_a else a, b.T if trans_b else b
    if a.is_floating_point():
        if c is not None:
            return torch.addmm(c, left, right, beta=beta, alpha=alpha)
        return alpha * (left @ right) if alpha != 1 else left @ right
    product = left @ right
    if alpha == 1 and (c is None or beta == 1):
        return product if c is None else product + c
    # integers meet float factors in float64 and are cut off once, at the end
    whole = alpha * product.double()
    return (whole if c is None else whole + beta * c.double()).to(a.dtype)


def einsum(*operands: torch.Tensor, equation: str) -> torch.Tensor:
    return torch.einsum(equation.replace(" ", ""), *operands).to(operands[0].dtype)


def same_padding(sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints, *, upper: bool) -> list[tuple[int, int]]:
    """Padding that makes each output ceil(size / stride) long, the odd element at the end where `upper`.

    Where strides pass over more than the kernel takes it is below zero, as the formula of the pools has it.
    """
    around = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size
        before = _half(total if upper else total + 1)
        around.append((before, total - before))
    return around


def _half(n: int) -> int:
    """Rounded toward zero, without asking which side of it a symbolic n is on."""
    return larger(n, 0) // 2 - larger(-n, 0) // 2


def padding(
    x: torch.Tensor, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints | None, auto_pad: str
) -> list[tuple[int, int]]:
    """What to add before and after each spatial axis of x [batch, channels, ...]."""
    deep = len(kernel)
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad is {auto_pad!r}; expected NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return same_padding(x.shape[2:], kernel, strides, dilations, upper=auto_pad == "SAME_UPPER")
    if auto_pad == "VALID" or pads is None:
        return [(0, 0)] * deep
    return [(pads[i], pads[deep + i]) for i in range(deep)]


def _check_kernel(weight: torch.Tensor, declared: Ints | None) -> None:
    """Raise ValueError where a node says another kernel than its weight [out, in, ...] has."""
    if declared is not None and list(declared) != list(weight.shape[2:]):
        raise ValueError(f"kernel_shape is {list(declared)}, the weight's is {list(weight.shape[2:])}")


def _even(around: Sequence[tuple[int, int]]) -> bool:
    """Whether torch's convolutions take the pads as they are; symbolic ones are not asked."""
    return all(isinstance(before, int) and isinstance(after, int) and before == after >= 0 for before, after in around)


def conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> torch.Tensor:
    """x [batch, in, ...], weight [out, in / group, ...], over one to three spatial axes."""
    _check_kernel(weight, kernel_shape)
    deep = x.dim() - 2
    steps, spread = list(strides or [1] * deep), list(dilations or [1] * deep)
    around = padding(x, weight.shape[2:], steps, spread, pads, auto_pad)
    even = [before for before, _ in around]
    if not _even(around):
        x = functional.pad(x, [amount for pair in reversed(around) for amount in pair])
        even = [0] * deep
    return torch.convolution(x, weight, bias, steps, even, spread, False, [0] * deep, group)


def conv_transpose(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> torch.Tensor:
    """x [batch, in, ...], weight [in, out / group, ...]; the full result is cropped by the pads."""
    _check_kernel(weight, kernel_shape)
    deep = x.dim() - 2
    steps, spread = list(strides or [1] * deep), list(dilations or [1] * deep)
    extra = list(output_padding or [0] * deep)
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if same and output_shape is None:
        output_shape = [x.shape[2 + i] * steps[i] for i in range(deep)]
    around = padding(x, weight.shape[2:], steps, spread, pads, "NOTSET" if same else auto_pad)
    if output_shape is not None:
        wanted = list(output_shape)[-deep:]
        reach = [(weight.shape[2 + i] - 1) * spread[i] + 1 for i in range(deep)]
        total = [(x.shape[2 + i] - 1) * steps[i] + reach[i] + extra[i] - wanted[i] for i in range(deep)]
        small = [amount // 2 for amount in total]
        large = [amount - half for amount, half in zip(total, small, strict=True)]
        around = list(zip(small, large, strict=True) if auto_pad == "SAME_UPPER" else zip(large, small, strict=True))
    if _even(around):
        even = [before for before, _ in around]
        return torch.convolution(x, weight, bias, steps, even, spread, True, extra, group)
    full = torch.convolution(x, weight, bias, steps, [0] * deep, spread, True, [0] * deep, group)
    crop = [amount for (before, after), more in zip(around, extra, strict=True) for amount in (more - after, -before)]
    cropped = functional.pad(full, crop[::-1])
    # what lies beyond the full result is bias alone
    if bias is not None and any(amount > 0 for amount in crop):
        inside = functional.pad(torch.ones_like(full[:1, :1]), crop[::-1])
        cropped = cropped + (1 - inside) * bias.reshape(1, -1, *[1] * deep)
    return cropped


LINEAR: Table = standard(
    {"MatMul": torch.matmul, "Gemm": gemm, "Einsum": einsum, "Conv": conv, "ConvTranspose": conv_transpose}
)
