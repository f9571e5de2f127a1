"""ONNX, numpy and torch types, and arrays across them without a copy.

Types torch has no storage for are held unpacked: 2- and 4-bit integers in 8-bit ones, float4 and float6 in
float32.
"""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import onnx_ir as oir
import torch

from ..errors import UnsupportedError

TORCH: dict[oir.DataType, torch.dtype] = {
    oir.DataType.FLOAT: torch.float32,
    oir.DataType.DOUBLE: torch.float64,
    oir.DataType.FLOAT16: torch.float16,
    oir.DataType.BFLOAT16: torch.bfloat16,
    oir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    oir.DataType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    oir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    oir.DataType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    oir.DataType.FLOAT8E8M0: torch.float8_e8m0fnu,
    oir.DataType.BOOL: torch.bool,
    oir.DataType.INT8: torch.int8,
    oir.DataType.INT16: torch.int16,
    oir.DataType.INT32: torch.int32,
    oir.DataType.INT64: torch.int64,
    oir.DataType.UINT8: torch.uint8,
    oir.DataType.UINT16: torch.uint16,
    oir.DataType.UINT32: torch.uint32,
    oir.DataType.UINT64: torch.uint64,
    oir.DataType.COMPLEX64: torch.complex64,
    oir.DataType.COMPLEX128: torch.complex128,
    oir.DataType.INT4: torch.int8,
    oir.DataType.INT2: torch.int8,
    oir.DataType.UINT4: torch.uint8,
    oir.DataType.UINT2: torch.uint8,
    oir.DataType.FLOAT4E2M1: torch.float32,
    oir.DataType.FLOAT6E2M3: torch.float32,
    oir.DataType.FLOAT6E3M2: torch.float32,
}

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)

# numpy knows these types only through ml_dtypes; torch reads the same bits as its own type
_VIEWS: dict[np.dtype[np.generic], tuple[type[np.generic], torch.dtype]] = {
    np.dtype(ml_dtypes.bfloat16): (np.int16, torch.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn): (np.uint8, torch.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e4m3fnuz): (np.uint8, torch.float8_e4m3fnuz),
    np.dtype(ml_dtypes.float8_e5m2): (np.uint8, torch.float8_e5m2),
    np.dtype(ml_dtypes.float8_e5m2fnuz): (np.uint8, torch.float8_e5m2fnuz),
    np.dtype(ml_dtypes.float8_e8m0fnu): (np.uint8, torch.float8_e8m0fnu),
}
_UNPACKED: dict[np.dtype[np.generic], type[np.generic]] = {
    np.dtype(ml_dtypes.int4): np.int8,
    np.dtype(ml_dtypes.uint4): np.uint8,
    np.dtype(ml_dtypes.int2): np.int8,
    np.dtype(ml_dtypes.uint2): np.uint8,
    np.dtype(ml_dtypes.float4_e2m1fn): np.float32,
    np.dtype(ml_dtypes.float6_e2m3fn): np.float32,
    np.dtype(ml_dtypes.float6_e3m2fn): np.float32,
}


def torch_dtype(code: int) -> torch.dtype:
    """The torch type that holds an ONNX type. Raises UnsupportedError for strings and the like."""
    found = TORCH.get(oir.DataType(code))
    if found is None:
        raise UnsupportedError(
            f"torch has no type for ONNX {oir.DataType(code).name}; leave that part to another backend"
        )
    return found


def to_torch(array: np.ndarray) -> torch.Tensor:
    """The array as a tensor on the same memory wherever torch can (it cannot for packed types and big-endian).

    A read-only array gives a tensor that must not be written to: torch has no such flag.
    """
    if (unpacked := _UNPACKED.get(array.dtype)) is not None:
        return torch.from_numpy(array.astype(unpacked))
    if array.dtype.kind in "OSU":
        raise UnsupportedError("torch has no strings; leave that part of the model to another backend")
    if any(step < 0 for step in array.strides):
        array = array.copy()
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.char in "qQpP":
        # C's long long: the same integers as numpy's int64 by another name, which torch does not know
        array = array.view(array.dtype.str)
    bits, dtype = _VIEWS.get(array.dtype, (None, None))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array if bits is None else array.view(bits))
    return tensor if dtype is None else tensor.view(dtype)


def to_numpy(tensor: torch.Tensor, dtype: oir.DataType | None = None) -> np.ndarray:
    """The tensor as an array, on the same memory where it is on the CPU; `dtype` packs what torch holds unpacked."""
    tensor = tensor.detach().cpu().resolve_conj()
    for name, (bits, held) in _VIEWS.items():
        if tensor.dtype is held:
            return tensor.view(torch.int16 if bits is np.int16 else torch.uint8).numpy().view(name)
    array: np.ndarray = tensor.numpy()
    if dtype is not None and array.dtype != dtype.numpy() and np.dtype(dtype.numpy()) in _UNPACKED:
        return array.astype(dtype.numpy())
    return array
