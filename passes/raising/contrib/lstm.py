"""An LSTM with 8-bit weights that quantizes its input and its state at run time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ....ir.constants import tensor_of
from ...base import Miss
from ...dynamic_recurrence import DIRECTIONS, LSTM, LSTM_ATTRIBUTES, call
from ...edit import Array, Tape
from .call import Build, Call, Table, derived, named


def _dynamic_quantize_lstm(node: Call) -> Build | Miss:
    """tersor.DynamicQuantizeLSTM, its weights dequantized."""
    for index, rule, need in ((4, "lengths", "sequences of one length"), (7, "peepholes", "gates that see no cell")):
        given = node[index]
        if given is not None:
            return Miss(rule, given.name or "", need)
    held = [tensor_of(node.need(index)) for index in (1, 2, 8, 9, 10, 11)]
    known = [tensor for tensor in held if tensor is not None]
    if len(known) < len(held):
        return Miss("weight", node.need(1).name or "", "weights, scales and zero points that are stored")
    direction = node.text("direction", "forward")
    w, r, w_scale, w_zero, r_scale, r_zero = known
    hidden = int(r.shape.numpy()[1])

    def build(tape: Tape) -> list[ir.Value | None]:
        names = [node.need(index).name or "weight" for index in (1, 2)]
        parts = zip(names, (w, r), (w_scale, r_scale), (w_zero, r_zero), strict=True)
        made = call(
            tape,
            LSTM[direction],
            hidden,
            [node.need(0), *(_read(tape, *part) for part in parts)],
            bias=node[3],
            states=[node[5], node[6]],
            attributes={"hidden_size": hidden, **node.kept(*LSTM_ATTRIBUTES)},
        )
        return list(made.outputs)

    if direction not in DIRECTIONS:
        return Miss("direction", direction, ", ".join(DIRECTIONS))
    return build


def _read(
    tape: Tape, name: str, weight: ir.TensorProtocol, scale: ir.TensorProtocol, zero: ir.TensorProtocol
) -> ir.Value:
    """[directions, inputs, gates] integers as floats [directions, gates, inputs], each gate with a scale of its own."""
    ways, inputs, gates = weight.shape.numpy()
    turned = derived(tape, weight, [ways, gates, inputs], lambda array: array.transpose(0, 2, 1), name)

    def spread(tensor: ir.TensorProtocol, part: str) -> ir.Value:
        shape, function = _by_gate(ways, gates)
        return derived(tape, tensor, shape, function, f"{name}_{part}")

    # scales of two directions differ along two axes, which a block along the third has too
    axis, block = (1, None) if ways == 1 else (2, inputs)
    origin = spread(zero, "zero") if zero.numpy().any() else None
    return tape("DequantizeLinear", turned, spread(scale, "scale"), origin, axis=axis, block_size=block)


def _by_gate(ways: int, gates: int) -> tuple[list[int], Callable[[Array], Array]]:
    """The shape of one number for each gate, and what brings [directions] or [directions, gates] to it."""
    shape = [gates] if ways == 1 else [ways, gates, 1]

    def spread(array: Array) -> Array:
        return np.broadcast_to(array.reshape(ways, -1), (ways, gates)).reshape(shape)

    return shape, spread


QUANTIZED_LSTM: Table = named({"DynamicQuantizeLSTM": _dynamic_quantize_lstm})
