"""Weights in 2, 4 and 8 bits by blocks: products and tables (domain com.microsoft).

`packed` holds several values a byte, the first in the lowest bits.
"""

from __future__ import annotations

import onnx_ir as oir
import torch

from ...lowering import Lowering, Table, standard
from ..axes import placed

Tensor = torch.Tensor
Maybe = torch.Tensor | None

# the values of bitsandbytes' 4-bit codes: FP4 (sign, 2 exponent bits, mantissa; over 12) and NF4 (QLoRA, appendix E)
_FP4 = (0.0, 0.0052083333, 0.6666666667, 1.0, 0.3333333333, 0.5, 0.1666666667, 0.25)
_NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """uint8 [..., n] -> uint8 [..., n * 8 / bits], the lowest bits first."""
    if bits not in (2, 4, 8):
        raise ValueError(f"weights of {bits} bits; expected 2, 4 or 8")
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    codes: Tensor = (packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    return codes.flatten(-2)


def zero_points(zeros: Maybe, bits: int, rows: int, blocks: int) -> Tensor | int:
    """Zero points [rows, blocks], packed or floats; the middle of the range where there are none."""
    if zeros is None:
        return 1 << (bits - 1)
    if zeros.dtype is torch.uint8:
        zeros = unpack(zeros.reshape(rows, -1), bits)[:, :blocks]
    return zeros.reshape(rows, blocks)


def dequantized(packed: Tensor, scales: Tensor, zeros: Maybe, group_of: Maybe, bits: int, columns: int) -> Tensor:
    """The weight [out, in] of `packed` [out, blocks, bytes] and scales [out, blocks], in the scales' type.

    `group_of` [in] says for each input which block's scale and zero point it has.
    """
    rows, blocks = packed.shape[:2]
    codes = unpack(packed, bits).to(scales.dtype)
    scales = scales.reshape(rows, blocks)
    zero = zero_points(zeros, bits, rows, blocks)
    if group_of is not None:
        place = group_of[:columns].long()
        offset = zero if isinstance(zero, int) else zero.to(scales.dtype)[:, place]
        return (codes.flatten(1)[:, :columns] - offset) * scales[:, place]
    offset = zero if isinstance(zero, int) else zero.to(scales.dtype).unsqueeze(-1)
    return ((codes - offset) * scales.unsqueeze(-1)).flatten(1)[:, :columns]


def matmul_nbits(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Maybe = None,
    group_of: Maybe = None,
    bias: Maybe = None,
    *,
    k: int,
    n: int,
    bits: int = 4,
    block_size: int,
    accuracy_level: int = 0,
    weight_prepacked: int = 0,
) -> Tensor:
    """x [..., k] times a weight of blocks of `block_size` along k; x is not rounded, whatever the accuracy level allows
    a runtime to do."""
    if weight_prepacked:
        raise ValueError("weight_prepacked is a layout for one GPU; export the model without it")
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; expected 1 or more")
    blocks = -(-k // block_size)
    parts = packed.reshape(n, blocks, -1)
    if parts.shape[2] * 8 != block_size * bits:
        raise ValueError(f"block_size is {block_size} at {bits} bits; blocks are of {parts.shape[2]} bytes")
    weight = dequantized(parts, scales, zeros, group_of, bits, k)
    y = x @ weight.to(x.dtype).T
    return y if bias is None else y + bias


def gather_block_quantized(
    data: Tensor,
    indices: Tensor,
    scales: Tensor,
    zeros: Maybe = None,
    *,
    bits: int = 4,
    block_size: int = 128,
    gather_axis: int = 0,
    quantize_axis: int = 1,
    dtype: int | None = None,
) -> Tensor:
    """Rows of a table quantized by blocks, made float after they were picked; beyond the table they are zero.

    uint8 data has several values a byte along its last axis, with a zero point in the middle unless given; 4-bit types
    come unpacked, with a zero point of 0.
    """
    # computed bytes have no known type; what has 4 bits does
    byte = data.dtype == torch.uint8 and dtype != oir.DataType.UINT4
    axis = placed(gather_axis, data.dim())
    count = data.shape[axis]
    flat = indices.reshape(-1).long()
    inside = (flat >= -count) & (flat < count)
    place = torch.where(inside, torch.where(flat < 0, flat + count, flat), 0)
    picked = _codes(data.index_select(axis, place), bits, byte)
    wide = placed(quantize_axis, data.dim())
    block = block_size or picked.shape[wide]
    if block < 1 or scales.shape[wide] != -(-picked.shape[wide] // block):
        raise ValueError(f"block_size is {block}; {picked.shape[wide]} values have {scales.shape[wide]} scales")

    def spread(part: Tensor) -> Tensor:
        chosen = part if part.shape[axis] == 1 and count != 1 else part.index_select(axis, place)
        if chosen.shape[wide] == 1:
            return chosen
        return chosen.repeat_interleave(block, wide).narrow(wide, 0, picked.shape[wide])

    values = picked.to(scales.dtype)
    if zeros is not None:
        values = values - spread(_codes(zeros, bits, byte).narrow(-1, 0, scales.shape[-1])).to(scales.dtype)
    elif byte:
        values = values - (1 << (bits - 1))
    values = values * spread(scales)
    shape = [1] * values.dim()
    shape[axis] = -1
    values = torch.where(inside.reshape(shape), values, 0.0)
    return values.reshape(*values.shape[:axis], *indices.shape, *values.shape[axis + 1 :])


def _codes(data: Tensor, bits: int, byte: bool) -> Tensor:
    return unpack(data, bits) if byte and data.dtype is torch.uint8 else data


def matmul_bnb4(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    *,
    k: int,
    n: int,
    block_size: int,
    quant_type: int,
    trans_b: int = 1,
    training_mode: int = 0,
) -> Tensor:
    """x times a weight of bitsandbytes' 4-bit codes, [n, k] laid out flat, the first of a byte in its high bits."""
    if quant_type not in (0, 1):
        raise ValueError(f"quant_type is {quant_type}, expected 0 (FP4) or 1 (NF4)")
    if block_size < 1 or absmax.numel() != -(-n * k // block_size):
        raise ValueError(f"block_size is {block_size}; {n * k} values have {absmax.numel()} scales")
    table = _NF4 if quant_type else (*_FP4, *(-value for value in _FP4))
    values = torch.tensor(table, dtype=absmax.dtype, device=packed.device)
    codes = torch.stack([packed >> 4, packed & 15], -1).flatten()[: n * k]
    scales = absmax.repeat_interleave(block_size)[: n * k]
    weight = (values[codes.long()] * scales).reshape(n, k).to(x.dtype)
    return x @ (weight.T if trans_b else weight)


NBITS: Table = standard(
    {
        "MatMulNBits": matmul_nbits,
        "GatherBlockQuantized": Lowering(function=gather_block_quantized, typed=0),
        "MatMulBnb4": matmul_bnb4,
    },
    domain="com.microsoft",
)
