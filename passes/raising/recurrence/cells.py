"""Find the cell of a recurrence around a nonlinearity, and prove what it computes.

    LSTM   c' = f * c + i * g    h' = o * tanh(c')                  Hochreiter & Schmidhuber, 1997; Gers et al., 2000
    GRU    h' = (1 - z) * n + z * h                                 Cho et al., 2014
           n = tanh(x W + r * (h R + b))  or  tanh(x W + (r * h) R + b)
    RNN    h' = tanh(x W + h R + b)  or  relu(..)                   Elman, 1990

Each gate is the sigmoid of a sum of products with constant matrices, see `affine`; an LSTM's may have peepholes, its
input and forget gate may be one. How the gates are packed, in which order, and where biases are added does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Miss
from ...edit import is_op, only_reader
from .affine import Bias, Product, Rest, Scaled, Term, terms
from .blocks import constant, rows, width
from .updates import Gate, Update, arithmetic_readers, between, gate, updates


@dataclass(frozen=True)
class Share:
    """What one gate sums before its nonlinearity. `recalled` is what a GRU's reset gate multiplies."""

    products: tuple[Product, ...] = ()
    biases: tuple[Bias, ...] = ()
    scaled: tuple[Scaled, ...] = ()
    rest: tuple[Rest, ...] = ()
    recalled: tuple[Term, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One step of a recurrence.

    `gates` are in ONNX's order: i o f c of an LSTM, z r h of a GRU. `state` is h: None where the arithmetic leaves open
    which of the products' sources it is. `before` and `after` are a LSTM's cell state.
    """

    op_type: str
    hidden: int
    gates: tuple[Share, ...]
    output: ir.Value
    state: ir.Value | None = None
    before: ir.Value | None = None
    after: ir.Value | None = None
    peepholes: tuple[Bias | None, ...] = ()
    linear_before_reset: bool = False
    activation: str | None = None
    nodes: frozenset[ir.Node] = field(default=frozenset())


def lstm(tanh: ir.Node) -> Cell | Miss:
    """The LSTM cell whose output is o * tanh(c'), from that tanh."""
    memory = tanh.inputs[0]
    reader = only_reader(tanh.outputs[0])
    if memory is None or not is_op(reader, "Mul"):
        return Miss("output", _named(tanh.outputs[0]), "to be multiplied by an output gate, and nothing else")
    output = gate(next((value for value in reader.inputs if value is not tanh.outputs[0]), None), "Sigmoid")
    if output is None:
        return Miss("output", _named(reader.outputs[0]), "a sigmoid times tanh of the cell state")
    update = next(updates(memory), None)
    if update is None:
        return Miss("update", _named(memory), "f * c + i * g with sigmoids f, i and a tanh g")
    gates = (update.take, output, update.keep, update.new)
    shares = [_share(item) for item in gates]
    peepholes = [
        _peephole(share, past) for share, past in zip(shares, (update.state, memory, update.state), strict=False)
    ]
    stray = next((miss for miss in (*peepholes, _no_scaled(shares[3])) if isinstance(miss, Miss)), None)
    if stray is not None:
        return stray
    nodes = between(memory, {update.state, *(item.value for item in gates)}) | {tanh, reader}
    return _checked(
        Cell(
            op_type="LSTM",
            hidden=width(memory) or 0,
            gates=tuple(shares),
            output=reader.outputs[0],
            before=update.state,
            after=memory,
            peepholes=tuple(item for item in peepholes if not isinstance(item, Miss)),
            nodes=frozenset(nodes),
        ),
        gates,
    )


def gru(tanh: ir.Node) -> Cell | Miss:
    """The GRU cell whose new content is this tanh."""
    found = Miss("update", _named(tanh.outputs[0]), "(1 - z) * n + z * h of this n, with a sigmoid z")
    for result in arithmetic_readers(tanh.outputs[0]):
        for update in updates(result):
            if update.coupled and _source(update.new) is tanh:
                made = _gru(update)
                if isinstance(made, Cell):
                    return made
                found = made
    return found


def rnn(node: ir.Node, state: ir.Value | None = None) -> Cell | Miss:
    """The plain cell that is this tanh or relu of a sum of products. Nothing tells it from other layers but its use."""
    value = node.inputs[0]
    size = width(value)
    if value is None or size is None:
        return Miss("size", _named(node.outputs[0]), "a known number of features", far=True)
    share = _share(Gate(node.outputs[0], value, (0, size)))
    stray = _no_scaled(share)
    if stray is not None:
        return stray
    return Cell(
        op_type="RNN",
        hidden=size,
        gates=(share,),
        output=node.outputs[0],
        state=state,
        activation=node.op_type,
        nodes=frozenset((node,)),
    )


def _gru(update: Update) -> Cell | Miss:
    """A GRU's cell of its update, once the reset gate is found in the new content."""
    keep, state = update.keep, update.state
    new = _share(update.new)
    reset: Gate | None = None
    recalled: tuple[Term, ...] = ()
    nodes: set[ir.Node] = set()
    linear = False
    candidates: list[Rest | Product] = [*new.rest, *new.products]
    for term in candidates:
        found = _recalled(term, state)
        if found is None:
            continue
        if reset is not None:
            return Miss("reset", _named(update.new.value), "one reset gate in the new content")
        reset, recalled, node = found
        nodes.add(node)
        linear = isinstance(term, Rest)
        new = Share(
            tuple(item for item in new.products if item is not term),
            new.biases,
            new.scaled,
            tuple(item for item in new.rest if item is not term),
            recalled if linear else (),
        )
    if reset is None:
        return Miss("reset", _named(update.new.value), "a reset gate times the state, or times a product of the state")
    if any(item.source is state for item in new.products):
        return Miss("reset", _named(update.new.value), "all of the state's share behind the reset gate")
    if not linear:
        new = Share((*new.products, _with_source(recalled[0], state)), new.biases, new.scaled, new.rest)
    shares = (_share(keep), _share(reset), new)
    stray = next((miss for miss in map(_no_scaled, shares) if miss is not None), None)
    if stray is not None:
        return stray
    nodes |= between(update.result, {state, keep.value, update.new.value})
    return _checked(
        Cell(
            op_type="GRU",
            hidden=width(update.result) or 0,
            gates=shares,
            output=update.result,
            state=state,
            linear_before_reset=linear,
            nodes=frozenset(nodes),
        ),
        (keep, reset, update.new),
    )


def _recalled(term: Rest | Product, state: ir.Value) -> tuple[Gate, tuple[Term, ...], ir.Node] | None:
    """(r, q, node) of a term r * (h R + b) or (r * h) R, with a sigmoid r; q are the terms of what r multiplies."""
    value = term.value if isinstance(term, Rest) else term.source
    node = value.producer()
    if term.via or not is_op(node, "Mul"):
        return None
    left, right = node.inputs
    for item, other in ((left, right), (right, left)):
        found = gate(item, "Sigmoid")
        if found is None or other is None or not dimensions(item) == dimensions(other) == dimensions(value):
            continue
        if isinstance(term, Product):
            if other is state:
                return found, (term,), node
            continue
        recalled = tuple(terms(other, term.columns, term.scale))
        if all(_of_state(item, state) for item in recalled) and not all(isinstance(item, Bias) for item in recalled):
            return found, recalled, node
    return None


def _of_state(term: Term, state: ir.Value) -> bool:
    """Whether a term is a product of the state, or constant: what the product of a known state was folded to."""
    if isinstance(term, Product):
        return term.source is state
    return isinstance(term, Bias) or (isinstance(term, Rest) and constant(term.value) is not None)


def _with_source(term: Term, source: ir.Value) -> Product:
    assert isinstance(term, Product)
    return Product(source, term.via, term.matrix, term.scale)


def _share(found: Gate) -> Share:
    # 1 - sigmoid(a) == sigmoid(-a)
    summed = terms(found.whole, found.columns, -1.0 if found.flipped else 1.0)
    return Share(
        tuple(term for term in summed if isinstance(term, Product)),
        tuple(term for term in summed if isinstance(term, Bias)),
        tuple(term for term in summed if isinstance(term, Scaled)),
        tuple(term for term in summed if isinstance(term, Rest)),
    )


def _peephole(share: Share, past: ir.Value) -> Bias | Miss | None:
    if not share.scaled:
        return None
    if len(share.scaled) > 1 or share.scaled[0].source is not past:
        return Miss("peephole", _named(share.scaled[0].source), f"{_named(past)} times a constant vector")
    return share.scaled[0].factor


def _no_scaled(share: Share) -> Miss | None:
    return Miss("gate", _named(share.scaled[0].source), "products with constant matrices") if share.scaled else None


def _checked(cell: Cell, gates: Sequence[Gate]) -> Cell | Miss:
    """The cell, if nothing in it broadcasts and nobody else reads its gates."""
    if len({node.graph for node in cell.nodes}) != 1:
        return Miss("scope", _named(cell.output), "a cell in one graph, not partly in a branch")
    wanted = rows(cell.output)
    for value in (cell.output, cell.before, cell.after, cell.state):
        if value is not None and (value.shape is None or not 2 <= len(value.shape) <= 3 or len(wanted or ()) > 1):
            return Miss("shape", f"{_named(value)}: {dimensions(value)}", "[batch, hidden]")
    for value in (*(item.value for item in gates), cell.before, cell.after, cell.state):
        if value is None:
            continue
        if wanted is None or rows(value) != wanted or width(value) != cell.hidden or not cell.hidden:
            return Miss(
                "shape", f"{_named(value)}: {dimensions(value)}", f"that of the state, {dimensions(cell.output)}"
            )
    for item in gates:
        if item.value.is_graph_output() or any(node not in cell.nodes for node in item.value.consumers()):
            return Miss("gate", _named(item.value), "to be read inside the cell alone")
    return cell


def _source(found: Gate) -> ir.Node | None:
    node = found.value.producer()
    return node if is_op(node, "Tanh") else None


def _named(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""
