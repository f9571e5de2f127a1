"""The fewest reshapes and transposes that rearrange a value (`ir.layout`) as wanted.

    x: [batch, sequence, 768] as (batch) (768 / 64) (sequence) (768 % 64)
    Reshape [0, 0, 12, 64], Transpose (0, 2, 1, 3)

Reshape finds the size that its target leaves open (-1) by division, and fails where a size beside it is zero; a zero
that is computed stands for the dimension at the same place. Plans that no zero can harm come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from .atoms import Atom, Axis, exactly, size_of
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
    dimensions of what comes out.

    fragile: whether it fails, or gives another shape, where a dynamic dimension is zero.
    """

    dims: tuple[int | str | None, ...]
    target: Target | None = None
    perm: tuple[int, ...] | None = None
    squeezed: tuple[int, ...] = ()
    unsqueezed: tuple[int, ...] = ()
    fragile: bool = False

    @property
    def nodes(self) -> int:
        """How many nodes it takes, with those that compute a target: a Shape for each size, and a Concat."""
        read = sum(isinstance(dim, Kept) for dim in self.target or ())
        return 1 + read + (read > 0 and len(self.target or ()) > 1)


@dataclass(frozen=True)
class Arrangement:
    """The reshapes and the transpose, at most three steps, that rearrange `value`."""

    value: ir.Value
    steps: tuple[Step, ...] = ()


#: Steps, None where there is none that does it.
Plan = list[Step | None]


def arrange(
    value: ir.Value, axes: Sequence[Axis], wanted: Sequence[Sequence[Atom]], *, positive: frozenset[str] | None = None
) -> Arrangement | None:
    """What turns a value with `axes` into one with the axes `wanted`, made of the same atoms or parts of them.

    None where an atom is missing or left over, where `axes` repeat something, or where two dimensions of a Reshape are
    neither numbers nor dimensions of what it reshapes. Atoms that repeat are left out of what is wanted: the value is
    arranged to be broadcast.

    positive: the dynamic dimensions that are not zero where the plan is to run (`View.positive`); a plan
    that another one, if zero, harms is None. Unless given, such a plan is the last resort.
    """
    target = tuple(tuple(atom for atom in axis if atom.axis is not None) for axis in wanted)
    given = _divided(axes, [atom for axis in target for atom in axis])
    if given is None:
        return None
    sure = positive or frozenset()
    wanted_at = _order(target)
    if [wanted_at[atom.place] for axis in given for atom in axis] == sorted(wanted_at.values()):
        plans = [_regrouped(given, target, sure), _moved(given, given, target, sure), _squeezed(given, target)]
    else:
        plans = [_moved(given, moved, target, sure) for moved in _ways(given, target)]
    possible = [steps for plan in plans if len(steps := [step for step in plan if step is not None]) == len(plan)]
    best = min(possible, key=_cost, default=None)
    if best is None or (positive is not None and any(step.fragile for step in best)):
        return None
    return Arrangement(value, tuple(best))


def _cost(steps: Sequence[Step]) -> tuple[bool, int, int]:
    transposes = sum(step.perm is not None for step in steps)
    return any(step.fragile for step in steps), sum(step.nodes for step in steps), transposes


def _ways(given: Sequence[Axis], wanted: Sequence[Axis]) -> Iterator[tuple[Axis, ...]]:
    """What may be transposed, in the order given, to bring `(a b) (c)` to `(c) (a) (b)`:

    the given axes     (a b) (c)
    the wanted ones    (a) (b) (c)
    the longest runs   (a b) (c)      atoms that follow each other in both
    single atoms       (a) (b) (c)
    """
    given_at, wanted_at = _order(given), _order(wanted)
    atoms = [atom for axis in given for atom in axis]

    def follows(atom: Atom, other: Atom) -> bool:
        return wanted_at[atom.place] == wanted_at[other.place] + 1

    if all(follows(atom, other) for axis in given for other, atom in pairwise(axis)):
        yield tuple(given)
    ones = [axis for axis in wanted if not axis]
    turned = [*sorted(filter(None, wanted), key=lambda axis: given_at[axis[0].place]), *ones]
    if [atom.place for axis in turned for atom in axis] == [atom.place for atom in atoms]:
        yield tuple(turned)
    runs: list[Axis] = []
    for atom in atoms:
        runs = [*runs[:-1], (*runs[-1], atom)] if runs and follows(atom, runs[-1][-1]) else [*runs, (atom,)]
    yield tuple(runs)
    yield tuple((atom,) for atom in atoms)


def _moved(given: Sequence[Axis], axes: Sequence[Axis], wanted: Sequence[Axis], sure: frozenset[str]) -> Plan:
    """Reshape to `axes`, transpose them, reshape to what is wanted; what changes nothing is left out.

    given (a b) () (c), axes (a) (b) (c), wanted (a) (c) (b)
    Reshape [a, b, c], Transpose (0, 2, 1)
    """
    wanted_at = _order(wanted)
    places = range(len(axes))
    full = iter(sorted((place for place in places if axes[place]), key=lambda place: wanted_at[axes[place][0].place]))
    ones = iter([place for place in places if not axes[place]])
    # axes of size one go where they are wanted, as far as they go
    perm = [place for axis in wanted if (place := next(full if axis else ones, None)) is not None]
    perm += [*full, *ones]
    moved = tuple(axes[place] for place in perm)
    turn = Step(tuple(element(size_of(axis)) for axis in moved), perm=tuple(perm))
    return [*_regrouped(given, axes, sure), turn, *_regrouped(moved, wanted, sure)]


def _regrouped(given: Sequence[Axis], wanted: Sequence[Axis], sure: frozenset[str]) -> Plan:
    """At most one step between two groupings of the same atoms in the same order.

    given (a) (b c), wanted (a b) (c)          Reshape [a*b, c]
    given (batch) (sequence), wanted (batch) () () (sequence)     Unsqueeze [1, 2], the target would be computed
    """
    have, sizes = [size_of(axis) for axis in given], [size_of(axis) for axis in wanted]
    if have == sizes:
        return []
    dims, target = tuple(map(element, sizes)), spelled(sizes, have)
    steps = [] if target is None else [Step(dims, target=target, fragile=_fragile(target, sizes, have, sure))]
    squeezed = _squeezed(given, wanted)
    if len(squeezed) == 1:
        steps += [step for step in squeezed if step is not None]
    return [min(steps, key=lambda step: _cost([step]), default=None)]


def _squeezed(given: Sequence[Axis], wanted: Sequence[Axis]) -> Plan:
    """Axes of size one taken out, then put in; no step at all where they are not all that differs.

    given (a) () (b), wanted (a) (b) () ()     Squeeze [1], Unsqueeze [2, 3]
    """
    if [axis for axis in given if axis] != [axis for axis in wanted if axis]:
        return [None]
    gone: list[int] = []
    come: list[int] = []
    here = there = 0
    while here < len(given) or there < len(wanted):
        alike = here < len(given) and there < len(wanted) and given[here] == wanted[there]
        if alike:
            here, there = here + 1, there + 1
        elif here < len(given) and not given[here]:
            gone.append(here)
            here += 1
        else:
            come.append(there)
            there += 1
    left = tuple(element(size_of(axis)) for place, axis in enumerate(given) if place not in gone)
    dims = tuple(element(size_of(axis)) for axis in wanted)
    steps: Plan = [Step(left, squeezed=tuple(gone))] if gone else []
    return [*steps, Step(dims, unsqueezed=tuple(come))] if come else steps


def _divided(axes: Sequence[Axis], parts: Sequence[Atom]) -> tuple[Axis, ...] | None:
    """`axes` in terms of `parts`, each of which occurs once; None where they are not made up of them."""
    cut = [[_cut(atom, parts) for atom in axis] for axis in axes]
    if any(found is None for axis in cut for found in axis):
        return None
    divided = tuple(tuple(part for found in axis for part in found or ()) for axis in cut)
    places = [atom.place for axis in divided for atom in axis]
    once = len(set(places)) == len(places) == len(parts)
    return divided if once and {*places} == {part.place for part in parts} else None


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


def _order(axes: Sequence[Axis]) -> dict[tuple[int | None, Polynomial], int]:
    """The how manieth atom of the axes lies at each place."""
    return {atom.place: index for index, atom in enumerate(atom for axis in axes for atom in axis)}


def spelled(sizes: Sequence[Polynomial], have: Sequence[Polynomial]) -> Target | None:
    """The target of a Reshape from dimensions `have` to `sizes`; None where two are open, or one is zero."""
    if any(size == 0 for size in (*sizes, *have)):
        return None
    target: list[int | Kept] = []
    for place, size in enumerate(sizes):
        if size.constant is not None:
            target.append(size.constant)
        elif place < len(have) and have[place] == size:
            target.append(0)
        else:
            target.append(Kept(have.index(size)) if size in have else -1)
    read = next((place for place, dim in enumerate(target) if isinstance(dim, Kept)), None)
    if read is not None and -1 not in target:
        # one is left open rather than read
        target[read] = -1
    return None if target.count(-1) > 1 else tuple(target)


def _fragile(target: Target, sizes: Sequence[Polynomial], have: Sequence[Polynomial], positive: frozenset[str]) -> bool:
    """Whether a target leaves a size open beside one that may be zero, or reads a zero, which stands for the dimension
    at the same place, where that is another.
    """
    above = {name: Polynomial.of(name) + 1 for size in sizes for name in size.names & positive}
    for place, (dim, size) in enumerate(zip(target, sizes, strict=True)):
        if dim == -1 or (size.at(above) - 1).nonnegative:
            continue
        same = place < len(have) and exactly(have[place], size) is not None
        if -1 in target or (isinstance(dim, Kept) and not same):
            return True
    return False


def element(size: Polynomial) -> int | str | None:
    """A size as a dimension: a number, a formula, or None where it is unknown."""
    if size.constant is not None:
        return size.constant
    return None if any(name.startswith("?") for name in size.names) else str(size)
