"""How torch's ONNX exporter is to write indexing by one tensor of numbers: `Gather`, tables left as they are.

Its own translation is `GatherND` over the table transposed, which keeps neither the weight nor what the op is about.
Seen with torch 2.13 and onnxscript 0.7.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir
import torch
from onnxscript.function_libs.torch_lib.ops import core
from onnxscript.onnx_opset import opset18 as op

_NUMBERS = (onnx_ir.DataType.INT64, onnx_ir.DataType.INT32)


def translations() -> dict[Callable[..., object], Callable[..., object]]:
    """The operators and who translates them."""
    return {torch.ops.aten.index.Tensor: _index}


def _index(self: onnx_ir.Value, indices: Sequence[onnx_ir.Value | None]) -> object:
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) == 1 and given[0][1].dtype in _NUMBERS:
        axis, index = given[0]
        # at translation the operators take values of the graph, whatever their annotations say
        return op.Gather(self, index, axis=axis)  # type: ignore[type-var]
    return core.aten_index(self, indices)
