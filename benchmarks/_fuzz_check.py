"""What FX and the oracles say about an example, and whether that is the same.

The oracle is ONNX Runtime, node by node where it refuses the graph, and ONNX's reference evaluator for a node it has no
kernel for. All values of a graph are outputs. A node where they differ is run again alone on the oracle's inputs: only
if it still differs has it a fault, else it passed on what rounding did. Then the other oracle is asked as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx import helper, numpy_helper
from tersor.benchmarks._fuzz_engines import (
    CAP,
    REFERENCE,
    RUNTIME,
    Arrays,
    Engines,
    Refused,
    given,
    opset,
    replaced,
    single,
)
from tersor.benchmarks._fuzz_graph import Example, Given
from tersor.ir.text import format_model

_TOLERANCE = {"float16": 4e-3, "float32": 3e-5, "float64": 1e-9, "bfloat16": 3e-2}

#: Ops whose values nobody can foretell: only type and shape are compared.
_RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"})

#: What the oracle that was asked second says.
WITH_FX, WITH_ORACLE, OTHERWISE, NOTHING = "as FX", "as the first", "a third answer", "nothing"


@dataclass(frozen=True)
class Difference:
    """How a node on these inputs differs: `kind` is refused, value, shape or type.

    `oracle` differs from FX, `second` is what the other oracle says.
    """

    kind: str
    alone: Example
    node: onnx.NodeProto | None
    inputs: tuple[Given | None, ...]
    found: Given | None
    wanted: Given | None
    oracle: str
    text: str
    second: str = NOTHING

    @property
    def op(self) -> str:
        return "" if self.node is None else self.node.op_type

    @property
    def opset(self) -> int:
        return opset(self.alone.model)

    def attribute(self, name: str, absent: object = None) -> Any:
        for attribute in () if self.node is None else self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return absent

    def array(self, index: int) -> np.ndarray | None:
        """An input that is a tensor."""
        value = self.inputs[index] if index < len(self.inputs) else None
        return value if isinstance(value, np.ndarray) else None

    def __str__(self) -> str:
        head = f"{self.op or 'the graph'} (opset {self.opset}) {self.kind}: {self.text}"
        return f"{head} ({self.oracle}; the other says {self.second})"


@dataclass
class Verdict:
    """What came of an example: why FX or the oracle refused it, what FX ran `alone`, and differences."""

    fx: str = ""
    oracle: str = ""
    differences: list[Difference] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Judge(Engines):
    """Compares."""

    def judged(self, example: Example) -> Verdict:
        """Both sides' answers compared. Raises whatever FX raises that is no TersorError."""
        verdict = Verdict()
        found: Arrays | None = None
        try:
            found = self.fx(example)
        except Refused as error:
            verdict.fx = str(error)
        for name, value in (found or {}).items():
            if isinstance(value, np.ndarray) and value.nbytes > CAP:
                verdict.differences.append(_whole("value", f"{name} has {value.nbytes} bytes, over the limit", example))
        if example.broken:
            return verdict
        try:
            wanted = self.ask(RUNTIME, example)
        except Refused as error:
            verdict.oracle = str(error)
            verdict.differences.extend(self._one_by_one(example, verdict))
            return verdict
        if found is None:
            refusal = self._refusal(example, wanted, verdict.fx)
            # FX drew other numbers, on which a node may be right to refuse
            if refusal.node is not None or not _draws(example):
                verdict.differences.append(refusal)
            return verdict
        verdict.differences.extend(self._each(example, found, wanted))
        return verdict

    def same_on(self, difference: Difference, arrays: Mapping[str, Given]) -> bool:
        """Whether FX and an oracle agree once the node's inputs are these."""
        other = replaced(difference.alone, arrays)
        try:
            wanted = self.ask(difference.oracle, other)
        except Refused:
            return False
        left = self._node(other, wanted, difference.oracle)
        return left is None or left.second == WITH_FX

    def _each(self, example: Example, found: Arrays, wanted: Arrays) -> Iterator[Difference]:
        """Every node whose answer differs on the same inputs."""
        values = given(example) | wanted
        for node in example.model.graph.node:
            outputs = [name for name in node.output if name in wanted]
            if not any(_differs(node, found[name], wanted[name], values) for name in outputs):
                continue
            try:
                alone = single(example, node, values)
            except Refused as error:
                if not _draws(example):
                    yield _whole("value", str(error), example)
                continue
            difference = self._node(alone, {name: wanted[name] for name in outputs}, RUNTIME)
            if difference is not None:
                yield difference

    def _refusal(self, example: Example, wanted: Arrays, message: str) -> Difference:
        values = given(example) | wanted
        for node in example.model.graph.node:
            with contextlib.suppress(Refused):
                difference = self._node(single(example, node, values), {}, RUNTIME)
                if difference is not None:
                    return difference
        return _whole("refused", message, example)

    def _one_by_one(self, example: Example, verdict: Verdict) -> Iterator[Difference]:
        """Each node alone, on the oracle's values as far as there are any, else on FX's."""
        values = given(example)
        for node in example.model.graph.node:
            try:
                alone = single(example, node, values)
            except Refused:
                continue
            for oracle in (RUNTIME, REFERENCE):
                try:
                    wanted = self.ask(oracle, alone)
                except Refused:
                    continue
                difference = self._node(alone, wanted, oracle)
                if difference is not None:
                    yield difference
                break
            else:
                try:
                    wanted = self.fx(alone)
                except Refused:
                    continue
                verdict.alone.append(f"{node.op_type}")
            values |= wanted

    def _node(self, alone: Example, wanted: Arrays, oracle: str) -> Difference | None:
        """How FX differs on a node alone; None where it does not."""
        (node,) = alone.model.graph.node
        values = given(alone)
        inputs = tuple(values.get(name) for name in node.input)
        try:
            found = self.fx(alone)
        except Refused as error:
            other = self._second(alone, None, wanted, oracle)
            return Difference("refused", alone, node, inputs, None, None, oracle, str(error), other)
        for name in node.output:
            if name in wanted and (text := _differs(node, found[name], wanted[name], values)):
                kind, _, text = text.partition(": ")
                other = self._second(alone, found, wanted, oracle)
                return Difference(kind, alone, node, inputs, found[name], wanted[name], oracle, text, other)
        return None

    def _second(self, alone: Example, found: Arrays | None, wanted: Arrays, oracle: str) -> str:
        try:
            answer = self.ask(REFERENCE if oracle == RUNTIME else RUNTIME, alone)
        except Refused:
            return NOTHING
        (node,) = alone.model.graph.node
        for said, theirs in ((WITH_FX, found), (WITH_ORACLE, wanted)):
            if theirs is not None and not any(
                _differs(node, theirs[name], answer[name], given(alone)) for name in theirs if name in answer
            ):
                return said
        return OTHERWISE


def _draws(example: Example) -> bool:
    return any(node.op_type in _RANDOM for node in example.model.graph.node)


def _whole(kind: str, text: str, example: Example) -> Difference:
    return Difference(kind, example, None, (), None, None, "", text)


def _scale(node: onnx.NodeProto, values: Mapping[str, Given]) -> float:
    """The greatest finite number that goes into a node: rounding is relative to it where terms cancel."""
    arrays = [array for name in node.input if isinstance(array := values.get(name), np.ndarray)]
    finite = [np.abs(wide[np.isfinite(wide)]) for array in arrays if (wide := _floats(array)) is not None]
    return max((float(part.max()) for part in finite if part.size), default=1.0)


def _floats(array: np.ndarray) -> np.ndarray | None:
    """Floats of any type as float64; None for others."""
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        with np.errstate(all="ignore"):
            return array.astype(np.float64)
    return None


def _differs(node: onnx.NodeProto, found: Given, wanted: Given, values: Mapping[str, Given]) -> str:
    """`kind: what`, or nothing where both are the same up to rounding."""
    return _compared(found, wanted, _scale(node, values), values=node.op_type not in _RANDOM)


def _compared(found: Given, wanted: Given, scale: float, *, values: bool) -> str:
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        if not isinstance(found, list) or not isinstance(wanted, list):
            return "" if found is None and wanted is None else f"type: {type(found)}, not {type(wanted)}"
        if len(found) != len(wanted):
            return f"shape: {len(found)} items, not {len(wanted)}"
        pairs = zip(found, wanted, strict=True)
        return next((text for a, b in pairs if (text := _compared(a, b, scale, values=values))), "")
    if found.dtype != wanted.dtype:
        return f"type: {found.dtype}, not {wanted.dtype}"
    if found.shape != wanted.shape:
        return f"shape: {list(found.shape)}, not {list(wanted.shape)}"
    same = _same(found, wanted, scale)
    if not values or same.all():
        return ""
    place = tuple(int(i) for i in np.unravel_index(int(np.argmin(same)), np.shape(same)))
    return f"value: {found[place]!r}, not {wanted[place]!r}, at {list(place)}"


def _same(found: np.ndarray, wanted: np.ndarray, scale: float) -> np.ndarray:
    if found.dtype.kind in "biuO":
        return np.asarray(found == wanted)
    tolerance = _TOLERANCE.get(found.dtype.name, 1e-5)
    with np.errstate(all="ignore"):
        a, b = (array.astype(np.complex128 if array.dtype.kind == "c" else np.float64) for array in (found, wanted))
        near = np.abs(a - b) <= tolerance * (np.abs(b) + max(1.0, scale))
    return np.asarray(near | (a == b) | (np.isnan(a) & np.isnan(b)))


def shown(example: Example, difference: Difference | None = None) -> str:
    """The example as text, with the inputs of the node that differs."""
    try:
        text = format_model(onnx_ir.from_proto(example.model))
    except Exception:
        text = onnx.printer.to_text(example.model)
    lines = [text, *(f"feed {name} = {_brief(array)}" for name, array in example.feeds.items())]
    for tensor in example.model.graph.initializer:
        with contextlib.suppress(Exception):
            lines.append(f"constant {tensor.name} = {_brief(numpy_helper.to_array(tensor))}")
    if difference is not None and difference.node is not None:
        lines.append(f"at {onnx.printer.to_text(difference.node)}")
        lines.extend(f"  input {i} {_brief(array)}" for i, array in enumerate(difference.inputs) if array is not None)
        if difference.found is not None and difference.wanted is not None:
            lines.append(f"  FX {_brief(difference.found)}")
            lines.append(f"  {difference.oracle} {_brief(difference.wanted)}")
    if example.broken:
        lines.append(f"broken: {example.broken}")
    return "\n".join(lines)


def _brief(value: Given) -> str:
    if not isinstance(value, np.ndarray):
        return "None" if value is None else "; ".join(map(_brief, value))
    text = np.array2string(value, separator=", ", threshold=24, precision=8).replace("\n", "")
    return f"{value.dtype}{list(value.shape)} {text}"
