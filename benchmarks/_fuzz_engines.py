"""The three that run an example: FX, and as oracles ONNX Runtime and ONNX's reference evaluator."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.reference
import onnxruntime
from onnx import helper, numpy_helper
from tersor.benchmarks._fuzz_graph import Example, Given, code_of
from tersor.ir.errors import TersorError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.load import load

Arrays = dict[str, Given]

#: Bytes of one value that FX may use for an example.
CAP = 1 << 26

RUNTIME, REFERENCE = "ONNX Runtime", "the reference evaluator"

#: The newest opset that ONNX Runtime reads.
_NEWEST = 26


class Refused(Exception):  # noqa: N818
    """An engine does not take the model or cannot run it; not a fault."""


def runtime(example: Example) -> Arrays:
    """Without optimizations. A newer opset is read as the newest that ONNX Runtime knows where no op changed since."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = onnxruntime.RunOptions()
    run.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            _readable(example.model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(example.feeds), run), strict=True))
    except Exception as error:
        raise Refused(f"{RUNTIME}: {str(error).splitlines()[0][:300]}") from error


def _readable(model: onnx.ModelProto) -> onnx.ModelProto:
    if opset(model) <= _NEWEST or any(_since(node) > _NEWEST for node in _nodes(model)):
        return model
    older = onnx.ModelProto()
    older.CopyFrom(model)
    for item in [*older.opset_import, *(item for function in older.functions for item in function.opset_import)]:
        if not item.domain:
            item.version = _NEWEST
    return older


def _since(node: onnx.NodeProto) -> int:
    if node.domain:
        return 0
    try:
        return int(onnx.defs.get_schema(node.op_type).since_version)
    except onnx.defs.SchemaError:
        return 0


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from _within(nodes)


def _within(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _within(attribute.g.node)


def reference(example: Example) -> Arrays:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            evaluator = onnx.reference.ReferenceEvaluator(example.model)
            values = evaluator.run(None, dict(example.feeds))
    except Exception as error:
        raise Refused(f"{REFERENCE}: {type(error).__name__} {str(error)[:200]}") from error
    return {
        name: _plain(value, typed)
        for name, value, typed in zip(evaluator.output_names, values, example.model.graph.output, strict=True)
    }


def _plain(value: object, typed: onnx.ValueInfoProto) -> Given:
    if value is None or isinstance(value, list):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "SU":
        return array.astype(object)
    if array.dtype == object and not all(isinstance(item, str) for item in array.ravel()):
        raise Refused(f"{REFERENCE}: no array for {typed.name}")
    return array


@dataclass(frozen=True)
class Engines:
    """`note` is told who gets which example next, so that a crash can be laid at somebody's door."""

    note: Callable[[str, Example], None] = lambda who, example: None

    def fx(self, example: Example) -> Arrays:
        """Raises Refused for what tersor raises on purpose, and lets everything else through."""
        self.note("FX", example)
        try:
            return dict(Interpreter(to_fx(load(example.model)), limit=CAP).run(example.feeds))  # type: ignore[arg-type]
        except TersorError as error:
            raise Refused(f"{type(error).__name__}: {error}") from error

    def ask(self, who: str, example: Example) -> Arrays:
        """An oracle's answer. Raises Refused."""
        self.note(who, example)
        return runtime(example) if who == RUNTIME else reference(example)


def opset(model: onnx.ModelProto) -> int:
    return next((int(item.version) for item in model.opset_import if not item.domain), 0)


def given(example: Example) -> Arrays:
    """The values that nobody computes."""
    fixed: Arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in example.model.graph.initializer}
    return {**fixed, **example.feeds}


def read(node: onnx.NodeProto) -> set[str]:
    """The values a node reads, those that its bodies take from outside too."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inside = {value.name for value in attribute.g.input}
            for inner in attribute.g.node:
                names |= read(inner) - inside
                inside |= set(inner.output)
    return names


def single(example: Example, node: onnx.NodeProto, values: Mapping[str, Given]) -> Example:
    """A model of this node alone, with the same initializers and these values fed. Raises Refused without values."""
    names = read(node)
    fixed = [tensor for tensor in example.model.graph.initializer if tensor.name in names]
    rest = sorted(names - {tensor.name for tensor in fixed})
    if any(name not in values for name in rest):
        raise Refused(f"{node.name} reads what no output shows")
    feeds = {name: values[name] for name in rest}
    inputs = [_declared(name, value) for name, value in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    body = helper.make_graph([node], "alone", inputs, outputs, fixed)
    model = helper.make_model(
        body, opset_imports=list(example.model.opset_import), ir_version=10, functions=list(example.model.functions)
    )
    return Example(model, feeds)


def replaced(alone: Example, arrays: Mapping[str, Given]) -> Example:
    """The example on other values, of feeds and initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(alone.model)
    for tensor in model.graph.initializer:
        value = arrays.get(tensor.name)
        if isinstance(value, np.ndarray):
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return Example(model, {name: arrays.get(name, value) for name, value in alone.feeds.items()})


def _declared(name: str, value: Given) -> onnx.ValueInfoProto:
    if isinstance(value, np.ndarray):
        return helper.make_tensor_value_info(name, code_of(value.dtype), list(value.shape))
    if not value or value[0] is None:
        raise Refused(f"{name} does not say its type")
    return helper.make_tensor_sequence_value_info(name, code_of(value[0].dtype), None)
