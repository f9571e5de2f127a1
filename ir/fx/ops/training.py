"""ai.onnx.preview.training: steps of optimizers, and the gradient of a value of the graph."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import onnx_ir as oir
import torch

from ...errors import ModelError
from ...text import place
from ..flow.control import EmitNodes, Form
from ..flow.iterate import Module
from ..lowering import Key, Lowering, Table, standard
from ..scope import Body, Held, OnDevice, Scope

DOMAIN = "ai.onnx.preview.training"


def _rows(inputs: Sequence[torch.Tensor], kinds: int) -> list[tuple[torch.Tensor, ...]]:
    """All values, then all gradients, then all of each state: one row a tensor that is optimized."""
    count, rest = divmod(len(inputs), kinds)
    if rest:
        raise ValueError(f"there are {len(inputs)} tensors after R and T; expected {kinds} for each that is optimized")
    return [tuple(inputs[i::count]) for i in range(count)]


def _columns(rows: Sequence[tuple[torch.Tensor, ...]]) -> object:
    return tuple(value for column in zip(*rows, strict=True) for value in column)


def adagrad(
    rate: torch.Tensor,
    count: torch.Tensor,
    *inputs: torch.Tensor,
    norm_coefficient: float = 0.0,
    decay_factor: float = 0.0,
    epsilon: float = 1e-6,
    outputs: int,
) -> object:
    """New values, new sums of squared gradients."""
    step = rate / (1 + count * decay_factor)
    rows = []
    for x, gradient, squares in _rows(inputs, 3):
        g = norm_coefficient * x + gradient
        total = squares + g * g
        rows.append((x - step * g / (total.sqrt() + epsilon), total))
    return _columns(rows)


def adam(
    rate: torch.Tensor,
    count: torch.Tensor,
    *inputs: torch.Tensor,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
    outputs: int,
) -> object:
    """New values, new averages of gradients, new averages of squared gradients."""
    t = count.to(rate.dtype)
    first = torch.where(t > 0, t, 1)
    step = torch.where(t > 0, rate * torch.sqrt(1 - beta**first) / (1 - alpha**first), rate)
    rows = []
    for x, gradient, average, squares in _rows(inputs, 4):
        g = norm_coefficient * x + gradient
        v = alpha * average + (1 - alpha) * g
        h = beta * squares + (1 - beta) * g * g
        new = x - step * v / (h.sqrt() + epsilon)
        rows.append(((1 - norm_coefficient_post) * new, v, h))
    return _columns(rows)


def momentum(
    rate: torch.Tensor,
    count: torch.Tensor,
    *inputs: torch.Tensor,
    alpha: float,
    beta: float,
    mode: str,
    norm_coefficient: float,
    outputs: int,
) -> object:
    """New values, new momenta. Raises ValueError for a mode other than standard and nesterov."""
    if mode not in ("standard", "nesterov"):
        raise ValueError(f"mode is {mode!r}; ONNX has standard and nesterov")
    scale = torch.where(count > 0, beta, 1.0).to(rate.dtype)
    rows = []
    for x, gradient, velocity in _rows(inputs, 3):
        g = norm_coefficient * x + gradient
        v = alpha * velocity + scale * g
        rows.append((x - rate * (g + alpha * v if mode == "nesterov" else v), v))
    return _columns(rows)


def gradient(
    body: Module, inputs: Sequence[torch.Tensor], fixed: Sequence[object], captured: Sequence[object]
) -> tuple[torch.Tensor, ...]:
    """Gradient: the sum of the body's result, differentiated by each input; zero by those it does not depend on."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        points = [x if again and x.requires_grad else x.detach().requires_grad_() for x in inputs]
        y = body(*points, *fixed, *captured)
        assert isinstance(y, torch.Tensor)
        if not y.requires_grad:
            return tuple(map(torch.zeros_like, points))
        found = torch.autograd.grad(y.sum(), points, create_graph=again, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(points, found, strict=True))


def emit_gradient(node: oir.Node, scope: Scope, emit: EmitNodes) -> Sequence[Held]:
    """The nodes between the named values and y, once more, as a body of their own."""
    by, fixed = (list(node.attributes[name].as_strings()) if name in node.attributes else [] for name in ("xs", "zs"))
    target = node.attributes["y"].as_string()
    assert node.graph is not None
    values = {value.name: value for value in node.graph.inputs}
    values |= {value.name: value for other in node.graph for value in other.outputs}
    values |= {value.name: value for value in getattr(node.graph, "initializers", {}).values()}
    for name in (*by, *fixed, target):
        if name not in values:
            raise ModelError(f"{place(node)}: there is no value {name!r} to differentiate; it names xs, zs and y")
    inner = scope.inside(Body(outer=scope.body, copy=scope.body.copy))
    for name in (*by, *fixed):
        inner.values[values[name]] = OnDevice(inner.body.placeholder(name, place(node)))
    emit(_between(values[target], set(inner.values), node.graph), inner)
    inner.body.graph.output(inner.body.tensor(inner.get(values[target])))
    names = [scope.name(value) for value in node.outputs]
    name, source = f"({', '.join(names)})", place(node)
    entry = scope.body.submodule(inner.body.module(), "gradient", name, source)
    given = [scope.body.tensor(scope.get(value)) for value in node.inputs if value is not None]
    args = (entry, tuple(given[: len(by)]), tuple(given[len(by) :]), tuple(inner.body.captured))
    call = scope.body.call(gradient, args, name, source, tap=False)
    return [OnDevice(scope.body.call(operator.getitem, (call, i), name, source)) for i, name in enumerate(names)]


def _between(target: oir.Value, stop: set[oir.Value], graph: oir.Graph | oir.Function) -> list[oir.Node]:
    """The nodes that lead to a value, in the graph's order, without those behind the values to stop at."""
    found: set[oir.Node] = set()
    ahead = [target]
    while ahead:
        value = ahead.pop()
        producer = None if value in stop else value.producer()
        if producer is not None and producer not in found:
            found.add(producer)
            ahead.extend(x for x in producer.inputs if x is not None)
    return [node for node in graph if node in found]


TRAINING: Table = standard(
    {
        "Adagrad": Lowering(function=adagrad, many=True),
        "Adam": Lowering(function=adam, many=True),
        "Momentum": Lowering(function=momentum, many=True),
    },
    domain=DOMAIN,
)
TRAINING_FORMS: dict[Key, Form] = {(DOMAIN, "Gradient", 1): emit_gradient}
