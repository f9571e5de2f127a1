"""Follow a recurrence that was written out step by step: equal cells, each taking the state of the one before.

Which step reads which slice is told by what stands between the sequence and the cell: Gather, Slice or Split along the
axis of the steps, and a Squeeze. An exporter that knows the first state to be zero leaves its product out, or folds it
into the bias: a first cell without a state is one that started from zero, when all else of it is as in the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ....ir.content import Element, dimensions
from ...base import Miss
from ...edit import Array, attribute, constant_of, integers_of, is_op
from .affine import Bias, Product, Rest, Step, Term
from .blocks import constant, slice_axes, split_at
from .cells import Cell, gru, lstm, rnn
from .layers import Layer, Origin, layer
from .updates import gate, ingredients


@dataclass(frozen=True)
class Slice:
    """The `index`th slice along an axis of moved(whole), whose axes but the last have the sizes `lead`."""

    lead: tuple[Element, ...]
    whole: ir.Value
    moved: tuple[Step, ...]
    axis: int
    index: int


@dataclass(frozen=True)
class Chain:
    """The steps, first to last, all with the weights of `layers[-1]`, and where the input of each lies."""

    layers: tuple[Layer, ...]
    slices: tuple[tuple[Slice, ...], ...]


def slice_of(origin: Origin) -> Slice | None:
    """What a step's input is of a sequence."""
    value, via = origin
    steps = list(via)
    if not steps:
        while is_op(node := value.producer(), "Squeeze", "Gather", "Slice", "Split") and len(steps) < 2:
            steps.insert(0, (node, node.outputs.index(value)))
            if node.inputs[0] is None:
                return None
            value = node.inputs[0]
            if node.op_type != "Squeeze":
                break
    squeezed = None
    if steps and steps[-1][0].op_type == "Squeeze":
        squeezed = steps.pop()[0]
    if not steps:
        return None
    node, index = steps.pop()
    dims = dimensions(node.inputs[0])
    if dims is None:
        return None
    found = _picked(node, index, len(dims))
    if found is None:
        return None
    axis, at, kept = found
    axes = None if squeezed is None or len(squeezed.inputs) < 2 else integers_of(squeezed.inputs[1])
    if squeezed is not None and (not kept or axes is None or [item % len(dims) for item in axes] != [axis]):
        return None
    if kept and squeezed is None and axis != 0:
        return None
    size = dims[axis]
    if at < 0 and isinstance(size, int):
        at += size
    inside = at >= 0 and (not isinstance(size, int) or at < size)
    return Slice(tuple(dims[:-1]), value, tuple(steps), axis, at) if inside else None


def chain(last: Cell) -> Chain | Miss:
    """The steps that end in this cell."""
    cells = [last]
    while (earlier := _previous(cells[0])) is not None:
        cells.insert(0, earlier)
    if len(cells) < 2:
        # one tanh or relu of a layer is a cell only by what comes before it
        plain = last.op_type == "RNN"
        return Miss("steps", last.output.name or "", "a state that a cell with the same weights made", far=plain)
    final = layer(last, cells[-2].output)
    if isinstance(final, Miss):
        return final
    layers = [final]
    for before, cell in zip(reversed(cells[:-2]), reversed(cells[1:-1]), strict=True):
        made = layer(cell, before.output)
        if isinstance(made, Miss) or made.weights != final.weights:
            break
        layers.insert(0, made)
    first = _first(cells[-len(layers) - 1], final)
    layers = layers if first is None else [first, *layers]
    if len(layers) < 2:
        return Miss("weights", last.output.name or "", "the weights of the cell before")
    slices = []
    for made in layers:
        found = [slice_of(origin) for origin in made.origins]
        known = [item for item in found if item is not None]
        if len(known) != len(found):
            return Miss("input", made.origins[0][0].name or "", "the slice of a sequence, picked by a constant")
        slices.append(tuple(known))
    return Chain(tuple(layers), tuple(slices))


def is_last(cell: Cell) -> bool:
    """Whether nothing multiplies the cell's output with the weights that the cell uses."""
    own = {
        product.matrix.view.root for share in cell.gates for product in (*share.products, *_products(share.recalled))
    }
    frontier = [cell.output]
    for _ in range(2):
        readers = [node for value in frontier for node in value.consumers()]
        for node in readers:
            view = constant(node.inputs[1]) if is_op(node, "MatMul", "Gemm") else None
            if view is not None and view.root in own:
                return False
        frontier = [node.outputs[0] for node in readers if is_op(node, "Concat")]
    return True


def _previous(cell: Cell) -> Cell | None:
    """The cell that made the state of this one."""
    if cell.op_type == "LSTM":
        nodes = [] if cell.before is None else [node for node in cell.before.consumers() if is_op(node, "Tanh")]
        made = [found for node in nodes if isinstance(found := lstm(node), Cell) and found.after is cell.before]
    elif cell.op_type == "GRU":
        inside = [] if cell.state is None else [gate(value, "Tanh") for value in ingredients(cell.state)]
        nodes = [node for item in inside if item is not None and is_op(node := item.value.producer(), "Tanh")]
        made = [found for node in nodes if isinstance(found := gru(node), Cell) and found.output is cell.state]
    else:
        own = _matrices(cell)
        sources = dict.fromkeys(product.source for product in cell.gates[0].products if not product.via)
        nodes = [node for value in sources if is_op(node := value.producer(), cell.activation or "")]
        made = [found for node in nodes if isinstance(found := rnn(node), Cell) and _matrices(found) <= own]
    alike = [item for item in made if item.hidden == cell.hidden and item.output.graph is cell.output.graph]
    return alike[0] if len(made) == len(alike) == 1 else None


def _first(cell: Cell, final: Layer) -> Layer | None:
    """The first step: from a state of its own, or from zeros that are written nowhere."""
    wanted = {(item.matrix, item.scale) for item in final.states[0]}
    products = [*cell.gates[0].products, *_products(cell.gates[0].recalled)]
    for state in dict.fromkeys(item.source for item in products if (item.matrix, item.scale) in wanted):
        made = layer(cell, state)
        if isinstance(made, Layer) and made.weights == final.weights:
            return made
    return _from_zero(cell, final)


def _from_zero(cell: Cell, final: Layer) -> Layer | None:
    """The first step of a state that is zero: its gates sum the input and what the biases add up to."""
    state = cell.state if cell.op_type == "GRU" else cell.before
    if state is not None and not is_zero(state):
        return None
    shares = [tuple(item for item in share.products if item.source is not state) for share in cell.gates]
    origins = tuple(dict.fromkeys((item.source, item.via) for item in shares[0]))
    for share, biases, recalled in zip(cell.gates, final.input_bias, final.hidden_bias, strict=True):
        rest = [item for item in share.recalled if not isinstance(item, Product)]
        if not _adds_up([*share.biases, *share.rest], biases) or not _adds_up(rest, recalled):
            return None
    blocks = [
        tuple(tuple(item for item in products if (item.source, item.via) == origin) for origin in origins)
        for products in shares
    ]
    made = replace(final, cell=cell, origins=origins, inputs=tuple(blocks))
    return made if made.weights == final.weights else None


def _adds_up(parts: Sequence[Term], biases: Sequence[Bias]) -> bool:
    """Whether constants, some of which were folded, are the same for each row and sum to these biases."""
    vectors = [item.reader()() if isinstance(item, Bias) else _rows(item) for item in parts]
    known = [np.float64(item) for item in vectors if item is not None]
    if len(known) != len(vectors):
        return False
    wanted = sum((np.float64(item.reader()()) for item in biases), np.zeros(1))
    return bool(np.allclose(sum(known, np.zeros(1)), wanted, rtol=1e-6, atol=0.0))


def _rows(rest: Term) -> Array | None:
    """The vector that a constant adds to each row, when it is the same for all."""
    if not isinstance(rest, Rest) or rest.via or constant(rest.value) is None:
        return None
    array = constant_of(rest.value)
    if array is None or array.ndim < 2 or array.size == 0:
        return None
    flat = array.reshape(-1, array.shape[-1])[:, slice(*rest.columns)]
    return np.multiply(flat[0], rest.scale) if np.array_equal(flat, np.broadcast_to(flat[:1], flat.shape)) else None


def is_zero(value: ir.Value) -> bool:
    """Whether a value is a constant of zeros."""
    array = constant_of(value)
    return array is not None and not np.any(array)


def _matrices(cell: Cell) -> frozenset[object]:
    return frozenset(item.matrix for share in cell.gates for item in share.products)


def _products(items: tuple[object, ...]) -> list[Product]:
    return [item for item in items if isinstance(item, Product)]


def _picked(node: ir.Node, index: int, rank: int) -> tuple[int, int, bool] | None:
    """(axis, which, whether the axis is kept) where a node takes one slice along an axis."""
    if node.op_type == "Gather":
        at = integers_of(node.inputs[1])
        shape = None if node.inputs[1] is None else node.inputs[1].shape
        if at is None or len(at) != 1 or shape is None:
            return None
        return attribute(node, "axis", 0) % rank, at[0], len(shape) == 1
    if node.op_type == "Split":
        axis = attribute(node, "axis", 0) % rank
        dims, start = dimensions(node.outputs[index]), split_at(node, node.outputs[index], axis)
        return None if dims is None or dims[axis] != 1 or start is None else (axis, start, True)
    if node.op_type != "Slice":
        return None
    axes, starts, ends = slice_axes(node, rank), integers_of(node.inputs[1]), integers_of(node.inputs[2])
    steps = integers_of(node.inputs[4]) if len(node.inputs) > 4 else [1]
    if axes is None or len(axes) != 1 or not starts or not ends or steps != [1]:
        return None
    last = starts[0] == -1 and ends[0] >= np.iinfo(np.int32).max
    alike = (starts[0] < 0) == (ends[0] < 0)
    return (axes[0], starts[0], True) if last or (alike and ends[0] == starts[0] + 1) else None
