"""What tests share: apply a pass, read its misses, hold it to its contract; the code of a page."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from tersor.backends.base import Backend
from tersor.backends.catalogue import create, find
from tersor.examples.data import data_dir
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Signature, violations
from tersor.ir.text import lines
from tersor.passes.base import Context, Miss, Pass
from tersor.passes.verify import allowed, worst_loss

#: Of an output, relative: what rounding leaves where arithmetic comes to the same, by the type that it is in.
ROUNDED: Mapping[type[np.floating], float] = {np.float32: 1e-5, np.float64: 1e-10}
#: What rounding leaves in float32 across a whole model on another runtime.
REORDERED = 1e-4


def data_folder() -> Path:
    """The folder of example models and texts; the test that asks skips where there is none."""
    folder = data_dir()
    if folder is None:
        pytest.skip("no data folder: neither TERSOR_DATA nor ../shared/data is one")
    return folder


def installed(backend: str) -> Backend:
    """A backend on one thread; the test that asks skips where its runtime is not installed."""
    if find(backend).version() is None:
        pytest.skip(f"{backend} is not installed")
    return create(f"{backend}{{threads=1}}")


def apply(made: Pass, model: ir.Model) -> list[str]:
    """The lines of `model` after one application, the invariants of every level checked."""
    signature = None if made.changes_signature else Signature.of(model)
    made.apply(model, Context())
    found = violations(model, made.level, signature=signature)
    assert not found, "\n".join([*found, *lines(model)])
    return lines(model)


def on_onnxruntime(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of ONNX Runtime as it runs the nodes that are there: without its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return list(session.run(None, dict(feeds)))


def distance(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest relative L2 error of any output, in float64."""
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(found, expected, strict=True)]
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)) for a, b in pairs)


def parse(text: str, *, opset: int = 23, functions: str = "") -> ir.Model:
    """A model in ONNX's own text, for what `tersor.ir.text.graph` has no words for: subgraphs and functions."""
    domains = f'"": {opset}, "pkg": 1, "tersor": 1' if functions else f'"": {opset}'
    return ir.from_onnx_text(f"<ir_version: 10, opset_import: [{domains}]>\n{text}\n{functions}")


def inside_if(model: ir.Model, other: ir.Model | None = None) -> ir.Model:
    """The body of `model` in both branches of an If on a new input `cond`, or that of `other` in the second one;
    initializers stay outside.
    """
    whole, second = ir.to_proto(model), ir.to_proto(other or model).graph
    body = whole.graph
    held = [*body.initializer, *(second.initializer if other is not None else ())]
    chosen = onnx.helper.make_node(
        "If",
        ["cond"],
        [value.name for value in body.output],
        then_branch=_renamed(body, "_then"),
        else_branch=_renamed(second, "_else"),
    )
    inputs = [onnx.helper.make_tensor_value_info("cond", onnx.TensorProto.BOOL, []), *body.input]
    outer = onnx.helper.make_graph([chosen], body.name, inputs, body.output, held)
    made = onnx.helper.make_model(outer, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return ir.from_proto(made)


def _renamed(body: onnx.GraphProto, ending: str) -> onnx.GraphProto:
    """The nodes of a graph as a branch: what they produce gets the ending."""
    produced = {name for node in body.node for name in node.output if name}

    def rename(name: str) -> str:
        return name + ending if name in produced else name

    branch = onnx.GraphProto(name=body.name + ending)
    branch.CopyFrom(onnx.helper.make_graph(body.node, body.name + ending, [], body.output, value_info=body.value_info))
    for node in branch.node:
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        node.name += ending
    for value in (*branch.output, *branch.value_info):
        value.name = rename(value.name)
    return branch


def misses(made: Pass, model: ir.Model) -> list[Miss]:
    """Why the pass does not fire, place by place; the model is left as it is."""
    before = lines(model)
    found = [finding.miss for finding in made.explain(model, Context()).findings if finding.miss is not None]
    assert lines(model) == before
    return found


def holds(made: Pass, model: ir.Model, dimensions: Mapping[str, int] | None = None, *, seed: int = 0) -> float:
    """Apply to a clone, and assert that the outputs on seeded random feeds stay within the pass's own contract."""
    feeds = random_feeds(model, dimensions, seed=seed)
    after = model.clone()
    outcome = made.apply(after, Context(feeds=[feeds]))
    assert outcome.matches, "the pass did not fire"
    loss = worst_loss(made.contract, compare(model, after, feeds))
    assert np.isfinite(loss)
    assert loss <= allowed(made.contract)
    return loss


_OPERATORS = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Div: "Div", ast.Pow: "Pow"}


def arithmetic(assignment: str) -> list[str]:
    """Lines for `graph` that compute a formula: `y = x / (1 + Exp(-x))`. What lies between is named y.0, y.1, ..."""
    (statement,) = ast.parse(assignment).body
    assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    name = statement.targets[0].id
    made: list[str] = []

    def value(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(float(node.value))
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.BinOp):
            op, args = _OPERATORS[type(node.op)], [value(node.left), value(node.right)]
        elif isinstance(node, ast.UnaryOp):
            op, args = "Neg", [value(node.operand)]
        else:
            assert isinstance(node, ast.Call)
            op, args = ast.unparse(node.func), [value(arg) for arg in node.args]
        made.append(f"{name}.{len(made)} = {op}({', '.join(args)})")
        return f"{name}.{len(made) - 1}"

    last = value(statement.value)
    made[-1] = made[-1].replace(f"{last} =", f"{name} =")
    return made


def page_code(name: str) -> str:
    """The Python blocks of a page in docs/, one after the other."""
    page = Path(__file__).parents[1] / "docs" / name
    return "\n\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
