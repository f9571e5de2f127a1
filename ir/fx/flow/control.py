"""Constants and control flow: the ops that are not a function of their inputs alone.

`If` picks one of two submodules and `Loop` and `Scan` run one over and over (`iterate.py`); what a body uses from
outside is passed to it. A condition known while emitting leaves only its branch.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence

import onnx_ir as oir
from torch import fx

from ...errors import ModelError, UnsupportedError
from ...text import place
from ..edge import string_tensor
from ..lowering import Key
from ..scope import Body, Held, OnDevice, OnHost, Scope, constant, described
from .iterate import Row, batched_scan, branch, loop, scan, truth

EmitNodes = Callable[[oir.Graph | Sequence[oir.Node], Scope], None]
Form = Callable[[oir.Node, Scope, EmitNodes], Sequence[Held]]


def emit_constant(node: oir.Node, scope: Scope, _: EmitNodes) -> Sequence[Held]:
    """Constant: stored, not trainable, or shape arithmetic where it is small and integer."""
    if len(node.attributes) != 1:
        raise ModelError(f"{place(node)}: it has {len(node.attributes)} attributes; expected its value alone")
    ((name, attribute),) = node.attributes.items()
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
    graphs = [body_of(node, name) for name in ("then_branch", "else_branch")]
    for graph in graphs:
        expect(node, "outputs of a branch", len(graph.outputs), len(node.outputs))
    if isinstance(condition, OnHost) and condition.literal:
        taken = graphs[0 if truth(condition.value) else 1]
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
    graph = body_of(node, "body")
    expect(node, "inputs of the body", len(graph.inputs), 2 + len(carried))
    expect(node, "outputs of the body", len(graph.outputs), 1 + max(len(carried), len(node.outputs)), more=True)
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
    held = [scope.body.tensor(scope.get(value)) for value in node.inputs if value is not None]
    scanned = _scanned(node, len(held))
    graph, inner, entry = _scan_body(node, scope, emit)
    states = len(held) - scanned

    def ints(name: str, count: int) -> tuple[int, ...]:
        return tuple(node.attributes[name].as_ints()) if name in node.attributes else (0,) * count

    produced = len(graph.outputs) - states
    arguments = (
        *(entry, tuple(held[:states]), tuple(held[states:]), tuple(inner.body.captured)),
        *(ints("scan_input_axes", scanned), ints("scan_input_directions", scanned)),
        *(ints("scan_output_axes", produced), ints("scan_output_directions", produced)),
    )
    stacked = {"stacked": _rows(graph.outputs[states:], node.outputs[states:])}
    call = scope.body.call(scan, arguments, _names(node, scope), place(node), tap=False, keywords=stacked)
    return [OnDevice(part) for part in _split(call, node, scope, always=True)]


def emit_batched_scan(node: oir.Node, scope: Scope, emit: EmitNodes) -> Sequence[Held]:
    """Scan of opset 8, whose first input is the length of each entry of the batch."""
    first, *rest = [scope.optional(value) for value in node.inputs]
    held = [scope.body.tensor(value) for value in rest if value is not None]
    scanned = _scanned(node, len(held))
    graph, inner, entry = _scan_body(node, scope, emit)
    states = len(held) - scanned
    backward = tuple(node.attributes["directions"].as_ints()) if "directions" in node.attributes else (0,) * scanned
    lengths = None if first is None else scope.body.tensor(first)
    arguments = (entry, tuple(held[:states]), tuple(held[states:]), tuple(inner.body.captured), lengths, backward)
    stacked = {"stacked": _rows(graph.outputs[states:], [])}
    call = scope.body.call(batched_scan, arguments, _names(node, scope), place(node), tap=False, keywords=stacked)
    return [OnDevice(part) for part in _split(call, node, scope, always=True)]


def _scanned(node: oir.Node, given: int) -> int:
    count = node.attributes["num_scan_inputs"].as_int()
    if not 1 <= count <= given:
        raise ModelError(f"{place(node)}: num_scan_inputs is {count}; expected 1 to {given}, the inputs there are")
    graph = body_of(node, "body")
    expect(node, "inputs of the body", len(graph.inputs), given)
    expect(node, "outputs of the body", len(graph.outputs), max(given - count, len(node.outputs)), more=True)
    return count


def body_of(node: oir.Node, name: str) -> oir.Graph:
    """A node's branch or body. Raises ModelError where there is none."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.type != oir.AttributeType.GRAPH:
        raise ModelError(f"{place(node)}: no graph is given as {name}")
    return attribute.as_graph()


def expect(node: oir.Node, what: str, found: int, wanted: int, *, more: bool = False) -> None:
    """Raise ModelError unless a body has `wanted` inputs or outputs, or more of them where `more` is fine."""
    if found < wanted or (found > wanted and not more):
        raise ModelError(f"{place(node)}: {found} {what}, expected {wanted}{' or more' if more else ''}")


def _scan_body(node: oir.Node, scope: Scope, emit: EmitNodes) -> tuple[oir.Graph, Scope, fx.Node]:
    graph = body_of(node, "body")
    inner = scope.inside(Body(outer=scope.body, copy=scope.body.copy))
    for value in graph.inputs:
        inner.values[value] = OnDevice(inner.body.placeholder(value.name or "", place(node)))
        described(inner.values[value], value)
    emit(graph, inner)
    module = _finish(inner, [inner.body.tensor(inner.get(value)) for value in graph.outputs])
    return graph, inner, scope.body.submodule(module, "scan", _names(node, scope), place(node))


def _rows(rows: Sequence[oir.Value], stacks: Sequence[oir.Value]) -> tuple[Row, ...]:
    found: list[Row] = []
    for row, stack in itertools.zip_longest(rows, stacks):
        whole = () if stack is None else stack.shape or ()
        known = list(whole)[1:] if row.shape is None else list(row.shape)
        dtype = row.dtype or (None if stack is None else stack.dtype) or oir.DataType.FLOAT
        found.append((dtype.value, tuple(dim if isinstance(dim, int) else 0 for dim in known)))
    return tuple(found)


def _counted(graph: oir.Graph, inner: Scope) -> bool:
    """Whether a loop's body hands its condition on as it is, or as a constant true."""
    value, going = graph.outputs[0], graph.inputs[1]
    while (maker := value.producer()) is not None and maker.op_type == "Identity" and maker.inputs[0] is not None:
        value = maker.inputs[0]
    held = inner.get(value)
    return value is going or (isinstance(held, OnHost) and held.literal and truth(held.value))


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
    ("", "Scan", 8): emit_batched_scan,
    ("", "Scan", 9): emit_scan,
}
