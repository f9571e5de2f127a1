"""Constants and control flow: the ops that are not a function of their inputs alone.

`If` picks one of two submodules and `Loop` and `Scan` run one over and over, in plain Python; what a body uses from
outside is passed to it. A condition known while emitting leaves only its branch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import onnx_ir as oir
import torch
from torch import fx

from ..errors import UnsupportedError
from ..text import place
from .host import Nested, flat
from .lowering import Key
from .scope import Body, Held, OnDevice, OnHost, Scope, constant

EmitNodes = Callable[[oir.Graph, Scope], None]
Form = Callable[[oir.Node, Scope, EmitNodes], Sequence[Held]]
Module = Callable[..., object]
"""A body: an `fx.GraphModule`, or the interpreter that stands in for one."""


def branch(
    condition: torch.Tensor | Nested,
    then: Module,
    otherwise: Module,
    then_inputs: Sequence[object],
    else_inputs: Sequence[object],
) -> object:
    """If: run one of two bodies."""
    return then(*then_inputs) if _truth(condition) else otherwise(*else_inputs)


def loop(
    body: Module,
    trips: torch.Tensor | Nested | None,
    condition: torch.Tensor | Nested | None,
    carried: Sequence[object],
    captured: Sequence[object],
) -> tuple[object, ...]:
    """Loop: carried values as they leave the last iteration, then each scanned output stacked on a new first axis."""
    limit = None if trips is None else int(_scalar(trips))
    go = condition is None or _truth(condition)
    rows: list[tuple[object, ...]] = []
    step, count = 0, len(carried)
    while go and (limit is None or step < limit):
        results = _sequence(body(step, torch.tensor(go), *carried, *captured))
        go, carried = _truth(results[0]), results[1 : 1 + count]
        rows.append(tuple(results[1 + count :]))
        step += 1
    return (*carried, *(_stack(column, 0) for column in zip(*rows, strict=True)))


def scan(
    body: Module,
    state: Sequence[object],
    inputs: Sequence[torch.Tensor],
    captured: Sequence[object],
    input_axes: Sequence[int],
    input_backward: Sequence[int],
    output_axes: Sequence[int],
    output_backward: Sequence[int],
) -> tuple[object, ...]:
    """Scan (opset 9 and later): final state, then each output stacked along its axis."""
    columns = [
        list(x.unbind(axis))[:: -1 if backward else 1]
        for x, axis, backward in zip(inputs, input_axes, input_backward, strict=True)
    ]
    rows: list[tuple[object, ...]] = []
    for parts in zip(*columns, strict=True):
        results = _sequence(body(*state, *parts, *captured))
        state = results[: len(state)]
        rows.append(tuple(results[len(state) :]))
    outputs = [
        _stack(column[:: -1 if backward else 1], axis)
        for column, axis, backward in zip(zip(*rows, strict=True), output_axes, output_backward, strict=True)
    ]
    return (*state, *outputs)


def _scalar(value: torch.Tensor | Nested) -> int | bool:
    leaf = value.item() if isinstance(value, torch.Tensor) else flat(value)[0]
    assert isinstance(leaf, int)
    return leaf


def _truth(value: object) -> bool:
    assert isinstance(value, torch.Tensor | list | int)
    return bool(_scalar(value))


def _sequence(results: object) -> Sequence[object]:
    return results if isinstance(results, tuple | list) else (results,)


def _stack(column: Sequence[object], axis: int) -> torch.Tensor:
    tensors = [part for part in column if isinstance(part, torch.Tensor)]
    return torch.stack(tensors, axis)


def emit_constant(node: oir.Node, scope: Scope, _: EmitNodes) -> Sequence[Held]:
    """Constant: stored, not trainable, or shape arithmetic where it is small and integer."""
    name, attribute = next(iter(node.attributes.items()))
    if attribute.is_ref():
        attribute = scope.attributes[attribute.ref_attr_name or ""]
    if name == "value":
        tensor = attribute.as_tensor()
    elif name in ("value_int", "value_ints"):
        tensor = oir.tensor(attribute.value, dtype=oir.DataType.INT64)
    elif name in ("value_float", "value_floats"):
        tensor = oir.tensor(attribute.value, dtype=oir.DataType.FLOAT)
    else:
        raise UnsupportedError(
            f"{place(node)}: {name} is not supported; store the constant as a dense tensor of numbers"
        )
    return [constant(tensor, scope.name(node.outputs[0]), trainable=False)]


def emit_if(node: oir.Node, scope: Scope, emit: EmitNodes) -> Sequence[Held]:
    """If: the branch itself where the condition is known, else a choice at run time."""
    assert node.inputs[0] is not None
    condition = scope.get(node.inputs[0])
    graphs = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    if isinstance(condition, OnHost) and condition.literal:
        taken = graphs[0 if _truth(condition.value) else 1]
        inner = scope.inside()
        inner.names.update({value: scope.name(out) for value, out in zip(taken.outputs, node.outputs, strict=True)})
        emit(taken, inner)
        return [inner.get(value) for value in taken.outputs]
    scopes = [scope.inside(Body(outer=scope.body, copy=scope.body.copy)) for _ in graphs]
    for graph, inner in zip(graphs, scopes, strict=True):
        emit(graph, inner)
    results = [[inner.get(value) for value in graph.outputs] for graph, inner in zip(graphs, scopes, strict=True)]
    types = [_common(a, b) for a, b in zip(*results, strict=True)]
    modules = [
        _finish(inner, [_as(inner.body, held, dtype) for held, dtype in zip(row, types, strict=True)])
        for inner, row in zip(scopes, results, strict=True)
    ]
    name, source = _names(node, scope), place(node)
    bodies = [
        scope.body.submodule(module, kind, name, source) for module, kind in zip(modules, ("then", "else"), strict=True)
    ]
    value = condition.value if isinstance(condition, OnHost) else scope.body.tensor(condition)
    captured = [tuple(inner.body.captured) for inner in scopes]
    call = scope.body.call(branch, (value, *bodies, *captured), name, source, tap=len(node.outputs) == 1)
    parts = _split(call, node, scope)
    return [
        OnDevice(part) if dtype is None else OnHost(part, dtype, static=False, name=scope.name(out))
        for part, dtype, out in zip(parts, types, node.outputs, strict=True)
    ]


def emit_loop(node: oir.Node, scope: Scope, emit: EmitNodes) -> Sequence[Held]:
    """Loop; the iteration number is a Python int."""
    trips, condition, *carried = [scope.optional(value) for value in node.inputs]
    graph = node.attributes["body"].as_graph()
    inner = scope.inside(Body(outer=scope.body, copy=scope.body.copy))
    for index, value in enumerate(graph.inputs):
        entry = inner.body.placeholder(value.name or "", place(node), host=index == 0)
        inner.values[value] = (
            OnHost(entry, oir.DataType.INT64, static=True, name=value.name or "") if index == 0 else OnDevice(entry)
        )
    emit(graph, inner)
    module = _finish(inner, [inner.body.tensor(inner.get(value)) for value in graph.outputs])
    name, source = _names(node, scope), place(node)
    entry = scope.body.submodule(module, "loop", name, source)
    bounds = [None if held is None else scope.body.ints(held) for held in (trips, condition)]
    start = tuple(scope.body.tensor(held) for held in carried if held is not None)
    call = scope.body.call(loop, (entry, *bounds, start, tuple(inner.body.captured)), name, source, tap=False)
    return [OnDevice(part) for part in _split(call, node, scope, always=True)]


def emit_scan(node: oir.Node, scope: Scope, emit: EmitNodes) -> Sequence[Held]:
    """Scan over tensors."""
    graph = node.attributes["body"].as_graph()
    scanned = node.attributes["num_scan_inputs"].as_int()
    held = [scope.body.tensor(scope.get(value)) for value in node.inputs if value is not None]
    states = len(held) - scanned
    inner = scope.inside(Body(outer=scope.body, copy=scope.body.copy))
    for value in graph.inputs:
        inner.values[value] = OnDevice(inner.body.placeholder(value.name or "", place(node)))
    emit(graph, inner)
    module = _finish(inner, [inner.body.tensor(inner.get(value)) for value in graph.outputs])

    def ints(name: str, count: int) -> tuple[int, ...]:
        return tuple(node.attributes[name].as_ints()) if name in node.attributes else (0,) * count

    produced = len(graph.outputs) - states
    name, source = _names(node, scope), place(node)
    entry = scope.body.submodule(module, "scan", name, source)
    call = scope.body.call(
        scan,
        (
            entry,
            tuple(held[:states]),
            tuple(held[states:]),
            tuple(inner.body.captured),
            ints("scan_input_axes", scanned),
            ints("scan_input_directions", scanned),
            ints("scan_output_axes", produced),
            ints("scan_output_directions", produced),
        ),
        name,
        source,
        tap=False,
    )
    return [OnDevice(part) for part in _split(call, node, scope, always=True)]


def _common(a: Held, b: Held) -> oir.DataType | None:
    """The host type both branches give, or None where the value goes through tensors."""
    return a.dtype if isinstance(a, OnHost) and isinstance(b, OnHost) and a.dtype == b.dtype else None


def _as(body: Body, held: Held, dtype: oir.DataType | None) -> object:
    return held.value if dtype is not None and isinstance(held, OnHost) else body.tensor(held)


def _finish(scope: Scope, results: Sequence[object]) -> fx.GraphModule:
    scope.body.graph.output(results[0] if len(results) == 1 else tuple(results))  # type: ignore[arg-type]
    return scope.body.module()


def _names(node: oir.Node, scope: Scope) -> str:
    names = [scope.name(value) for value in node.outputs]
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def _split(call: fx.Node, node: oir.Node, scope: Scope, *, always: bool = False) -> list[fx.Node]:
    if len(node.outputs) == 1 and not always:
        return [call]
    return [
        scope.body.call(operator.getitem, (call, i), scope.name(value), place(node))
        for i, value in enumerate(node.outputs)
    ]


FORMS: dict[Key, Form] = {
    ("", "Constant", 1): emit_constant,
    ("", "If", 1): emit_if,
    ("", "Loop", 1): emit_loop,
    ("", "Scan", 9): emit_scan,
}
