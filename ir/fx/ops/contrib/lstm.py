"""LSTM with 8-bit weights (domain com.microsoft).

Shapes: x [sequence, batch, input], weights [directions, input or hidden, 4 hidden], bias [directions, 8 hidden], states
[directions, batch, hidden]; gates in ONNX's order: input, output, forget, cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...flow.steps import State, over_time
from ...kernels.products import integer_product
from ...lowering import Lowering, Table, standard
from ..cells import Attributes, Layer, lstm_cell
from ..quant import dynamic_quantize

Tensor = torch.Tensor
Maybe = torch.Tensor | None


def dynamic_quantize_lstm(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Maybe,
    lengths: Maybe,
    initial_h: Maybe,
    initial_c: Maybe,
    peepholes: Maybe,
    w_scale: Tensor,
    w_zero: Tensor,
    r_scale: Tensor,
    r_zero: Tensor,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    outputs: int,
) -> object:
    """Both products are of 8-bit integers: the input is quantized over the range of all steps there are, the states of
    the batch at every step, those of sequences that have ended as zero.

    Scales and zero points of the weights are [directions] or [directions, 4 hidden].
    """
    attributes = Attributes(
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        activations=activations,
        clip=clip,
        direction=direction,
        hidden_size=hidden_size,
        layout=0,
        outputs=outputs,
    )
    initial = (initial_h, initial_c)
    layer = Layer.of(x, weight.mT, recurrence.mT, bias, lengths, initial, ("Sigmoid", "Tanh", "Tanh"), attributes)
    live: State = ()
    if lengths is not None:
        place = torch.arange(x.shape[0], device=x.device).reshape(-1, 1, 1)
        live = (place < lengths.reshape(-1, 1),)
        x = torch.where(place < lengths.amax(), x, 0.0)
    columns, finals = [], []
    for d, backward in enumerate(layer.backward):
        gates = _product(_reversed(x, lengths) if backward else x, weight[d], w_scale[d], w_zero[d])
        if bias is not None:
            gates = gates + torch.add(*bias[d].chunk(2))
        peep = None if peepholes is None else peepholes[d].chunk(3)

        def step(
            state: State, inputs: State, d: int = d, peep: tuple[Tensor, ...] | None = peep
        ) -> tuple[State, Tensor]:
            running, last, memory = state
            total = inputs[0] + _product(running, recurrence[d], r_scale[d], r_zero[d])
            new, kept = lstm_cell(layer, layer.functions[3 * d : 3 * d + 3], total, memory, peep, input_forget)
            if len(inputs) == 1:
                return (new, new, kept), new
            row = torch.where(inputs[1], new, 0.0)
            return (row, torch.where(inputs[1], new, last), torch.where(inputs[1], kept, memory)), row

        first, memory = (state[d] for state in layer.states)
        (_, *final), rows = over_time(step, (first, first, memory), (gates, *live))
        columns.append(_reversed(rows, lengths) if backward else rows)
        finals.append(final)
    return layer.finished(torch.stack(columns, 1), tuple(torch.stack(parts) for parts in zip(*finals, strict=True)))


def _reversed(x: Tensor, lengths: Maybe) -> Tensor:
    """x [sequence, batch, features] with each sequence turned round within its length."""
    if lengths is None:
        return x.flip(0)
    place = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    index = torch.where(place < lengths, lengths - 1 - place, place)
    return x.gather(0, index.unsqueeze(2).expand(x.shape))


def _product(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """x over its own range as uint8, times an 8-bit weight."""
    parts = dynamic_quantize(x, outputs=3)
    assert isinstance(parts, tuple)
    codes, x_scale, x_zero = parts
    y: Tensor = integer_product(codes, weight, x_zero, zero).to(x.dtype) * (x_scale * scale)
    return y


LSTM: Table = standard(
    {"DynamicQuantizeLSTM": Lowering(function=dynamic_quantize_lstm, many=True)}, domain="com.microsoft"
)
