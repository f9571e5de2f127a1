"""Write a stream in fewer directions: bases of its segments (`segments`) go into the weights beside it.

    x ~ B z                                        z [kept], B [features, kept] with B.T B = 1
    what writes x          W' = W E, b' = b E                      E = B, less its mean where nobody reads that
    y = norm(x)            y ~ (m B.T) scale + bias                         m = z / sqrt(|z|^2 / features + epsilon)
    what reads y           W' = B.T diag(scale) W, b' = b + bias W
    what reads x           W' = B.T W
    y goes into a sum of another segment            m (B.T diag(scale) E')  a matrix on the residual

m is RMSNormalization over the directions that stay, of another epsilon and scale: where x has no part outside of B
nothing changes. What is no linear layer, table, sum or norm gets x itself, B z, and is turned by E behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.constants import constant_of
from ...ir.provenance import inherit
from ...ir.site import Kind, Site
from ..edit import Ledger, Tape, replace, reroute, rewrite_constant, sweep, take_name
from ..moments import Origins
from ..numerics.arrays import Floats
from .segments import Made, Norm, Segment, Stream, Use, operands

#: In the metadata of a norm: how many features it went over before any of them went.
FIRST = "tersor.hidden"


@dataclass(frozen=True, eq=False)
class Basis:
    """The directions of a segment, [features, kept]; shares: of each norm's rows the energy that lies in them."""

    directions: Floats
    centred: bool
    shares: Mapping[ir.Value, float]

    @property
    def encode(self) -> Floats:
        """E, by which values are written."""
        return self.directions - self.directions.mean(0) if self.centred else self.directions

    @property
    def kept(self) -> int:
        return int(self.directions.shape[1])


@dataclass(eq=False)
class _Change:
    """What happens to a linear layer or table: W' = left W right, b' = (b + shift W) right + owed."""

    site: Site
    left: Floats | None = None
    shift: Floats | None = None
    right: Floats | None = None
    owed: Floats | None = None

    def apply(self) -> ir.Value:
        """Write it, and shorten what it gives; what stands for the site's output from now on."""
        site = self.site
        weight = np.asarray(site.dense(), np.float64)
        held = site.bias_array()
        bias = None if held is None else np.asarray(held, np.float64)
        if self.shift is not None and self.shift.any():
            bias = self.shift @ weight + (0.0 if bias is None else bias)
        weight = weight if self.left is None else self.left @ weight
        if self.right is not None:
            weight, bias = weight @ self.right, None if bias is None else bias @ self.right
            for value in {site.node.outputs[0], site.output}:
                shorten(value, self.right.shape[1])
        if self.owed is not None:
            bias = self.owed + (0.0 if bias is None else bias)
        _write(site, weight)
        return site.output if bias is None else _write_bias(site, bias)


def rotate(stream: Stream, bases: Mapping[Segment, Basis]) -> Origins:
    """Write a stream of a model in place in these directions.

    Gives of each value in them, by name, what it was called before and by what it comes from that.
    """
    return _Rotation(stream, bases).run()


class _Rotation:
    def __init__(self, stream: Stream, bases: Mapping[Segment, Basis]) -> None:
        self.stream, self.bases = stream, bases
        self.names = {value: value.name or "" for value in stream.made}
        # the graph as it was is what tells who reads what
        self.strangers = {value: stream.strangers(value) for value in stream.made}
        self.outputs = {value for value in stream.made if stream.seen_whole(value) and value.is_graph_output()}
        self.crossings = {(total, operand) for total, operand in stream.crossings()}
        self.operands = {value: operands(value) for value, made in stream.made.items() if made is Made.SUM}
        self.inside = {value: self._inside(value) for value, made in stream.made.items() if made is Made.WHOLE}
        self.behind = {value: (stream.origin(value), stream.factor(value)) for value in stream.made}
        self.now: dict[ir.Value, ir.Value] = {value: value for value in stream.made}

    def run(self) -> Origins:
        changes = self._changes()
        for value, made in self.stream.made.items():
            if made is Made.WHOLE:
                self._turn(value)
            elif made is Made.SUM:
                self._sum(value, changes)
            elif made is Made.NORM:
                self._norm(self.stream.norms[value])
            elif made is Made.PASSED:
                shorten(value, self._kept(value))
        for change in changes.values():
            written = change.apply()
            if change.site.output in self.now:
                self.now[change.site.output] = written
        for value in self.stream.made:
            if self.strangers[value] or value in self.outputs:
                self._restore(value)
        return {
            self.now[value].name or "": (self.names[value], self.bases[segment].encode)
            for value, segment in self.stream.of.items()
        }

    def _changes(self) -> dict[ir.Node, _Change]:
        found: dict[ir.Node, _Change] = {}
        for site in self.stream.readers:
            decode, shift = self._decode(site.activation)
            found[site.node] = _Change(site, left=decode, shift=shift)
        for value, site in self.stream.writers.items():
            found.setdefault(site.node, _Change(site)).right = self._basis(value).encode
        return found

    def _basis(self, value: ir.Value) -> Basis:
        return self.bases[self.stream.of[value]]

    def _kept(self, value: ir.Value) -> int:
        return len(self._decode(value)[0])

    def _decode(self, value: ir.Value) -> tuple[Floats, Floats]:
        """By what, and with what added, a value comes back from its directions: [kept, features] and [features]."""
        if value in self.stream.of:
            return self._basis(value).directions.T, np.zeros(self.stream.size)
        origin, factor = self.behind[value]
        norm = self.stream.norms[origin]
        # f (m B.T scale + bias) == (f m) B.T scale + f bias
        return self._basis(norm.source).directions.T * norm.scale, factor * norm.bias

    def _inside(self, value: ir.Value) -> list[Use]:
        """Uses of a value by the stream's own sums, norms and nodes that pass it on."""
        own = {each.producer() for each, made in self.stream.made.items() if made not in (Made.SITE, Made.WHOLE)}
        return [(use.node, use.idx) for use in value.uses() if use.node in own]

    def _turn(self, value: ir.Value) -> None:
        """Bring what is made whole into the segment's directions."""
        basis, tape = self._basis(value), Tape()
        self.now[value] = made = tape("MatMul", value, tape.constant(_like(value, basis.encode), "directions"))
        _typed(made, value, basis.kept)
        if value.producer() is None:
            first = Ledger.of(_graph(value)).earliest([node for node, _ in self.inside[value]])
            reroute(tape, first, value, made)
        else:
            _behind(tape, value)
        for node, index in self.inside[value]:
            node.replace_input_with(index, made)

    def _sum(self, value: ir.Value, changes: Mapping[ir.Node, _Change]) -> None:
        basis, node = self._basis(value), value.producer()
        assert node is not None
        for operand in dict.fromkeys(self.operands[value]):
            held = constant_of(operand)
            if held is not None:
                spread = np.broadcast_to(held, (*held.shape[:-1], self.stream.size)).astype(np.float64)
                rewrite_constant(node, operand, (spread @ basis.encode).astype(held.dtype))
            elif (value, operand) in self.crossings:
                self._cross(value, operand, node, changes)
        shorten(value, basis.kept)

    def _cross(self, total: ir.Value, operand: ir.Value, node: ir.Node, changes: Mapping[ir.Node, _Change]) -> None:
        """Bring an operand of a sum from its directions into those of the sum."""
        basis, (decode, shift) = self._basis(total), self._decode(operand)
        now, tape = self.now[operand], Tape()
        made = tape("MatMul", now, tape.constant(_like(now, decode @ basis.encode), "turned"))
        _typed(made, now, basis.kept)
        owed = shift @ basis.encode
        if owed.any():
            change = self._biased(total, changes)
            if change is not None:
                change.owed = owed if change.owed is None else change.owed + owed
            else:
                made = tape("Add", made, tape.constant(_like(now, owed), "shift"))
                _typed(made, now, basis.kept)
        reroute(tape, node, now, made)

    def _biased(self, total: ir.Value, changes: Mapping[ir.Node, _Change]) -> _Change | None:
        """A layer with a bias that goes into this sum and nowhere else."""
        for operand in self.operands[total]:
            site = self.stream.writers.get(operand)
            if site is not None and site.bias is not None and len(operand.uses()) == 1 and operand not in self.outputs:
                return changes[site.node]
        return None

    def _norm(self, norm: Norm) -> None:
        basis = self._basis(norm.source)
        # |z|^2 / features + e == (|z|^2 / kept + e features / kept) kept / features
        more = self.stream.size / basis.kept
        scale = np.full(basis.kept, np.sqrt(more * basis.shares.get(norm.value, 1.0)))
        held = constant_of(norm.node.inputs[1])
        assert held is not None and norm.node.inputs[1] is not None
        scale = scale.astype(held.dtype)
        first = norm.node.metadata_props.get(FIRST, str(self.stream.size))
        if norm.centred:
            tape = Tape()
            stash = norm.node.attributes.get("stash_type")
            made = tape(
                "RMSNormalization", norm.node.inputs[0], tape.weight(scale, norm.node.inputs[1].name or "scale"),
                axis=-1, epsilon=norm.epsilon * more, stash_type=None if stash is None else stash.as_int(),
            )  # fmt: skip
            shorten(norm.value, basis.kept)
            replace(tape, [norm.value], [made])
            self.now[norm.value] = made
        else:
            rewrite_constant(norm.node, norm.node.inputs[1], scale)
            norm.node.attributes["epsilon"] = ir.AttrFloat32("epsilon", norm.epsilon * more)
            shorten(norm.value, basis.kept)
        node = self.now[norm.value].producer()
        assert node is not None
        node.metadata_props[FIRST] = first

    def _restore(self, value: ir.Value) -> None:
        """Let what sees a value whole do so."""
        (decode, shift), now, tape = self._decode(value), self.now[value], Tape()
        made = tape("MatMul", now, tape.constant(_like(now, decode), "whole"))
        _typed(made, now, self.stream.size)
        if shift.any():
            made = tape("Add", made, tape.constant(_like(now, shift), "shift"))
            _typed(made, now, self.stream.size)
        _behind(tape, now)
        _instead(now, made, self.strangers[value], outputs=value in self.outputs)


def shorten(value: ir.Value, kept: int) -> None:
    """State that a value has so many features."""
    if value.shape is not None:
        value.shape = ir.Shape([*value.shape.dims[:-1], kept])


def _write(site: Site, weight: Floats) -> None:
    at = 0 if site.kind is Kind.EMBEDDING else 1
    read = site.node.inputs[at]
    stored = site.view.dtype.numpy()
    assert read is not None
    matrix = (weight.T if site.flipped else weight) / site.alpha
    lead = site.view.shape[:-2]
    _store(site.node, read, site.weight.name or "weight", matrix.reshape(*lead, *matrix.shape).astype(stored))


def _write_bias(site: Site, bias: Floats) -> ir.Value:
    if site.bias is not None and site.bias_node is not None:
        held = constant_of(site.bias)
        assert held is not None
        shape = (*[1] * max(held.ndim - 1, 0), len(bias))
        _store(
            site.bias_node, site.bias, site.bias.name or "bias", (bias / site.beta).reshape(shape).astype(held.dtype)
        )
        return site.output
    tape, uses = Tape(), [(use.node, use.idx) for use in site.output.uses()]
    numbers = bias.astype(site.view.dtype.numpy())
    made = tape("Add", site.output, tape.weight(numbers, f"{site.weight.name}_bias"))
    made.type, made.shape = site.output.type, site.output.shape
    _behind(tape, site.output)
    _instead(site.output, made, uses, outputs=site.output.is_graph_output())
    return made


def _store(node: ir.Node, read: ir.Value, name: str, array: np.ndarray) -> None:
    """Let a node read an array where it reads a constant, or what nodes make of one."""
    producer = read.producer()
    if producer is None:
        rewrite_constant(node, read, array)
        return
    tape = Tape()
    reroute(tape, node, read, tape.weight(array, name))
    sweep([producer])


def _like(value: ir.Value, array: Floats) -> np.ndarray:
    return array.astype(np.float32 if value.dtype is None else value.dtype.numpy())


def _typed(made: ir.Value, like: ir.Value, kept: int) -> None:
    made.type = like.type
    made.shape = None if like.shape is None else ir.Shape([*like.shape.dims[:-1], kept])


def _graph(value: ir.Value) -> ir.Graph:
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    return graph


def _behind(tape: Tape, value: ir.Value) -> None:
    """Put the tape's nodes right behind the one that makes a value, for which they stand too."""
    producer = value.producer()
    assert producer is not None
    graph = _graph(value)
    ledger = Ledger.of(graph)
    for made in (*tape.weights, *tape.constants):
        name = made.name or "constant"
        made.name = ledger.unique(name if made in tape.weights else f"{value.name}/{name}")
        graph.register_initializer(made)
    for node in tape.nodes:
        node.outputs[0].name = ledger.unique(f"{value.name}/{node.op_type}")
    graph.insert_after(producer, tape.nodes)
    ledger.forget_order()
    inherit(tape.nodes, [producer])


def _instead(value: ir.Value, made: ir.Value, uses: list[Use], *, outputs: bool) -> None:
    """Let these uses of a value read another, which bears its name from now on."""
    for node, index in uses:
        node.replace_input_with(index, made)
    graph = _graph(value)
    for at, given in enumerate(graph.outputs):
        if given is value and outputs:
            graph.outputs[at] = made
    old, producer = value.name, value.producer()
    assert producer is not None
    take_name(value, made)
    value.name = Ledger.of(graph).unique(f"{old}/{producer.op_type}")
