"""LSTM with 8-bit weights (domain com.microsoft).

Shapes: x [sequence, batch, input], weights [directions, input or hidden, 4 hidden], bias [directions, 8 hidden], states
[directions, batch, hidden]; gates in ONNX's order: input, output, forget, cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...kernels.products import integer_product
from ...lowering import Lowering, Table, standard
from ..quant import dynamic_quantize
from .arithmetic import activated

Tensor = torch.Tensor
Maybe = torch.Tensor | None
Activation = Callable[[Tensor], Tensor]
_DEFAULT = ("Sigmoid", "Tanh", "Tanh")
_WITH_BETA = ("hardsigmoid",)
_WITH_ALPHA = ("leakyrelu", "thresholdedrelu", "elu", *_WITH_BETA)


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
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    outputs: int,
) -> object:
    """Both products are of 8-bit integers: the input is quantized over its whole range, the state at every step.

    Scales and zero points of the weights are [directions] or [directions, 4 hidden].
    """
    functions = _functions(activations or _DEFAULT * weight.shape[0], activation_alpha, activation_beta)
    hidden = recurrence.shape[1]
    empty = x.new_zeros(weight.shape[0], x.shape[1], hidden)
    h0, c0 = (empty if given is None else given for given in (initial_h, initial_c))
    columns, finals = [], []
    for d in range(weight.shape[0]):
        gates = _product(x, weight[d], w_scale[d], w_zero[d])
        if bias is not None:
            gates = gates + bias[d, : 4 * hidden] + bias[d, 4 * hidden :]
        f, g, h = functions[3 * d : 3 * d + 3]
        backward = direction == "reverse" or d == 1
        state, memory = h0[d], c0[d]
        rows: list[Tensor] = [state] * x.shape[0]
        for t in reversed(range(x.shape[0])) if backward else range(x.shape[0]):
            total = gates[t] + _product(state, recurrence[d], r_scale[d], r_zero[d])
            peep = None if peepholes is None else peepholes[d].chunk(3)
            new, kept = _cell(total, memory, peep, (f, g, h), clip, input_forget)
            if lengths is None:
                state, memory, rows[t] = new, kept, new
            else:
                live = (t < lengths).unsqueeze(1)
                state, memory = torch.where(live, new, state), torch.where(live, kept, memory)
                rows[t] = torch.where(live, new, 0.0)
        columns.append(torch.stack(rows))
        finals.append((state, memory))
    y = torch.stack(columns, 1)
    last, memories = (torch.stack(parts) for parts in zip(*finals, strict=True))
    return y if outputs == 1 else (y, last, memories)[:outputs]


def _functions(names: Sequence[str], alpha: Sequence[float], beta: Sequence[float]) -> list[Activation]:
    """The activations in order; alphas and betas are used up by those that have them."""
    alphas, betas, found = list(alpha), list(beta), []
    for name in names:
        parameters = [alphas.pop(0)] if name.lower() in _WITH_ALPHA and alphas else []
        parameters += [betas.pop(0)] if name.lower() in _WITH_BETA and parameters and betas else []
        found.append(_named(name, parameters))
    return found


def _named(name: str, parameters: Sequence[float]) -> Activation:
    return lambda x: activated(x, name, parameters)


def _product(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """x over its own range as uint8, times an 8-bit weight."""
    parts = dynamic_quantize(x, outputs=3)
    assert isinstance(parts, tuple)
    codes, x_scale, x_zero = parts
    y: Tensor = integer_product(codes, weight, x_zero, zero).to(x.dtype) * (x_scale * scale)
    return y


def _cell(
    total: Tensor,
    memory: Tensor,
    peep: tuple[Tensor, ...] | None,
    functions: tuple[Activation, Activation, Activation],
    clip: float,
    input_forget: int,
) -> tuple[Tensor, Tensor]:
    """One step: the new state and memory."""
    f, g, h = functions
    i, o, forget, new = total.chunk(4, -1)
    if peep is not None:
        i, forget = i + peep[0] * memory, forget + peep[2] * memory
    i = f(_limited(i, clip))
    keep = 1 - i if input_forget else f(_limited(forget, clip))
    memory = keep * memory + i * g(_limited(new, clip))
    if peep is not None:
        o = o + peep[1] * memory
    return f(_limited(o, clip)) * h(memory), memory


def _limited(x: Tensor, clip: float) -> Tensor:
    return x.clamp(-clip, clip) if clip else x


LSTM: Table = standard(
    {"DynamicQuantizeLSTM": Lowering(function=dynamic_quantize_lstm, many=True)}, domain="com.microsoft"
)
