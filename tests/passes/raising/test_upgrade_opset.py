"""Standard ops at the opset of the semantic level."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.level import SEMANTIC_OPSET, Signature
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes
from tersor.passes.raising.upgrade_opset import UpgradeOpset
from tersor.tests.support import apply, holds, inside_if, parse

X = {"x": "float[2, 6, 4]"}
RNG = np.random.default_rng(0)
IMAGE = {"x": "float[1, 2, 4, 4]"}
GATES = {"w": RNG.standard_normal((1, 8, 4)).astype(np.float32), "r": RNG.standard_normal((1, 8, 2)).astype(np.float32)}
NORM = {name: RNG.uniform(0.5, 2.0, 6).astype(np.float32) for name in "sbmv"}

OLD = [
    (15, graph("y = ReduceMean{axes=[1], keepdims=0}(x)", opset=15, inputs=X)),
    (12, graph("y = ReduceSum{axes=[1]}(x)", opset=12, inputs=X)),
    (11, graph("y = Unsqueeze{axes=[0]}(x)", opset=11, inputs=X)),
    (11, graph("y = Softmax{axis=1}(x)", opset=11, inputs=X)),
    (9, graph("y = Slice{starts=[0], ends=[1]}(x)", opset=9, inputs=X)),
    (10, graph("y = Pad{pads=[0, 0, 0, 0, 0, 1]}(x)", opset=10, inputs=X)),
    (12, graph("(y, z) = Split{axis=1, split=[2, 4]}(x)", opset=12, inputs=X)),
    (9, graph("y = Upsample{mode=nearest}(x, c)", opset=9, inputs=IMAGE, c=np.array([1, 1, 2, 2], np.float32))),
    (9, graph("y = BatchNormalization(x, s, b, m, v)", opset=9, inputs=X, **NORM)),
    (7, graph("(y, h, c) = LSTM{hidden_size=2}(x, w, r)", opset=7, inputs={"x": "float[3, 1, 4]"}, **GATES)),
    (18, graph("y = GroupNormalization{num_groups=3}(x, g, h)", opset=18, inputs=X, g=NORM["s"][:3], h=NORM["b"][:3])),
    (20, graph("y = Relu(x)", opset=20, inputs=X)),
    (15, inside_if(graph("h = Relu(x)", "y = ReduceMean{axes=[1]}(h)", opset=15, inputs=X))),
]
IDS = [f"{opset}-{next(reversed(model.graph)).op_type}" for opset, model in OLD]


@pytest.mark.parametrize(("opset", "model"), OLD, ids=IDS)
def test_rewrites(opset: int, model: ir.Model) -> None:
    made = model.clone()
    before = Signature.of(made)
    apply(UpgradeOpset(), made)
    assert made.opset_imports[""] == SEMANTIC_OPSET
    assert [port.name for port in Signature.of(made).outputs] == [port.name for port in before.outputs]
    (finding,) = UpgradeOpset().apply(model.clone(), Context()).findings
    assert (finding.place, finding.miss) == (f"opset {opset} to {SEMANTIC_OPSET}", None)


@pytest.mark.parametrize(("opset", "model"), OLD, ids=IDS)
def test_holds(opset: int, model: ir.Model) -> None:
    holds(UpgradeOpset(), model)


def test_rewrites_what_stands_beside_ops_of_other_domains() -> None:
    model = graph("h = com.microsoft.FastGelu(x)", "y = ReduceMean{axes=[1]}(h)", opset=15, inputs=X)
    assert apply(UpgradeOpset(), model)[0] == "h = com.microsoft.FastGelu(x)"
    assert dict(model.opset_imports) == {"com.microsoft": 1, "": SEMANTIC_OPSET}


def test_keeps_what_is_known_about_the_model() -> None:
    model = graph("y = ReduceMean{axes=[1]}(x)", opset=15, inputs={"x": "float[batch, 6, 4]"})
    model.metadata_props["tersor.dimensions"] = '{"batch": [1, 8]}'
    apply(UpgradeOpset(), model)
    assert model.metadata_props["tersor.dimensions"] == '{"batch": [1, 8]}'
    assert model.graph.inputs[0].shape == ir.Shape(["batch", 6, 4])


def test_leaves_a_model_alone_that_is_there_already() -> None:
    model = graph("y = Relu(x)", inputs=X)
    assert UpgradeOpset().apply(model, Context()).findings == ()


@pytest.mark.parametrize(
    ("model", "opset"),
    [
        (graph("y = NoSuchOp(x)", opset=15, inputs=X), 15),
        (graph("y = Swish(x)", opset=24, inputs=X), 24),
    ],
)
def test_leaves_alone_what_no_converter_can_bring_up(model: ir.Model, opset: int) -> None:
    before = lines(model)
    (finding,) = UpgradeOpset().apply(model, Context()).findings
    assert str(finding.miss) == f"convertible: opset {opset}; needed a converter from opset {opset} to {SEMANTIC_OPSET}"
    assert lines(model) == before
    assert model.opset_imports[""] == opset


def test_the_bodies_of_functions_come_along() -> None:
    body = '<domain: "pkg", opset_import: ["": 15]> M (a) => (b) { b = ReduceMean <axes = [1], keepdims = 0> (a) }'
    model = parse("g (float[2, 3] x) => (float[2] y) { y = pkg.M (x) }", opset=15, functions=body)
    assert holds(UpgradeOpset(), model) == 0.0


def test_leaves_a_scan_over_batches_alone() -> None:
    """The converters take the axis of the batch from the inputs and outputs."""
    made = parse(
        """g (float[1, 2] h, float[1, 3, 2] x) => (float[1, 2] y, float[1, 3, 2] z) {
            n, s = Scan <num_scan_inputs = 1, body = step (float[2] a, float[2] b) => (float[2] c, float[2] d) {
                c = Add (a, b)  d = Identity (c) }> ("", h, x)
            y = Relu (n)  z = Relu (s) }""",
        opset=8,
    )
    before, signature = lines(made), Signature.of(made)
    (finding,) = UpgradeOpset().apply(made, Context()).findings
    assert finding.miss is not None and finding.miss.rule == "convertible"
    InferShapes().apply(made, Context())
    assert (lines(made), Signature.of(made)) == (before, signature)
