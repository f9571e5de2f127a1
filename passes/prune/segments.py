"""The hidden features as pruning sees them: values that sums and normalizations tie to one width, in segments.

    e = Gather(table, ids)                                       segment 1: e, p, s
    p = MatMul(h, wo)      s = Add(e, p)
    n = RMSNormalization(s, g)                                   a norm of segment 1
    t = Add(n, q)          u = LayerNormalization(t, g, b)       segment 2: q, t; n goes over into it

Within a segment everything is linear, so its values may be written in any basis, and times one number (`Mul` and `Div`
by a constant) stay in it; a norm has another one behind it.
Whatever writes a value or reads it and is no linear layer, table, sum or norm, sees it whole.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import networkx as nx
import numpy as np
import onnx_ir as ir

from ...ir.constants import is_constant
from ...ir.site import Kind, Site, sites
from ..base import Miss
from ..edit import attribute, constant_of, is_op
from ..numerics.arrays import Floats

#: A node and which of its inputs.
Use = tuple[ir.Node, int]


class Made(enum.Enum):
    """What a value of the stream comes from."""

    SITE = enum.auto()
    SUM = enum.auto()
    NORM = enum.auto()
    PASSED = enum.auto()
    WHOLE = enum.auto()


@dataclass(frozen=True, eq=False)
class Norm:
    """A normalization over all features, y = scale * (x - mean) / deviation + bias, the mean where it is centred."""

    node: ir.Node
    source: ir.Value
    value: ir.Value
    centred: bool
    scale: Floats
    bias: Floats

    @property
    def epsilon(self) -> float:
        found = self.node.attributes.get("epsilon")
        return 1e-5 if found is None else found.as_float()


@dataclass(frozen=True, eq=False)
class Segment:
    """Values in one basis. norms: those that read one of them. ends: what is read by others than the segment's sums."""

    values: tuple[ir.Value, ...]
    norms: tuple[Norm, ...]
    ends: tuple[ir.Value, ...]

    @cached_property
    def centred(self) -> bool:
        """Whether the mean over features is never read, so that nothing needs to write it."""
        return any(norm.centred for norm in self.norms)


@dataclass(eq=False)
class Stream:
    """Values of one width. made: what each comes from, in the order of the graph."""

    size: int
    made: dict[ir.Value, Made]
    norms: dict[ir.Value, Norm]
    writers: dict[ir.Value, Site]
    readers: tuple[Site, ...] = ()
    segments: tuple[Segment, ...] = ()
    of: dict[ir.Value, Segment] = field(default_factory=dict)

    @property
    def node(self) -> ir.Node:
        """The node that findings speak of: the first norm."""
        return next(iter(self.norms.values())).node

    def origin(self, value: ir.Value) -> ir.Value:
        """A value before the nodes that only pass it on."""
        while self.made[value] is Made.PASSED:
            (value,) = (each for each in operands(value) if each in self.made)
        return value

    def factor(self, value: ir.Value) -> float:
        """By what a value comes from its `origin`."""
        found = 1.0
        while self.made[value] is Made.PASSED:
            found *= scaling(value)
            (value,) = (each for each in operands(value) if each in self.made)
        return found

    def strangers(self, value: ir.Value) -> list[Use]:
        """Uses of a value that see it whole."""
        if self.made[value] is Made.WHOLE:
            return []
        known = {site.node for site in self.readers if site.activation is value}
        return [(use.node, use.idx) for use in value.uses() if use.node not in known and not self._within(use.node)]

    def seen_whole(self, value: ir.Value) -> bool:
        """Whether something sees a value whole that the stream makes."""
        return self.made[value] is not Made.WHOLE and (value.is_graph_output() or bool(self.strangers(value)))

    def _within(self, node: ir.Node) -> bool:
        made = node.outputs[0]
        return self.made.get(made) in (Made.SUM, Made.PASSED, Made.NORM) and made.producer() is node

    def crossings(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Each sum and what goes into it from behind a norm."""
        for value, made in self.made.items():
            if made is not Made.SUM:
                continue
            for operand in operands(value):
                if operand in self.made and operand not in self.of:
                    yield value, operand


def operands(value: ir.Value) -> list[ir.Value]:
    """What the node of a sum, or one that passes a value on, reads."""
    node = value.producer()
    return [] if node is None else [each for each in node.inputs if each is not None]


def scaling(value: ir.Value) -> float:
    """The number by which a node that passes a value on multiplies it."""
    node = value.producer()
    if not is_op(node, "Mul", "Div"):
        return 1.0
    (held,) = (array for each in node.inputs if (array := constant_of(each)) is not None)
    number = float(held.item())
    return 1 / number if node.op_type == "Div" else number


def streams(model: ir.Model) -> list[Stream]:
    """The streams of the main graph that linear layers read, in its order, cut into segments."""
    walk = _Walk(model)
    found = []
    taken: set[ir.Value] = set()
    for norm in walk.norms.values():
        if norm.value in taken:
            continue
        stream = walk.around(norm)
        taken |= set(stream.made)
        if stream.readers:
            _segment(stream)
            found.append(stream)
    return found


class _Walk:
    """What the nodes of a model are to a stream."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        listed = [site for site in sites(model) if site.node.graph is model.graph and _plain(site)]
        self.writers = {site.output: site for site in listed if site.output_axis == -1}
        self.readers = [site for site in listed if site.kind is Kind.LINEAR and site.axis == -1]
        found = (_norm(node) for node in model.graph)
        self.norms = {norm.value: norm for norm in found if norm is not None}
        self.place = {node: at for at, node in enumerate(model.graph)}

    def around(self, norm: Norm) -> Stream:
        size = len(norm.scale)
        met: dict[ir.Value, Made] = {}
        stack = [norm.value]
        while stack:
            value = stack.pop()
            if value in met or is_constant(value):
                continue
            met[value] = made = self._made(value, size)
            if made not in (Made.SITE, Made.WHOLE):
                node = value.producer()
                assert node is not None
                stack += [each for each in node.inputs[: 1 if made is Made.NORM else None] if each is not None]
            for node in value.consumers():
                if node.outputs and self._made(node.outputs[0], size) not in (Made.SITE, Made.WHOLE):
                    read = node.inputs[:1] if node.outputs[0] in self.norms else node.inputs
                    stack += node.outputs[:1] if value in read else []
        met = {value: met[value] for value in sorted(met, key=lambda value: _order(self.place, value))}
        norms = {value: self.norms[value] for value, made in met.items() if made is Made.NORM}
        writers = {value: self.writers[value] for value, made in met.items() if made is Made.SITE}
        readers = tuple(
            site for site in self.readers if site.activation in met and met[site.activation] is not Made.WHOLE
        )
        return Stream(size, met, norms, writers, readers)

    def _made(self, value: ir.Value, size: int) -> Made:
        node = value.producer()
        if node is None or node.graph is not self.graph or _width(value) != size:
            return Made.WHOLE
        if value in self.writers:
            return Made.SITE
        if value in self.norms:
            return Made.NORM
        if is_op(node, "Identity", "Cast") and value.dtype is not None and value.dtype.is_floating_point():
            return Made.PASSED if _width(node.inputs[0]) == size and not is_constant(node.inputs[0]) else Made.WHOLE
        if _scaled(node) is not None:
            return Made.PASSED if _width(_scaled(node)) == size else Made.WHOLE
        if is_op(node, "Add") and all(_summand(each, size) for each in node.inputs):
            return Made.SUM if not all(map(is_constant, node.inputs)) else Made.WHOLE
        return Made.WHOLE


def _order(place: Mapping[ir.Node, int], value: ir.Value) -> int:
    node = value.producer()
    return -1 if node is None else place[node]


def _summand(value: ir.Value | None, size: int) -> bool:
    if is_constant(value):
        width = _width(value)
        return width in (None, 1, size)
    return _width(value) == size


def _width(value: ir.Value | None) -> int | None:
    last = value.shape[-1] if value is not None and value.shape else None
    return last if isinstance(last, int) else None


def _scaled(node: ir.Node) -> ir.Value | None:
    """What a node multiplies by one number that is a constant, or divides by it."""
    pairs = [tuple(node.inputs), tuple(node.inputs[::-1])] if is_op(node, "Mul") else [tuple(node.inputs)]
    for source, number in pairs if is_op(node, "Mul", "Div") else []:
        held = constant_of(number)
        if held is None or held.size != 1 or source is None or is_constant(source) or source.shape is None:
            continue
        if held.ndim <= len(source.shape) and np.isfinite(held).all() and (held != 0).all():
            return source
    return None


def _plain(site: Site) -> bool:
    """Whether a site's weight and bias can be written anew."""
    if site.kind is Kind.EMBEDDING:
        return not site.view.path
    held = constant_of(site.bias)
    return (
        site.kind is Kind.LINEAR
        and is_op(site.node, "MatMul", "Gemm")
        and all(node.op_type in ("Identity", "Transpose") for node in site.view.path)
        and site.view.dtype.is_floating_point()
        and (site.bias is None or held is not None)
        and (site.node.op_type == "MatMul" or len(site.node.inputs) < 3 or site.bias is not None)
    )


def _norm(node: ir.Node) -> Norm | None:
    if not is_op(node, "LayerNormalization", "RMSNormalization"):
        return None
    source, value = node.inputs[0], node.outputs[0]
    scale = constant_of(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant_of(given)
    if source is None or source.shape is None or scale is None or (given is not None and bias is None):
        return None
    last = attribute(node, "axis", -1) in (-1, len(source.shape) - 1)
    more = any(other.uses() or other.is_graph_output() for other in node.outputs[1:])
    size = _width(source)
    if not last or more or size is None or scale.shape != (size,) or (bias is not None and bias.shape != (size,)):
        return None
    wide = np.asarray(scale, np.float64)
    shift = np.zeros(size) if bias is None else np.asarray(bias, np.float64)
    return Norm(node, source, value, node.op_type == "LayerNormalization", wide, shift)


def _segment(stream: Stream) -> None:
    """Cut a stream into segments: what sums tie together between norms."""
    linear = [value for value in stream.made if stream.made[stream.origin(value)] is not Made.NORM]
    tied = nx.Graph()
    tied.add_nodes_from(linear)
    for value in linear:
        if stream.made[value] in (Made.SUM, Made.PASSED):
            tied.add_edges_from((value, operand) for operand in operands(value) if operand in tied)
    parts = list(nx.connected_components(tied))
    number = {value: at for at, part in enumerate(parts) for value in part}
    ordered: list[list[ir.Value]] = [[] for _ in parts]
    for value in linear:
        ordered[number[value]].append(value)
    stream.segments = tuple(_made_of(stream, part) for part in ordered)
    stream.of.update((value, segment) for segment in stream.segments for value in segment.values)


def _made_of(stream: Stream, values: Iterable[ir.Value]) -> Segment:
    part = tuple(values)
    own = set(part)
    norms = tuple(norm for norm in stream.norms.values() if norm.source in own)
    ends = tuple(
        value
        for value in part
        if value.is_graph_output() or any(use.node.outputs[0] not in own for use in value.uses())
    )
    return Segment(part, norms, ends)


def held(stream: Stream) -> Miss | None:
    """Why a stream cannot be written in other bases."""
    for segment in stream.segments:
        if not segment.centred:
            continue
        # only what subtracts the mean may read what no longer has one
        plain = next((norm for norm in segment.norms if not norm.centred), None)
        if plain is not None:
            return _mixed(plain.value, "a norm that keeps the mean")
        for value in segment.values:
            direct = any(site.activation is value for site in stream.readers)
            if direct or stream.seen_whole(value):
                return _mixed(value, "read past its norm")
    inside = next(
        (use.node for value in stream.made for use in value.uses() if use.node.graph is not stream.node.graph), None
    )
    return (
        None if inside is None else Miss("subgraph", inside.name or inside.op_type, "a stream that no subgraph reads")
    )


def _mixed(value: ir.Value, why: str) -> Miss:
    return Miss(
        "mean", f"{value.name}, {why}", "features that only LayerNormalization reads, which take no mean", near=True
    )
