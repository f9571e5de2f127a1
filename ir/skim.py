"""The bytes of an ONNX file before they are parsed: cut out what need not be parsed.

Large weights become references to the file, and what exporters note on each node is taken out, so that parsing costs
the memory of the graph alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx

#: Weights of at least this many bytes stay in the file.
MAPPED_FROM = 4096

Bytes: TypeAlias = memoryview | bytes
Notes: TypeAlias = dict[str, str]

# (message, field number) -> message, for the ways that lead from a model to a tensor.
_NESTED: Mapping[tuple[str, int], str] = {
    ("model", onnx.ModelProto.GRAPH_FIELD_NUMBER): "graph",
    ("model", onnx.ModelProto.FUNCTIONS_FIELD_NUMBER): "function",
    ("graph", onnx.GraphProto.INITIALIZER_FIELD_NUMBER): "tensor",
    ("graph", onnx.GraphProto.NODE_FIELD_NUMBER): "node",
    ("function", onnx.FunctionProto.NODE_FIELD_NUMBER): "node",
    ("node", onnx.NodeProto.ATTRIBUTE_FIELD_NUMBER): "attribute",
    ("attribute", onnx.AttributeProto.T_FIELD_NUMBER): "tensor",
    ("attribute", onnx.AttributeProto.G_FIELD_NUMBER): "graph",
    ("attribute", onnx.AttributeProto.TENSORS_FIELD_NUMBER): "tensor",
    ("attribute", onnx.AttributeProto.GRAPHS_FIELD_NUMBER): "graph",
}


class BrokenError(Exception):
    """The bytes are no protobuf."""


def skim(data: memoryview, token: str) -> tuple[Bytes, list[Notes]]:
    """The bytes of a model without its large weights, and the metadata of the nodes of its graph, also taken out.

    Where a weight was, a reference to its place in `data` is, known by `token`. Exporters write a page of metadata on
    each node and repeat themselves: equal strings are kept once. Raises BrokenError for what is no protobuf.
    """
    notes = _Notes()
    pieces = _skim(data, "model", 0, len(data), token, notes)
    return data if pieces is None else b"".join(pieces), notes.of_nodes


@dataclass
class _Notes:
    """The metadata of nodes in order, and each string of it."""

    of_nodes: list[Notes] = field(default_factory=list)
    strings: dict[str, str] = field(default_factory=dict)

    def take(self, data: Bytes) -> bytes | None:
        """A node without its metadata; None where it has none."""
        node = onnx.NodeProto.FromString(data)
        pairs = [(entry.key, entry.value) for entry in node.metadata_props]
        keep = self.strings.setdefault
        self.of_nodes.append({keep(key, key): keep(value, value) for key, value in pairs})
        if not pairs:
            return None
        node.ClearField("metadata_props")
        less: bytes = node.SerializeToString()
        return less


def _skim(
    data: memoryview, kind: str, start: int, end: int, token: str, notes: _Notes | None = None
) -> list[Bytes] | None:
    """The message of type `kind` at start..end with its large weights replaced by references to `data`.

    None where nothing changes. `notes` takes the metadata of the nodes of the model's graph.
    https://protobuf.dev/programming-guides/encoding
    """
    pieces: list[Bytes] = []
    references: list[Bytes] = []
    kept = start
    for number, tag, begin, stop in _fields(data, start, end):
        inner, large = _NESTED.get((kind, number)), stop - begin >= MAPPED_FROM
        if kind == "tensor" and number == onnx.TensorProto.RAW_DATA_FIELD_NUMBER and large:
            pieces.append(data[kept:tag])
            references.append(_reference(token, begin, stop))
            kept = stop
            continue
        within = notes if (kind, inner) == ("model", "graph") else None
        body: bytes | None = None
        if inner is not None and (large or within is not None):
            smaller = _skim(data, inner, begin, stop, token, within)
            body = None if smaller is None else b"".join(smaller)
        if inner == "node" and notes is not None:
            body = notes.take(data[begin:stop] if body is None else body) or body
        if body is not None:
            pieces += [data[kept:tag], _encoded(number << 3 | 2), _encoded(len(body)), body]
            kept = stop
    # Of a field that is given twice the last one counts: references go behind what the file says of the tensor.
    return [*pieces, data[kept:end], *references] if pieces else None


def _reference(token: str, begin: int, stop: int) -> bytes:
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", token), ("offset", begin), ("length", stop - begin)):
        tensor.external_data.add(key=key, value=str(value))
    data: bytes = tensor.SerializeToString()
    return data


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, place of the tag, begin and end of the value) of each length-delimited field."""
    while at < end:
        tag = at
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == 2:
            length, at = _varint(data, at, end)
            if number == 0 or at + length > end:
                raise BrokenError
            yield number, tag, at, at + length
            at += length
        elif wire == 0:
            _, at = _varint(data, at, end)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise BrokenError
    if at != end:
        raise BrokenError


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
    raise BrokenError


def _encoded(number: int) -> bytes:
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*result, number])
