"""Merge neurons that compute alike: one takes over the outgoing weights of the other. Reads no data.

    before   h = Relu(x @ W + b)     y = h @ V             W_i = W_j, b_i = b_j
    after    W, b without column j   V_i += V_j, without row j

Lossy by what the two differ in; exact on equal ones. What makes a neuron is every constant that has one number or row
of it, gate and up projections and norms by channel alike. Behind Relu and its kin W_j = c W_i, c > 0, is alike too:
V_i += c V_j. Left alone: what the pass prune-neurons leaves, recurrent units, heads, and units that something else than
a weight adds up.

Source: Srinivas and Babu, Data-free Parameter Pruning for Deep Neural Networks, 2015, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.axes import Axis, Role, places
from ...ir.constants import constant_of, is_constant, tensor_of
from ...ir.errors import OptionError
from ...ir.provenance import scope, sources
from ...ir.site import Kind
from ...ir.text import place
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..choosing import FLOATS, left_out, sparing_nothing
from ..cutting import cut
from ..edit import Array, is_op
from ..numerics.arrays import Floats
from .amount import check_amount
from .methods.merge import Merging, merge
from .unit_pass import movable
from .units import Units, units

#: Ops on units that hand a positive factor of all that makes a unit on to what reads it.
_VIEWS = ("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Expand", "Slice", "Split")
_HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Concat", *_VIEWS)
#: Ops that ask for the size alone.
_SIZES = ("Shape", "Size")


@dataclass(frozen=True, kw_only=True)
class MergeNeurons(Pass):
    """hidden units that compute alike into one, without data

    ratio: the largest share of the units that a layer had at first that go, at least 0 and less than 1.
    threshold: how far a unit's incoming weights may be from those of the one that takes it over, as a share of its own;
        from 1 on the other is no nearer than nothing at all, and `prune-neurons` the better choice.
    multiple: what stays of a layer is a multiple of so many units, and at least that.
    only, ignore: glob patterns over the names of the sites that read units.
    """

    name: ClassVar[str] = "merge-neurons"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    ratio: float = 0.5
    threshold: float = 0.05
    multiple: int = 8
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_amount(self.name, self.ratio, self.multiple, "one unit at least takes the others over")
        if not self.threshold >= 0:
            raise OptionError(f"{self.name}: expected a threshold of at least 0, found {self.threshold:g}")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        listed = units(model)
        verdicts = [(each, miss) for each in listed if not ((miss := self._verdict(each)) and miss.far)]
        keep: dict[Axis, NDArray[np.bool_]] = {}
        findings = []
        for each, known in verdicts:
            miss, told = known, ""
            if miss is None:
                found = self._merges(each)
                miss = found if isinstance(found, Miss) else None
                if not isinstance(found, Miss):
                    each.remember()
                    keep[each.axis] = _take_over(each, found)
                    told = f"{each.size:,} -> {each.size - len(found.gone):,}, apart {found.differences.max():.2g}"
            at = f"{each.name} ({place(each.node)})"
            findings.append(Finding(at, sources(each.node), miss, scope(each.node), told))
        if keep:
            cut(listed[0].found, keep)
        lost = sparing_nothing(self.ignore, [each.names for each, _ in verdicts])
        return Outcome((*findings, *lost))

    def _verdict(self, each: Units) -> Miss | None:
        roles = each.group.roles
        if roles & {Role.HEADS, Role.HEAD_FEATURES}:
            return Miss("kind", "heads", "neurons", far=True)
        left = left_out(each.names, self.only, self.ignore)
        if left is not None:
            return left
        if Role.UNITS in roles:
            return Miss("kind", "recurrent units", "units that read nothing of themselves")
        return movable(each) or _unreadable(each)

    def _merges(self, each: Units) -> Merging | Miss:
        """Which units go into which, as many as the multiple allows."""
        most = max(int(self.ratio * each.first) - (each.first - each.size), 0)
        if not most and each.size < each.first:
            value = f"{each.size:,} of {each.first:,} units"
            return Miss("ratio", value, f"more than the {each.first - int(self.ratio * each.first):,} that stay")
        outgoing = np.concatenate([_by_unit(each, value, at) for value, at in _outgoing(each)], axis=1)
        incoming = np.concatenate([_by_unit(each, value, at) for value, at in _incoming(each)], axis=1)
        if not (np.isfinite(incoming).all() and np.isfinite(outgoing).all()):
            return Miss("finite", each.name, "weights without NaN and infinity", near=True)
        found = merge(incoming, outgoing, most, scaled=_homogeneous(each), threshold=self.threshold)
        least = self.multiple
        left = min(each.size, max(least, least * -(-(each.size - len(found.gone)) // least)))
        count = each.size - left
        if not count:
            value = f"{len(found.gone)} of {each.size:,} units that may go are within {self.threshold:g} of another"
            return Miss("alike", value, f"at least {each.size - (each.size - 1) // least * least}")
        return found.first(count)


def _take_over(each: Units, found: Merging) -> NDArray[np.bool_]:
    """Add outgoing weights to those of the units that stay; which do."""
    for value, at in _outgoing(each):
        tensor = tensor_of(value)
        assert tensor is not None
        array = tensor.numpy()
        wide = np.moveaxis(array.astype(np.float64), at, 0).copy()
        rows = _rows(each, value, at)
        for gone, into, scale in zip(found.gone, found.into, found.scale, strict=True):
            wide[rows[into]] += scale * wide[rows[gone]]
            # another group may read this weight before it is cut
            wide[rows[gone]] = 0.0
        value.const_value = ir.Tensor(np.moveaxis(wide, 0, at).astype(array.dtype), dtype=tensor.dtype, name=value.name)
    keep = np.ones(each.size, np.bool_)
    keep[found.gone] = False
    return keep


def _outgoing(each: Units) -> list[tuple[ir.Value, int]]:
    """The weights of the readers, each with the axis that the units are along."""
    read = {site.weight for site in each.readers}
    return [(value, at) for value, at in each.group.weights if value in read]


def _incoming(each: Units) -> list[tuple[ir.Value, int]]:
    read = {site.weight for site in each.readers}
    return [(value, at) for value, at in each.group.weights if value not in read and tensor_of(value) is not None]


def _rows(each: Units, value: ir.Value, at: int) -> NDArray[np.intp]:
    """Where along an axis each unit is, [units, places]."""
    axis = each.found.axis(value, at)
    assert axis is not None
    owners = places(axis, each.axis)
    assert owners is not None
    order = np.argsort(owners, kind="stable")
    return order[np.count_nonzero(owners < 0) :].reshape(each.size, -1)


def _by_unit(each: Units, value: ir.Value, at: int) -> Floats:
    """The numbers of a constant that are of each unit, [units, numbers]."""
    array: Array | None = constant_of(value)
    assert array is not None
    wide = np.moveaxis(np.asarray(array, np.float64), at, 0)
    return np.asarray(wide[_rows(each, value, at)].reshape(each.size, -1))


def _unreadable(each: Units) -> Miss | None:
    """Why the outgoing weights of units cannot be added up."""
    weights = [value for value, _ in each.group.weights]
    both = {site.weight for site in each.makers} & {site.weight for site in each.readers}
    twice = next((value for value in weights if value in both or weights.count(value) > 1), None)
    if twice is not None:
        return Miss("stream", twice.name or "", "weights that either make units or read them", near=True)
    joint = next(
        (value for value, at in each.group.weights if places(each.found.axes[value][at], each.axis) is None), None
    )
    if joint is not None:
        return Miss("joint", joint.name or "", "weights each number of which is of one unit", near=True)
    for site in each.readers:
        if site.kind not in (Kind.LINEAR, Kind.CONV, Kind.RECURRENT_INPUT):
            return Miss("kind", site.kind.value, "a linear layer or a convolution that reads units", near=True)
        tensor = site.weight.const_value
        if tensor is None or not site.weight.is_initializer() or tensor.dtype not in FLOATS:
            return Miss("weight", site.name, "an initializer of floats; merge before quantizing", near=True)
    readers = {site.node for site in each.readers}
    stray = next((node for node, whole in _users(each) if not whole and node not in readers), None)
    if stray is not None:
        return Miss("readers", place(stray), "units that nothing but weights adds up", near=True)
    return None


def _users(each: Units) -> Sequence[tuple[ir.Node, bool]]:
    """The nodes that read units, and whether they hand them on unit by unit; those that ask for sizes apart."""
    has = {value: [leaf for axis in axes for leaf in axis.leaves()] for value, axes in each.found.axes.items()}

    def times(value: ir.Value | None) -> int:
        return 0 if value is None else has.get(value, []).count(each.axis)

    found = []
    for node in each.found.model.graph:
        computed = [value for value in node.inputs if times(value) and not is_constant(value)]
        if computed and not is_op(node, *_SIZES):
            ports = [*node.inputs, *node.outputs]
            found.append((node, any(map(times, node.outputs)) and max(map(times, ports)) < 2))
    return found


def _homogeneous(each: Units) -> bool:
    """Whether c times all that makes a unit makes it c times as large, for every c > 0."""
    readers = {site.node for site in each.readers}
    bearing = {value for value, _ in each.group.uses}
    for node, _ in _users(each):
        if node in readers or is_op(node, *_HOMOGENEOUS):
            continue
        if not is_op(node, "Add") or any(value not in bearing for value in node.inputs):
            return False
    made = {site.node for site in each.makers}
    constants = {value for value, _ in _incoming(each)}
    # a bias that its node takes scales with the weight; other nodes that read constants are asked for above
    return all(
        node in made or is_op(node, "Add", "Identity", "Transpose", "Squeeze", "Unsqueeze", "Reshape", "Cast")
        for value in constants
        for node in value.consumers()
    )
