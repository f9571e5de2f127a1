"""Raise rotary position embeddings to one RotaryEmbedding node.

    before   Add(Mul(x, cos), Mul(Concat(Neg(x2), x1), sin))               spelled in any way
    after    RotaryEmbedding(x, cos, sin)        cos, sin: [batch, sequence, pairs]

Exact: Su et al., RoFormer, 2021, equation 34; pairs are halves (x[j], x[j + pairs]) or neighbours (x[2j], x[2j + 1]).
What is computed is read element by element of the last axis (`rotation`), so that neither order nor spelling matters;
elements behind the rotated ones may pass through. Tables that hold each number twice are halved where that is proven
(`rotary_tables`), in the same way for every x, so that equal tables stay equal nodes. x whose heads lie behind the
sequence is taken as [batch, sequence, heads * size], and a Transpose in front of the rotation moves behind it.

Left alone, with the reason: rotations the other way, tables that differ between the elements of a pair or between
heads, rotated elements that are not the first ones, an odd number of them, and sizes that are not known to agree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ....ir.text import place
from ...base import Match, Miss, Rewrite
from ...edit import Tape, is_op, replace
from .rotary_tables import Table, table_of, written
from .rotation import Index, Reader, Term

#: How far a rotation reaches from the difference or negation in it, in nodes.
_DEPTH = 10
_BREADTH = 40

_READ = frozenset(
    {"Neg", "Identity", "Add", "Sub", "Mul", "Slice", "Split", "Gather", "Concat", "Unsqueeze", "Squeeze", "Reshape"}
)
_PICKING = frozenset({"Slice", "Split", "Gather", "Squeeze", "Unsqueeze", "Reshape", "Neg", "Identity"})

#: What RotaryEmbedding takes.
_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

#: What the axes of x are, by its rank: 0 batch, 1 heads, 2 sequence, 3 size of a head.
_LAYOUTS = {4: ((0, 1, 2, 3), (0, 2, 1, 3)), 3: ((0, 2, 3),)}


@dataclass(frozen=True)
class Turn:
    """Which elements of x are turned: the first `size`, in pairs of neighbours or of halves.

    cos, sin: the table, and which of its elements the first and the second element of every pair are multiplied by.
    """

    size: int
    interleaved: bool
    cos: tuple[ir.Value, Index, Index]
    sin: tuple[ir.Value, Index, Index]


@dataclass(frozen=True, kw_only=True)
class Rotary(Match):
    """x, its rotated elements and tables.

    roles: what the axes of x are. heads: how many. source: of a Transpose that made x and that nobody else reads.
    """

    x: ir.Value
    output: ir.Value
    turn: Turn
    cos: Table
    sin: Table
    roles: tuple[int, ...]
    heads: int
    source: ir.Value | None
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True, kw_only=True)
class RaiseRotaryEmbedding(Rewrite):
    """x cos + rotate(x) sin -> RotaryEmbedding"""

    name: ClassVar[str] = "raise-rotary-embedding"
    anchors: ClassVar[tuple[str, ...]] = ("Neg", "Sub")

    def match(self, node: ir.Node) -> Match | Miss:
        missed: Miss | None = None
        candidates = list(_sources(node))
        for output in _outputs(node) if candidates else ():
            for x in candidates:
                if not _alike(output, x):
                    continue
                reader = Reader(x)
                terms = reader.terms(output)
                if terms is None or node not in reader.nodes:
                    continue
                found = _rotary(node, x, output, terms, tuple(reader.nodes))
                if not isinstance(found, Miss):
                    return found
                missed = missed or found
        return missed or Miss("rotation", place(node), "x * cos + rotate(x) * sin over the last axis of one x")

    def _candidates(self, nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
        """Differences of products, and what is negated and then joined: most others are masks and norms."""
        return (node for node in super()._candidates(nodes) if _plausible(node))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Rotary)
        tape = Tape()
        dims = dimensions(found.x)
        assert dims is not None and isinstance(dims[-1], int)
        x, size = found.x, dims[-1]
        joined = found.source is not None or found.roles[1] == 2
        split = joined and len(dims) == 4
        if split:
            x = _joined(tape, found.x if found.source is None else found.source, found.heads, size)
        stretched = found.cos.stretched or found.sin.stretched
        shape = _shape(tape, found.node.graph, dims[0], x) if stretched else None
        cos, sin = written(tape, found.cos, shape), written(tape, found.sin, shape)
        result = tape(
            "RotaryEmbedding",
            x,
            cos,
            sin,
            interleaved=int(found.turn.interleaved) or None,
            num_heads=found.heads if joined else None,
            rotary_embedding_dim=None if found.turn.size == size else found.turn.size,
        )
        lead = dims if found.source is None else [dims[0], dims[2], dims[1]]
        if split:
            result.type, result.shape = found.x.type, ir.Shape([lead[0], lead[1], found.heads * size])
            result = tape("Reshape", result, tape.constant([0, 0, found.heads, size], "shape"))
        if found.source is not None:
            result.type, result.shape = found.x.type, ir.Shape([*lead, size])
            result = tape("Transpose", result, perm=[0, 2, 1, 3])
        replace(tape, [found.output], [result], matched=found.nodes)


def _rotary(
    node: ir.Node, x: ir.Value, output: ir.Value, terms: Sequence[Sequence[Term]], nodes: tuple[ir.Node, ...]
) -> Match | Miss:
    turn = _turn(terms)
    if isinstance(turn, Miss):
        return turn
    if x.dtype not in _TYPES:
        return Miss("type", str(x.dtype), "float32, float16 or bfloat16")
    dims = dimensions(x)
    assert dims is not None
    missed: Miss | None = None
    for roles in _LAYOUTS[len(dims)]:
        by_role = {1: 1, **dict(zip(roles, dims, strict=True))}
        sizes = [by_role[role] for role in range(4)]
        heads = sizes[1]
        cos, sin = (table_of(*given, roles, sizes) for given in (turn.cos, turn.sin))
        if isinstance(cos, Miss) or isinstance(sin, Miss):
            missed = missed or next(item for item in (cos, sin) if isinstance(item, Miss))
            continue
        source = _turned(x, nodes) if roles == (0, 1, 2, 3) and isinstance(heads, int) and heads else None
        if not isinstance(heads, int) and (roles[1] == 2 or source is not None):
            missed = Miss("heads", str(heads), "a known number of heads")
            continue
        return Rotary(
            node=node,
            x=x,
            output=output,
            turn=turn,
            cos=cos,
            sin=sin,
            roles=roles,
            heads=heads if isinstance(heads, int) else 0,
            source=source,
            nodes=nodes,
        )
    assert missed is not None
    return missed


def _turn(terms: Sequence[Sequence[Term]]) -> Turn | Miss:
    """The pairs that are turned, held against y[a] = x[a] cos - x[b] sin, y[b] = x[b] cos + x[a] sin."""
    if len(terms) % 2:
        return Miss("pairs", f"{len(terms)} elements", "heads of an even size")
    size = next((index for index, found in enumerate(terms) if len(found) != 2), len(terms))
    rest = terms[size:]
    if any(len(found) != 1 or found[0].table is not None for found in rest) or any(
        found[0].pick != index or found[0].sign != 1 for index, found in enumerate(rest, start=size)
    ):
        return Miss("rest", f"element {size} of {len(terms)}", "two products each, and then elements as they were")
    if size < 2 or size % 2:
        return Miss("pairs", f"{size} elements", "an even number of rotated elements")
    straight = [[term for term in found if term.pick == index] for index, found in enumerate(terms[:size])]
    crossed = [[term for term in found if term.pick != index] for index, found in enumerate(terms[:size])]
    if any(len(found) != 1 for found in (*straight, *crossed)):
        return Miss("pairs", "elements with other than themselves and one more", "pairs of elements")
    half = size // 2
    every = np.arange(size)
    partners = np.asarray([found[0].pick for found in crossed])
    known = ((False, (every + half) % size, every < half), (True, every ^ 1, every % 2 == 0))
    layout = next((item for item in known if np.array_equal(partners, item[1])), None)
    if layout is None:
        return Miss("pairs", f"partners {partners.tolist()[:4]}..", "pairs of halves or of neighbours")
    interleaved, partner, lower = layout
    if any(found[0].sign != 1 for found in straight) or any(
        found[0].sign != (-1 if low else 1) for found, low in zip(crossed, lower, strict=True)
    ):
        return Miss("sign", "a rotation the other way, or none", "minus at the first element of each pair alone")
    cos, sin = (_read([found[0] for found in group], lower, partner) for group in (straight, crossed))
    if cos is None or sin is None:
        return Miss("table", "several tables", "one table of cos and one of sin")
    return Turn(size, interleaved, cos, sin)


def _read(
    terms: Sequence[Term], lower: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], partner: Index
) -> tuple[ir.Value, Index, Index] | None:
    table = terms[0].table
    if table is None or any(term.table is not table for term in terms):
        return None
    at = np.asarray([term.at for term in terms])
    return table, at[lower], at[partner[lower]]


def _plausible(node: ir.Node) -> bool:
    """Whether a node may lie within a rotation, at a glance."""
    if node.op_type == "Sub":
        return all(value is not None and is_op(value.producer(), "Mul") for value in node.inputs)
    if node.outputs[0].dtype is not None and not node.outputs[0].dtype.is_floating_point():
        return False
    return any(is_op(reader, "Concat", "Mul", "Unsqueeze", *_PICKING) for reader in node.outputs[0].consumers())


def _sources(node: ir.Node) -> Iterator[ir.Value]:
    """What may be rotated: factors of a difference, what is negated, and what those are picked from."""
    starts = list(node.inputs)
    if node.op_type == "Sub":
        products = [value.producer() for value in node.inputs if value is not None]
        starts = [item for product in products if is_op(product, "Mul") for item in product.inputs]
    seen: set[ir.Value] = set()
    queue = deque((value, 0) for value in starts)
    while queue:
        value, depth = queue.popleft()
        if value is None or value in seen or depth > _DEPTH:
            continue
        seen.add(value)
        dims = dimensions(value)
        if dims is not None and len(dims) in _LAYOUTS and isinstance(dims[-1], int) and dims[-1] > 1:
            yield value
        feeding = value.producer()
        if feeding is not None and is_op(feeding, *_PICKING):
            queue.append((feeding.inputs[0], depth + 1))


def _outputs(node: ir.Node) -> list[ir.Value]:
    """What may be the rotated x, farthest from the anchor first."""
    found: dict[ir.Value, None] = {}
    seen: set[ir.Node] = {node}
    queue = deque([(node, 0, node.op_type == "Sub")])
    while queue:
        current, depth, summed = queue.popleft()
        if summed and current is not node:
            found.update(dict.fromkeys(current.outputs))
        if depth == _DEPTH:
            continue
        for value in current.outputs:
            for reader in value.consumers():
                near = reader.graph is node.graph and reader not in seen
                if near and len(seen) < _BREADTH and is_op(reader, *_READ):
                    seen.add(reader)
                    queue.append((reader, depth + 1, summed or reader.op_type in ("Add", "Sub")))
    return list(found)[::-1]


def _alike(output: ir.Value, x: ir.Value) -> bool:
    found, dims = dimensions(output), dimensions(x)
    return found is not None and dims is not None and len(found) == len(dims) and found[-1] in (dims[-1], None)


def _turned(x: ir.Value, nodes: Sequence[ir.Node]) -> ir.Value | None:
    """[batch, sequence, heads, size] where x is its transposition for this rotation alone."""
    node = x.producer()
    if not is_op(node, "Transpose") or x.is_graph_output() or any(reader not in nodes for reader in x.consumers()):
        return None
    perm = node.attributes.get("perm")
    return node.inputs[0] if perm is not None and list(perm.as_ints()) == [0, 2, 1, 3] else None


def _joined(tape: Tape, x: ir.Value, heads: int, size: int) -> ir.Value:
    """[batch, sequence, heads * size], what x was reshaped from where it was that."""
    node, dims = x.producer(), dimensions(x)
    if is_op(node, "Reshape") and node.inputs[0] is not None:
        before = dimensions(node.inputs[0])
        if dims is not None and None not in dims and before == [*dims[:2], heads * size]:
            return node.inputs[0]
    return tape("Reshape", x, tape.constant([0, 0, heads * size], "shape"))


def _shape(tape: Tape, graph: ir.Graph | None, batch: int | str | None, x: ir.Value) -> ir.Value:
    """[batch, 1, 1], from an input of the graph where one has it, so that it is the same for every x."""
    if isinstance(batch, int):
        return tape.constant([batch, 1, 1], "shape")
    source, axis = x, 0
    for value in () if graph is None or batch is None else graph.inputs:
        dims = dimensions(value) or []
        if batch in dims:
            source, axis = value, dims.index(batch)
            break
    size = tape("Shape", source, start=axis, end=axis + 1)
    return tape("Concat", size, tape.constant([1, 1], "ones"), axis=0)
