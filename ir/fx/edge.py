"""Values as they go into an FX module and come out of it.

A tensor of numbers is a torch tensor, one of strings an object array of `str`, a sequence a list of those, an optional
one of those or None. Outside, tensors are arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as oir
import torch

from ..errors import ModelError
from .dtypes import to_numpy, to_torch


def enter(value: object, kind: oir.TypeProtocol | None, device: torch.device) -> object:
    """A feed for an input of this ONNX type. Raises ModelError for None where nothing optional is expected."""
    if isinstance(kind, oir.OptionalType):
        return None if value is None else enter(value, kind.elem_type, device)
    if isinstance(kind, oir.SequenceType):
        if not isinstance(value, list | tuple):
            raise ModelError(f"the input is a sequence; expected a list of arrays, found {type(value).__name__}")
        return [enter(item, kind.elem_type, device) for item in value]
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if value is None:
        raise ModelError("the input is a tensor; expected an array, found None")
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        return strings(array)
    return to_torch(array).to(device)


def leave(value: object, dtype: oir.DataType | None = None) -> object:
    """A result as arrays; `dtype` is that of its tensors. Raises ModelError for empty ones beyond NumPy's sizes."""
    if isinstance(value, list):
        return [leave(item, dtype) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    try:
        return to_numpy(value, dtype)
    except ValueError as error:
        raise ModelError(f"a result of shape {list(value.shape)} has no form in NumPy: {error}") from error


def strings(array: np.ndarray) -> np.ndarray:
    """An object array of `str`: bytes are read as UTF-8."""
    found = np.empty(array.shape, object)
    found.ravel()[:] = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
    return found


def string_tensor(value: str | Sequence[str]) -> oir.StringTensor:
    """A constant of one string or a list of them."""
    texts = [value] if isinstance(value, str) else list(value)
    shape = oir.Shape([] if isinstance(value, str) else [len(texts)])
    return oir.StringTensor([text.encode() for text in texts], shape=shape)


def holds_values(value: object) -> bool:
    """Whether a list is a sequence, which holds tensors, rather than shape arithmetic, which holds ints."""
    return isinstance(value, list) and any(
        item is None or isinstance(item, torch.Tensor | np.ndarray) or holds_values(item) for item in value
    )


def holds_numbers(kind: oir.TypeProtocol | None) -> bool:
    """Whether values of this type are torch tensors; one that is not known is taken to be."""
    return kind is None or (isinstance(kind, oir.TensorType) and kind.dtype is not oir.DataType.STRING)
