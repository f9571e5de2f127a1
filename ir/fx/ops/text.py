"""Which lowering an op has where it is given strings.

An op that only moves elements is done on the elements' places in a list of words: places are integers, so the tensor
lowering serves. Place 0 is the empty string, what ONNX pads strings with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ..lowering import Function, Key, Lowering, Table, merged, standard
from .elementwise import identity
from .ml import ML
from .sequence import SEQUENCE
from .strings import OVERRIDES, STRINGS

_MOVES = {
    "CenterCropPad",
    "Compress",
    "Concat",
    "ConcatFromSequence",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "OneHot",
    "Pad",
    "Reshape",
    "ReverseSequence",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Slice",
    "SpaceToDepth",
    "Split",
    "SplitToSequence",
    "Squeeze",
    "TensorScatter",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
}


def text_table(device: Table) -> Table:
    """The rows for strings, given those for tensors."""
    carried = {key: _carried(key, row) for key, row in device.items() if key[0] == "" and key[1] in _MOVES}
    kept = {key: row for key, row in merged(SEQUENCE, ML).items() if key[1] not in _MOVES}
    return merged(carried, kept, STRINGS, OVERRIDES, standard({"Identity": Lowering(function=identity, strings=True)}))


def _carried(key: Key, row: Lowering) -> Lowering:
    name = f"{key[1]}_{key[2]}"
    carrier = _carrier(row.function)
    # FX writes calls by module and name, pickle finds functions by them
    carrier.__name__ = carrier.__qualname__ = name
    carrier.__module__ = __name__
    globals()[name] = carrier
    return replace(row, function=carrier, strings=True)


def _carrier(function: Function) -> Function:
    @functools.wraps(function)
    def carry(*args: object, **keywords: object) -> object:
        words = [np.array([""], dtype=object)]
        device = next((arg.device for arg in args if isinstance(arg, torch.Tensor)), None)

        def place(array: np.ndarray) -> torch.Tensor:
            start = sum(map(len, words))
            words.append(array.ravel())
            return torch.arange(start, start + array.size, device=device).reshape(array.shape)

        places = [_each(arg, np.ndarray, place) for arg in args]
        found = function(*places, **keywords)
        pool = np.concatenate(words)
        return _each(found, torch.Tensor, lambda at: np.asarray(pool[at.cpu().numpy()], dtype=object))

    return carry


def _each(value: object, kind: type, change: Callable[..., object]) -> object:
    """The value, or what a list or tuple holds, changed where it is of a kind."""
    if isinstance(value, list | tuple):
        return type(value)(_each(item, kind, change) for item in value)
    return change(value) if isinstance(value, kind) else value
