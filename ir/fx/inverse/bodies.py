"""Branches and loops of an FX graph, written as If, Loop and Scan with their bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import onnx_ir as oir
from torch import fx

from ..flow import iterate
from ..ops import sequence
from .table import Call, UnwritableError

if TYPE_CHECKING:
    from .body import Result, Writer

_BOOL, _INT = oir.DataType.BOOL, oir.DataType.INT64


def _if(writer: Writer, node: fx.Node) -> Result:
    condition, then, otherwise, *captured = node.args
    graphs: list[oir.Graph] = []
    modules: list[fx.GraphModule] = []
    for name, branch, given in zip(("then", "else"), (then, otherwise), captured, strict=True):
        module = _owned(writer, branch)
        inner, entries = writer.inside(module), module.graph.find_nodes(op="placeholder")
        for entry, argument in zip(entries, _row(given), strict=True):
            inner.bind(entry, writer.needed(argument, entry.name), trusted=writer.trusts(argument))
        graphs.append(_graph(inner, module, [], f"{node.name}_{name}"))
        modules.append(module)
        writer.faithful &= inner.faithful
    if len(graphs[0].outputs) != len(graphs[1].outputs):
        raise UnwritableError(f"the branches of {node.name} return different numbers of values")
    attributes = [oir.AttrGraph(f"{name}_branch", graph) for name, graph in zip(("then", "else"), graphs, strict=True)]
    call = Call("", "If", (), tuple(attributes), len(graphs[0].outputs), None)
    several = isinstance(_returned(modules[0]), tuple | list)
    made = writer.emit(node, call, [writer.needed(condition, f"{node.name}_condition", _BOOL)], several=several)
    for value, result in zip(made if isinstance(made, tuple) else (made,), graphs[0].outputs, strict=True):
        value.type = value.type or result.type
    return made


def _loop(writer: Writer, node: fx.Node) -> Result:
    body, trips, condition, carried, captured = node.args
    start = [writer.needed(item, f"{node.name}_{index}") for index, item in enumerate(_row(carried))]
    module = _owned(writer, body)
    inner, inputs = _body(writer, module, 2 + len(start), captured)
    inputs[0].type, inputs[1].type = oir.TensorType(_INT), oir.TensorType(_BOOL)
    graph = _graph(inner, module, inputs, f"{node.name}_body")
    writer.faithful &= inner.faithful
    call = Call("", "Loop", (), (oir.AttrGraph("body", graph),), len(graph.outputs) - 1, None)
    bounds = [writer.optional(trips, f"{node.name}_trips"), writer.optional(condition, f"{node.name}_condition")]
    return writer.emit(node, call, [*bounds, *start], several=True)


def _scan(writer: Writer, node: fx.Node) -> Result:
    body, state, scanned, captured, *directions = node.args
    names = ("scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions")
    numbers = {name: cast(Sequence[int], values) for name, values in zip(names, directions, strict=True)}
    return _scanned(writer, node, (body, state, scanned, captured), numbers)


def _batched_scan(writer: Writer, node: fx.Node) -> Result:
    body, state, scanned, captured, lengths, backward = node.args
    first = [writer.optional(lengths, f"{node.name}_lengths")]
    return _scanned(
        writer, node, (body, state, scanned, captured), {"directions": cast(Sequence[int], backward)}, first
    )


def _scanned(
    writer: Writer,
    node: fx.Node,
    args: tuple[object, object, object, object],
    numbers: Mapping[str, Sequence[int]],
    first: Sequence[oir.Value | None] = (),
) -> Result:
    """Scan: body, state, what is scanned and what is captured; attributes that are 0 throughout are left out."""
    body, state, scanned, captured = args
    given = [writer.needed(item, f"{node.name}_{i}") for i, item in enumerate((*_row(state), *_row(scanned)))]
    module = _owned(writer, body)
    inner, inputs = _body(writer, module, len(given), captured)
    graph = _graph(inner, module, inputs, f"{node.name}_body")
    writer.faithful &= inner.faithful
    attributes: list[oir.Attr] = [oir.AttrInt64("num_scan_inputs", len(_row(scanned))), oir.AttrGraph("body", graph)]
    attributes += [oir.AttrInt64s(name, list(values)) for name, values in numbers.items() if any(values)]
    call = Call("", "Scan", (), tuple(attributes), len(graph.outputs), None)
    return writer.emit(node, call, [*first, *given], several=True)


def _map(writer: Writer, node: fx.Node) -> Result:
    body, inputs, captured, _ = node.args
    given = [writer.needed(item, f"{node.name}_{index}") for index, item in enumerate(_row(inputs))]
    module = _owned(writer, body)
    inner, entries = _body(writer, module, len(given), captured)
    graph = _graph(inner, module, entries, f"{node.name}_body")
    writer.faithful &= inner.faithful
    call = Call("", "SequenceMap", (), (oir.AttrGraph("body", graph),), len(graph.outputs), None)
    return writer.emit(node, call, given, several=True)


def _optional(writer: Writer, node: fx.Node) -> Result:
    if not node.args:
        raise UnwritableError(f"{node.name} is an empty optional, whose type the graph does not say")
    call = Call("", "Optional", (), (), 1, None)
    return writer.emit(node, call, [writer.needed(node.args[0], node.name)], several=False)


def _body(writer: Writer, module: fx.GraphModule, count: int, captured: object) -> tuple[Writer, list[oir.Value]]:
    """The writer of a loop's body, with its own inputs; the rest of its placeholders are values from outside."""
    inner, entries = writer.inside(module), module.graph.find_nodes(op="placeholder")
    inputs = [inner.entry(entry) for entry in entries[:count]]
    for entry, argument in zip(entries[count:], _row(captured), strict=True):
        inner.bind(entry, writer.needed(argument, entry.name), trusted=writer.trusts(argument))
    return inner, inputs


def _graph(inner: Writer, module: fx.GraphModule, inputs: Sequence[oir.Value], name: str) -> oir.Graph:
    outputs = [inner.output(value, value.name or name, inside=True) for value in inner.walk()]
    return oir.Graph(inputs, outputs, nodes=inner.nodes, initializers=inner.initializers, name=name)


def _owned(writer: Writer, argument: object) -> fx.GraphModule:
    module = writer.owned(argument) if isinstance(argument, fx.Node) and argument.op == "get_attr" else None
    if not isinstance(module, fx.GraphModule):
        raise UnwritableError("a branch or loop body is no GraphModule")
    return module


def _returned(module: fx.GraphModule) -> object:
    (last,) = module.graph.find_nodes(op="output")
    return last.args[0]


def _row(values: object) -> Sequence[object]:
    assert isinstance(values, tuple | list)
    return values


CONTROL: Mapping[object, Callable[[Writer, fx.Node], Result]] = {
    iterate.branch: _if,
    iterate.loop: _loop,
    iterate.scan: _scan,
    iterate.batched_scan: _batched_scan,
    sequence.sequence_map: _map,
    sequence.optional: _optional,
}
