"""GRU and LSTM layers kept whole while tracing.

torch.export unrolls a recurrent layer over the length of the example, which fixes that length; torch's exporter would
write a Loop instead. For the time of the trace, torch.gru and torch.lstm are calls of an operator of our own that
tracing does not look into, and that torch's exporter translates like its own: one GRU or LSTM node per layer, of any
length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from onnxscript.function_libs.torch_lib.ops import core
from torch.overrides import TorchFunctionMode

from .errors import UnsupportedError

_FLAGS = "bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first"

torch.library.define("tersor::gru", f"(Tensor input, Tensor hx, Tensor[] params, {_FLAGS}) -> (Tensor, Tensor)")
torch.library.define(
    "tersor::lstm", f"(Tensor input, Tensor[] hx, Tensor[] params, {_FLAGS}) -> (Tensor, Tensor, Tensor)"
)


def translations() -> dict[Callable[..., object], Callable[..., object]]:
    """How torch's ONNX exporter is to translate the operators: what it does with those of torch."""
    return {torch.ops.tersor.gru.default: core.aten_gru, torch.ops.tersor.lstm.default: core.aten_lstm}


class WholeLayers(TorchFunctionMode):
    """Within this context, torch.gru and torch.lstm on padded batches are operators that tracing keeps whole."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        # The other signature, of packed sequences, has its batch sizes as the second argument.
        if func is torch.gru and len(args) == 9 and isinstance(args[2], list | tuple):
            return torch.ops.tersor.gru(*args)
        if func is torch.lstm and len(args) == 9 and isinstance(args[1], list | tuple):
            _check_unprojected(args[1])
            return torch.ops.tersor.lstm(*args)
        return func(*args, **(kwargs or {}))


def _check_unprojected(state: Sequence[torch.Tensor]) -> None:
    hidden, cell = (tensor.shape[-1] for tensor in state)
    if hidden != cell:
        raise UnsupportedError(
            f"an LSTM with proj_size={hidden} and hidden_size={cell} cannot be written: ONNX's LSTM has no projection. "
            "Write the layer as a loop over LSTMCell and a Linear, or train it without proj_size"
        )


def _gru_shape(input: torch.Tensor, hx: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
    return input.new_empty((*input.shape[:-1], hx.shape[-1] * _directions(rest))), torch.empty_like(hx)


def _lstm_shape(
    input: torch.Tensor, hx: list[torch.Tensor], *rest: object
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    output = input.new_empty((*input.shape[:-1], hx[0].shape[-1] * _directions(rest)))
    return output, torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _directions(rest: tuple[object, ...]) -> int:
    bidirectional = rest[-2]
    return 2 if bidirectional else 1


for _name, _run, _shape in (("tersor::gru", torch.gru, _gru_shape), ("tersor::lstm", torch.lstm, _lstm_shape)):
    torch.library.impl(_name, "default", _run)
    torch.library.register_fake(_name, _shape)
