"""How a value is laid out relative to another: chains of reshapes, transposes and repeats as one rearrangement.

    x: [batch, sequence, 768] --> Reshape [0, 0, 12, 64] --> Transpose (0, 2, 1, 3) --> y
    y = (batch) (768 / 64) (sequence) (768 % 64)

Each axis of y is a product of *atoms*, factors of the axes of x, outermost first. Two spellings of one rearrangement
have the same atoms, whatever nodes they are made of. Factors that are constant scalars commute with all of it and are
collected on the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import onnx_ir as ir

from .constants import scalar_of, tensor_of
from .content import content, dimensions
from .polynomial import Polynomial

ONE = Polynomial.of(1)

#: A chain of more nodes than this is not followed further.
_REACH = 24


@dataclass(frozen=True)
class Atom:
    """A factor of an axis.

    axis: the root's axis that it is part of; None where it repeats the root.
    stride: how far one step of it goes along that axis.
    """

    axis: int | None
    size: Polynomial
    stride: Polynomial = ONE


Axis = tuple[Atom, ...]


@dataclass(frozen=True)
class View:
    """A value as a rearrangement of `root`, times `scale`."""

    root: ir.Value
    axes: tuple[Axis, ...]
    scale: float = 1.0

    @property
    def repeats(self) -> bool:
        """Whether elements of the root occur more than once."""
        return any(atom.axis is None for axis in self.axes for atom in axis)


def size_of(axis: Sequence[Atom]) -> Polynomial:
    """Elements along a group of atoms."""
    return prod((atom.size for atom in axis), start=ONE)


def whole(value: ir.Value) -> tuple[Axis, ...] | None:
    """The axes of a value as atoms of its own; None where its rank is unknown."""
    dims = dimensions(value)
    if dims is None:
        return None
    # an unknown dimension is equal to itself alone
    sizes = [_size(dim if dim is not None else f"?{id(value)}:{index}") for index, dim in enumerate(dims)]
    return tuple(() if size == ONE else (Atom(index, size),) for index, size in enumerate(sizes))


def fresh(axis: int | None, group: Sequence[Atom]) -> Axis:
    """Atoms of the same sizes that make up another axis, or repeat it where `axis` is None."""
    made: list[Atom] = []
    stride = ONE
    for atom in reversed(group):
        made.append(Atom(axis, atom.size, stride))
        stride = stride * atom.size
    return tuple(made[::-1])


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
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        order = perm.as_ints() if perm is not None else range(len(axes))[::-1]
        return tuple(axes[index] for index in order) if sorted(order) == [*range(len(axes))] else None
    if node.op_type in ("Mul", "Div", "Identity", "Cast"):
        return tuple(axes)
    if node.op_type in ("Unsqueeze", "Squeeze"):
        return _ones(node, axes)
    if node.op_type == "Flatten":
        at = attribute.as_int() if (attribute := node.attributes.get("axis")) is not None else 1
        at += len(axes) * (at < 0)
        lead, rest = axes[:at], axes[at:]
        return tuple(tuple(atom for axis in group for atom in axis) for group in (lead, rest))
    if node.op_type == "Tile":
        return _tiled(node, axes)
    sizes = _result(node, axes)
    if sizes is None:
        return None
    if node.op_type == "Expand":
        return _expanded(axes, sizes)
    return regroup([atom for axis in axes for atom in axis], sizes)


def regroup(atoms: Sequence[Atom], sizes: Sequence[Polynomial]) -> tuple[Axis, ...] | None:
    """Consecutive groups of atoms of the given sizes, atoms split where they must be; None where they do not divide.

    >>> n, twelve = Polynomial.of("n"), Polynomial.of(12)
    >>> [[str(atom.size) for atom in axis] for axis in regroup([Atom(0, n), Atom(1, twelve)], [n * 3, twelve // 3])]
    [['n', '3'], ['4']]
    """
    waiting = deque(atoms)
    groups: list[Axis] = []
    for size in sizes:
        group: list[Atom] = []
        left = size
        while left != ONE:
            if not waiting or not left:
                return None
            atom = waiting.popleft()
            rest = exactly(left, atom.size)
            if rest is not None:
                group.append(atom)
                left = rest
                continue
            inner = exactly(atom.size, left)
            if inner is None:
                return None
            group.append(replace(atom, size=left, stride=atom.stride * inner))
            waiting.appendleft(replace(atom, size=inner))
            left = ONE
        groups.append(tuple(group))
    return None if waiting else tuple(groups)


def exactly(size: Polynomial, divisor: Polynomial) -> Polynomial | None:
    """size / divisor, None where that is no polynomial.

    >>> n = Polynomial.of("n")
    >>> str(exactly((n + 1) * 4, n + 1)), exactly(n, n + 1)
    ('4', None)
    """
    if not divisor:
        return None
    if len(divisor.terms) == 1:
        found = size // divisor
        return found if found * divisor == size else None
    # long division: each step takes the leading term away
    first, left, found = _leading(divisor), size, ONE * 0
    for _ in range(len(size.terms)):
        if not left:
            break
        part = exactly(_leading(left), first)
        if part is None:
            return None
        left, found = left - part * divisor, found + part
    return None if left else found


def _leading(size: Polynomial) -> Polynomial:
    return Polynomial(dict([next(iter(size.terms.items()))]))


def _replay(root: ir.Value, chain: Sequence[ir.Node]) -> View | None:
    axes = whole(root)
    scale = 1.0
    for node in reversed(chain):
        if axes is None:
            return None
        axes = after(node, axes)
        scale *= _factor(node)[1]
    return None if axes is None else View(root, axes, scale)


def _passes(node: ir.Node, scalars: bool, repeats: bool) -> bool:
    """Whether a node only rearranges its data."""
    if node.domain or len(node.outputs) != 1:
        return False
    if node.op_type in ("Mul", "Div"):
        return scalars and _factor(node)[0] is not None
    if node.op_type in ("Expand", "Tile"):
        return repeats
    return node.op_type in _RESHAPING or node.op_type in ("Transpose", "Identity")


_RESHAPING = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten"})


def rearranges(node: ir.Node) -> bool:
    """Whether a node does nothing but reshape or transpose its first input."""
    return _passes(node, scalars=False, repeats=False)


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


def scaling(node: ir.Node) -> tuple[ir.Value | None, float]:
    """(x, c) where a node computes x * c for a constant scalar c other than zero; (None, 1) where it does not."""
    return (None, 1.0) if node.domain else _factor(node)


def _rank(value: ir.Value | None) -> int:
    if value is None:
        return 0
    tensor = tensor_of(value) if value.shape is None else None
    return len(value.shape if value.shape is not None else tensor.shape if tensor is not None else ())


def _result(node: ir.Node, axes: Sequence[Axis]) -> list[Polynomial] | None:
    """The sizes of a node's output; those that a Reshape keeps (0) or leaves open (-1) are read from its input."""
    dims = dimensions(node.outputs[0])
    target = content(node.inputs[1]) if node.op_type == "Reshape" else None
    if target is None:
        return None if dims is None or None in dims else [_size(dim) for dim in dims if dim is not None]
    keeps = not ("allowzero" in node.attributes and node.attributes["allowzero"].as_int())
    sizes: list[Polynomial | None] = [
        size_of(axes[index]) if dim == 0 and keeps and index < len(axes) else None if dim in (None, -1) else _size(dim)
        for index, dim in enumerate(target)
    ]
    open_places = [index for index, size in enumerate(sizes) if size is None]
    if len(open_places) == 1:
        known = prod((size for size in sizes if size is not None), start=ONE)
        sizes[open_places[0]] = exactly(size_of([atom for axis in axes for atom in axis]), known)
    for index in open_places:
        dim = dims[index] if dims is not None and sizes[index] is None else None
        sizes[index] = sizes[index] if dim is None else _size(dim)
    found = [size for size in sizes if size is not None]
    return found if len(found) == len(sizes) else None


def _ones(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    """Axes of size one put in or taken out."""
    given = node.attributes.get("axes")
    named = node.inputs[1] if len(node.inputs) > 1 else None
    places = list(given.as_ints()) if given is not None else content(named)
    if places is None and named is None and node.op_type == "Squeeze":
        sizes = [size_of(axis).constant for axis in axes]
        # a dimension with a name may be one as well
        places = None if None in sizes else [index for index, size in enumerate(sizes) if size == 1]
    if places is None:
        return None
    rank = len(axes) + (len(places) if node.op_type == "Unsqueeze" else 0)
    at = {place + rank * (place < 0) for place in places if isinstance(place, int)}
    if len(at) != len(places) or any(not 0 <= place < rank for place in at):
        return None
    if node.op_type == "Squeeze":
        ones = all(not axes[place] for place in at)
        return tuple(axis for index, axis in enumerate(axes) if index not in at) if ones else None
    left = iter(axes)
    return tuple(() if index in at else next(left) for index in range(rank))


def _tiled(node: ir.Node, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
    counts = content(node.inputs[1])
    if counts is None or None in counts or len(counts) != len(axes):
        return None
    repeated = [_size(count) for count in counts if count is not None]
    return tuple(
        axis if count == ONE else (Atom(None, count), *axis) for count, axis in zip(repeated, axes, strict=True)
    )


def _expanded(axes: Sequence[Axis], sizes: Sequence[Polynomial]) -> tuple[Axis, ...] | None:
    padded = [*([()] * (len(sizes) - len(axes))), *axes]
    found: list[Axis] = []
    for axis, size in zip(padded, sizes, strict=True):
        if size_of(axis) == size:
            found.append(axis)
        elif not axis:
            found.append((Atom(None, size),))
        else:
            return None
    return tuple(found)


@lru_cache(maxsize=4096)
def _size(dim: int | str) -> Polynomial:
    if isinstance(dim, int):
        return Polynomial.of(dim)
    return Polynomial.of(dim) if dim.startswith("?") else Polynomial.parse(dim)
