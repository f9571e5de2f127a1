"""Small corruptions of a graph: each leaves a graph that may run, and that is something else than before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from tersor.ir.content import dimensions
from tersor.ir.walk import every_node

_SIBLINGS = (
    ("Add", "Sub", "Mul", "Div"),
    ("Sigmoid", "Tanh", "Relu", "Neg", "Identity", "Erf", "Exp", "Sqrt", "Reciprocal", "Abs", "Softplus"),
    ("ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "ReduceMax"),
    ("Cos", "Sin"),
    ("Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
    ("Max", "Min"),
    ("And", "Or"),
)  # fmt: skip

Rng = np.random.Generator
T = TypeVar("T")


def _choice(rng: Rng, items: list[T]) -> T | None:
    return items[int(rng.integers(len(items)))] if items else None


def _constants(model: ir.Model) -> list[ir.Value]:
    values: dict[ir.Value, None] = {}
    for node in every_node(model.graph):
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.const_value.dtype.numpy().kind in "fiub":
                values[value] = None
    return list(values)


def constant(model: ir.Model, rng: Rng) -> str:
    """Another number in a constant, or all of it transposed, negated or one."""
    value = _choice(rng, _constants(model))
    if value is None or value.const_value is None:
        return ""
    array = np.array(value.const_value.numpy())
    if not array.size:
        return ""
    at = int(rng.integers(array.size))
    kind = int(rng.integers(6))
    flat = array.reshape(-1)
    if array.dtype.kind == "f":
        if kind == 0:
            flat[at] *= 1.01
        elif kind == 1:
            array = -array
        elif kind == 2:
            flat[at] = float(rng.choice([0.0, 1.0, -1.0, 2.0, 0.5, np.nan, np.inf, -np.inf]))
        elif kind == 3:
            flat[...] = rng.permutation(flat)
        elif kind == 4 and array.ndim >= 2:
            array = np.ascontiguousarray(np.swapaxes(array, -1, -2)).reshape(array.shape)
        else:
            array = array * array.dtype.type(rng.choice([0.5, 2.0, 1.001]))
    elif array.dtype.kind == "b":
        flat[at] = not flat[at]
    elif kind < 3:
        flat[at] += array.dtype.type(1) if rng.random() < 0.5 else -array.dtype.type(1)
    elif kind < 5:
        flat[...] = rng.permutation(flat)
    else:
        flat[at] = flat[int(rng.integers(array.size))]
    value.const_value = ir.Tensor(np.ascontiguousarray(array), name=value.name)
    return f"constant {value.name}"


def sibling(model: ir.Model, rng: Rng) -> str:
    """Another op of the same form."""
    row = [(node, group) for node in every_node(model.graph) for group in _SIBLINGS if node.op_type in group]
    pair = _choice(rng, row)
    if pair is None:
        return ""
    node, group = pair
    node.op_type = str(rng.choice(group))
    return f"op of {node.outputs[0].name}"


def operands(model: ir.Model, rng: Rng) -> str:
    """Two inputs or two outputs of a node change places."""
    node = _choice(rng, [node for node in every_node(model.graph) if len(node.inputs) > 1 or len(node.outputs) > 1])
    if node is None:
        return ""
    if len(node.outputs) > 1 and (len(node.inputs) < 2 or rng.random() < 0.5):
        left, right = (node.outputs[int(i)] for i in rng.choice(len(node.outputs), 2, replace=False))
        if left.is_graph_output() or right.is_graph_output():
            return ""
        ours, theirs = list(left.uses()), list(right.uses())
        for use in ours:
            use.node.replace_input_with(use.idx, right)
        for use in theirs:
            use.node.replace_input_with(use.idx, left)
        return f"outputs of {node.name}"
    first, second = (int(i) for i in rng.choice(len(node.inputs), 2, replace=False))
    left, right = node.inputs[first], node.inputs[second]
    node.replace_input_with(first, right)
    node.replace_input_with(second, left)
    return f"inputs of {node.outputs[0].name}"


def attribute(model: ir.Model, rng: Rng) -> str:
    """Another number or order in an attribute."""
    row = [
        (node, name)
        for node in every_node(model.graph)
        for name, item in node.attributes.items()
        if item.type in (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT)
        and name not in ("to", "num_outputs", "hidden_size", "num_scan_inputs")
    ]
    pair = _choice(rng, row)
    if pair is None:
        return ""
    node, name = pair
    item = node.attributes[name]
    if item.type is ir.AttributeType.INTS:
        node.attributes[name] = ir.AttrInt64s(name, [int(i) for i in rng.permutation(item.as_ints())])
    elif item.type is ir.AttributeType.INT:
        node.attributes[name] = ir.AttrInt64(name, item.as_int() + int(rng.choice([-1, 1])))
    else:
        node.attributes[name] = ir.AttrFloat32(name, item.as_float() * float(rng.choice([2.0, 0.5, -1.0])))
    return f"{name} of {node.outputs[0].name}"


def drop_attribute(model: ir.Model, rng: Rng) -> str:
    row = [
        (node, name)
        for node in every_node(model.graph)
        for name, item in node.attributes.items()
        if item.type is not ir.AttributeType.GRAPH and name not in ("to", "value")
    ]
    pair = _choice(rng, row)
    if pair is None:
        return ""
    del pair[0].attributes[pair[1]]
    return f"{pair[1]} of {pair[0].outputs[0].name} dropped"


def rewire(model: ir.Model, rng: Rng) -> str:
    """A node reads another value of the same type and rank that comes before it."""
    nodes = [node for node in every_node(model.graph) if node.inputs and node.graph is not None]
    node = _choice(rng, nodes)
    if node is None:
        return ""
    index = int(rng.integers(len(node.inputs)))
    old = node.inputs[index]
    if old is None:
        return ""
    graph = node.graph
    before: list[ir.Value] = list(graph.inputs) if graph is not None else []
    for other in graph or ():
        if other is node:
            break
        before += other.outputs
    dims = dimensions(old)
    fits = [
        value
        for value in before
        if value is not old
        and value.dtype is old.dtype
        and (dims is None or (now := dimensions(value)) is None or len(now) == len(dims))
    ]
    new = _choice(rng, fits)
    if new is None:
        return ""
    node.replace_input_with(index, new)
    return f"input {index} of {node.outputs[0].name} is now {new.name}"


def read(model: ir.Model, rng: Rng) -> str:
    """A value on the way becomes an output as well."""
    node = _choice(rng, [node for node in model.graph if node.domain != "tersor"])
    if node is None:
        return ""
    value = _choice(rng, [value for value in node.outputs if value.name and not value.is_graph_output()])
    if value is None:
        return ""
    model.graph.outputs.append(value)
    return f"{value.name} is an output"


def given(model: ir.Model, rng: Rng) -> str:
    """A constant that a caller may override."""
    values = [value for value in model.graph.initializers.values() if not value.is_graph_input() and value.uses()]
    value = _choice(rng, values)
    if value is None:
        return ""
    model.graph.inputs.append(value)
    return f"{value.name} may be overridden"


def fed(model: ir.Model, rng: Rng) -> str:
    """A constant that becomes an input."""
    values = [
        value
        for value in model.graph.initializers.values()
        if not value.is_graph_input() and value.uses() and value.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
    ]
    value = _choice(rng, values)
    if value is None or value.const_value is None:
        return ""
    del model.graph.initializers[value.name]
    value.shape = ir.Shape(value.const_value.shape)
    value.type = ir.TensorType(value.const_value.dtype)
    value.const_value = None
    model.graph.inputs.append(value)
    return f"{value.name} is fed"


def absent(model: ir.Model, rng: Rng) -> str:
    """An optional input left out."""
    node = _choice(rng, [node for node in every_node(model.graph) if len(node.inputs) > 2])
    if node is None:
        return ""
    index = int(rng.integers(1, len(node.inputs)))
    node.replace_input_with(index, None)
    return f"input {index} of {node.outputs[0].name} left out"


def sized(model: ir.Model, rng: Rng) -> str:
    """A named dimension of the inputs takes a fixed size, or a fixed size a name."""
    named = [value for value in model.graph.inputs if value.shape is not None and len(value.shape)]
    value = _choice(rng, named)
    if value is None or value.shape is None:
        return ""
    at = int(rng.integers(len(value.shape)))
    old = value.shape[at]
    dims = list(value.shape)
    if isinstance(old, int):
        dims[at] = int(rng.choice([1, 2, 3, 4, 0]))
        value.shape = ir.Shape(dims)
        return f"{value.name} axis {at}: {old} is {dims[at]}"
    size = int(rng.choice([1, 2, 4, 0]))
    for other in named:
        if other.shape is not None:
            other.shape = ir.Shape([size if str(dim) == str(old) else dim for dim in other.shape])
    return f"{old} is {size}"


MUTATIONS: tuple[Callable[[ir.Model, Rng], str], ...] = (
    constant, constant, sibling, sibling, operands, operands, attribute, drop_attribute, rewire, rewire,
    read, given, fed, absent, sized,
)  # fmt: skip


def mutated(model: ir.Model, rng: Rng, count: int) -> list[str]:
    """Corrupt `model` in place; what was done."""
    done = []
    for _ in range(count):
        text = MUTATIONS[int(rng.integers(len(MUTATIONS)))](model, rng)
        if text:
            done.append(text)
    forget(model)
    return done


def forget(model: ir.Model) -> None:
    """Drop what was known about the shapes of what the nodes compute."""
    for node in every_node(model.graph):
        for value in node.outputs:
            value.shape = None
            if value.name and not value.is_graph_output() and value.graph is model.graph:
                value.type = None
