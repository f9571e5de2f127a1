"""What LSTM, GRU and RNN have in common: their attributes checked, their activations, their tensors in one order.

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

from ..flow.steps import State, over_time

Tensor = torch.Tensor
Maybe = torch.Tensor | None
Activation = Callable[[Tensor], Tensor]
Cell = Callable[[Tensor, State, Sequence[Activation]], State]
"""(input's share of the gates [batch, gates * hidden], state, activations) -> state, the hidden one first."""

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_SIMPLE: dict[str, Activation] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softsign": functional.softsign,
    "softplus": functional.softplus,
}


def _affine(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def _leaky_relu(x: Tensor, *, alpha: float) -> Tensor:
    return torch.where(x < 0, alpha * x, x)


def _thresholded_relu(x: Tensor, *, alpha: float) -> Tensor:
    return torch.where(x > alpha, x, 0.0)


def _scaled_tanh(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def _hard_sigmoid(x: Tensor, *, alpha: float, beta: float) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def _elu(x: Tensor, *, alpha: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * torch.expm1(x))


_SHAPED: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "affine": (_affine, {"alpha": 1.0, "beta": 0.0}),
    "leakyrelu": (_leaky_relu, {"alpha": 0.01}),
    "thresholdedrelu": (_thresholded_relu, {"alpha": 1.0}),
    "scaledtanh": (_scaled_tanh, {"alpha": 1.0, "beta": 1.0}),
    "hardsigmoid": (_hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "elu": (_elu, {"alpha": 1.0}),
}
"""Name -> function and what it is told where the node does not say."""


def activations(
    names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None
) -> tuple[Activation, ...]:
    """The functions in order; alphas and betas are used up by the ones that take them."""
    given = {"alpha": list(alphas or ()), "beta": list(betas or ())}
    found: list[Activation] = []
    for name in names:
        if name in _SIMPLE:
            found.append(_SIMPLE[name])
            continue
        if name not in _SHAPED:
            raise ValueError(f"unknown activation {name!r}, expected one of {', '.join((*_SIMPLE, *_SHAPED))}")
        function, usual = _SHAPED[name]
        found.append(partial(function, **{key: given[key].pop(0) if given[key] else usual[key] for key in usual}))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What the three ops have in common, as their nodes say it."""

    activation_alpha: Sequence[float] | None
    activation_beta: Sequence[float] | None
    activations: Sequence[str] | None
    clip: float | None
    direction: str
    hidden_size: int | None
    layout: int
    outputs: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer ready to run, batch second; `plain` says that no attribute keeps it from torch's own kernels."""

    x: Tensor
    weight: Tensor
    recurrence: Tensor
    bias: Maybe
    lengths: Maybe
    states: State
    backward: tuple[bool, ...]
    names: tuple[str, ...]
    functions: tuple[Activation, ...]
    clip: float | None
    layout: int
    outputs: int

    @classmethod
    def of(
        cls,
        x: Tensor,
        weight: Tensor,
        recurrence: Tensor,
        bias: Maybe,
        lengths: Maybe,
        initial: Sequence[Maybe],
        usual: Sequence[str],
        attributes: Attributes,
    ) -> Layer:
        """`initial` are the states to start from, zero where there is none, and `usual` the activations of one
        direction. Raises ValueError where weights and attributes contradict each other."""
        hidden, direction = recurrence.shape[-1], attributes.direction
        if direction not in _DIRECTIONS:
            raise ValueError(f"direction is {direction!r}, expected {', '.join(_DIRECTIONS)}")
        backward = _DIRECTIONS[direction]
        if attributes.hidden_size not in (None, hidden):
            raise ValueError(f"hidden_size is {attributes.hidden_size}, the recurrence weight is of {hidden}")
        if weight.shape[0] != len(backward) or recurrence.shape[0] != len(backward):
            raise ValueError(f"direction {direction!r} takes weights [{len(backward)}, ...], not {list(weight.shape)}")
        names = tuple(name.lower() for name in attributes.activations or (*usual,) * len(backward))
        if len(names) != len(usual) * len(backward):
            raise ValueError(f"{len(names)} activations, expected {len(usual) * len(backward)}")
        if attributes.layout:
            x = x.transpose(0, 1)
            initial = [None if state is None else state.transpose(0, 1) for state in initial]
        empty = x.new_zeros(len(backward), x.shape[1], hidden) if None in initial else x
        return cls(
            x=x,
            weight=weight,
            recurrence=recurrence,
            bias=bias,
            lengths=lengths,
            states=tuple(empty if state is None else state for state in initial),
            backward=backward,
            names=names,
            functions=activations(names, attributes.activation_alpha, attributes.activation_beta),
            clip=attributes.clip or None,
            layout=attributes.layout,
            outputs=attributes.outputs,
        )

    def plain(self, *names: str) -> bool:
        """Whether torch's own kernel of these activations does it: one direction's, the same in both."""
        static = isinstance(self.x.shape[0], int)
        usual = self.clip is None and self.lengths is None
        return static and usual and self.names == names * len(self.backward)

    def limited(self, x: Tensor) -> Tensor:
        return x if self.clip is None else torch.clamp(x, -self.clip, self.clip)

    def stepped(self, cell: Callable[[int], Cell], joined: Callable[[Tensor, Tensor], Tensor]) -> object:
        """Step the cell of each direction over time; past a sequence's length the result is zero and the state stays.

        `joined` is what of the two biases [gates * hidden] belongs to the input's share of the gates.
        """
        per = len(self.functions) // len(self.backward)
        columns, finals = [], []
        live = None
        if self.lengths is not None:
            steps = torch.arange(self.x.shape[0], device=self.x.device)
            live = (steps.unsqueeze(1) < self.lengths).unsqueeze(2)
        for d, backward in enumerate(self.backward):
            gates = self.x @ self.weight[d].T
            if self.bias is not None:
                gates = gates + joined(*self.bias[d].chunk(2))
            one = partial(_one, cell(d), self.functions[d * per : (d + 1) * per])
            inputs = (gates,) if live is None else (gates, live)
            final, rows = over_time(one, tuple(state[d] for state in self.states), inputs, backward=backward)
            columns.append(rows)
            finals.append(final)
        return self.finished(torch.stack(columns, 1), tuple(torch.stack(parts) for parts in zip(*finals, strict=True)))

    def finished(self, result: Tensor, finals: State) -> object:
        """The op's outputs."""
        if self.layout:
            result = result.permute(2, 0, 1, 3)
            finals = tuple(part.transpose(0, 1) for part in finals)
        return result if self.outputs == 1 else (result, *finals)


def lstm_cell(
    layer: Layer,
    functions: Sequence[Activation],
    gates: Tensor,
    memory: Tensor,
    peepholes: tuple[Tensor, ...] | None,
    input_forget: int,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: the hidden state and the memory after it.

    gates [batch, 4 hidden], both products and the biases summed, in the order input, output, forget, cell; peepholes
    of input, output and forget, [hidden] each.
    """
    f, g, h = functions
    i, o, forget, new = gates.chunk(4, -1)
    if peepholes is not None:
        i, forget = i + peepholes[0] * memory, forget + peepholes[2] * memory
    i = f(layer.limited(i))
    keep = 1 - i if input_forget else f(layer.limited(forget))
    memory = keep * memory + i * g(layer.limited(new))
    if peepholes is not None:
        o = o + peepholes[1] * memory
    return f(layer.limited(o)) * h(memory), memory


def _one(cell: Cell, functions: Sequence[Activation], state: State, inputs: State) -> tuple[State, Tensor]:
    after = cell(inputs[0], state, functions)
    if len(inputs) == 1:
        return after, after[0]
    live = inputs[1]
    kept = tuple(torch.where(live, new, old) for new, old in zip(after, state, strict=True))
    return kept, torch.where(live, after[0], 0.0)
