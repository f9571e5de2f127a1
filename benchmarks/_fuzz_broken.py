"""Models made invalid on purpose, and once in a while only strange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper
from tersor.benchmarks._fuzz_graph import Draw, Example, Given

_ODD_INTS = (0, -1, 1, 2, -7, 99, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63), 2**63 - 1)
_OPS = (
    "Add",
    "MatMul",
    "Reshape",
    "Gather",
    "Concat",
    "Conv",
    "Slice",
    "Cast",
    "If",
    "Loop",
    "LSTM",
    "Nothing",
    "Resize",
)

_ODD_FLOATS = (0.0, -0.0, -1.0, -2.5, 1e-30, 1e9, 1e30, float("inf"), float("-inf"), float("nan"))

Mutation = Callable[[Draw, onnx.ModelProto], str]


def _node(draw: Draw, model: onnx.ModelProto) -> onnx.NodeProto:
    """One of the graph, of its bodies or of its functions."""
    inner = [node for function in model.functions for node in function.node]
    inner += [node for outer in model.graph.node for attribute in outer.attribute for node in attribute.g.node]
    found: onnx.NodeProto = draw(st.sampled_from([*model.graph.node, *inner]))
    return found


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    made = [name for node in graph.node for name in node.output if name]
    return [
        *(value.name for value in graph.input),
        *(tensor.name for tensor in graph.initializer),
        *made,
        "nowhere",
        "",
    ]


def other_input(draw: Draw, model: onnx.ModelProto) -> str:
    node = _node(draw, model)
    if not node.input:
        return ""
    place, name = draw(st.integers(0, len(node.input) - 1)), draw(st.sampled_from(_names(model)))
    node.input[place] = name
    return f"input {place} of {node.name} is {name!r}"


def more_inputs(draw: Draw, model: onnx.ModelProto) -> str:
    node = _node(draw, model)
    extra = draw(st.lists(st.sampled_from(_names(model)), min_size=1, max_size=3))
    node.input.extend(extra)
    return f"{node.name} also reads {extra}"


def fewer_inputs(draw: Draw, model: onnx.ModelProto) -> str:
    node = _node(draw, model)
    del node.input[draw(st.integers(0, max(len(node.input) - 1, 0))) :]
    return f"{node.name} reads only {list(node.input)}"


def other_op(draw: Draw, model: onnx.ModelProto) -> str:
    node = _node(draw, model)
    known = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
    node.op_type = draw(st.sampled_from([*_OPS, *known]))
    return f"{node.name} is {node.op_type}"


def other_attribute(draw: Draw, model: onnx.ModelProto) -> str:
    node = _node(draw, model)
    if not node.attribute:
        return ""
    attribute: AttributeProto = draw(st.sampled_from(list(node.attribute)))
    name = attribute.name
    number = st.sampled_from(_ODD_INTS)
    value = draw(
        st.one_of(
            number,
            st.lists(number, min_size=1, max_size=5),
            st.floats(width=32),
            st.sampled_from(["", "linear", "NOTSET", "\x00"]),
            st.lists(st.floats(width=32), min_size=1, max_size=3),
        )
    )
    attribute.CopyFrom(helper.make_attribute(name, value))
    return f"{name} of {node.name} is {value!r}"


def odd_attribute(draw: Draw, model: onnx.ModelProto) -> str:
    """One of its own kind, but out of all proportion."""
    node = _node(draw, model)
    found = [attribute for attribute in node.attribute if attribute.type in (AttributeProto.INT, AttributeProto.INTS)]
    if not found:
        return ""
    attribute = draw(st.sampled_from(found))
    value = draw(st.sampled_from(_ODD_INTS))
    if attribute.type == AttributeProto.INT:
        attribute.i = value
    elif attribute.ints:
        attribute.ints[draw(st.integers(0, len(attribute.ints) - 1))] = value
    return f"{attribute.name} of {node.name} has {value}"


def new_attribute(draw: Draw, model: onnx.ModelProto) -> str:
    node = _node(draw, model)
    schemas = [schema for schema in onnx.defs.get_all_schemas() if schema.name == node.op_type and not schema.domain]
    names = [*(schemas[0].attributes if schemas else ()), "axis", "unheard_of", "axes"]
    name, value = draw(st.sampled_from(names)), draw(st.sampled_from(_ODD_INTS))
    node.attribute.append(helper.make_attribute(name, value))
    return f"{name} of {node.name} is {value}"


def less_attributes(draw: Draw, model: onnx.ModelProto) -> str:
    node = _node(draw, model)
    del node.attribute[:]
    return f"{node.name} has no attributes"


def _numbers(tensor: TensorProto, dtype: type[np.generic]) -> np.ndarray:
    """What a tensor holds, of which an earlier mutation may have torn off a part."""
    whole = len(tensor.raw_data) // np.dtype(dtype).itemsize
    return np.frombuffer(tensor.raw_data, dtype, count=whole).copy()


def odd_constant(draw: Draw, model: onnx.ModelProto) -> str:
    """Sizes, axes and the like out of all proportion."""
    return _odd(draw, model, TensorProto.INT64, np.int64, _ODD_INTS)


def odd_number(draw: Draw, model: onnx.ModelProto) -> str:
    """Scales, bounds, ratios and the like out of all proportion."""
    return _odd(draw, model, TensorProto.FLOAT, np.float32, _ODD_FLOATS)


def _odd(
    draw: Draw, model: onnx.ModelProto, kind: int, dtype: type[np.generic], numbers: Sequence[int] | Sequence[float]
) -> str:
    found = [tensor for tensor in model.graph.initializer if tensor.data_type == kind and tensor.raw_data]
    if not found:
        return ""
    tensor = draw(st.sampled_from(found))
    array = _numbers(tensor, dtype)
    if not array.size:
        return ""
    array[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from(numbers))
    tensor.raw_data = array.tobytes()
    return f"{tensor.name} holds {array[:8].tolist()}"


def odd_body(draw: Draw, model: onnx.ModelProto) -> str:
    """A branch or body with another number of inputs, outputs or nodes."""
    found = [attribute.g for node in model.graph.node for attribute in node.attribute if attribute.HasField("g")]
    if not found:
        return ""
    body = draw(st.sampled_from(found))
    part = draw(st.sampled_from(["input", "output", "node"]))
    values = getattr(body, part)
    if values and draw(st.booleans()):
        del values[draw(st.integers(0, len(values) - 1))]
        return f"{body.name} lost an {part}"
    if values:
        values.append(values[0])
    return f"{body.name} has its first {part} twice"


def recursion(draw: Draw, model: onnx.ModelProto) -> str:
    """A function that reaches itself, by itself or through another."""
    node = _node(draw, model)
    count = draw(st.integers(1, 3))
    names = [f"again{i}" for i in range(count)]
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        body = [helper.make_node(following, ["a"], ["b"], domain="own")]
        function = helper.make_function("own", name, ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
        model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    node.op_type, node.domain = names[0], "own"
    del node.attribute[:]
    return f"{node.name} calls a function that reaches itself in {count} steps"


def untrue_shape(draw: Draw, model: onnx.ModelProto) -> str:
    """Shapes and types noted for values in between, and for outputs, that contradict what is computed."""
    name = draw(st.sampled_from(_names(model)[:-2] or ["nowhere"]))
    kind = draw(st.sampled_from([1, 7, 9, 10]))
    dims = draw(st.lists(st.sampled_from([0, 1, 2, 7, -1, 2**40]), max_size=3))
    model.graph.value_info.append(helper.make_tensor_value_info(name, kind, dims))
    return f"{name} is noted as {kind}{dims}"


def elsewhere(draw: Draw, model: onnx.ModelProto) -> str:
    """A constant whose data is said to be in a file."""
    if not model.graph.initializer:
        return ""
    tensor = draw(st.sampled_from(list(model.graph.initializer)))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    path = draw(st.sampled_from(["nowhere.bin", "/dev/zero", "../../../../dev/zero", "", "/"]))
    for key, value in (("location", path), ("offset", draw(st.sampled_from(["0", "-1", "x"]))), ("length", "99999999")):
        tensor.external_data.add(key=key, value=value)
    return f"{tensor.name} lies in {path!r}"


def torn_constant(draw: Draw, model: onnx.ModelProto) -> str:
    if not model.graph.initializer:
        return ""
    tensor = draw(st.sampled_from(list(model.graph.initializer)))
    how = draw(st.sampled_from(["shorter", "shape", "type"]))
    if how == "shorter":
        tensor.raw_data = tensor.raw_data[:-1]
    elif how == "shape":
        tensor.dims.append(draw(st.sampled_from(_ODD_INTS)))
    else:
        tensor.data_type = draw(st.sampled_from([0, 1, 7, 8, 9, 10, 14, 16, 17, 22, 23, 99, -1]))
    return f"{tensor.name} has another {how}"


def lost_constant(draw: Draw, model: onnx.ModelProto) -> str:
    if not model.graph.initializer:
        return ""
    place = draw(st.integers(0, len(model.graph.initializer) - 1))
    name = model.graph.initializer[place].name
    del model.graph.initializer[place]
    return f"{name} is gone"


def other_opset(draw: Draw, model: onnx.ModelProto) -> str:
    version = draw(st.sampled_from([0, 1, 5, 6, 7, 10, 13, 18, 23, 27, 28, 99, -1, 2**40]))
    model.opset_import[0].version = version
    return f"opset {version}"


def doubled_output(draw: Draw, model: onnx.ModelProto) -> str:
    node = _node(draw, model)
    name = draw(st.sampled_from(_names(model)))
    node.output[0] = name
    return f"{node.name} computes {name!r}"


def odd_declaration(draw: Draw, model: onnx.ModelProto) -> str:
    if not model.graph.input:
        return ""
    value = draw(st.sampled_from(list(model.graph.input)))
    kind = draw(st.sampled_from([0, 1, 7, 8, 9, 16, 99]))
    dims = draw(st.lists(st.sampled_from([0, 1, 2, -1, 2**40]), max_size=3))
    value.type.tensor_type.elem_type = kind
    del value.type.tensor_type.shape.dim[:]
    for dim in dims:
        value.type.tensor_type.shape.dim.add().dim_value = dim
    return f"{value.name} is declared {kind}{dims}"


def turned_around(draw: Draw, model: onnx.ModelProto) -> str:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return "nodes are not sorted"


MUTATIONS: tuple[Mutation, ...] = (
    *(other_input, more_inputs, fewer_inputs, other_op, other_attribute, odd_attribute, odd_attribute, new_attribute),
    *(less_attributes, odd_constant, odd_constant, torn_constant, lost_constant, other_opset, doubled_output),
    *(odd_declaration, turned_around, odd_number, odd_number, odd_body, recursion, untrue_shape, elsewhere),
)


def other_feeds(draw: Draw, example: Example) -> tuple[dict[str, Given], str]:
    """Feeds of another shape or type, too many or too few."""
    feeds = dict(example.feeds)
    if not feeds:
        return feeds, ""
    name = draw(st.sampled_from(sorted(feeds)))
    how = draw(st.sampled_from(["missing", "extra", "shape", "type", "empty", "numbers"]))
    value = feeds[name]
    if how == "missing":
        del feeds[name]
    elif how == "extra":
        feeds["unasked"] = value
    elif not isinstance(value, np.ndarray):
        feeds[name] = None
    elif how == "shape":
        feeds[name] = np.stack([value, value])
    elif how == "type":
        feeds[name] = np.ones(value.shape, draw(st.sampled_from(["float32", "float64", "int64", "bool", "complex64"])))
    elif how == "empty":
        feeds[name] = np.zeros((0, *value.shape[1:]), value.dtype)
    elif value.dtype.kind == "i":
        limits = np.iinfo(value.dtype)
        feeds[name] = np.full(value.shape, draw(st.sampled_from([limits.min, limits.max, -1, 0, 99])), value.dtype)
    return feeds, f"feed {name}: {how}"


def broken(examples: st.SearchStrategy[Example]) -> st.SearchStrategy[Example]:
    """The examples after one or two mutations."""

    @st.composite
    def strategy(draw: Draw) -> Example:
        example = draw(examples)
        model = onnx.ModelProto()
        model.CopyFrom(example.model)
        chosen = draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=2))
        told = [text for mutation in chosen if (text := mutation(draw, model))]
        feeds = example.feeds
        if not draw(st.integers(0, 4)):
            feeds, text = other_feeds(draw, example)
            told.append(text)
        return replace(example, model=model, feeds=feeds, broken="; ".join(filter(None, told)))

    return strategy().filter(lambda example: bool(example.broken))
