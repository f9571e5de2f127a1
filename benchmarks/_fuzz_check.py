"""What FX and the oracle say about an example, and whether that is the same.

The oracle is ONNX Runtime without optimizations, node by node where it refuses the graph, and ONNX's reference
evaluator for a node it has no kernel for. All values of a graph are outputs. Where one differs, its node alone is run
again on the oracle's inputs: only if it still differs has this node a fault, else it passed on what rounding did.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir
import onnxruntime
from onnx import helper, numpy_helper
from tersor.benchmarks._fuzz_graph import Example
from tersor.ir.errors import TersorError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.load import load
from tersor.ir.text import format_model

Array = np.ndarray
Arrays = dict[str, Array]

#: Bytes of one value that FX may use for an example.
CAP = 1 << 26

_TOLERANCE = {"float16": 4e-3, "float32": 3e-5, "float64": 1e-9}


@dataclass(frozen=True)
class Difference:
    """How a node on these inputs differs: `kind` is refused, raised, value, shape or type."""

    kind: str
    node: onnx.NodeProto | None
    opset: int
    inputs: tuple[Array | None, ...]
    found: Array | None
    wanted: Array | None
    oracle: str
    text: str

    @property
    def op(self) -> str:
        return "" if self.node is None else self.node.op_type

    def attribute(self, name: str, absent: object = None) -> Any:
        for attribute in () if self.node is None else self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return absent

    def __str__(self) -> str:
        return f"{self.op or 'the graph'} (opset {self.opset}) {self.kind}: {self.text}"


@dataclass
class Verdict:
    """What came of an example: `ran` on both sides, what was `alone` on the FX side, and differences."""

    fx: str = ""
    oracle: str = ""
    differences: list[Difference] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)


class Refused(Exception):  # noqa: N818
    """An engine does not take the model or cannot run it; not a fault."""


def runtime(example: Example) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = onnxruntime.RunOptions()
    run.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            example.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(example.feeds), run), strict=True))
    except Exception as error:
        raise Refused(f"ONNX Runtime: {str(error).splitlines()[0][:300]}") from error


def reference(example: Example) -> Arrays:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            evaluator = onnx.reference.ReferenceEvaluator(example.model)
            values = evaluator.run(None, dict(example.feeds))
    except Exception as error:
        raise Refused(f"reference: {type(error).__name__} {str(error)[:200]}") from error
    arrays = {name: np.asarray(value) for name, value in zip(evaluator.output_names, values, strict=True)}
    if any(array.dtype == object for array in arrays.values()):
        raise Refused("reference: no array")
    return arrays


@dataclass(frozen=True)
class Judge:
    """Compares; `note` is told who gets which example next, so that a crash can be laid at somebody's door."""

    note: Callable[[str, Example], None] = lambda who, example: None

    def fx(self, example: Example) -> Arrays:
        """Raises Refused for what tersor raises on purpose, and lets everything else through."""
        self.note("FX", example)
        try:
            return Interpreter(to_fx(load(example.model)), limit=CAP).run(example.feeds)
        except TersorError as error:
            raise Refused(f"{type(error).__name__}: {error}") from error

    def runtime(self, example: Example) -> Arrays:
        self.note("ONNX Runtime", example)
        return runtime(example)

    def reference(self, example: Example) -> Arrays:
        self.note("the reference evaluator", example)
        return reference(example)

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
            wanted = self.runtime(example)
        except Refused as error:
            verdict.oracle = str(error)
            verdict.differences.extend(self._one_by_one(example, verdict))
            return verdict
        if found is None:
            verdict.differences.append(self._refusal(example, wanted, verdict.fx))
            return verdict
        verdict.differences.extend(self._first(example, found, wanted))
        return verdict

    def _first(self, example: Example, found: Arrays, wanted: Arrays) -> Iterator[Difference]:
        """The first node whose answer differs on the same inputs."""
        values = _given(example) | wanted
        for node in example.model.graph.node:
            outputs = [name for name in node.output if name in wanted]
            if not any(_differs(found[name], wanted[name], _scale(node, values)) for name in outputs):
                continue
            alone = single(example, node, values)
            difference = self._node(alone, {name: wanted[name] for name in outputs}, "ONNX Runtime")
            if difference is not None:
                yield difference
                return

    def _refusal(self, example: Example, wanted: Arrays, message: str) -> Difference:
        values = _given(example) | wanted
        for node in example.model.graph.node:
            try:
                self.fx(single(example, node, values))
            except Refused as error:
                return _difference("refused", node, example, values, None, None, "ONNX Runtime", str(error))
        return _whole("refused", message, example)

    def _one_by_one(self, example: Example, verdict: Verdict) -> Iterator[Difference]:
        """Each node alone, on the oracle's values as far as there are any, else on FX's."""
        values = _given(example)
        for node in example.model.graph.node:
            if any(name and name not in values for name in _read(node)):
                return
            alone = single(example, node, values)
            for engine in (self.runtime, self.reference):
                try:
                    wanted = engine(alone)
                except Refused:
                    continue
                difference = self._node(
                    alone, wanted, "ONNX Runtime" if engine == self.runtime else "the reference evaluator"
                )
                if difference is not None:
                    yield difference
                break
            else:
                try:
                    wanted = self.fx(alone)
                except Refused:
                    return
                verdict.alone.append(f"{node.op_type}")
            values |= wanted

    def _node(self, alone: Example, wanted: Mapping[str, Array], oracle: str) -> Difference | None:
        (node,) = alone.model.graph.node
        values = _given(alone)
        try:
            found = self.fx(alone)
        except Refused as error:
            return _difference("refused", node, alone, values, None, None, oracle, str(error))
        for name in node.output:
            if name in wanted and (text := _differs(found[name], wanted[name], _scale(node, values))):
                kind, _, text = text.partition(": ")
                return _difference(kind, node, alone, values, found[name], wanted[name], oracle, text)
        return None


def _difference(
    kind: str,
    node: onnx.NodeProto,
    example: Example,
    values: Mapping[str, Array],
    found: Array | None,
    wanted: Array | None,
    oracle: str,
    text: str,
) -> Difference:
    inputs = tuple(values.get(name) for name in node.input)
    return Difference(kind, node, _opset(example), inputs, found, wanted, oracle, text)


def _whole(kind: str, text: str, example: Example) -> Difference:
    return Difference(kind, None, _opset(example), (), None, None, "", text)


def _opset(example: Example) -> int:
    return next((item.version for item in example.model.opset_import if not item.domain), 0)


def _given(example: Example) -> Arrays:
    fixed = {tensor.name: numpy_helper.to_array(tensor) for tensor in example.model.graph.initializer}
    return {**fixed, **example.feeds}


def _read(node: onnx.NodeProto) -> set[str]:
    """The values a node reads, those that its bodies take from outside too."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inside = {value.name for value in attribute.g.input}
            for inner in attribute.g.node:
                names |= _read(inner) - inside
                inside |= set(inner.output)
    return names


def single(example: Example, node: onnx.NodeProto, values: Mapping[str, Array]) -> Example:
    """A model of this node alone, with the same initializers and these values fed."""
    names = _read(node)
    fixed = [tensor for tensor in example.model.graph.initializer if tensor.name in names]
    feeds = {name: values[name] for name in sorted(names - {tensor.name for tensor in fixed})}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape))
        for name, array in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    body = helper.make_graph([node], "alone", inputs, outputs, fixed)
    model = helper.make_model(body, opset_imports=list(example.model.opset_import), ir_version=10)
    return Example(model, feeds)


def _scale(node: onnx.NodeProto, values: Mapping[str, Array]) -> float:
    """The greatest finite number that goes into a node: rounding is relative to it where terms cancel."""
    arrays = [values[name] for name in node.input if name in values and values[name].dtype.kind == "f"]
    finite = [np.abs(array[np.isfinite(array)].astype(np.float64)) for array in arrays]
    return max((float(part.max()) for part in finite if part.size), default=1.0)


def _differs(found: Array, wanted: Array, scale: float) -> str:
    """`kind: what`, or nothing where both are the same up to rounding."""
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return ""
    if found.dtype != wanted.dtype:
        return f"type: {found.dtype}, not {wanted.dtype}"
    if found.shape != wanted.shape:
        return f"shape: {list(found.shape)}, not {list(wanted.shape)}"
    if found.dtype.kind not in "fc":
        same = found == wanted
    else:
        tolerance = _TOLERANCE.get(found.dtype.name, 1e-5)
        with np.errstate(all="ignore"):
            a, b = (array.astype(np.complex128 if array.dtype.kind == "c" else np.float64) for array in (found, wanted))
            near = np.abs(a - b) <= tolerance * (np.abs(b) + max(1.0, scale))
        same = near | (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return ""
    place = tuple(int(i) for i in np.unravel_index(int(np.argmin(same)), np.shape(same)))
    return f"value: {found[place]!r}, not {wanted[place]!r}, at {list(place)}"


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


def _brief(array: Array) -> str:
    text = np.array2string(array, separator=", ", threshold=24, precision=8).replace("\n", "")
    return f"{array.dtype}{list(array.shape)} {text}"
