"""What layers get and should give: sums over calibration tokens, from which they can be fitted.

    s = r + X W + b       in the original: s*            X', r: of the model as it is now; T = s* - r

Without a residual the target T is the output itself. Every other batch is summed on its own, so that what one half is
fitted to can be held against the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..ir.constants import constant_of
from ..ir.content import dimensions
from ..ir.site import Kind, Site, sites
from .accumulator import blocks
from .accumulators import Gram
from .edit import Array, is_op, only_reader
from .numerics.arrays import Floats, matmul
from .statistics import Calibration, Part
from .trail import Trail
from .views import View, Windows


@dataclass(frozen=True)
class Target:
    """What a site is to give: the value that it was part of in the original, less what it is added to now.

    stream: by name, in either model. residual: what the site's output is added to, None where nothing is.
    """

    stream: str
    residual: str | None


def target_of(site: Site) -> Target:
    """The sum that a site's output goes into, or the output itself."""
    reader = only_reader(site.output)
    if is_op(reader, "Add"):
        others = [value for value in reader.inputs if value is not site.output]
        shape, added = site.output.shape, others[0].shape if others and others[0] is not None else None
        if len(others) == 1 and others[0] is not None and shape is not None and shape == added:
            return Target(reader.outputs[0].name or "", others[0].name or "")
    return Target(site.output.name or "", None)


def biased(site: Site) -> bool:
    """Whether a site has a bias of its own to write, so that means are made up for there; none that is computed."""
    written = site.bias is not None and site.bias.is_initializer() and constant_of(site.bias) is not None
    return written and site.kind is not Kind.RECURRENT_INPUT


@dataclass(frozen=True)
class Moments:
    """Sums over tokens for a site of [in, out]: X'.T X', X'.T T, |T|^2 by output, and the means of both.

    halves: the same over every other batch, and over the rest; none where there is one batch.
    """

    gram: Floats
    joint: Floats
    energy: Floats
    inputs: Floats
    outputs: Floats
    count: int
    halves: tuple[Moments, ...] = ()

    def of(self, rows: NDArray[np.intp]) -> Moments:
        """Of some of the inputs alone, its halves too."""
        kept = np.ix_(rows, rows)
        halves = tuple(half.of(rows) for half in self.halves)
        return Moments(
            self.gram[kept], self.joint[rows], self.energy, self.inputs[rows], self.outputs, self.count, halves
        )


#: A weight, and which direction of a recurrence it is: what is fitted as one.
Fitted = tuple[ir.Value, int]
#: A value, its axis of features, and how rows are read from it.
Multiplied = tuple[ir.Value, int, View | None]
#: Of values by name: what they were called in the original, and by what they come from that, [features, features now].
Origins = Mapping[str, tuple[str, Floats]]
SAME: Origins = {}


def key_of(site: Site) -> Fitted:
    """What a site's weight is fitted as."""
    return site.weight, site.direction


def moments(
    original: ir.Model,
    model: ir.Model,
    calibration: Calibration,
    readers: Sequence[Site],
    origins: Origins = SAME,
    trail: Trail | None = None,
) -> dict[Fitted, Moments]:
    """What sites get now and should give; the sites of one weight are added up.

    trail: where the runs for sites before these are remembered.
    """
    twins = {(each.node.name, each.kind, each.direction): each for each in sites(original)}
    reading = [
        _streams(original, model, site, origins) if _streamed(site) else _products(original, model, site)
        for site in readers
    ]
    before = [None if _streamed(site) else twins[site.node.name, site.kind, site.direction] for site in readers]
    halves: list[_Sums] = []
    for number, rows in enumerate(calibration.together([part for parts in reading for part in parts], trail)):
        if number < 2:
            halves.append(_Sums())
        left = iter(rows)
        for site, parts, twin in zip(readers, reading, before, strict=True):
            now, then, *rest = (next(left) for _ in parts)
            wanted = _less_bias(site, then) if twin is None else _product(twin, np.asarray(then, np.float64))
            turned = origins.get(target_of(site).stream)
            wanted = wanted if turned is None else matmul(np.asarray(wanted, np.float64), turned[1])
            halves[number % 2].add(site, number, now, np.subtract(wanted, rest[0]) if rest else wanted)
    found: dict[Fitted, Moments] = {}
    for key in dict.fromkeys(map(key_of, readers)):
        summed = [half.of(key) for half in halves]
        found[key] = summed[0] if len(summed) == 1 else _total(summed)
    return found


class _Cross:
    """Sums of what features give beside others, over the same tokens.

    With x and t: `matrix`, x.T @ t, [features, others], `energy`, the squares of t, [others], and the mean of those.
    Products are summed as `accumulators.Gram` sums its own.
    """

    def __init__(self, features: int, others: int) -> None:
        self.matrix: Floats = np.zeros((features, others))
        self.energy: Floats = np.zeros(others)
        self.total: Floats = np.zeros(others)
        self.count = 0

    def add(self, array: Array, other: Array) -> None:
        """Arrays [tokens, features] and [tokens, others]."""
        for one, two in zip(blocks(array), blocks(other), strict=True):
            wide = np.result_type(one, two)
            self.matrix += matmul(one.astype(wide, copy=False).T, two.astype(wide, copy=False))
            self.energy += np.square(two).sum(0, dtype=np.float64)
            self.total += two.sum(0, dtype=np.float64)
        self.count += len(array)


@dataclass(eq=False)
class _Sums:
    """Over some batches: of what sites read, once for all that read the same, and of what they should give."""

    grams: dict[Multiplied, Gram] = field(default_factory=dict)
    crosses: dict[tuple[Fitted, ir.Node], tuple[Gram, _Cross]] = field(default_factory=dict)
    _last: dict[Multiplied, int] = field(default_factory=dict)

    def add(self, site: Site, number: int, now: Array, wanted: Array) -> None:
        """What a site reads and should give on the batch of that number."""
        read, place = multiplied(site), (key_of(site), site.node)
        gram = self.grams.setdefault(read, Gram(site.in_features))
        if self._last.get(read) != number:
            gram.add(now)
            self._last[read] = number
        self.crosses.setdefault(place, (gram, _Cross(site.in_features, site.out_features)))[1].add(now, wanted)

    def of(self, key: Fitted) -> Moments:
        """The sums of one weight, over all sites that have it."""
        (gram, cross), *others = [each for (mine, _), each in self.crosses.items() if mine == key]
        matrix, joint, energy = gram.matrix, cross.matrix, cross.energy
        inputs, outputs, count = gram.total, cross.total, cross.count
        for more, beside in others:
            matrix, joint, energy = matrix + more.matrix, joint + beside.matrix, energy + beside.energy
            inputs, outputs, count = inputs + more.total, outputs + beside.total, count + beside.count
        tokens = max(count, 1)
        return Moments(matrix, joint, energy, inputs / tokens, outputs / tokens, count)


def _streamed(site: Site) -> bool:
    """Whether what a site gives is a value of its own, that the original has too, a row for each that it reads."""
    return site.kind is Kind.LINEAR and (site.node.op_type != "Conv" or _in_place(site.node))


def _in_place(node: ir.Node) -> bool:
    """Whether a convolution by one tap gives one place for each that it reads."""
    strides, pads = (node.attributes.get(name) for name in ("strides", "pads"))
    return (strides is None or set(strides.as_ints()) == {1}) and (pads is None or not any(pads.as_ints()))


def _streams(original: ir.Model, model: ir.Model, site: Site, origins: Origins) -> list[Part]:
    """What a linear site reads, the sum that it ends in in the original, and what it is added to."""
    target, read = target_of(site), site.activation
    then, _ = origins.get(target.stream, (target.stream, None))
    return [
        Part(model, read.name or "", read, site.axis),
        Part(original, then, read, site.output_axis),
        *([] if target.residual is None else [Part(model, target.residual, read, site.output_axis)]),
    ]


def _products(original: ir.Model, model: ir.Model, site: Site) -> list[Part]:
    """What a recurrence or convolution multiplies its weight by, now and in the original: there is no value of the
    product alone.
    """
    read, axis, view = multiplied(site)
    name = read.name or ""
    return [Part(model, name, read, axis, view), Part(original, name, read, axis, view)]


def multiplied(site: Site) -> Multiplied:
    """What a site multiplies its weight by; sites of which that is equal have the same inputs."""
    if site.node.op_type != "Conv" or _streamed(site):
        return site.activation, site.axis, None
    dims = dimensions(site.node.outputs[0])
    places = None if dims is None else tuple(dims[2:])
    return site.activation, -1, Windows.of(site.node, 0, 1, site.view.shape[2:], places)


def _less_bias(site: Site, rows: Array) -> Array:
    """Rows without a bias that is not fitted."""
    fixed = None if biased(site) else site.bias_array()
    return rows if fixed is None else np.subtract(rows, np.asarray(fixed, np.float64))


def _product(site: Site, rows: Floats) -> Floats:
    """X W of rows, and the bias on top where that is fitted too."""
    bias = site.bias_array() if biased(site) else None
    found: Floats = matmul(rows, np.asarray(site.dense(), np.float64))
    return found if bias is None else found + np.asarray(bias, np.float64)


def _total(parts: Sequence[Moments]) -> Moments:
    """Sums over the tokens of both halves."""
    first, second = parts
    count = first.count + second.count

    def mean(one: Floats, other: Floats) -> Floats:
        found: Floats = (first.count * one + second.count * other) / max(count, 1)
        return found

    return Moments(
        first.gram + second.gram,
        first.joint + second.joint,
        first.energy + second.energy,
        mean(first.inputs, second.inputs),
        mean(first.outputs, second.outputs),
        count,
        (first, second),
    )
