"""Write a recurrence as the one LSTM, GRU or RNN that it is, its weights laid out as ONNX wants them.

W [1, gates * hidden, input]    R [1, gates * hidden, hidden]    B [1, 2 * gates * hidden]    P [1, 3 * hidden]

They are laid out when they are read: until then the stored arrays stay where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Miss
from ...edit import Array, Attribute, Tape, attribute, integers_of, is_op
from .affine import Bias, Product, Step
from .blocks import Matrix, rows, width
from .cells import Cell, Share

#: Where an input comes from: a value, and what moves its rows.
Origin = tuple[ir.Value, tuple[Step, ...]]
Same = frozenset[tuple[object, int]]
Read = Callable[[], Array]

#: ONNX has these ops in float64 too; ONNX Runtime has not.
_DTYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class Layer:
    """A cell whose input and state are told apart. Blocks are [gates][sources]: what is summed for each."""

    cell: Cell
    origins: tuple[Origin, ...]
    inputs: tuple[tuple[tuple[Product, ...], ...], ...]
    states: tuple[tuple[Product, ...], ...]
    input_bias: tuple[tuple[Bias, ...], ...]
    hidden_bias: tuple[tuple[Bias, ...], ...]

    @property
    def weights(self) -> tuple[object, ...]:
        """What two steps of one recurrence have in common: the same stored numbers in the same places."""
        inputs = tuple(tuple(_blocks(block) for block in blocks) for blocks in self.inputs)
        states = tuple(map(_blocks, self.states))
        cell = self.cell
        return (
            *(cell.op_type, cell.hidden, cell.linear_before_reset, cell.activation, cell.peepholes),
            *(inputs, states, tuple(map(_biases, self.input_bias)), tuple(map(_biases, self.hidden_bias))),
        )


def layer(cell: Cell, state: ir.Value) -> Layer | Miss:
    """The cell with `state` as h and all other sources as its input."""
    origins: list[Origin] = []
    for share in cell.gates:
        if share.rest:
            value = share.rest[0].value
            return Miss("share", value.name or "", "a gate that sums products with constant matrices")
        origins += [(item.source, item.via) for item in share.products if item.source is not state]
    found = tuple(dict.fromkeys(origins))
    made = Layer(
        cell=replace(cell, state=state),
        origins=found,
        inputs=tuple(tuple(_of(share.products, origin) for origin in found) for share in cell.gates),
        states=tuple(_recurrent(share, state) for share in cell.gates),
        input_bias=tuple(share.biases for share in cell.gates),
        hidden_bias=tuple(tuple(item for item in share.recalled if isinstance(item, Bias)) for share in cell.gates),
    )
    kinds = {item.matrix.view.dtype for share in cell.gates for item in share.products}
    if len(kinds) != 1 or not kinds <= _DTYPES:
        return Miss(
            "dtype", ", ".join(sorted(kind.name for kind in kinds)), "float32 or half precision, which runtimes run"
        )
    if not found or not all(all(blocks) for blocks in made.inputs):
        return Miss("input", _named(cell.output), "an input that every gate reads")
    if not all(made.states):
        return Miss("state", _named(state), "a state that every gate reads")
    if any(item.via for block in made.states for item in block) or width(state) != cell.hidden:
        return Miss(
            "state", f"{_named(state)}: {dimensions(state)}", f"a state of {cell.hidden} features, read as it is"
        )
    if rows(state) != rows(cell.output):
        return Miss(
            "shape", f"{_named(state)}: {dimensions(state)}", f"that of the new state, {dimensions(cell.output)}"
        )
    return made


def emit(
    tape: Tape, found: Layer, x: ir.Value, states: Sequence[ir.Value | None], *, backward: bool = False, owner: str
) -> list[ir.Value]:
    """Record the op over x [sequence, batch, input] from states [1, batch, hidden]: Y, Y_h and, of an LSTM, Y_c."""
    cell = found.cell
    inputs: list[ir.Value | None] = [x, *_weights(tape, found, owner), None, *states]
    if any(item is not None for item in cell.peepholes):
        inputs.append(_peepholes(tape, found, owner))
    attributes: dict[str, Attribute] = {
        "direction": "reverse" if backward else None,
        "hidden_size": cell.hidden,
        "linear_before_reset": 1 if cell.linear_before_reset else None,
        "activations": ir.AttrStrings("activations", ["Relu"]) if cell.activation == "Relu" else None,
    }
    return list(tape.node(cell.op_type, inputs, attributes, outputs=3 if cell.op_type == "LSTM" else 2).outputs)


def source(tape: Tape, origins: Sequence[Origin]) -> ir.Value:
    """The input [.., features], its rows moved as they were, its parts side by side."""
    parts = []
    for value, via in _whole(origins):
        moved = value
        for node, index in via:
            made = tape.node(node.op_type, [moved, *node.inputs[1:]], dict(node.attributes), outputs=len(node.outputs))
            moved = made.outputs[index]
        parts.append(moved)
    return parts[0] if len(parts) == 1 else tape("Concat", *parts, axis=-1)


def _whole(origins: Sequence[Origin]) -> Sequence[Origin]:
    """The value that was put together from all the parts, where there is one and nothing was done to them since."""
    values, ways = [value for value, _ in origins], {via for _, via in origins}
    if len(values) < 2 or len(ways) != 1:
        return origins
    for node in values[0].consumers():
        rank = len(values[0].shape or ())
        if is_op(node, "Concat") and list(node.inputs) == values and attribute(node, "axis", 0) in (-1, rank - 1):
            return [(node.outputs[0], ways.pop())]
    return origins


def with_steps(tape: Tape, value: ir.Value) -> ir.Value:
    """[batch, features] as [1, batch, features]."""
    if value.shape is not None and len(value.shape) == 3:
        return value
    node = value.producer()
    if is_op(node, "Gather") and attribute(node, "axis", 0) == 0 and node.inputs[0] is not None:
        # Unsqueeze(Gather(x, k), 0) == Gather(x, [k])
        at, index = integers_of(node.inputs[1]), node.inputs[1]
        if at is not None and index is not None and index.shape is not None and len(index.shape) == 0:
            return tape("Gather", node.inputs[0], tape.constant(at, "at"), axis=0)
    return tape("Unsqueeze", value, tape.constant([0], "axes"))


def as_rows(
    tape: Tape, final: ir.Value, value: ir.Value, *, like: ir.Value | None = None
) -> tuple[list[ir.Value], list[ir.Value]]:
    """[1, batch, features] in the place of `value`, of the rank of `like`: the old values and the new."""
    shape = (like or value).shape
    if shape is not None and len(shape) == 3:
        return [value], [final]
    wide = [
        node.outputs[0]
        for node in value.consumers()
        if is_op(node, "Unsqueeze") and _leads(node) and node.graph is value.graph
    ]
    # one value bears one name: of the graph's outputs it can be one, the last to hand over its name
    ports = [item for item in wide if item.is_graph_output()][:1]
    outside = [*(item for item in wide if not item.is_graph_output()), *ports]
    others = len(value.uses()) != len(outside) or value.is_graph_output()
    flat = [tape("Squeeze", final, tape.constant([0], "axes"))] if others else []
    return [*([value] if others else []), *outside], [*flat, *([final] * len(outside))]


def flipped(tape: Tape, value: ir.Value) -> ir.Value:
    """The slices along the first axis, the last one first."""
    last, end = tape.constant([-1], "last"), tape.constant([np.iinfo(np.int64).min], "end")
    return tape("Slice", value, last, end, tape.constant([0], "axes"), last)


def _leads(node: ir.Node) -> bool:
    return len(node.inputs) > 1 and integers_of(node.inputs[1]) == [0]


def _weights(tape: Tape, found: Layer, owner: str) -> list[ir.Value | None]:
    gates, hidden = len(found.cell.gates), found.cell.hidden
    sizes = [_height(found.inputs[0][index][0].matrix) for index in range(len(found.origins))]
    first = found.inputs[0][0][0].matrix.view
    dtype = first.dtype

    halves = [[item.reader() for item in items] for half in (found.input_bias, found.hidden_bias) for items in half]
    sides = [[[item.reader() for item in block] for block in blocks] for blocks in found.inputs]
    own = [[item.reader() for item in block] for block in found.states]

    def inputs() -> Array:
        return np.concatenate([np.concatenate([_sum(block) for block in side]).T for side in sides])[None]

    def states() -> Array:
        return np.concatenate([_sum(block).T for block in own])[None]

    def bias() -> Array:
        return np.concatenate([_vector(items, hidden, dtype.numpy()) for items in halves])[None]

    weight = tape.derived(f"{owner}/W", (1, gates * hidden, sum(sizes)), dtype, inputs, weight=True)
    recurrence = tape.derived(f"{owner}/R", (1, gates * hidden, hidden), dtype, states, weight=True)
    if not any((*found.input_bias, *found.hidden_bias)):
        return [weight, recurrence, None]
    return [weight, recurrence, tape.derived(f"{owner}/B", (1, 2 * gates * hidden), dtype, bias, weight=True)]


def _peepholes(tape: Tape, found: Layer, owner: str) -> ir.Value:
    hidden, dtype = found.cell.hidden, found.inputs[0][0][0].matrix.view.dtype

    parts = [[] if item is None else [item.reader()] for item in found.cell.peepholes]

    def array() -> Array:
        return np.concatenate([_vector(part, hidden, dtype.numpy()) for part in parts])[None]

    return tape.derived(f"{owner}/P", (1, 3 * hidden), dtype, array, weight=True)


def _sum(parts: Sequence[Read]) -> Array:
    total = parts[0]()
    for part in parts[1:]:
        total = np.add(total, part())
    return total


def _vector(parts: Sequence[Read], size: int, kind: np.dtype[np.generic]) -> Array:
    total: Array = np.zeros(size, kind)
    for part in parts:
        total = np.add(total, part())
    return total


def _of(products: Sequence[Product], origin: Origin) -> tuple[Product, ...]:
    return tuple(item for item in products if (item.source, item.via) == origin)


def _recurrent(share: Share, state: ir.Value) -> tuple[Product, ...]:
    own = tuple(item for item in share.products if item.source is state)
    return own + tuple(item for item in share.recalled if isinstance(item, Product))


def _blocks(block: Sequence[Product]) -> Same:
    return frozenset(Counter((item.matrix, item.scale) for item in block).items())


def _biases(items: Sequence[Bias]) -> Same:
    return frozenset(Counter(items).items())


def _height(matrix: Matrix) -> int:
    return matrix.rows[1] - matrix.rows[0]


def _named(value: ir.Value) -> str:
    return value.name or ""
