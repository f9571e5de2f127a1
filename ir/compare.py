"""Two models on the same feeds: the error of each output, and the first value on the way that diverges.

Errors are sums over all feeds in float64, so nothing but one output at a time is held. Places where both sides are the
same infinity or both NaN count as equal; a place where only one side is finite makes the error infinite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir

from .errors import ModelError
from .feeds import Array, Feeds, Run
from .runner import force, runner, watch
from .text import place

#: The error that reassociated float32 arithmetic may reach, see `passes.base.Exact`.
TOLERANCE = 1e-5


@runtime_checkable
class Runnable(Protocol):
    """Anything with `run(feeds) -> {output name: array}`, such as a backend's Session."""

    def run(self, feeds: Feeds) -> Mapping[str, Array]: ...


@dataclass(frozen=True)
class OutputError:
    """How far one output of `b` is from that of `a`.

    relative_l2: ||a - b|| / ||a||; where a is all zero, the root mean square of b; for integers and truth values the
        fraction of places that differ. Infinite where shapes differ or only one side is finite.
    max_abs: largest absolute difference.
    cosine: of the two outputs as vectors, 1 where both are zero, 0 where the error is infinite.
    nan_mismatch: number of places where one side is NaN or infinite and the other is not the same.
    note: what else is wrong, such as a different shape.
    """

    name: str
    relative_l2: float
    max_abs: float
    cosine: float
    nan_mismatch: int = 0
    note: str = ""


@dataclass(frozen=True)
class Divergence:
    """The first value, in the order of execution, that differs by more than the tolerance."""

    name: str
    relative_l2: float
    place: str

    def __str__(self) -> str:
        return f"{self.name!r} of {self.place} (relative L2 {self.relative_l2:.3g})"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    outputs: tuple[OutputError, ...]
    feeds: int
    first_diverging: Divergence | None = None

    @property
    def worst(self) -> OutputError:
        """The output with the largest relative L2 error."""
        return max(self.outputs, key=lambda output: output.relative_l2)

    @property
    def relative_l2(self) -> float:
        """Of the worst output."""
        return max((output.relative_l2 for output in self.outputs), default=0.0)

    def within(self, tolerance: float) -> bool:
        """Whether no output's relative L2 error is above `tolerance`."""
        return self.relative_l2 <= tolerance

    def __str__(self) -> str:
        width = max((len(output.name) for output in self.outputs), default=6)
        head = f"{'output':<{width}}  relative L2     max abs      cosine"
        rows = [
            f"{out.name:<{width}}  {out.relative_l2:11.3g} {out.max_abs:11.3g} {out.cosine:11.8f}"
            + (f"  {out.nan_mismatch} not finite on one side" if out.nan_mismatch else "")
            + (f"  {out.note}" if out.note else "")
            for out in self.outputs
        ]
        last = [] if self.first_diverging is None else [f"first diverging value: {self.first_diverging}"]
        return "\n".join([head, *rows, *last])


def compare(
    a: ir.Model | Runnable | Run,
    b: ir.Model | Runnable | Run,
    feeds: Feeds | Iterable[Feeds],
    *,
    locate: bool = False,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Run both on the same feeds (one mapping, or any iterable of them) and measure each output of `a`.

    With `locate`, and if both are models and an output is off by more than `tolerance`, both are run once more on the
    feeds with the largest error, to find the first value that diverges (`first_diverging`). Raises ModelError when an
    output of `a` is missing in `b` or there are no feeds.
    """
    first, second = _callable(a), _callable(b)
    tallies: dict[str, Tally] = {}
    worst: tuple[float, Feeds | None] = (-1.0, None)
    count = 0
    for feed in [feeds] if isinstance(feeds, Mapping) else feeds:
        count += 1
        expected, found = first(feed), second(feed)
        here = 0.0
        for name, array in expected.items():
            if name not in found:
                raise ModelError(f"output {name!r} of the first model is missing in the second: it has {sorted(found)}")
            alone = Tally.of(array, found[name])
            tallies[name] = tallies[name].plus(alone) if name in tallies else alone
            here = max(here, alone.relative_l2)
        worst = max(worst, (here, feed), key=lambda pair: pair[0])
    if not count:
        raise ModelError("there is nothing to compare on: the feeds are empty")
    outputs = tuple(tally.error(name) for name, tally in tallies.items())
    found_at = None
    off = worst[0] > tolerance
    if locate and off and worst[1] is not None and isinstance(a, ir.Model) and isinstance(b, ir.Model):
        found_at = first_diverging(a, b, worst[1], tolerance=tolerance)
    return Comparison(outputs, count, found_at)


def first_diverging(a: ir.Model, b: ir.Model, feeds: Feeds, *, tolerance: float = TOLERANCE) -> Divergence | None:
    """The first value of `b`, in the order of execution, that `a` has too, under the same name and of the same shape,
    and that differs by more than `tolerance` in relative L2; None when there is none.

    Holds the shared values of one run of `a`, while `b` is only run up to the value that is found.
    """
    ours = {value.name for node in a.graph for value in node.outputs}
    theirs = {value.name: node for node in b.graph for value in node.outputs if value.name}
    shared = [name for name in theirs if name in ours]
    expected: dict[str, Array] = {}
    found: list[Divergence] = []

    def keep(name: str, array: Array) -> bool:
        expected[name] = np.array(array)
        return True

    def check(name: str, array: Array) -> bool:
        reference = expected.pop(name, None)
        if reference is not None and reference.shape == array.shape:
            error = Tally.of(reference, array).relative_l2
            if error > tolerance:
                found.append(Divergence(name, error, place(theirs[name])))
        return not found

    watch(a, feeds, shared, keep)
    watch(b, feeds, shared, check)
    return found[0] if found else None


def compare_locally(a: ir.Model, b: ir.Model, feeds: Feeds) -> Comparison:
    """Measure each value that both models have, computed in `b` from the values that `a` has before it.

    Errors do not add up along the graph, so that rounding inside cannot amplify what is measured. Holds the shared
    values of one run. An output that is not computed in both, as when it was folded into a constant, is measured as
    `compare` does; so is everything where the interpreter cannot run `b`.
    """
    outputs = {value.name for value in a.graph.outputs}
    ours = {value.name for node in a.graph for value in node.outputs}
    shared = [value.name for node in b.graph for value in node.outputs if value.name and value.name in ours]
    expected: dict[str, Array] = {}
    errors: list[OutputError] = []

    def keep(name: str, array: Array) -> bool:
        expected[name] = np.array(array)
        return True

    def check(name: str, array: Array) -> Array | None:
        reference = expected.pop(name, None)
        if reference is None:
            return None
        fits = reference.shape == array.shape and reference.dtype == array.dtype
        # inside, a name may come to mean another value; an output may not
        if fits or name in outputs:
            errors.append(Tally.of(reference, array).error(name))
        return reference if fits else None

    watch(a, feeds, shared, keep)
    if not force(b, feeds, shared, check):
        return compare(a, b, feeds)
    measured = {error.name for error in errors}
    if not outputs <= measured:
        errors += [error for error in compare(a, b, feeds).outputs if error.name not in measured]
    return Comparison(tuple(errors), 1)


@dataclass(frozen=True)
class Tally:
    """Sums from which the errors of one output follow; they add up over feeds."""

    difference: float = 0.0  # sum of (a - b)^2, of mismatches for integers
    reference: float = 0.0  # sum of a^2, of places for integers
    other: float = 0.0  # sum of b^2
    inner: float = 0.0  # sum of a * b
    places: int = 0
    max_abs: float = 0.0
    mismatch: int = 0
    exact: bool = False  # integers or truth values
    notes: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, a: Array, b: Array) -> Tally:
        """Of one pair of arrays."""
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return cls(notes=frozenset([f"shape {list(a.shape)} became {list(b.shape)}"]), max_abs=np.inf)
        if not _is_float(a):
            return cls._discrete(a, b)
        wide = np.complex128 if a.dtype.kind == "c" or b.dtype.kind == "c" else np.float64
        left, right = a.astype(wide).reshape(-1), b.astype(wide).reshape(-1)
        finite = np.isfinite(left) & np.isfinite(right)
        mismatch = 0
        if not finite.all():
            same = (left == right) | (np.isnan(left) & np.isnan(right))
            mismatch = int(np.count_nonzero(~finite & ~same))
            left, right = left[finite], right[finite]
        delta = np.abs(left - right)
        return cls(
            difference=float(delta @ delta),
            reference=float(np.vdot(left, left).real),
            other=float(np.vdot(right, right).real),
            inner=float(np.vdot(left, right).real),
            places=left.size,
            max_abs=np.inf if mismatch else float(delta.max(initial=0.0)),
            mismatch=mismatch,
        )

    @classmethod
    def _discrete(cls, a: Array, b: Array) -> Tally:
        wrong = np.asarray(a != b)
        count = int(np.count_nonzero(wrong))
        largest = 0.0
        if count and a.dtype.kind in "iu" and b.dtype.kind in "iuf":
            largest = float(np.abs(a[wrong].astype(np.float64) - b[wrong].astype(np.float64)).max())
        elif count:
            largest = 1.0
        return cls(difference=float(count), places=a.size, reference=float(a.size), max_abs=largest, exact=True)

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.difference + other.difference,
            self.reference + other.reference,
            self.other + other.other,
            self.inner + other.inner,
            self.places + other.places,
            max(self.max_abs, other.max_abs),
            self.mismatch + other.mismatch,
            self.exact or other.exact,
            self.notes | other.notes,
        )

    @property
    def relative_l2(self) -> float:
        """See OutputError."""
        if self.mismatch or self.notes:
            return np.inf
        if self.exact:
            return self.difference / max(self.places, 1)
        if self.reference == 0.0:
            return float(np.sqrt(self.difference / max(self.places, 1)))
        return float(np.sqrt(self.difference / self.reference))

    @property
    def cosine(self) -> float:
        """See OutputError."""
        if self.mismatch or self.notes:
            return 0.0
        if self.exact:
            return 1.0 - self.relative_l2
        norms = float(np.sqrt(self.reference) * np.sqrt(self.other))
        if norms == 0.0:
            return 1.0 if self.reference == self.other else 0.0
        return min(1.0, self.inner / norms)

    def error(self, name: str) -> OutputError:
        """The errors that the sums stand for."""
        notes = "; ".join(sorted(self.notes))
        return OutputError(name, self.relative_l2, self.max_abs, self.cosine, self.mismatch, notes)


def _is_float(array: Array) -> bool:
    return array.dtype.kind in "fc" or (array.dtype.kind == "V" and array.dtype.itemsize <= 2)


def _callable(model: ir.Model | Runnable | Run) -> Run:
    if isinstance(model, ir.Model):
        return runner(model)
    return model.run if isinstance(model, Runnable) else model
