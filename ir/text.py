"""A model as text, one line a node, and back: for tests, diffs, excerpts in errors and people.

y = Add(x, bias)
(a, b) = Split{axis=1, num_outputs=2}(y)
z = com.microsoft.BiasGelu(a, _)          `_` is an optional input left out

Numbers, strings and lists of them are attributes that read back as they were; tensors and subgraphs are only shown.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from .errors import ModelError

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_LINE = re.compile(
    rf"\s*(?P<outs>\(?[^=({{]*\)?)\s*=\s*(?P<op>[\w.]+)\s*"
    rf"(?P<attrs>\{{(?:{_QUOTED}|[^'\"}}])*\}})?\s*\((?P<args>.*)\)\s*$"
)
_TOKEN = re.compile(rf"{_QUOTED}|.", re.DOTALL)
Literal = int | float | str | list[int] | list[float] | list[str]
_TYPE = re.compile(r"\s*(?P<dtype>\w+)\s*(\[(?P<dims>.*)\])?\s*$")


def place(node: ir.Node | None) -> str:
    """Where a node is, for messages: `MatMul at encoder/0/query`."""
    if node is None:
        return "a graph input"
    return f"{node.op_type} at {node.name or (node.outputs[0].name if node.outputs else '?')}"


def format_node(node: ir.Node) -> str:
    """One line for one node; subgraphs are shown by their number of nodes."""
    names = [_name(value) for value in node.outputs]
    outs = names[0] if len(names) == 1 else f"({', '.join(names)})"
    op = spelled(node)
    attrs = ", ".join(f"{name}={_format_attr(node.attributes[name])}" for name in sorted(node.attributes))
    args = [_name(value) for value in node.inputs]
    while args and args[-1] == "_":
        args.pop()
    return f"{outs} = {op}{f'{{{attrs}}}' if attrs else ''}({', '.join(args)})"


def lines(graph: ir.Graph | ir.Model) -> list[str]:
    """One line a node, subgraphs indented under the node that holds them."""
    return list(_lines(graph.graph if isinstance(graph, ir.Model) else graph, ""))


def format_model(model: ir.Model) -> str:
    """Signature, opsets, then one line a node."""
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in model.opset_imports.items())
    ports = [f"{kind} {_typed(value)}" for kind, values in _ports(model) for value in values]
    return "\n".join([f"opset {opsets}", *ports, *lines(model)])


def spelled(node: ir.Node) -> str:
    """The op as it is written: `MatMul`, `com.microsoft.FusedMatMul`."""
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def excerpt(node: ir.Node, *, radius: int = 1) -> str:
    """The node with the nodes that feed it and read it, `radius` steps each way: the note under an error."""
    near: dict[ir.Node, None] = {node: None}
    for _ in range(radius):
        for member in list(near):
            for neighbour in (*member.predecessors(), *member.successors()):
                near[neighbour] = None
    scope = node.graph
    ordered = [other for other in scope if other in near] if scope is not None else [node]
    return "\n".join(f"{'>' if other is node else ' '} {format_node(other)}" for other in ordered)


def graph(
    *text: str,
    inputs: Mapping[str, str] | None = None,
    outputs: Sequence[str] | None = None,
    opset: int = 23,
    **constants: object,
) -> ir.Model:
    """Build a model from lines of text.

    Names that no line defines and that are no constants become inputs: float of unknown shape unless `inputs` says
    `{"x": "float[batch, 4]"}`. Values that nobody reads become the outputs unless `outputs` names them. An argument
    may be a literal (`Mul(x, 0.5)`, `Reshape(x, [0, -1])`). Shapes are inferred. Raises ModelError on a bad line.

    >>> lines(graph("s = Mul(x, one)", "y = Relu(s)", one=1.0))
    ['s = Mul(x, one)', 'y = Relu(s)']
    """
    builder = _Builder(inputs or {}, constants)
    nodes = [builder.node(line) for line in text]
    named = [builder.values[name] for name in outputs] if outputs is not None else builder.loose()
    body = ir.Graph(
        inputs=builder.inputs,
        outputs=named,
        nodes=nodes,
        initializers=builder.initializers,
        opset_imports={domain: opset if domain == "" else 1 for domain in {"", *(node.domain for node in nodes)}},
        name="graph",
    )
    model = ir.Model(body, ir_version=10)
    if inputs:
        ShapeInferencePass()(model)
    return model


def parse_type(text: str) -> tuple[ir.TensorType, ir.Shape | None]:
    """`float16[batch, 4, ?]` -> its tensor type and shape."""
    found = _TYPE.match(text)
    name = found["dtype"].upper() if found else ""
    if found is None or name not in ir.DataType.__members__:
        raise ModelError(f"{text!r} is no type: write it like float[batch, 4]")
    dims = found["dims"]
    if dims is None:
        return ir.TensorType(ir.DataType[name]), None
    parts = [part.strip() for part in dims.split(",") if part.strip()]
    shape: list[int | str | None] = [
        int(part) if part.lstrip("-").isdigit() else None if part == "?" else part for part in parts
    ]
    return ir.TensorType(ir.DataType[name]), ir.Shape(shape)


class _Builder:
    """Turns lines into nodes, keeping track of what each name stands for."""

    def __init__(self, types: Mapping[str, str], constants: Mapping[str, object]) -> None:
        self.values: dict[str, ir.Value] = {}
        self.inputs: list[ir.Value] = []
        self.initializers: list[ir.Value] = []
        self._types = types
        for name, constant in constants.items():
            self._constant(name, constant)
        for name in types:
            self._input(name)

    def node(self, line: str) -> ir.Node:
        found = _LINE.match(line)
        if found is None:
            raise ModelError(f"cannot read the line {line!r}: write it like y = Op{{attr=1}}(x, w)")
        domain, _, op_type = found["op"].rpartition(".")
        args = [self._argument(arg) for arg in _split(found["args"])]
        names = [name.strip() for name in found["outs"].strip().strip("()").split(",") if name.strip()]
        attributes = _attributes(found["attrs"])
        node = ir.Node(domain, op_type, args, attributes, num_outputs=len(names), name=names[0])
        for value, name in zip(node.outputs, names, strict=True):
            value.name = "" if name == "_" else name
            self.values[name] = value
        return node

    def loose(self) -> list[ir.Value]:
        produced = [value for value in self.values.values() if value.producer() is not None]
        return [value for value in produced if value.name and not value.uses()]

    def _argument(self, text: str) -> ir.Value | None:
        if text == "_":
            return None
        if text in self.values:
            return self.values[text]
        literal = _literal_or_none(text)
        if literal is None:
            return self._input(text)
        return self._constant(f"const_{len(self.initializers)}", literal)

    def _input(self, name: str) -> ir.Value:
        kind, shape = parse_type(self._types.get(name, "float"))
        value = ir.Value(name=name, type=kind, shape=shape)
        self.values[name] = value
        self.inputs.append(value)
        return value

    def _constant(self, name: str, constant: object) -> ir.Value:
        array = constant if isinstance(constant, np.ndarray | np.generic) else _array(constant)
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self.values[name] = value
        self.initializers.append(value)
        return value


def _array(constant: object) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    array = np.asarray(constant)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token in "[({") - (token in "])}")
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    parts = [part.strip() for part in parts]
    return parts if parts[-1] else parts[:-1]


def _attributes(text: str | None) -> list[ir.Attr]:
    pairs = (item.split("=", 1) for item in _split(text[1:-1])) if text else ()
    return ir.convenience.convert_attributes({name.strip(): _literal(value.strip()) for name, value in pairs})


def _literal(text: str) -> Literal:
    if text.upper() in ir.DataType.__members__:
        return int(ir.DataType[text.upper()])
    found = _literal_or_none(text)
    return text if found is None else found


def _literal_or_none(text: str) -> Literal | None:
    """A number, truth value, quoted string or list of them; None for a bare word."""
    if text in ("inf", "-inf", "nan"):
        return float(text)
    try:
        return ast.literal_eval(text)  # type: ignore[no-any-return]  # a literal of the grammar above
    except (ValueError, SyntaxError):
        return None


def _name(value: ir.Value | None) -> str:
    return "_" if value is None or not value.name else value.name


def _typed(value: ir.Value) -> str:
    dims = "?" if value.shape is None else ", ".join(str(dim) for dim in value.shape)
    return f"{value.name}: {value.dtype.name.lower() if value.dtype else '?'}[{dims}]"


def _ports(model: ir.Model) -> tuple[tuple[str, Sequence[ir.Value]], tuple[str, Sequence[ir.Value]]]:
    return ("input", model.graph.inputs), ("output", model.graph.outputs)


def _format_attr(attr: ir.Attr) -> str:
    if attr.is_ref():
        return f"@{attr.ref_attr_name}"
    if attr.type == ir.AttributeType.GRAPH:
        return f"<{len(attr.as_graph())} nodes>"
    if attr.type == ir.AttributeType.TENSOR:
        tensor = attr.as_tensor()
        return f"<{tensor.dtype.name.lower()}{list(tensor.shape)}>"
    if attr.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
        return f"[{', '.join(map(_format_item, attr.value))}]"
    if attr.type == ir.AttributeType.STRING:
        text = attr.as_string()
        return text if re.fullmatch(r"[A-Za-z_]\w*", text) and _literal(text) == text else repr(text)
    if attr.type == ir.AttributeType.FLOAT:
        return _format_item(attr.as_float())
    return str(attr.value)


def _format_item(item: int | float | str) -> str:
    """Floats are stored in 32 bits: the shortest number that rounds to the same one, never without its point."""
    return str(np.float32(item)) if isinstance(item, float) else repr(item)


def _lines(scope: ir.Graph, indent: str) -> Iterator[str]:
    for node in scope:
        yield indent + format_node(node)
        for name, attr in node.attributes.items():
            if attr.type == ir.AttributeType.GRAPH:
                yield f"{indent}  {name}:"
                yield from _lines(attr.as_graph(), indent + "    ")
