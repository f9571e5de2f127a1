"""Random ONNX graphs: what a recipe builds on, and the strategy that puts recipes together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

Array = np.ndarray
Given = Array | list[Array] | None
"""A value of a graph: a tensor (strings as objects), a sequence of them, or an optional that is empty."""
Draw = Callable[[st.SearchStrategy[Any]], Any]
Attribute = int | float | str | Sequence[int] | Sequence[float] | onnx.TensorProto | onnx.GraphProto

#: The types that values have, the most usual first.
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = (
    *(np.dtype(name) for name in ("float32", "int64", "float64", "float16", "int32", "bool", "uint8", "int8")),
    *(np.dtype(name) for name in ("int16", "uint16", "uint32", "uint64")),
    BFLOAT16,
)
#: Stands for the type of a sequence or an optional.
NO_TENSOR = np.dtype("void")
FLOATS = tuple(dtype for dtype in DTYPES if dtype.kind == "f")
#: How many times more often than others.
_WEIGHTS = {"float32": 5, "int64": 3, "float64": 2, "float16": 2, "int32": 2}
#: The simplest first: where hypothesis looks for a smaller example.
OPSETS = tuple(sorted(range(7, 29), key=lambda version: abs(version - 21)))
DIMS = (2, 3, 1, 4, 0, 5)
LARGEST = 4096


@dataclass(frozen=True)
class Value:
    """A value of the graph whose type and shape are known; `constant` where it is an initializer."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    constant: Array | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)


class Unfit(Exception):  # noqa: N818
    """A recipe found nothing in this graph to build on, or the op does not exist at the opset."""


@dataclass
class Builder:
    """A graph that grows: values, feeds, nodes. A subgraph sees the values of its `outer`."""

    draw: Draw
    opset: int
    values: list[Value] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    feeds: dict[str, Given] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    outer: Builder | None = None
    prefix: str = ""

    def choose(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def flag(self) -> bool:
        return bool(self.draw(st.booleans()))

    def integer(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def number(self, low: float = -2.0, high: float = 2.0) -> float:
        return float(self.draw(st.floats(low, high, width=32, allow_subnormal=False)))

    def axis(self, rank: int) -> int:
        if not rank:
            raise Unfit
        return self.integer(-rank, rank - 1)

    def axes(self, rank: int) -> list[int]:
        """Some different axes, counted from either end."""
        chosen = self.draw(st.lists(st.integers(0, rank - 1), unique=True, max_size=rank)) if rank else []
        return [axis - rank if self.flag() else axis for axis in chosen]

    def shape(self, rank: int | None = None, *, most: int = 4) -> tuple[int, ...]:
        if rank is None:
            rank = self.choose([2, 1, 3, 0, 4][: most + 1])
        return tuple(self.choose(DIMS) for _ in range(rank))

    def schema(self, op: str, domain: str = "") -> onnx.defs.OpSchema:
        try:
            schema = onnx.defs.get_schema(op, self.opset, domain)
        except onnx.defs.SchemaError:
            raise Unfit from None
        if schema.deprecated:
            raise Unfit
        return schema

    def types(self, op: str, index: int = 0) -> list[np.dtype[Any]]:
        """The types that the op takes for an input, of those that are tried."""
        schema = self.schema(op)
        place = schema.inputs[min(index, len(schema.inputs) - 1)]
        return [dtype for dtype in DTYPES if _spelled(dtype) in place.types]

    def pick(
        self,
        dtypes: Sequence[np.dtype[Any]],
        *,
        rank: int | None = None,
        least: int = 0,
        most: int = 4,
        shape: Sequence[int] | None = None,
    ) -> Value:
        """A value that is there, or a new one."""
        if not dtypes:
            raise Unfit

        def fits(value: Value) -> bool:
            if value.dtype not in dtypes or not least <= value.rank <= most:
                return False
            return (rank is None or value.rank == rank) and (shape is None or value.shape == tuple(shape))

        found = [value for value in self.known() if fits(value)]
        if found and self.integer(0, 3):
            return self.choose(found[::-1])  # type: ignore[no-any-return]
        if shape is None:
            shape = self.shape(rank if rank is not None else max(least, self.integer(least, min(most, 4))))
        return self.new(self.dtype(dtypes), shape)

    def dtype(self, dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
        """One of these types, the usual ones more often."""
        if not dtypes:
            raise Unfit
        weighted = [dtype for dtype in dtypes for _ in range(_WEIGHTS.get(dtype.name, 1))]
        return self.choose(weighted)  # type: ignore[no-any-return]

    def known(self) -> list[Value]:
        return [*(self.outer.known() if self.outer else ()), *self.values]

    def new(self, dtype: np.dtype[Any], shape: Sequence[int]) -> Value:
        """An input or an initializer with values that a seed says."""
        seed, special = self.integer(0, 999), self.integer(0, 7) == 7
        return self.give(made(np.dtype(dtype), shape, seed, special=special))

    def give(self, array: Array, *, fixed: bool | None = None) -> Value:
        """An input or initializer with this value."""
        if math.prod(array.shape) > LARGEST:
            raise Unfit
        owner = self.root()
        name = f"x{len(owner.feeds) + len(owner.initializers)}"
        constant = self.flag() if fixed is None else fixed
        if constant:
            owner.initializers.append(numpy_helper.from_array(array, name))
        else:
            owner.feeds[name] = array
            code = code_of(array.dtype)
            dims = [f"{name}_{i}" for i in range(array.ndim)] if self.integer(0, 3) == 3 else list(array.shape)
            owner.inputs.append(helper.make_tensor_value_info(name, code, dims))
        value = Value(name, array.dtype, array.shape, array if constant else None)
        owner.values.append(value)
        return value

    def root(self) -> Builder:
        """The builder of the whole graph."""
        return self if self.outer is None else self.outer.root()

    def ints(self, *values: int) -> Value:
        """A vector that an op reads as sizes, axes and the like; mostly a constant."""
        return self.give(np.array(values, np.int64), fixed=bool(self.integer(0, 3)))

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: int = 1,
        *,
        domain: str = "",
        hidden: bool = False,
        **attributes: Attribute,
    ) -> list[Value]:
        """Add a node; its outputs' types come from ONNX's own inference, those that stay unknown are not built on.

        What is `hidden` is no output of the graph: an optional, which ONNX Runtime does not give back.
        """
        schema = self.schema(op, domain) if not domain else None
        names = [f"{self.prefix}v{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(
            op,
            ["" if value is None else value.name for value in inputs],
            names,
            name=f"{self.prefix}n{len(self.nodes)}",
            domain=domain,
        )
        for key, attribute in attributes.items():
            if attribute is None:
                continue
            known = schema.attributes.get(key) if schema is not None else None
            kind = None if known is None else int(known.type.value)
            node.attribute.append(helper.make_attribute(key, attribute, attr_type=kind))
        self.nodes.append(node)
        if hidden:
            self.root().hidden.update(names)
        given = [value for value in inputs if value]
        tensors = schema is not None and all(value.dtype != NO_TENSOR for value in given)
        found = _inferred(schema, node, given, self.opset) if tensors else []
        self.values.extend(found)
        return found

    def one(self, op: str, inputs: Sequence[Value | None], **attributes: Attribute) -> Value:
        """Add a node with one output to build on."""
        found = self.node(op, inputs, **attributes)
        if len(found) != 1:
            raise Unfit
        return found[0]

    def attributes(self, op: str, **given: Attribute | None) -> dict[str, Attribute]:
        """Those of the given attributes that the op has at the opset and that chance keeps."""
        known = self.schema(op).attributes
        return {
            name: value
            for name, value in given.items()
            if value is not None and name in known and (known[name].required or self.flag())
        }

    def has(self, op: str, attribute: str) -> bool:
        return attribute in self.schema(op).attributes


def made(dtype: np.dtype[Any], shape: Sequence[int], seed: int, *, special: bool) -> Array:
    """Small numbers of either sign; `special` has zeros, infinities, NaN and the type's ends among them."""
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f" or dtype == BFLOAT16:
        array = np.asarray(rng.standard_normal(shape) * 1.5).astype(dtype)
        odd = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, np.inf, -np.inf, np.nan, 100.0, 1e-6], dtype)
    else:
        info = np.iinfo(dtype)
        array = np.asarray(rng.integers(max(info.min, -4), 6, shape)).astype(dtype)
        odd = np.array([0, 1, 2, 7, info.max, info.min, info.max // 2], dtype)
    if special:
        where = rng.random(shape) < 0.5
        array = np.where(where, odd[rng.integers(0, len(odd), shape)], array)
    return np.asarray(array)


def _spelled(dtype: np.dtype[Any]) -> str:
    name = {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)
    return f"tensor({name})"


def _inferred(schema: onnx.defs.OpSchema, node: onnx.NodeProto, inputs: Sequence[Value], opset: int) -> list[Value]:
    types = {value.name: helper.make_tensor_type_proto(code_of(value.dtype), value.shape) for value in inputs}
    data = {
        value.name: numpy_helper.from_array(value.constant, value.name)
        for value in inputs
        if value.constant is not None
    }
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        )
    except Exception:
        return []
    values = []
    for name, kind in found.items():
        tensor = kind.tensor_type
        if not tensor.HasField("shape") or any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
            continue
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        if tensor.elem_type in _CODES and math.prod(shape) <= LARGEST and name:
            values.append(Value(name, _CODES[tensor.elem_type], shape))
    return values


def code_of(dtype: np.dtype[Any]) -> int:
    """The ONNX type of arrays of this type; strings are objects."""
    return int(onnx.TensorProto.STRING if dtype.kind == "O" else helper.np_dtype_to_tensor_dtype(dtype))


_CODES = {code_of(dtype): dtype for dtype in DTYPES}


@dataclass(frozen=True)
class Example:
    """A model with the values for its inputs; `broken` says how it was made invalid, "" if it was not."""

    model: onnx.ModelProto
    feeds: dict[str, Given]
    broken: str = ""


Recipe = Callable[[Builder], object]


def finished(builder: Builder) -> Example:
    """The model whose outputs are all values that its nodes compute."""
    made = [name for node in builder.nodes for name in node.output if name]
    outputs = [onnx.ValueInfoProto(name=name) for name in made if name not in builder.hidden]
    known = {value.name: value for value in builder.values}
    for output in outputs:
        if output.name in known:
            output.type.tensor_type.elem_type = code_of(known[output.name].dtype)
    body = helper.make_graph(builder.nodes, "fuzz", builder.inputs, outputs, builder.initializers)
    domains = sorted({node.domain for node in builder.nodes} | {""})
    imports = [helper.make_opsetid(domain, builder.opset if not domain else 1) for domain in domains]
    model = helper.make_model(body, opset_imports=imports, ir_version=10, functions=builder.functions)
    return Example(model, dict(builder.feeds))


def examples(
    recipes: Sequence[Recipe], *, opsets: Sequence[int] = OPSETS, nodes: int = 8
) -> st.SearchStrategy[Example]:
    """Models of 1 to `nodes` recipes."""

    @st.composite
    def strategy(draw: Draw) -> Example:
        builder = Builder(draw, draw(st.sampled_from(list(opsets))))
        for recipe in draw(st.lists(st.sampled_from(list(recipes)), min_size=1, max_size=nodes)):
            try:
                recipe(builder)
            except Unfit:
                continue
        return finished(builder)

    return strategy().filter(lambda example: len(example.model.graph.output) > 0)
