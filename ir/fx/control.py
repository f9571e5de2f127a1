"""Constants and control flow: the ops that are not a function of their inputs alone.

`If` picks one of two submodules and `Loop` and `Scan` run one over and over, in plain Python; what a body uses from
outside is passed to it. A condition known while emitting leaves only its branch.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import onnx_ir as oir
import torch
from torch import fx

from ..errors import UnsupportedError
from ..text import place
from . import loops
from .dtypes import torch_dtype
from .edge import string_tensor
from .host import Nested, flat
from .lowering import Key
from .scope import Body, Held, OnDevice, OnHost, Scope, constant, described

EmitNodes = Callable[[oir.Graph | Sequence[oir.Node], Scope], None]
Form = Callable[[oir.Node, Scope, EmitNodes], Sequence[Held]]
Module = Callable[..., object]
"""A body: an `fx.GraphModule`, or the interpreter that stands in for one."""
Row = tuple[int, Sequence[int]]
"""What one iteration adds to a scanned output: ONNX type, and sizes, 0 for those that the model leaves open."""
Array = torch.Tensor | np.ndarray


def branch(
    condition: torch.Tensor | Nested,
    then: Module,
    otherwise: Module,
    then_inputs: Sequence[object],
    else_inputs: Sequence[object],
    *,
    hosts: Sequence[bool] = (),
) -> object:
    """If: run one of two bodies; `hosts` says which results are shape arithmetic, where any is."""
    if loops.exporting():
        leaf = condition if isinstance(condition, torch.Tensor) else flat(condition)[0]
        if isinstance(leaf, torch.Tensor):
            return loops.choose(leaf, then, otherwise, then_inputs, else_inputs, hosts)
        if isinstance(leaf, torch.SymBool) and not loops.decided(leaf):
            with contextlib.suppress(Exception):
                return loops.choose(leaf, then, otherwise, then_inputs, else_inputs, hosts)
            # torch.cond has no form of branches that differ in rank: the size decides now, and is fixed or bounded
    return then(*then_inputs) if _truth(condition) else otherwise(*else_inputs)


def loop(
    body: Module,
    trips: torch.Tensor | Nested | None,
    condition: torch.Tensor | Nested | None,
    carried: Sequence[object],
    captured: Sequence[object],
    *,
    counted: bool = False,
    stacked: Sequence[Row] = (),
) -> tuple[object, ...]:
    """Loop: carried values as they leave the last iteration, then each scanned output stacked on a new first axis.

    `counted` says that the body never ends the loop, `stacked` what each scanned output stacks.
    """
    if loops.exporting():
        found = _exported_loop(body, trips, condition, carried, captured, counted, bool(stacked))
        if found is not None:
            return found
    limit = None if trips is None else int(_scalar(trips))
    go = condition is None or _truth(condition)
    rows: list[tuple[object, ...]] = []
    step, count = 0, len(carried)
    while go and (limit is None or step < limit):
        results = _sequence(body(step, torch.tensor(go), *carried, *captured))
        go, carried = counted or _truth(results[0]), results[1 : 1 + count]
        rows.append(tuple(results[1 + count :]))
        step += 1
    return (*carried, *_columns(rows, stacked))


def _exported_loop(
    body: Module,
    trips: torch.Tensor | Nested | None,
    condition: torch.Tensor | Nested | None,
    carried: Sequence[object],
    captured: Sequence[object],
    counted: bool,
    scanned: bool,
) -> tuple[object, ...] | None:
    """The loop as one of torch's; None where it may be unrolled. Raises ValueError for what torch has no form of."""
    limit = None if trips is None else cast(int | torch.SymInt, flat(cast(Nested, trips))[0])
    start = condition if condition is None or isinstance(condition, torch.Tensor) else flat(condition)[0]
    known = start is None or isinstance(start, bool | int)
    if counted and known and limit is not None:
        if not start and start is not None:
            return None
        if isinstance(limit, int) and limit <= loops.UNROLLED:
            return None
        return loops.count(body, limit, cast(list[torch.Tensor], list(carried)), captured)
    if scanned:
        raise ValueError(
            "torch.export has no form of a loop with scanned outputs that ends on a condition: how many rows there are "
            "is known only afterwards"
        )
    return loops.repeat(body, limit, start, cast(list[torch.Tensor], list(carried)), captured)


def scan(
    body: Module,
    state: Sequence[object],
    inputs: Sequence[torch.Tensor],
    captured: Sequence[object],
    input_axes: Sequence[int],
    input_backward: Sequence[int],
    output_axes: Sequence[int],
    output_backward: Sequence[int],
    *,
    stacked: Sequence[Row] = (),
) -> tuple[object, ...]:
    """Scan (opset 9 and later): final state, then each output stacked along its axis; `stacked` says what of."""
    if loops.exporting():
        length = inputs[0].shape[input_axes[0]]
        if not (isinstance(length, int) and length <= loops.UNROLLED):
            moved = [
                x.movedim(axis, 0).flip(0) if backward else x.movedim(axis, 0)
                for x, axis, backward in zip(inputs, input_axes, input_backward, strict=True)
            ]
            final, rows = loops.over(body, cast(list[torch.Tensor], list(state)), moved, captured)
            return (*final, *_placed(rows, output_axes, output_backward))
    columns = [
        list(x.unbind(axis))[:: -1 if backward else 1]
        for x, axis, backward in zip(inputs, input_axes, input_backward, strict=True)
    ]
    produced: list[tuple[object, ...]] = []
    for parts in zip(*columns, strict=True):
        results = _sequence(body(*state, *parts, *captured))
        state = results[: len(state)]
        produced.append(tuple(results[len(state) :]))
    return (*state, *_placed(_columns(produced, stacked), output_axes, output_backward))


def _placed(rows: Sequence[Array], axes: Sequence[int], backward: Sequence[int]) -> list[Array]:
    """Scan's outputs, stacked on a first axis in the order they came, where and in the order they are wanted."""
    placed: list[Array] = []
    for column, axis, reverse in zip(rows, axes, backward, strict=False):
        if isinstance(column, np.ndarray):
            placed.append(np.moveaxis(column[::-1] if reverse else column, 0, axis))
        else:
            placed.append((column.flip(0) if reverse else column).movedim(0, axis))
    return placed


def _columns(rows: Sequence[Sequence[object]], stacked: Sequence[Row]) -> list[Array]:
    """The rows of a loop, each output's stacked on a new first axis; where there is none, an empty one."""
    if rows:
        return [_stack(column) for column in zip(*rows, strict=True)]
    empty: list[Array] = []
    for dtype, dims in stacked:
        if dtype == oir.DataType.STRING:
            empty.append(np.empty((0, *dims), object))
        else:
            empty.append(torch.empty((0, *dims), dtype=torch_dtype(dtype)))
    return empty


def _scalar(value: torch.Tensor | Nested) -> int | bool:
    leaf = value.item() if isinstance(value, torch.Tensor) else flat(value)[0]
    # a size that decides what runs is tied to what it decides
    return leaf if isinstance(leaf, bool) else bool(leaf) if isinstance(leaf, torch.SymBool) else int(leaf)


def _truth(value: object) -> bool:
    assert isinstance(value, torch.Tensor | list | int)
    return bool(_scalar(value))


def _sequence(results: object) -> Sequence[object]:
    return results if isinstance(results, tuple | list) else (results,)


def _stack(column: Sequence[object]) -> Array:
    if column and isinstance(column[0], np.ndarray):
        return np.stack(cast(Sequence[np.ndarray], column))
    tensors = [part for part in column if isinstance(part, torch.Tensor)]
    return torch.stack(tensors)


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
    elif name in ("value_string", "value_strings"):
        tensor = string_tensor(attribute.value)
    else:
        raise UnsupportedError(f"{place(node)}: {name} is not supported; store the constant as a dense tensor")
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
    hosts = tuple(dtype is not None for dtype in types)
    extra = {"hosts": hosts} if any(hosts) else {}
    call = scope.body.call(
        branch, (value, *bodies, *captured), name, source, tap=len(node.outputs) == 1, keywords=extra
    )
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
        described(inner.values[value], value)
    emit(graph, inner)
    module = _finish(inner, [inner.body.tensor(inner.get(value)) for value in graph.outputs])
    name, source = _names(node, scope), place(node)
    entry = scope.body.submodule(module, "loop", name, source)
    limit = None if trips is None else scope.body.ints(trips)
    going = condition.value if isinstance(condition, OnHost) else condition and scope.body.tensor(condition)
    start = tuple(scope.body.tensor(held) for held in carried if held is not None)
    call = scope.body.call(
        loop,
        (entry, limit, going, start, tuple(inner.body.captured)),
        name,
        source,
        tap=False,
        keywords={
            "counted": _counted(graph, inner),
            "stacked": _rows(graph.outputs[1 + len(start) :], node.outputs[len(start) :]),
        },
    )
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
        described(inner.values[value], value)
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
        keywords={"stacked": _rows(graph.outputs[states:], node.outputs[states:])},
    )
    return [OnDevice(part) for part in _split(call, node, scope, always=True)]


def _rows(rows: Sequence[oir.Value], stacks: Sequence[oir.Value]) -> tuple[Row, ...]:
    found: list[Row] = []
    for row, stack in zip(rows, stacks, strict=True):
        known = list(row.shape) if row.shape is not None else list(stack.shape or ())[1:]
        dims = tuple(dim if isinstance(dim, int) else 0 for dim in known)
        found.append(((row.dtype or stack.dtype or oir.DataType.FLOAT).value, dims))
    return tuple(found)


def _counted(graph: oir.Graph, inner: Scope) -> bool:
    """Whether a loop's body hands its condition on as it is, or as a constant true."""
    value, going = graph.outputs[0], graph.inputs[1]
    while (maker := value.producer()) is not None and maker.op_type == "Identity" and maker.inputs[0] is not None:
        value = maker.inputs[0]
    held = inner.get(value)
    return value is going or (isinstance(held, OnHost) and held.literal and _truth(held.value))


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
