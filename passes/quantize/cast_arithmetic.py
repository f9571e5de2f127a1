"""Compute in 16-bit floats: what nodes read, do and give.

    before   y = Gelu(x @ W + b)
    after    y = Cast{to=float}(Gelu(Cast{to=float16}(x) @ W16 + b16))

Lossy. The inputs and outputs of the model stay float32, and so do: what is computed from integers alone (positions,
masks), sums and powers by themselves (`keep`), what subgraphs hold, ops that have no such type, and, where
calibration data are given, results beyond the largest float16. Norms, softmax and attention are whole nodes here, which
runtimes compute more precisely inside. Masks of very large numbers are cut to the type's largest on their way in, and a
single number that would vanish becomes its least: what keeps a divisor from zero goes on doing so.

Sources: Micikevicius et al., Mixed Precision Training, 2018, section 3; Kalamkar et al., A Study of BFLOAT16 for Deep
Learning Training, 2019.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import numpy as np
import onnx_ir as ir

from ...ir.constants import tensor_of
from ...ir.errors import OptionError
from ...ir.provenance import inherit, scope, sources
from ...ir.text import place
from ...ir.walk import every_node, held_graphs, may_hold_graphs
from ..accumulator import Accumulator
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..edit import Array, Ledger, Tape, constant_of, drop, is_constant, is_op, reroute
from ..statistics import Want
from .formal import Floats, floats

#: The largest number of each type.
_LARGEST = {
    ir.DataType.FLOAT16: float(np.finfo(np.float16).max),
    ir.DataType.BFLOAT16: (2 - 2.0**-7) * 2.0**127,
}
#: Results nearer to the largest float16 than this part of it stay float32: other data reach further.
_MARGIN = 0.5
#: Larger than any scale: what is multiplied by it is masked.
_MASKING = 1e30
_DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
#: A constant of more numbers than this makes features of what it is multiplied by.
_FEW = 1 << 10
#: Sums of many terms, and what makes small differences large.
_SENSITIVE = ("CumSum", "Exp", "Log", "Pow", "Reciprocal", "Reduce*")


@dataclass(frozen=True, kw_only=True)
class CastArithmetic(Pass):
    """compute in float16 or bfloat16

    dtype: float16 has 11 bits of mantissa and reaches 65504; bfloat16 has 8 and the range of float32.
    keep: glob patterns over ops and names of nodes that stay float32. Given ones take the place of the defaults.
    """

    name: ClassVar[str] = "cast-arithmetic"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    dtype: Literal["float16", "bfloat16"] = "float16"
    keep: tuple[str, ...] = _SENSITIVE

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise OptionError(f"{self.name}: expected a dtype of {' or '.join(_DTYPES)}, found {self.dtype}")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self._ranged(model, self._verdicts(model), context)
        taken = {node: found for node, found in verdicts.items() if isinstance(found, Floats)}
        if taken:
            _Surgery(model.graph, _DTYPES[self.dtype], taken, _counted(model.graph)).run()
        return _outcome(verdicts)

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every node of floats as far as the graph decides, leaving `model` as it is."""
        return _outcome(self._verdicts(model))

    def _verdicts(self, model: ir.Model) -> dict[ir.Node, Floats | Miss]:
        counted = _counted(model.graph)
        found: dict[ir.Node, Floats | Miss] = {}
        for node in model.graph:
            if _computes_floats(node) and not is_op(node, "Cast"):
                found[node] = self._verdict(node, model, counted)
        return found

    def _verdict(self, node: ir.Node, model: ir.Model, counted: set[ir.Value]) -> Floats | Miss:
        op = node.op_identifier()
        if any(True for _ in held_graphs(node)):
            return Miss("subgraph", node.op_type, "a node without subgraphs")
        unknown = next((value for value in (*node.inputs, *node.outputs) if _untyped(value)), None)
        if unknown is not None:
            return Miss("type", unknown.name or "", "values of known types; run infer-shapes first")
        if any(value in counted for value in node.outputs):
            return Miss("integers", node.op_type, "more than integers to compute from", far=True)
        body = model.functions.get(op, ())
        kept = next((each for each in self.keep for one in (node, *body) if _fits(one, each)), None)
        if kept is not None:
            return Miss("keep", node.op_type, f"a node unlike {kept}")
        allowed = floats(node, _DTYPES[self.dtype], model.functions)
        if allowed is None:
            return Miss("op", ".".join(filter(None, op)), f"an op that takes {self.dtype}")
        small = next((value for value in node.inputs if value is not None and self._vanishes(node, value)), None)
        if small is not None:
            return Miss("scale", small.name or "", f"scales that {self.dtype} holds")
        return allowed

    def _vanishes(self, node: ir.Node, value: ir.Value) -> bool:
        """Whether a constant that others are divided or multiplied by has numbers too small or too large for the type.

        What is larger than any factor masks: it is cut to the type's largest number.
        """
        if self.dtype != "float16" or value.dtype != ir.DataType.FLOAT or not is_constant(value):
            return False
        if not is_op(node, "DequantizeLinear", "QuantizeLinear", "Div", "Mul"):
            return False
        array = constant_of(value)
        assert array is not None
        sizes, held = np.abs(array[array != 0]), np.finfo(np.float16)
        return bool(((sizes < held.smallest_normal) | ((sizes > held.max) & (sizes < _MASKING))).any())

    def _ranged(
        self, model: ir.Model, verdicts: dict[ir.Node, Floats | Miss], context: Context
    ) -> dict[ir.Node, Floats | Miss]:
        """The verdicts, with what calibration saw beyond float16 left in float32."""
        if self.dtype != "float16" or context.calibration is None:
            return verdicts
        made = [
            (node, node.outputs[at])
            for node, found in verdicts.items()
            if isinstance(found, Floats)
            for at in found.outputs
        ]
        seen = context.statistics(model, [Want(value, Reach) for _, value in made])
        most = _MARGIN * _LARGEST[ir.DataType.FLOAT16]
        for node, value in made:
            largest = seen.of(value, Reach).largest
            if largest > most:
                verdicts[node] = Miss("range", f"{largest:g}", f"results of at most {most:g}")
        return verdicts


class Reach(Accumulator):
    """The largest magnitude of the finite numbers of arrays of any shape."""

    def __init__(self) -> None:
        self.largest = 0.0

    def add(self, array: Array) -> None:
        held = np.abs(np.asarray(array, np.float64))
        self.largest = float(held.max(initial=self.largest, where=np.isfinite(held)))
        self.count += array.size

    def merge(self, other: Self) -> None:
        self.largest = max(self.largest, other.largest)
        self.count += other.count

    @property
    def bytes(self) -> int:
        return 8


@dataclass
class _Surgery:
    """Floats on their way into 16 bits and back, with one Cast for each value and direction.

    narrowed: what stands for a float32 value in 16 bits. widened: what stands for a value that became 16 bits, in
    float32.
    """

    graph: ir.Graph
    dtype: ir.DataType
    taken: Mapping[ir.Node, Floats]
    counted: set[ir.Value]
    made: set[ir.Value] = field(default_factory=set)
    narrowed: dict[ir.Value, ir.Value] = field(default_factory=dict)
    widened: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def run(self) -> None:
        for node in list(self.graph):
            found = self.taken.get(node, _NOTHING)
            for at, value in enumerate(node.inputs):
                if value is not None and at in found.inputs and value not in self.made:
                    self._swap(node, at, value, self.narrowed, self._narrow, node)
            for reader in (node, *_within(node)):
                for at, value in enumerate(reader.inputs):
                    if value is not None and value in self.made and not (reader is node and at in found.inputs):
                        self._swap(reader, at, value, self.widened, self._widen, node)
            for at in found.outputs:
                node.outputs[at].type = ir.TensorType(self.dtype)
                self.made.add(node.outputs[at])
            if found.outputs and "output_dtype" in node.attributes:
                node.attributes["output_dtype"] = ir.AttrInt64("output_dtype", self.dtype)
        for value in [value for value in self.graph.outputs if value in self.made]:
            self._give(value)

    def _swap(
        self,
        reader: ir.Node,
        at: int,
        value: ir.Value,
        known: dict[ir.Value, ir.Value],
        make: Callable[[Tape, ir.Value], ir.Value],
        before: ir.Node,
    ) -> None:
        """Let `reader` read a value in the other type; what makes it so stands in front of `before`."""
        if value not in known:
            tape = Tape()
            known[value] = make(tape, value)
            reroute(tape, before, value, value)
        reader.replace_input_with(at, known[value])
        drop(value)

    def _narrow(self, tape: Tape, value: ir.Value) -> ir.Value:
        tensor = tensor_of(value)
        if tensor is not None:
            return tape.derived(
                value.name or "constant", tensor.shape.numpy(), self.dtype, lambda: self._fit(tensor), weight=True
            )
        if value in self.counted:
            most = _LARGEST[self.dtype]
            ends = (tape.constant(end, "end") for end in (-most, most))
            value = _typed(tape("Clip", value, *ends), value, ir.DataType.FLOAT)
        return _typed(tape("Cast", value, to=self.dtype), value, self.dtype)

    def _widen(self, tape: Tape, value: ir.Value) -> ir.Value:
        return _typed(tape("Cast", value, to=ir.DataType.FLOAT), value, ir.DataType.FLOAT)

    def _fit(self, tensor: ir.TensorProtocol) -> Array:
        """A constant in the type; beyond its largest numbers, those; a single number is zero only where it was."""
        array, most, kind = tensor.numpy(), _LARGEST[self.dtype], self.dtype.numpy()
        made: Array = np.where(np.isinf(array), array, np.clip(array, -most, most)).astype(kind)
        if array.size == 1 and array.any() and not made.any():
            made = np.copysign(np.nextafter(kind.type(0), kind.type(1)), made)
        return made

    def _give(self, value: ir.Value) -> None:
        """Let the model's output be what it was declared to be."""
        tape = Tape()
        wide = self.widened[value] if value in self.widened else self._widen(tape, value)
        last = self.graph[-1]
        for node in tape.nodes:
            self.graph.append(node)
            inherit([node], [last])
        ledger = Ledger.of(self.graph)
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = wide
        name, value.name = value.name, None
        wide.name, value.name = name, ledger.unique(f"{name}/{self.dtype.name.lower()}")


_NOTHING = Floats((), ())


def _typed(made: ir.Value, like: ir.Value, dtype: ir.DataType) -> ir.Value:
    made.type, made.shape = ir.TensorType(dtype), like.shape
    return made


def _within(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes of the subgraphs that a node holds."""
    for held in held_graphs(node) if may_hold_graphs(node) else ():
        yield from every_node(held)


def _counted(graph: ir.Graph) -> set[ir.Value]:
    """The floats that are computed from integers alone: positions and their angles, masks."""
    found: set[ir.Value] = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
        if is_op(node, "Cast"):
            source = node.inputs[0]
            counts = source is not None and source.dtype is not None and not source.dtype.is_floating_point()
        else:
            counts = bool(read) and all(value in found or _is_number(value) for value in read)
            counts |= any(value in found for value in read) and all(
                value in found or (is_constant(value) and _size(value) <= _FEW) for value in read
            )
        if counts:
            found.update(value for value in node.outputs if value.dtype == ir.DataType.FLOAT)
    return found


def _is_number(value: ir.Value) -> bool:
    return is_constant(value) and _size(value) == 1


def _size(value: ir.Value) -> int:
    tensor = tensor_of(value)
    return 0 if tensor is None else tensor.size


def _outcome(verdicts: Mapping[ir.Node, Floats | Miss]) -> Outcome:
    named = ((node, found if isinstance(found, Miss) else None) for node, found in verdicts.items())
    return Outcome(
        tuple(
            Finding(place(node), sources(node), miss, scope(node))
            for node, miss in named
            if miss is None or not miss.far
        )
    )


def _fits(node: ir.Node, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (node.op_type, node.name or ""))


def _untyped(value: ir.Value | None) -> bool:
    return value is not None and bool(value.name) and value.dtype is None


def _computes_floats(node: ir.Node) -> bool:
    return any(
        value is not None and value.dtype == ir.DataType.FLOAT
        for reader in (node, *_within(node))
        for value in reader.inputs
    )
