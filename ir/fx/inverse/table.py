"""The tables read backward: a Python function and its arguments -> an ONNX op, its inputs and attributes.

The op follows from the function that is called and from what it is called with. Several ops may share a function (Shape
on tensors and on shape arithmetic, Scatter and ScatterElements): then the op that the node was written for is taken, if
it is one of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as oir

from ..coverage import snake
from ..host import HOST
from ..lowering import Function, HostLowering, Key, Literal, Lowering, lookup
from ..scope import Origin
from ..table import DEVICE, TEXT, UNSIGNED


class UnwritableError(Exception):
    """A node of an FX graph that is the call of no op at the model's opsets; the text says which and why."""


class Call(NamedTuple):
    """An ONNX node to be: `inputs` are the arguments as they are in the FX graph."""

    domain: str
    op: str
    inputs: tuple[object, ...]
    attributes: tuple[oir.Attr, ...]
    outputs: int
    schema: onnx.defs.OpSchema | None


Row = Lowering | HostLowering


def read(
    function: Function,
    args: Sequence[object],
    keywords: Mapping[str, object],
    origin: Origin | None,
    opsets: Mapping[str, int],
) -> Call:
    """The op that a call computes. Raises UnwritableError where it computes none at these opsets."""
    domain, op, row = _row(function, origin, opsets)
    schema = schema_of(domain, op, opsets)
    hidden = {"outputs"} if row.many else set()
    if isinstance(row, Lowering):
        hidden |= {"like"} if row.like else set()
        hidden |= {"dtype"} if row.typed is not None else set()
    outputs = keywords.get("outputs", 1) if row.many else 1
    assert isinstance(outputs, int)
    known = {snake(name): name for name in schema.attributes} if schema is not None else {}
    known |= origin.attributes if origin is not None and origin.op == op else {}
    slots = {snake(formal.name): index for index, formal in enumerate(schema.inputs)} if schema is not None else {}
    inputs, attributes = list(args), []
    for name, value in keywords.items():
        if name in hidden or (value is None and name not in known):
            continue
        if name in known or schema is None:
            attributes.append(_attribute(known.get(name, name), value, schema))
        elif name in slots:
            inputs += [None] * (slots[name] + 1 - len(inputs))
            inputs[slots[name]] = value
        else:
            raise UnwritableError(f"{op} has no attribute {name!r}")
    if schema is not None and len(inputs) > schema.max_input:
        attributes += _surplus(inputs[schema.max_input :], op, schema)
        del inputs[schema.max_input :]
    return Call(domain, op, tuple(inputs), tuple(attributes), outputs, schema)


def schema_of(domain: str, op: str, opsets: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    """The op's definition at the model's opset; None for the ops that ONNX does not define."""
    try:
        return onnx.defs.get_schema(op, opsets.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return None


def _surplus(args: Sequence[object], op: str, schema: onnx.defs.OpSchema) -> Iterator[oir.Attr]:
    """What newer opsets have as an input and this one has as an attribute: axes, splits, pads."""
    optional = [name for name in schema.attributes if name in ("axes", "split", "pads", "value", "min", "max", "ratio")]
    for name, value in zip(optional, args, strict=False):
        yield _attribute(name, value, schema)
    if len(args) > len(optional):
        raise UnwritableError(f"{op} takes {schema.max_input} inputs")


def _row(function: Function, origin: Origin | None, opsets: Mapping[str, int]) -> tuple[str, str, Row]:
    candidates = [(origin.domain, origin.op)] if origin is not None else []
    candidates += [(domain, op) for domain, op, _ in _inverse().get(function, ())]
    for domain, op in candidates:
        for row in _rows(domain, op, opsets.get(domain, 1)):
            if row is not None and row.function is function:
                return domain, op, row
    name = getattr(function, "__name__", repr(function))
    if function in _inverse():
        known = ", ".join(f"{op} since {since}" for _, op, since in _inverse()[function])
        raise UnwritableError(f"{name} computes {known}, which is not what opset {opsets.get('', 1)} means by it")
    raise UnwritableError(f"{name} is the function of no op")


def _rows(domain: str, op: str, opset: int) -> tuple[Row | None, ...]:
    tables: tuple[Mapping[Key, Row], ...] = (DEVICE, UNSIGNED, TEXT, HOST)
    return tuple(lookup(table, domain, op, opset) for table in tables)


@functools.cache
def _inverse() -> Mapping[Function, tuple[Key, ...]]:
    """Each function's rows, standard ops first, newest first."""
    found: dict[Function, list[Key]] = {}
    for table in (DEVICE, HOST):
        for key, row in table.items():
            found.setdefault(row.function, []).append(key)
    return {
        function: tuple(sorted(keys, key=lambda key: (key[0], -key[2], key[1]))) for function, keys in found.items()
    }


def _attribute(name: str, value: object, schema: onnx.defs.OpSchema | None) -> oir.Attr:
    if isinstance(value, Literal):
        dtype = oir.DataType(value.dtype)
        if dtype is oir.DataType.STRING:
            texts = np.array(value.values, object)
            items = [text.encode() if isinstance(text, str) else text for text in texts.ravel()]
            return oir.AttrTensor(name, oir.StringTensor(items, shape=oir.Shape(texts.shape)))
        return oir.AttrTensor(name, oir.Tensor(np.array(value.values, dtype.numpy()), dtype=dtype))
    kind = (
        oir.AttributeType[str(schema.attributes[name].type).rpartition(".")[2]]
        if schema is not None
        else _kind(name, value)
    )
    plain = list(value) if isinstance(value, list | tuple) else value
    if kind in (oir.AttributeType.INTS, oir.AttributeType.FLOATS) and not isinstance(plain, list):
        plain = [plain]
    try:
        return oir.Attr(name, kind, _fitted(plain, kind))
    except (TypeError, ValueError) as error:
        raise UnwritableError(f"attribute {name!r} is {value!r}, expected {kind.name}") from error


def _fitted(value: object, kind: oir.AttributeType) -> object:
    if isinstance(value, list):
        single = oir.AttributeType[kind.name.removesuffix("S")]
        return tuple(_fitted(item, single) for item in value)
    if kind is oir.AttributeType.INT and isinstance(value, int):
        return int(value)
    if kind is oir.AttributeType.FLOAT and isinstance(value, int | float):
        return float(value)
    if kind is oir.AttributeType.STRING and isinstance(value, str):
        return value
    raise TypeError(kind.name)


def _kind(name: str, value: object) -> oir.AttributeType:
    """The type of an attribute that no schema tells."""
    if isinstance(value, list | tuple):
        single = _kind(name, value[0]).name if value else "INT"
        return oir.AttributeType[f"{single}S"]
    for kind, name_ in ((int, "INT"), (float, "FLOAT"), (str, "STRING")):
        if isinstance(value, kind):
            return oir.AttributeType[name_]
    raise UnwritableError(f"attribute {name!r} is a {type(value).__name__}")


def literal_type(
    call: Call, index: int, types: Sequence[oir.DataType | None], leaf: object, *, noted: oir.DataType | None = None
) -> oir.DataType:
    """The ONNX type of a Python number given as input `index`: that of the inputs that must have the same, else the
    one it is noted to have had, else the one that Python's type means. `types` are those of all inputs."""
    if call.schema is not None:
        variable = _formal(call.schema, index).type_str
        for other, dtype in enumerate(types):
            if other != index and dtype is not None and _formal(call.schema, other).type_str == variable:
                return dtype
    if noted is not None:
        return noted
    if isinstance(leaf, bool):
        return oir.DataType.BOOL
    return oir.DataType.INT64 if isinstance(leaf, int) else oir.DataType.FLOAT


def output_type(call: Call, index: int, types: Sequence[oir.DataType | None]) -> oir.DataType | None:
    """The type of an output as far as the schema tells: a fixed one, or that of an input."""
    target = next((attr.as_int() for attr in call.attributes if attr.name in ("to", "dtype", "output_dtype")), 0)
    if target:
        return oir.DataType(target)
    if call.schema is None or not call.schema.outputs:
        return None
    outputs = call.schema.outputs
    variable = outputs[min(index, len(outputs) - 1)].type_str
    for other, dtype in enumerate(types):
        if dtype is not None and _formal(call.schema, other).type_str == variable:
            return dtype
    allowed = next(
        (c.allowed_type_strs for c in call.schema.type_constraints if c.type_param_str == variable), [variable]
    )
    return _named(allowed[0]) if len(allowed) == 1 else None


def _formal(schema: onnx.defs.OpSchema, index: int) -> onnx.defs.OpSchema.FormalParameter:
    return schema.inputs[min(index, len(schema.inputs) - 1)]


def _named(text: str) -> oir.DataType | None:
    """`tensor(int64)` -> INT64"""
    name = text.removeprefix("tensor(").removesuffix(")").upper()
    return oir.DataType.__members__.get(name)
