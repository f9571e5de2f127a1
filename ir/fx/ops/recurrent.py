"""LSTM, GRU and RNN with every attribute; the common form runs on torch's own kernels.

Shapes: x [sequence, batch, input], weights [directions, gates * hidden, input or hidden], bias
[directions, 2 * gates * hidden], states [directions, batch, hidden], result [sequence, directions, batch, hidden];
`layout` 1 puts batch first. torch.export fixes the length that a kernel of torch's sees, so where it has one that is no
number, the layer is stepped.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch

from ..flow.steps import State
from ..lowering import Lowering, Table, standard
from .cells import Activation, Attributes, Cell, Layer, lstm_cell

Tensor = torch.Tensor
Maybe = torch.Tensor | None


def _kernel(kernel: Callable[..., tuple[Tensor, ...]], order: Sequence[int], layer: Layer) -> object:
    """torch's own layer, its gates in `order` of ONNX's."""

    def ordered(part: Tensor) -> Tensor:
        gates = part.chunk(len(order))
        return torch.cat([gates[i] for i in order]) if len(order) > 1 else part

    _check_states(layer)
    parameters: list[Tensor] = []
    for d in range(len(layer.backward)):
        parameters += [ordered(layer.weight[d]), ordered(layer.recurrence[d])]
        if layer.bias is not None:
            parameters += [ordered(part) for part in layer.bias[d].chunk(2)]
    reverse = layer.backward == (True,)
    result, *finals = kernel(
        layer.x.flip(0) if reverse else layer.x,
        layer.states[0] if len(layer.states) == 1 else list(layer.states),
        parameters,
        layer.bias is not None,
        1,
        0.0,
        torch.is_grad_enabled(),
        len(layer.backward) == 2,
        False,
    )
    result = result.flip(0) if reverse else result
    columns = torch.unflatten(result, -1, (len(layer.backward), -1)).transpose(1, 2)
    return layer.finished(columns, tuple(finals))


def _check_states(layer: Layer) -> None:
    """Raise ValueError for states of wrong sizes: torch's kernels read past their end."""
    expected = (len(layer.backward), layer.x.shape[1], layer.recurrence.shape[-1])
    for state in layer.states:
        pairs = [(a, b) for a, b in zip(state.shape, expected, strict=False) if type(a) is int and type(b) is int]
        if state.dim() != 3 or any(a != b for a, b in pairs):
            raise ValueError(f"initial states are {list(state.shape)}, expected {list(expected)}")


def lstm(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Maybe = None,
    lengths: Maybe = None,
    initial_h: Maybe = None,
    initial_c: Maybe = None,
    peepholes: Maybe = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    outputs: int,
) -> object:
    """Gates in ONNX's order: input, output, forget, cell."""
    attributes = Attributes(
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        activations=activations,
        clip=clip,
        direction=direction,
        hidden_size=hidden_size,
        layout=layout,
        outputs=outputs,
    )
    usual = ("Sigmoid", "Tanh", "Tanh")
    layer = Layer.of(x, weight, recurrence, bias, lengths, (initial_h, initial_c), usual, attributes)
    if layer.plain("sigmoid", "tanh", "tanh") and peepholes is None and not input_forget:
        return _kernel(torch.lstm, (0, 2, 3, 1), layer)

    def cell(d: int) -> Cell:
        peep = peepholes[d].chunk(3) if peepholes is not None else None
        weights = recurrence[d].T

        def step(gates: Tensor, state: State, functions: Sequence[Activation]) -> State:
            last, memory = state
            return lstm_cell(layer, functions, gates + last @ weights, memory, peep, input_forget)

        return step

    return layer.stepped(cell, operator.add)


def gru(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Maybe = None,
    lengths: Maybe = None,
    initial_h: Maybe = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    outputs: int,
) -> object:
    """Gates in ONNX's order: update, reset, hidden."""
    attributes = Attributes(
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        activations=activations,
        clip=clip,
        direction=direction,
        hidden_size=hidden_size,
        layout=layout,
        outputs=outputs,
    )
    layer = Layer.of(x, weight, recurrence, bias, lengths, (initial_h,), ("Sigmoid", "Tanh"), attributes)
    if layer.plain("sigmoid", "tanh") and linear_before_reset:
        return _kernel(torch.gru, (1, 0, 2), layer)
    hidden = recurrence.shape[-1]

    def cell(d: int) -> Cell:
        weights = recurrence[d].T
        shift = bias[d][5 * hidden :] if bias is not None else recurrence.new_zeros(hidden)

        def step(gates: Tensor, state: State, functions: Sequence[Activation]) -> State:
            f, g = functions
            (last,) = state
            wide, wh = gates[:, : 2 * hidden], gates[:, 2 * hidden :]
            if linear_before_reset:
                share = last @ weights
                wide, rest = wide + share[:, : 2 * hidden], share[:, 2 * hidden :] + shift
            else:
                wide, rest = wide + last @ weights[:, : 2 * hidden], last
            z, r = f(layer.limited(wide)).chunk(2, -1)
            recalled = r * rest if linear_before_reset else (r * rest) @ weights[:, 2 * hidden :]
            new = g(layer.limited(wh + recalled))
            return ((1 - z) * new + z * last,)

        return step

    def joined(w: Tensor, r: Tensor) -> Tensor:
        # the reset gate scales the hidden gate's second bias where it is linear before it
        return torch.cat([w[: 2 * hidden] + r[: 2 * hidden], w[2 * hidden :]]) if linear_before_reset else w + r

    return layer.stepped(cell, joined)


def rnn(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Maybe = None,
    lengths: Maybe = None,
    initial_h: Maybe = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    outputs: int,
) -> object:
    """One gate: h = f(x W^T + h R^T + b)."""
    attributes = Attributes(
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        activations=activations,
        clip=clip,
        direction=direction,
        hidden_size=hidden_size,
        layout=layout,
        outputs=outputs,
    )
    layer = Layer.of(x, weight, recurrence, bias, lengths, (initial_h,), ("Tanh",), attributes)
    for name, kernel in (("tanh", torch.rnn_tanh), ("relu", torch.rnn_relu)):
        if layer.plain(name):
            return _kernel(kernel, (0,), layer)

    def cell(d: int) -> Cell:
        weights = recurrence[d].T

        def step(gates: Tensor, state: State, functions: Sequence[Activation]) -> State:
            return (functions[0](layer.limited(gates + state[0] @ weights)),)

        return step

    return layer.stepped(cell, operator.add)


RECURRENT: Table = standard(
    {
        "LSTM": Lowering(function=lstm, many=True),
        "GRU": Lowering(function=gru, many=True),
        "RNN": Lowering(function=rnn, many=True),
    }
)
