"""Store once the initializers that are equal byte for byte: tied tables, repeated biases and masks.

    before   a = W1, b = W2, W1 equal to W2             after   a = b = W1

    before   a = Gather(T, ids), b = MatMul(h, H), H equal to T.T         after   b = MatMul(h, Transpose(T))

Exact. Tensors of one dtype and shape are told apart by a few elements from their middle; those that agree there are
compared piece by piece until they differ. Weights stay memory-mapped: they are never copied to be compared, and what
was read of them does not stay in memory. What equals a transpose, as an output head that is tied to a table, is shared
where all that reads it can read either (`share.standing`); so that passes behind see one weight with two readers, which
most leave alone, it is asked for. Left alone: tensors that differ in any byte (0.0 and -0.0 differ), strings,
initializers that are inputs or outputs of the graph, and weights that are computed when they are read, unless asked
for.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import onnx_ir as ir

from ...ir.level import Level
from ...ir.mapped import released
from ..base import Context, Finding, Outcome, Pass
from ..edit import Array
from .standing import stand_for, turnable, turned_for

#: Elements in a row that are looked at before two tensors are compared whole.
_SAMPLES = 16
#: Bytes that are compared at once.
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShareIdentical(Pass):
    """Store identical initializers once.

    transposed: also matrices that are another's transpose, as a table and an output head tied to it; runtimes lay the
        transpose out when they load the model. Best behind passes that quantize or factorize.
    computed: also weights that are computed when they are read, as a lowering packs them; each is computed once for it.
    """

    name: ClassVar[str] = "share-identical"
    level: ClassVar[Level] = Level.IMPORTED
    transposed: bool = False
    computed: bool = False

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        scopes = (model.graph, *model.graph.subgraphs())
        findings = [finding for scope in scopes for finding in _share(scope)]
        if self.computed:
            findings += [finding for scope in scopes for finding in _digested(scope)]
        if self.transposed:
            findings += [finding for scope in scopes for finding in _tie(scope)]
        return Outcome(tuple(findings))


def _share(graph: ir.Graph) -> list[Finding]:
    groups: defaultdict[tuple[object, ...], list[ir.Value]] = defaultdict(list)
    for value in graph.initializers.values():
        if _comparable(value):
            tensor = value.const_value
            assert tensor is not None
            groups[tensor.dtype, tuple(tensor.shape.numpy())].append(value)
    return [finding for group in groups.values() if len(group) > 1 for finding in _merge(group)]


def _comparable(value: ir.Value) -> bool:
    tensor = value.const_value
    stored = tensor is not None and tensor.dtype != ir.DataType.STRING and not isinstance(tensor, ir.LazyTensor)
    return stored and not value.is_graph_input() and not value.is_graph_output()


def _merge(group: list[ir.Value]) -> Iterator[Finding]:
    """Let the first of each kind stand for all, among tensors of one dtype and shape."""
    alike: defaultdict[bytes, list[ir.Value]] = defaultdict(list)
    for value in group:
        array = _array(value)
        with released(sample := _sample(array)):
            kind = alike[sample.tobytes()]
        twin = next((other for other in kind if _equal(_array(other), array)), None)
        if twin is None:
            kind.append(value)
            continue
        yield Finding(f"{value.name} is {twin.name}")
        stand_for(value, twin)


def _digested(graph: ir.Graph) -> Iterator[Finding]:
    """Let the first of computed weights that come out equal stand for all; one at a time is held."""
    groups: defaultdict[tuple[object, ...], list[ir.Value]] = defaultdict(list)
    for value in graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.LazyTensor) and not value.is_graph_input() and not value.is_graph_output():
            groups[tensor.dtype, tuple(tensor.shape.numpy())].append(value)
    for group in groups.values():
        known: dict[bytes, ir.Value] = {}
        for value in group if len(group) > 1 else ():
            assert value.const_value is not None
            twin = known.setdefault(hashlib.blake2b(value.const_value.tobytes()).digest(), value)
            if twin is not value:
                yield Finding(f"{value.name} is {twin.name}")
                stand_for(value, twin)


def _tie(graph: ir.Graph) -> Iterator[Finding]:
    """Let matrices stand for their transposes, where these can be read so; what comes first stays."""
    matrices: defaultdict[tuple[object, ...], list[ir.Value]] = defaultdict(list)
    for value in graph.initializers.values():
        tensor = value.const_value
        if _comparable(value) and tensor is not None and len(tensor.shape) == 2 and tensor.dtype.is_floating_point():
            matrices[tensor.dtype, tuple(tensor.shape.numpy()), _sample(_array(value)).tobytes()].append(value)
    for value in [each for kind in matrices.values() for each in kind][::-1]:
        tensor = value.const_value
        if tensor is None or not turnable(value):
            continue
        turned = _array(value).T
        kind = matrices[tensor.dtype, turned.shape, _sample(turned).tobytes()]
        twin = next((each for each in kind if each is not value and _equal(_array(each), turned)), None)
        if twin is not None:
            matrices[tensor.dtype, turned.shape[::-1], _sample(turned.T).tobytes()].remove(value)
            yield Finding(f"{value.name} is {twin.name}, transposed")
            turned_for(value, twin)


def _array(value: ir.Value) -> Array:
    """What a tensor holds, as it lies there."""
    tensor = value.const_value
    assert tensor is not None
    array: Array = tensor.numpy_packed() if isinstance(tensor, ir.PackedTensor) else tensor.numpy()
    return array


def _sample(array: Array) -> Array:
    """A few elements in a row, from the middle of each axis but the last; a view."""
    if not array.ndim or not array.size:
        return array
    row: Array = array[tuple(size // 2 for size in array.shape[:-1])]
    start = max(row.size // 2 - _SAMPLES // 2, 0)
    return row[start : start + _SAMPLES]


def _equal(left: Array, right: Array) -> bool:
    if _place(left) == _place(right):
        return True
    # in the order in which they lie there, so that a piece is in one place
    order = sorted(range(left.ndim), key=lambda axis: -abs(left.strides[axis]))
    left, right = left.transpose(order), right.transpose(order)
    for piece in _pieces(left.shape, max(_PIECE // left.itemsize, 1)):
        one, other = left[piece], right[piece]
        with released(one, other):
            if one.tobytes() != other.tobytes():
                return False
    return True


def _place(array: Array) -> tuple[object, ...]:
    """Where in memory the elements lie: a view of the same place is the same array."""
    return array.ctypes.data, array.strides


def _pieces(shape: tuple[int, ...], most: int) -> Iterator[tuple[int | slice, ...]]:
    """Indices of an array that cover it in order, each of at most `most` elements."""
    axis, size = len(shape), 1
    while axis and size * shape[axis - 1] <= most:
        axis -= 1
        size *= shape[axis]
    if not axis:
        yield ()
        return
    step = max(most // max(size, 1), 1)
    for outer in product(*(range(size) for size in shape[: axis - 1])):
        for start in range(0, shape[axis - 1], step):
            yield *outer, slice(start, start + step)
