"""Names for what torch's exporter leaves nameless: outputs, dynamic dimensions, transposed weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import onnx_ir
import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from .dimensions import Range
from .dimensions import names as dimension_names
from .dynamic import Plan, addends

# Where the module's source lies on the tracer's disk: nobody else's business.
_STACK = "pkg.torch.onnx.stack_trace"
_SYMBOL = re.compile(r"[A-Za-z_]\w*")


def transposed_weights(model: onnx_ir.Model) -> dict[str, str]:
    """{value: parameter} for the values that are an initializer transposed, before constants are folded."""
    return {
        str(node.outputs[0].name): str(node.inputs[0].name)
        for node in model.graph
        if node.op_type == "Transpose" and node.inputs[0] is not None and node.inputs[0].is_initializer()
    }


def name_transposed(model: onnx_ir.Model, origins: Mapping[str, str]) -> None:
    """Name the initializers that folding made out of transposed ones `<parameter>.T`."""
    initializers = model.graph.initializers
    for folded, parameter in origins.items():
        if folded in initializers and f"{parameter}.T" not in initializers:
            initializers[folded].name = f"{parameter}.T"


def name_ports(model: onnx_ir.Model, program: torch.export.ExportedProgram) -> None:
    """Name the model's inputs after forward's parameters."""
    names = [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, ConstantArgument)
    ]
    wanted = dict(zip(model.graph.inputs, names, strict=True))
    taken = set(names)
    for value in _values(model):
        if value not in wanted and value.name in taken:
            value.name = f"{value.name}_value"
    for value, name in wanted.items():
        value.name = name
    for node in model.graph.all_nodes():
        node.metadata_props.pop(_STACK, None)


def name_outputs(model: onnx_ir.Model, program: torch.export.ExportedProgram) -> None:
    """Name the outputs after the keys of what forward returned; a value that is returned twice becomes two outputs."""
    specs = [spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    labels = _labels(program.call_spec.out_spec, len(specs))
    names = [label for label, spec in zip(labels, specs, strict=True) if not isinstance(spec.arg, ConstantArgument)]
    outputs = model.graph.outputs
    taken = {str(value.name) for value in model.graph.inputs} | set(model.graph.initializers)
    seen: set[onnx_ir.Value] = set()
    for index, (value, label) in enumerate(zip(list(outputs), names, strict=True)):
        if value in seen or value.is_graph_input() or value.is_initializer():
            copy = onnx_ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            model.graph.append(copy)
            outputs[index] = value = copy.outputs[0]
        seen.add(value)
        name = label
        while name in taken:
            name = f"{name}_out"
        taken.add(name)
        for other in _values(model):
            if other is not value and other.name == name:
                other.name = f"{name}_value"
        value.name = name


def name_dimensions(model: onnx_ir.Model, program: torch.export.ExportedProgram, plan: Plan) -> dict[str, Range]:
    """Replace torch's symbols in all shapes by the user's names; returns the range of each.

    A symbol that nobody named, which an ExportedProgram may have, is named after the first input it is found in.
    """
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, onnx_ir.SymbolicDim) and dim.value is not None:
                chosen = plan.axes.get((str(value.name), axis), f"{value.name}_{axis}")
                symbols, labels = _SYMBOL.findall(dim.value), _SYMBOL.findall(chosen)
                # A dimension may be asked for as a multiple: 2*s44 is 2*half.
                asked = (value.name, axis) in plan.axes
                if asked and len(symbols) == 1 and len(addends(chosen)) > 1:
                    names[symbols[0]] = chosen
                elif len(symbols) == len(labels) == 1 and (asked or symbols[0] not in names):
                    names[symbols[0]] = labels[0]
    for value in _values(model):
        if value.shape is not None and any(isinstance(dim, onnx_ir.SymbolicDim) for dim in value.shape):
            value.shape = onnx_ir.Shape(
                [
                    _renamed(dim.value, names)
                    if isinstance(dim, onnx_ir.SymbolicDim) and dim.value is not None
                    else dim
                    for dim in value.shape
                ]
            )
    known = dimension_names(model)
    # a sum is within what its addends are
    known = tuple(name for name in known if len(addends(name)) == 1)
    found = {name: pair for name, pair in plan.ranges.items() if name in known}
    for symbol, span in program.range_constraints.items():
        name = names.get(str(symbol))
        if name in known:
            low, high = plan.ranges.get(name, (1, None))
            found[name] = max(low, _size(span.lower) or 0), _least(high, _size(span.upper))
    return found


def _renamed(dim: str, names: Mapping[str, str]) -> str:
    """A dimension with its symbols' names; a name that is a sum stands in brackets inside of an expression."""

    def named(found: re.Match[str]) -> str:
        name = names.get(found[0], found[0])
        return f"({name})" if len(addends(name)) > 1 and found[0] != dim else name

    return _SYMBOL.sub(named, dim)


def _size(bound: object) -> int | None:
    try:
        size = int(str(bound))
    except ValueError:
        return None
    return size if size < 2**40 else None


def _least(first: int | None, second: int | None) -> int | None:
    given = [bound for bound in (first, second) if bound is not None]
    return min(given) if given else None


class _Tree(Protocol):
    """torch's record of how nested a result is."""

    def unflatten(self, leaves: Iterable[int]) -> object: ...


def _labels(spec: _Tree, count: int) -> list[str]:
    """A name for each leaf of forward's output."""
    tree = spec.unflatten(list(range(count)))
    found: dict[int, str] = {}
    for label, index in _paths("", tree):
        found[index] = label
    return [found[index] for index in range(count)]


def _paths(prefix: str, tree: object) -> Iterator[tuple[str, int]]:
    if isinstance(tree, int):
        yield prefix or "output", tree
        return
    if isinstance(tree, Mapping):
        items = [(str(key), item) for key, item in tree.items()]
    elif isinstance(tree, tuple) and hasattr(tree, "_asdict"):
        items = list(tree._asdict().items())
    elif isinstance(tree, list | tuple):
        base = prefix or "output"
        items = [(str(index) if prefix or index else "", item) for index, item in enumerate(tree)]
        for suffix, item in items:
            yield from _paths(f"{base}_{suffix}" if suffix else base, item)
        return
    elif hasattr(tree, "__dataclass_fields__"):
        items = [(key, getattr(tree, key)) for key in tree.__dataclass_fields__]
    else:
        return
    for key, item in items:
        yield from _paths(f"{prefix}_{key}" if prefix else key, item)


def _values(model: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    tops = [model.graph, *(function.graph for function in model.functions.values())]
    for top in tops:
        for graph in (top, *top.subgraphs()):
            yield from graph.inputs
            yield from graph.initializers.values()
            for node in graph:
                yield from node.outputs
