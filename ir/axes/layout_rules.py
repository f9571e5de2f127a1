"""How axes go through ops that only move data: rearranged, joined, cut, picked.

What a Reshape, Split, Slice or Expand is told in numbers follows a cut (`Ties.follows`), unless it lies inside a
function, whose body is that of other calls too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import onnx_ir as ir

from ..atoms import ONE, Atom
from ..layout import after
from ..polynomial import Polynomial
from ..text import place
from .axis import Axis, Why, cut, product, split, sum_of
from .scope import Axes, Rule, Ties


def _rearranged(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """By the atoms (`ir.layout`) that the axes of the output are made of."""
    data = ties.read(node, 0)
    whole = [() if axis.root().size == ONE else (Atom(at, axis.size),) for at, axis in enumerate(data)]
    found = after(node, whole)
    if found is None:
        raise ValueError("a rearrangement that is no product of the axes")
    parts: dict[tuple[int | None, Polynomial], Axis] = {}
    for at, axis in enumerate(data):
        atoms = sorted(
            {(atom.stride, atom.size) for group in found for atom in group if atom.axis == at},
            key=lambda atom: _magnitude(atom[0]),
            reverse=True,
        )
        if axis.root().size == ONE:
            continue
        if prod((size for _, size in atoms), start=ONE) != axis.size:
            raise ValueError("a rearrangement that leaves something out")
        cuts = split(axis, [size for _, size in atoms])
        if cuts is None:
            raise ValueError(f"{axis!r} read as {' * '.join(str(size) for _, size in atoms)}")
        parts |= {(at, stride): part for (stride, _), part in zip(atoms, cuts, strict=True)}
    made = [[Axis(atom.size) if atom.axis is None else parts[atom.place] for atom in group] for group in found]
    if node.op_type == "Tile":
        # how often is a number of its own, which nothing tells of a size
        repeats = (
            axis
            for group, axes in zip(found, made, strict=True)
            for atom, axis in zip(group, axes, strict=True)
            if atom.axis is None
        )
        ties.hold(node, repeats, "repeated")
    yield tuple(map(product, made))


def _magnitude(stride: Polynomial) -> tuple[int, int]:
    """Strides of one axis divide each other: the outer one is a multiple of the inner."""
    return max((len(monomial) for monomial in stride.terms), default=0), max(stride.terms.values(), default=0)


def _concat(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    shapes = ties.given(node)
    at = ties.integer(node, "axis", 0) % len(shapes[0])
    joined = [
        sum_of(shape[at] for shape in shapes) if index == at else ties.join(node, [shape[index] for shape in shapes])
        for index in range(len(shapes[0]))
    ]
    yield tuple(joined)


def _split(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data = ties.read(node, 0)
    at = ties.integer(node, "axis", 0) % len(data)
    sizes = []
    for value in node.outputs:
        dims = ties.of(value)
        size = None if dims is None else dims[at]
        if size is None:
            raise ValueError("pieces of unknown size")
        sizes.append(size)
    pieces = cut(data[at], sizes)
    if pieces is None:
        raise ValueError(f"{data[at]!r} cut into {' + '.join(map(str, sizes))}")
    for piece in pieces:
        yield (*data[:at], piece, *data[at + 1 :])


def _slice(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data, made = ties.read(node, 0), ties.fresh(node.outputs[0])
    starts, ends = ties.numbers(node, 1), ties.numbers(node, 2)
    axes = ties.constants(node, 3, "axes") if ties.has(node, 3) else list(range(len(starts or ())))
    steps = ties.numbers(node, 4) if ties.has(node, 4) else [ONE] * len(axes or ())
    if made is None or axes is None or starts is None or ends is None or steps is None:
        raise ValueError("a slice of unknown place")
    found = list(data)
    for at, start, end, step in zip((axis % len(data) for axis in axes), starts, ends, steps, strict=True):
        found[at] = _sliced(node, ties, data[at], made[at], (start, end, step))
    yield tuple(found)


def _sliced(node: ir.Node, ties: Ties, axis: Axis, made: Axis, where: tuple[Polynomial | None, ...]) -> Axis:
    size, length = axis.count, made.count
    start, _, step = (None if number is None else number.constant for number in where)
    if axis.size == made.size and step == 1:
        return axis
    if size is not None and length is not None and start is not None and step is not None and step > 0:
        start = min(max(start + size * (start < 0), 0), size)
        if step == 1:
            pieces = cut(axis, [Polynomial.of(part) for part in (start, length, size - start - length)])
            if pieces is not None:
                return pieces[1]
        elif size == length * step and start < step:
            # every other one: the innermost factor says which
            parts = split(axis, [Polynomial.of(length), Polynomial.of(step)])
            if parts is not None:
                ties.hold(node, parts[1:], "picked from by number")
                return parts[0]
    ties.hold(node, [axis, made], "a slice of it is taken")
    return made


def _gather(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data, indices = ties.read(node, 0), ties.read(node, 1)
    at = ties.integer(node, "axis", 0) % len(data)
    picked = ties.numbers(node, 1)
    if picked is None or any(number is None or number.constant is None for number in picked):
        data[at].hold(Why.ROWS, place(node))
    else:
        ties.hold(node, [data[at]], "picked from by number")
    yield (*data[:at], *indices, *data[at + 1 :])


def _pad(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data = ties.read(node, 0)
    pads = ties.constants(node, 1, "pads")
    axes = ties.constants(node, 3, "") if ties.has(node, 3) else list(range(len(data)))
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        raise ValueError("padding of unknown size")
    # one more in front and one less behind leave the size, and move what is there
    padded = {axis % len(data) for at, axis in enumerate(axes) if pads[at] or pads[at + len(axes)]}
    yield from _changed(node, ties, padded, "padded")


def _resize(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data, made = ties.read(node, 0), ties.fresh(node.outputs[0])
    whole = (
        ties.string(node, "coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
        and ties.string(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    )
    if made is None or not whole:
        raise ValueError("a size that is not known")
    resized = {at for at, (old, new) in enumerate(zip(data, made, strict=True)) if old.size != new.size}
    if "axes" in node.attributes and ties.has(node, 3):
        # sizes are told of these alone
        resized |= {axis % len(data) for axis in ties.integers(node, "axes", [])}
    yield from _changed(node, ties, resized, "resized")


def _changed(node: ir.Node, ties: Ties, at: set[int], how: str) -> Iterator[Axes]:
    """Some axes are other axes behind a node: both are held."""
    data, made = ties.read(node, 0), ties.fresh(node.outputs[0])
    if made is None or len(made) != len(data):
        raise ValueError("an output of unknown rank")
    for index in at:
        ties.hold(node, (data[index], made[index]), how)
    yield tuple(made[index] if index in at else axis for index, axis in enumerate(data))


def _made(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """ConstantOfShape: what its shape says follows what its output is tied to."""
    yield ties.fresh(node.outputs[0])


def _shape(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    """The number itself goes on, to places where it may be counted with."""
    data = ties.read(node, 0)
    rank = len(data)
    start, end = ties.integer(node, "start", 0), ties.integer(node, "end", rank)
    start, end = (min(max(at + rank * (at < 0), 0), rank) for at in (start, end))
    for at in _read(node, ties, end - start):
        ties.hold(node, [data[start + at]], "its size is computed with")
    yield (Axis(end - start),)


def _read(node: ir.Node, ties: Ties, length: int) -> set[int]:
    """Which places of a shape are read, as far as that is plain to see."""
    found: set[int] = set()
    if node.outputs[0].is_graph_output():
        return set(range(length))
    for use in node.outputs[0].uses():
        reader = use.node
        picked = ties.numbers(reader, 1) if reader.op_type == "Gather" and use.idx == 0 else None
        if picked is None or any(number is None or number.constant is None for number in picked):
            return set(range(length))
        found |= {int(number) % length for number in picked if number is not None}
    return found


def _constant(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    yield ties.fresh(node.outputs[0])


def _kept(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    for _ in node.outputs:
        yield ties.read(node, 0)


def _triangle(node: ir.Node, ties: Ties) -> Iterator[Axes]:
    data = ties.read(node, 0)
    ties.hold(node, data[-2:], "a triangle of it is taken")
    yield data


LAYOUT: Mapping[tuple[str, str], Rule] = {
    **{
        ("", op): _rearranged
        for op in ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Expand", "Tile", "Cast")
    },
    ("", "Concat"): _concat,
    ("", "Split"): _split,
    ("", "Slice"): _slice,
    ("", "Gather"): _gather,
    ("", "Pad"): _pad,
    ("", "Resize"): _resize,
    ("", "ConstantOfShape"): _made,
    ("", "Shape"): _shape,
    ("", "Constant"): _constant,
    ("", "CastLike"): _kept,
    ("", "Dropout"): _kept,
    ("", "Trilu"): _triangle,
}
