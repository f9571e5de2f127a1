"""LSTM, GRU and RNN with every attribute; the common form runs on torch's own kernels.

Shapes: x [sequence, batch, input], weights [directions, gates * hidden, input or hidden], bias
[directions, 2 * gates * hidden], states [directions, batch, hidden], result [sequence, directions, batch, hidden];
`layout` 1 puts batch first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from .lowering import Lowering, Table, standard

Activation = Callable[[torch.Tensor], torch.Tensor]
State = tuple[torch.Tensor, ...]
Tensor = torch.Tensor
Maybe = torch.Tensor | None

_SIMPLE: dict[str, Activation] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softsign": functional.softsign,
    "softplus": functional.softplus,
}
# name -> (function of x, alpha, beta; default alpha and beta)
_SHAPED: dict[str, tuple[Callable[[Tensor, float, float], Tensor], float, float]] = {
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: torch.where(x < 0, a * x, x), 0.01, 0.0),
    "thresholdedrelu": (lambda x, a, b: torch.where(x > a, x, 0.0), 1.0, 0.0),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: torch.where(x >= 0, x, a * torch.expm1(x)), 1.0, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What the three ops have in common."""

    direction: str
    layout: int
    clip: float | None
    activations: tuple[str, ...]
    alpha: Sequence[float]
    beta: Sequence[float]

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def plain(self, defaults: Sequence[str]) -> bool:
        return self.clip is None and self.activations == tuple(name.lower() for name in defaults) * self.directions

    def functions(self) -> list[Activation]:
        """The activations in order; alphas and betas are used up by the ones that have them."""
        alphas, betas, found = list(self.alpha), list(self.beta), []
        for name in self.activations:
            if name in _SIMPLE:
                found.append(_SIMPLE[name])
                continue
            if name not in _SHAPED:
                raise ValueError(f"unknown activation {name!r}")
            function, alpha, beta = _SHAPED[name]
            alpha = alphas.pop(0) if alphas else alpha
            beta = betas.pop(0) if betas and name in ("affine", "scaledtanh", "hardsigmoid") else beta
            found.append(partial(_shaped, function, alpha, beta))
        return found

    def limited(self, x: Tensor) -> Tensor:
        return x if self.clip is None else torch.clamp(x, -self.clip, self.clip)


def _shaped(function: Callable[[Tensor, float, float], Tensor], alpha: float, beta: float, x: Tensor) -> Tensor:
    return function(x, alpha, beta)


def _options(
    direction: str,
    layout: int,
    clip: float | None,
    activations: Sequence[str] | None,
    defaults: Sequence[str],
    alpha: Sequence[float] | None,
    beta: Sequence[float] | None,
) -> _Options:
    count = 2 if direction == "bidirectional" else 1
    names = tuple(activations) if activations else tuple(defaults) * count
    lowered = tuple(name.lower() for name in names)
    return _Options(
        direction=direction, layout=layout, clip=clip or None, activations=lowered, alpha=alpha or (), beta=beta or ()
    )


Cell = Callable[[int, Tensor, State, list[Activation]], State]


def _run(x: Tensor, lengths: Maybe, states: State, options: _Options, cell: Cell) -> tuple[Tensor, State]:
    """Step a cell over time in each direction; past a sequence's length the result is zero and the state stays."""
    per = len(options.activations) // options.directions
    functions = options.functions()
    columns: list[Tensor] = []
    finals: list[State] = []
    for d in range(options.directions):
        backward = options.direction == "reverse" or d == 1
        state = tuple(part[d] for part in states)
        rows: list[Tensor] = [x[0, :, :0]] * x.shape[0]
        for t in reversed(range(x.shape[0])) if backward else range(x.shape[0]):
            after = cell(d, x[t], state, functions[d * per : (d + 1) * per])
            if lengths is None:
                state, rows[t] = after, after[0]
            else:
                live = (t < lengths).unsqueeze(1)
                state = tuple(torch.where(live, new, old) for new, old in zip(after, state, strict=True))
                rows[t] = torch.where(live, after[0], 0.0)
        columns.append(torch.stack(rows))
        finals.append(state)
    return torch.stack(columns, 1), tuple(torch.stack(parts) for parts in zip(*finals, strict=True))


def _kernel(
    kernel: Callable[..., tuple[Tensor, ...]],
    order: Sequence[int],
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Maybe,
    states: State,
    options: _Options,
) -> tuple[Tensor, State]:
    """torch's own layer, its gates in `order` of ONNX's."""
    backward = options.direction == "reverse"
    gates = len(order)

    def ordered(part: Tensor) -> Tensor:
        return part if gates == 1 else torch.cat([part.chunk(gates)[i] for i in order])

    parameters: list[Tensor] = []
    for d in range(options.directions):
        parameters += [ordered(weight[d]), ordered(recurrence[d])]
        if bias is not None:
            parameters += [ordered(part) for part in bias[d].chunk(2)]
    start = states[0] if len(states) == 1 else list(states)
    result, *finals = kernel(
        x.flip(0) if backward else x,
        start,
        parameters,
        bias is not None,
        1,
        0.0,
        torch.is_grad_enabled(),
        options.directions == 2,
        False,
    )
    result = result.flip(0) if backward else result
    return torch.unflatten(result, -1, (options.directions, -1)).transpose(1, 2), tuple(finals)


def _start(x: Tensor, given: Maybe, hidden: int, directions: int) -> Tensor:
    return given if given is not None else x.new_zeros(directions, x.shape[1], hidden)


def _batch_second(options: _Options, x: Tensor, *states: Maybe) -> tuple[Maybe, ...]:
    if not options.layout:
        return (x, *states)
    return (x.transpose(0, 1), *(None if state is None else state.transpose(0, 1) for state in states))


def _finish(result: Tensor, finals: State, options: _Options, outputs: int) -> object:
    if options.layout:
        result = result.permute(2, 0, 1, 3)
        finals = tuple(part.transpose(0, 1) for part in finals)
    return result if outputs == 1 else (result, *finals)


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
    defaults = ("Sigmoid", "Tanh", "Tanh")
    options = _options(direction, layout, clip, activations, defaults, activation_alpha, activation_beta)
    hidden = recurrence.shape[-1]
    moved, h, c = _batch_second(options, x, initial_h, initial_c)
    assert moved is not None
    x = moved
    states = (_start(x, h, hidden, options.directions), _start(x, c, hidden, options.directions))
    if options.plain(defaults) and lengths is None and peepholes is None and not input_forget:
        result, finals = _kernel(torch.lstm, (0, 2, 3, 1), x, weight, recurrence, bias, states, options)
        return _finish(result, finals, options, outputs)

    def cell(d: int, step: Tensor, state: State, functions: list[Activation]) -> State:
        f, g, h = functions
        last, memory = state
        total = step @ weight[d].T + last @ recurrence[d].T
        if bias is not None:
            total = total + sum(bias[d].chunk(2), torch.zeros_like(total))
        i, o, forget, new = total.chunk(4, -1)
        peep = peepholes[d].chunk(3) if peepholes is not None else None
        if peep is not None:
            i, forget = i + peep[0] * memory, forget + peep[2] * memory
        i = f(options.limited(i))
        keep = 1 - i if input_forget else f(options.limited(forget))
        memory = keep * memory + i * g(options.limited(new))
        if peep is not None:
            o = o + peep[1] * memory
        return f(options.limited(o)) * h(memory), memory

    result, finals = _run(x, lengths, states, options, cell)
    return _finish(result, finals, options, outputs)


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
    defaults = ("Sigmoid", "Tanh")
    options = _options(direction, layout, clip, activations, defaults, activation_alpha, activation_beta)
    moved, h = _batch_second(options, x, initial_h)
    assert moved is not None
    x = moved
    states = (_start(x, h, recurrence.shape[-1], options.directions),)
    if options.plain(defaults) and lengths is None and linear_before_reset:
        result, finals = _kernel(torch.gru, (1, 0, 2), x, weight, recurrence, bias, states, options)
        return _finish(result, finals, options, outputs)

    def cell(d: int, step: Tensor, state: State, functions: list[Activation]) -> State:
        f, g = functions
        (last,) = state
        wz, wr, wh = (step @ weight[d].T).chunk(3, -1)
        rz, rr, rh = recurrence[d].chunk(3)
        zeros = weight.new_zeros(3 * recurrence.shape[-1])
        wb, rb = bias[d].chunk(2) if bias is not None else (zeros, zeros)
        (bz, br, bh), (cz, cr, ch) = wb.chunk(3), rb.chunk(3)
        z = f(options.limited(wz + last @ rz.T + bz + cz))
        r = f(options.limited(wr + last @ rr.T + br + cr))
        recalled = r * (last @ rh.T + ch) if linear_before_reset else (r * last) @ rh.T + ch
        new = g(options.limited(wh + recalled + bh))
        return ((1 - z) * new + z * last,)

    result, finals = _run(x, lengths, states, options, cell)
    return _finish(result, finals, options, outputs)


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
    options = _options(direction, layout, clip, activations, ("Tanh",), activation_alpha, activation_beta)
    moved, h = _batch_second(options, x, initial_h)
    assert moved is not None
    x = moved
    states = (_start(x, h, recurrence.shape[-1], options.directions),)
    if options.plain(("Tanh",)) and lengths is None:
        result, finals = _kernel(torch.rnn_tanh, (0,), x, weight, recurrence, bias, states, options)
        return _finish(result, finals, options, outputs)

    def cell(d: int, step: Tensor, state: State, functions: list[Activation]) -> State:
        total = step @ weight[d].T + state[0] @ recurrence[d].T
        if bias is not None:
            total = total + sum(bias[d].chunk(2), torch.zeros_like(total))
        return (functions[0](options.limited(total)),)

    result, finals = _run(x, lengths, states, options, cell)
    return _finish(result, finals, options, outputs)


RECURRENT: Table = standard(
    {
        "LSTM": Lowering(function=lstm, many=True),
        "GRU": Lowering(function=gru, many=True),
        "RNN": Lowering(function=rnn, many=True),
    }
)
