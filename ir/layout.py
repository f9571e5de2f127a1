"""How a value is laid out relative to another: chains of reshapes, transposes and repeats as one rearrangement.

    x: [batch, sequence, 768] --> Reshape [0, 0, 12, 64] --> Transpose (0, 2, 1, 3) --> y
    y = (batch) (768 / 64) (sequence) (768 % 64)

Each axis of y is a product of *atoms* (`ir.atoms`), factors of the axes of x, outermost first. Two spellings of one
rearrangement have the same atoms, whatever nodes they are made of. Factors that are constant scalars commute with all
of it and are collected on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import onnx_ir as ir

from .atoms import ONE, Atom, Axis, exactly, regroup, size_of
from .constants import scalar_of, tensor_of
from .content import content, dimensions
from .polynomial import Polynomial

#: A chain of more nodes than this is not followed further.
_REACH = 24


@dataclass(frozen=True)
class View:
    """A value as a rearrangement of `root`, times `scale`.

    positive: the dynamic dimensions that are not zero wherever the chain runs, for it leaves a size open beside them.
    """

    root: ir.Value
    axes: tuple[Axis, ...]
    scale: float = 1.0
    positive: frozenset[str] = frozenset()

    @property
    def repeats(self) -> bool:
        """Whether elements of the root occur more than once."""
        return any(atom.axis is None for axis in self.axes for atom in axis)


def whole(value: ir.Value) -> tuple[Axis, ...] | None:
    """The axes of a value as atoms of its own; None where its rank is unknown."""
    dims = dimensions(value)
    if dims is None:
        return None
    # an unknown dimension is equal to itself alone
    sizes = [_size(dim if dim is not None else f"?{id(value)}:{index}") for index, dim in enumerate(dims)]
    return tuple(() if size == ONE else (Atom(index, size),) for index, size in enumerate(sizes))


def views(value: ir.Value, *, scalars: bool = False, repeats: bool = False) -> Iterator[View]:
    """`value` as a rearrangement of itself, of what feeds it, and so on up, nearest root first.

    scalars: look through multiplication and division by constant scalars. repeats: look through Expand and Tile.
    """
    chain: list[ir.Node] = []
    root: ir.Value | None = value
    while root is not None and len(chain) < _REACH:
        found = _replay(root, chain)
        if found is not None:
            yield found
        elif whole(root) is not None:
            return
        node = root.producer()
        if node is None or not _passes(node, scalars, repeats):
            return
        chain.append(node)
        root = _data(node)


def after(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    """The axes of what a rearranging node makes of a value with `axes`; None where that is no product of atoms."""
    rule = None if node.domain else _RULES.get(node.op_type)
    return None if rule is None else rule(node, axes)


def rearranges(node: ir.Node) -> bool:
    """Whether a node does nothing but reshape or transpose its first input."""
    return _passes(node, scalars=False, repeats=False)


def scaling(node: ir.Node) -> tuple[ir.Value | None, float]:
    """(x, c) where a node computes x * c for a constant scalar c other than zero; (None, 1) where it does not."""
    return (None, 1.0) if node.domain else _factor(node)


def _replay(root: ir.Value, chain: Sequence[ir.Node]) -> View | None:
    axes = whole(root)
    scale, positive = 1.0, frozenset[str]()
    for node in reversed(chain):
        if axes is None:
            return None
        axes = after(node, axes)
        scale *= _factor(node)[1]
        if node.op_type == "Reshape" and axes is not None:
            positive |= _divided_by(node, axes)
    return None if axes is None else View(root, axes, scale, positive)


def _divided_by(node: ir.Node, axes: Sequence[Axis]) -> frozenset[str]:
    """The dynamic dimensions beside a size that a Reshape leaves open: of zero elements it finds none."""
    target = content(node.inputs[1]) or []
    if -1 not in target:
        return frozenset()
    beside = [size_of(axis) for axis, dim in zip(axes, target, strict=False) if dim != -1]
    # a product is not zero where no factor of it is
    terms = [monomial for size in beside if len(size.terms) == 1 for monomial in size.terms]
    return frozenset(name for monomial in terms for name in monomial if isinstance(name, str))


def _passes(node: ir.Node, scalars: bool, repeats: bool) -> bool:
    """Whether a node only rearranges its data."""
    if node.domain or len(node.outputs) != 1:
        return False
    if node.op_type in ("Mul", "Div"):
        return scalars and _factor(node)[0] is not None
    if node.op_type in ("Expand", "Tile"):
        return repeats
    return node.op_type in ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Identity")


def _data(node: ir.Node) -> ir.Value | None:
    return _factor(node)[0] if node.op_type in ("Mul", "Div") else node.inputs[0]


def _factor(node: ir.Node) -> tuple[ir.Value | None, float]:
    """(x, c) for x * c, c * x and x / c with a constant scalar c that leaves the rank of x; (None, 1) otherwise."""
    if node.op_type not in ("Mul", "Div"):
        return None, 1.0
    left, right = node.inputs
    sides = [(left, right)] if node.op_type == "Div" else [(left, right), (right, left)]
    for data, constant in sides:
        factor = scalar_of(constant)
        if data is not None and factor and _rank(constant) <= _rank(data):
            return data, 1.0 / factor if node.op_type == "Div" else factor
    return None, 1.0


def _rank(value: ir.Value | None) -> int:
    if value is None:
        return 0
    tensor = tensor_of(value) if value.shape is None else None
    return len(value.shape if value.shape is not None else tensor.shape if tensor is not None else ())


def _same(_: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    return tuple(axes)


def _transposed(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    perm = node.attributes.get("perm")
    order = perm.as_ints() if perm is not None else range(len(axes))[::-1]
    return tuple(axes[index] for index in order) if sorted(order) == [*range(len(axes))] else None


def _flattened(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    at = attribute.as_int() if (attribute := node.attributes.get("axis")) is not None else 1
    at += len(axes) * (at < 0)
    return tuple(tuple(atom for axis in group for atom in axis) for group in (axes[:at], axes[at:]))


def _reshaped(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    """Sizes that the target keeps (0) are those of the input; one that it leaves open (-1) is what the others leave."""
    dims, target = dimensions(node.outputs[0]), content(node.inputs[1])
    atoms = [atom for axis in axes for atom in axis]
    if target is None:
        sizes = _sizes(dims)
        return None if sizes is None else regroup(atoms, sizes)
    keeps = not ("allowzero" in node.attributes and node.attributes["allowzero"].as_int())
    found: list[Polynomial | None] = [
        size_of(axes[index]) if dim == 0 and keeps and index < len(axes) else None if dim in (None, -1) else _size(dim)
        for index, dim in enumerate(target)
    ]
    unknown = [index for index, size in enumerate(found) if size is None]
    if len(unknown) == 1:
        known = prod((size for size in found if size is not None), start=ONE)
        found[unknown[0]] = exactly(size_of(atoms), known)
    for index in unknown:
        dim = dims[index] if dims is not None and found[index] is None else None
        found[index] = found[index] if dim is None else _size(dim)
    sizes = [size for size in found if size is not None]
    return regroup(atoms, sizes) if len(sizes) == len(found) else None


def _unsqueezed(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    places = _places(node)
    at = None if places is None else _counted(places, len(axes) + len(places))
    if at is None:
        return None
    left = iter(axes)
    return tuple(() if index in at else next(left) for index in range(len(axes) + len(at)))


def _squeezed(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    places = _places(node)
    if places is None and all(value is None for value in node.inputs[1:]):
        sizes = [size_of(axis).constant for axis in axes]
        # a dimension with a name may be one as well
        places = None if None in sizes else [index for index, size in enumerate(sizes) if size == 1]
    at = None if places is None else _counted(places, len(axes))
    if at is None or any(axes[place] for place in at):
        return None
    return tuple(axis for index, axis in enumerate(axes) if index not in at)


def _places(node: ir.Node) -> list[int | str | None] | None:
    """The axes that a Squeeze or Unsqueeze names, as an attribute in older opsets."""
    given = node.attributes.get("axes")
    return list(given.as_ints()) if given is not None else content(node.inputs[1] if len(node.inputs) > 1 else None)


def _counted(places: Sequence[int | str | None], rank: int) -> set[int] | None:
    """Axes counted from the first of `rank`; None where one is unknown, named twice or out of range."""
    at = {place + rank * (place < 0) for place in places if isinstance(place, int)}
    return at if len(at) == len(places) and all(0 <= place < rank for place in at) else None


def _tiled(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    counts = _sizes(content(node.inputs[1]))
    if counts is None or len(counts) != len(axes):
        return None
    return tuple(axis if count == ONE else (Atom(None, count), *axis) for count, axis in zip(counts, axes, strict=True))


def _expanded(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    sizes = _sizes(dimensions(node.outputs[0]))
    if sizes is None:
        return None
    found: list[Axis] = []
    for axis, size in zip([*([()] * (len(sizes) - len(axes))), *axes], sizes, strict=True):
        if size_of(axis) == size:
            found.append(axis)
        elif not axis:
            found.append((Atom(None, size),))
        else:
            return None
    return tuple(found)


_RULES: Mapping[str, Callable[[ir.Node, Sequence[Axis]], tuple[Axis, ...] | None]] = {
    "Identity": _same,
    "Cast": _same,
    "Mul": _same,
    "Div": _same,
    "Transpose": _transposed,
    "Reshape": _reshaped,
    "Flatten": _flattened,
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "Expand": _expanded,
    "Tile": _tiled,
}


def _sizes(dims: Sequence[int | str | None] | None) -> list[Polynomial] | None:
    """Dimensions as polynomials; None where one is unknown."""
    return None if dims is None or None in dims else [_size(dim) for dim in dims if dim is not None]


@lru_cache(maxsize=4096)
def _size(dim: int | str) -> Polynomial:
    if isinstance(dim, int):
        return Polynomial.of(dim)
    return Polynomial.of(dim) if dim.startswith("?") else Polynomial.parse(dim)
