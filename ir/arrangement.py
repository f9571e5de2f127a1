"""The fewest reshapes and transposes that rearrange a value (`ir.layout`) as wanted.

x: [batch, sequence, 768] as (batch) (768 / 64) (sequence) (768 % 64)
Reshape [0, 0, 12, 64], Transpose (0, 2, 1, 3)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .layout import Atom, Axis, size_of
from .polynomial import Polynomial


@dataclass(frozen=True)
class Kept:
    """The dimension that the reshaped value has at `axis`."""

    axis: int


#: Of a Reshape: numbers, -1 for one that is left over, 0 for the one at the same place, or one from another place.
Target = tuple[int | Kept, ...]


@dataclass(frozen=True)
class Step:
    """A Reshape to `target`, a Transpose by `perm`, or axes of size one taken out (Squeeze) or put in (Unsqueeze); the
    dimensions of what comes out."""

    dims: tuple[int | str | None, ...]
    target: Target | None = None
    perm: tuple[int, ...] | None = None
    squeezed: tuple[int, ...] = ()
    unsqueezed: tuple[int, ...] = ()

    @classmethod
    def reshape(cls, sizes: Sequence[Polynomial], have: Sequence[Polynomial]) -> Step | None:
        target = spelled(sizes, have)
        return None if target is None else cls(tuple(map(element, sizes)), target=target)

    @classmethod
    def transpose(cls, perm: Sequence[int], have: Sequence[Polynomial]) -> Step:
        return cls(tuple(element(have[index]) for index in perm), perm=tuple(perm))


@dataclass(frozen=True)
class Arrangement:
    """The reshapes and the transpose, at most three steps, that rearrange `value`."""

    value: ir.Value
    steps: tuple[Step, ...] = ()


def arrange(value: ir.Value, axes: Sequence[Axis], wanted: Sequence[Sequence[Atom]]) -> Arrangement | None:
    """What turns a value with `axes` into one with the axes `wanted`, made of the same atoms or parts of them.

    None where an atom is missing or left over, where `axes` repeat something, or where two dimensions of a Reshape are
    neither numbers nor dimensions of what it reshapes. Atoms that repeat are left out of what is wanted: the value is
    arranged to be broadcast.
    """
    target = tuple(tuple(atom for atom in axis if atom.axis is not None) for axis in wanted)
    given = _divided(axes, [atom for axis in target for atom in axis])
    if given is None:
        return None
    order = _places(target)
    if [order[_key(atom)] for axis in given for atom in axis] == sorted(order.values()):
        plans = [_steps(given, target)]
    else:
        plans = sorted((_moved(given, moved, target) for moved in _ways(given, target)), key=len)
    for steps in plans:
        possible = tuple(step for step in steps if step is not None)
        if len(possible) == len(steps):
            return Arrangement(value, possible)
    return None


def _ways(given: Sequence[Axis], wanted: Sequence[Axis]) -> Iterator[tuple[Axis, ...]]:
    """What may be transposed, in the order given: the given axes, the wanted ones, the longest runs, single atoms."""
    before, behind = _places(given), _places(wanted)
    pieces = [atom for axis in given for atom in axis]
    turned = [
        *sorted(filter(None, wanted), key=lambda axis: before[_key(axis[0])]),
        *(() for axis in wanted if not axis),
    ]
    runs: list[list[Atom]] = []
    for atom in pieces:
        follows = runs and behind[_key(atom)] == behind[_key(runs[-1][-1])] + 1
        runs = [*runs[:-1], [*runs[-1], atom]] if follows else [*runs, [atom]]
    if all(behind[_key(atom)] == behind[_key(axis[0])] + index for axis in given for index, atom in enumerate(axis)):
        yield tuple(given)
    if [_key(atom) for axis in turned for atom in axis] == [_key(atom) for atom in pieces]:
        yield tuple(turned)
    yield tuple(map(tuple, runs))
    yield tuple((atom,) for atom in pieces)


def _moved(given: Sequence[Axis], axes: Sequence[Axis], wanted: Sequence[Axis]) -> list[Step | None]:
    """Reshape to `axes`, transpose them, reshape to what is wanted; what changes nothing is left out."""
    order, left = _places(wanted), list(range(len(axes)))
    full = iter(sorted((index for index in left if axes[index]), key=lambda index: order[_key(axes[index][0])]))
    ones = iter([index for index in left if not axes[index]])
    # axes of size one go where they are wanted, as far as they go
    perm = [place for axis in wanted if (place := next(full if axis else ones, None)) is not None]
    perm += [*full, *ones]
    sizes = [size_of(axis) for axis in axes]
    moved = [axes[index] for index in perm]
    return [*_steps(given, axes), Step.transpose(perm, sizes), *_steps(moved, wanted)]


def _steps(given: Sequence[Axis], wanted: Sequence[Axis]) -> list[Step | None]:
    """The Reshape between two groupings of the same atoms in the same order, if they differ.

    Where its target would have to be computed and axes of size one are all that differs, they alone are taken or given.
    """
    have, sizes = [size_of(axis) for axis in given], [size_of(axis) for axis in wanted]
    if have == sizes:
        return []
    step, dims = Step.reshape(sizes, have), tuple(map(element, sizes))
    if step is None or any(isinstance(dim, Kept) for dim in step.target or ()):
        fewer, more = _more(given, wanted), _more(wanted, given)
        if fewer or more:
            return [Step(dims, squeezed=fewer or (), unsqueezed=more or ())]
    return [step]


def _more(longer: Sequence[Axis], shorter: Sequence[Axis]) -> tuple[int, ...] | None:
    """The places of the axes of size one that the one has and the other has not; None where more than that differs."""
    found: list[int] = []
    left = list(shorter)
    for place, axis in enumerate(longer):
        if left and left[0] == axis:
            del left[0]
        elif not axis:
            found.append(place)
        else:
            return None
    return None if left else tuple(found)


def _divided(axes: Sequence[Axis], parts: Sequence[Atom]) -> tuple[Axis, ...] | None:
    """`axes` in terms of `parts`, each of which occurs once; None where they are not made up of them."""
    cut = [[_cut(atom, parts) for atom in axis] for axis in axes]
    if any(found is None for axis in cut for found in axis):
        return None
    divided = tuple(tuple(part for found in axis for part in found or ()) for axis in cut)
    keys = [_key(atom) for axis in divided for atom in axis]
    return divided if len(set(keys)) == len(keys) == len(parts) and {*keys} == {*map(_key, parts)} else None


def _places(axes: Sequence[Axis]) -> dict[tuple[int | None, Polynomial], int]:
    return {_key(atom): index for index, atom in enumerate(atom for axis in axes for atom in axis)}


def spelled(sizes: Sequence[Polynomial], have: Sequence[Polynomial]) -> Target | None:
    """The target of a Reshape from dimensions `have` to `sizes`; None where two are open, or one is zero."""
    if any(size == 0 for size in (*sizes, *have)):
        return None
    numbers = [size.constant for size in sizes]
    same = [index < len(have) and have[index] == size for index, size in enumerate(sizes)]
    target: list[int | Kept] = [
        number if number is not None else 0 if stays else -1 for number, stays in zip(numbers, same, strict=True)
    ]
    if target.count(-1) > 1:
        # one that is found nowhere else may be left open, or else the first
        found = [have.index(size) if size in have else None for size in sizes]
        target = [
            Kept(place) if dim == -1 and place is not None else dim for dim, place in zip(target, found, strict=True)
        ]
        if -1 not in target:
            target[next(index for index, dim in enumerate(target) if isinstance(dim, Kept))] = -1
    return None if target.count(-1) > 1 else tuple(target)


def element(size: Polynomial) -> int | str | None:
    """A size as a dimension: a number, a formula, or None where it is unknown."""
    if size.constant is not None:
        return size.constant
    return None if any(name.startswith("?") for name in size.names) else str(size)


def _cut(atom: Atom, candidates: Sequence[Atom]) -> list[Atom] | None:
    """The candidates that an atom falls into, outermost first; None where they do not cover it."""
    if atom.axis is None:
        return None
    found: list[Atom] = []
    end = atom.stride * atom.size
    while end != atom.stride:
        part = next(
            (other for other in candidates if other.axis == atom.axis and other.stride * other.size == end), None
        )
        if part is None or len(found) == len(candidates):
            return None
        found.append(part)
        end = part.stride
    return found


def _key(atom: Atom) -> tuple[int | None, Polynomial]:
    return atom.axis, atom.stride
