"""The lowest opset and IR version that carry the graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.lowering.lower_opset import LowerOpset
from tersor.tests.support import apply, holds, inside_if, parse

X = {"x": "float[2, 6, 4]"}
IMAGE = {"x": "float[1, 2, 4, 4]"}
GRID = {"x": "float[1, 2, 4, 4]", "g": "float[1, 3, 3, 2]"}
ONES = np.ones(6, np.float32)
PADS = np.array([0, 0, 1, 0, 0, 1])

CASES = [
    ("Relu", graph("y = Relu(x)", inputs=X), 18),
    ("Gelu came with 20", graph("y = Gelu(x)", inputs=X), 20),
    ("Attention came with 23", graph("y = Attention(q, k, v)", inputs=dict.fromkeys("qkv", "float[1, 2, 3, 4]")), 23),
    ("axes as an input came with 18", graph("y = ReduceMean(x, [1])", inputs=X), 18),
    ("Reshape", graph("y = Reshape(x, [0, -1])", inputs=X), 18),
    ("Pad", graph("y = Pad(x, p)", inputs=X, p=PADS), 18),
    ("wrap came with 19", graph("y = Pad{mode=wrap}(x, p)", inputs=X, p=PADS), 19),
    ("reflect did not", graph("y = Pad{mode=reflect}(x, p)", inputs=X, p=PADS), 18),
    ("bfloat16 for Gather came with 13", graph("y = Gather(x, i)", inputs={**X, "i": "int64[3]"}), 18),
    ("the types of Cast", graph("y = Cast{to=float16}(x)", inputs=X), 18),
    ("int4 came with 21", graph("y = Cast{to=float}(x)", inputs={"x": "int4[2]"}), 21),
    ("GridSample changed at 20", graph("y = GridSample{mode=linear}(x, g)", inputs=GRID), 20),
    ("AveragePool changed at 19", graph("y = AveragePool{kernel_shape=[2, 2]}(x)", inputs=IMAGE), 19),
    ("DFT changed at 20", graph("y = DFT(x)", inputs={"x": "float[1, 4, 4, 1]"}), 20),
    ("GroupNormalization changed at 21", graph("y = GroupNormalization{num_groups=3}(x, s, s)", inputs=X, s=ONES), 21),
    ("blocks came with 21", graph("y = DequantizeLinear{axis=0, block_size=2}(q, s)", q=np.ones((4, 2), np.int8),
                                  s=np.ones((2, 2), np.float32)), 21),
    ("branches count", inside_if(graph("y = Gelu(x)", inputs=X)), 20),
    ("other domains do not", graph("y = com.microsoft.Gelu(x)", inputs=X), 18),
    ("an op nobody knows stays", graph("y = NoSuchOp(x)", inputs=X), 23),
]  # fmt: skip


@pytest.mark.parametrize(("why", "model", "opset"), CASES, ids=[case[0] for case in CASES])
def test_rewrites(why: str, model: ir.Model, opset: int) -> None:
    made = model.clone()
    before = lines(made)
    assert apply(LowerOpset(), made) == before
    assert made.opset_imports[""] == opset
    oldest = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    assert made.ir_version == (oldest if opset < 23 else 10)


RUNNABLE = [case for case in CASES if not any(word in case[0] for word in ("nobody", "int4", "other", "blocks"))]


@pytest.mark.parametrize("model", [case[1] for case in RUNNABLE], ids=[case[0] for case in RUNNABLE])
def test_onnxruntime_computes_the_same(model: ir.Model) -> None:
    feeds = random_feeds(model)
    made = model.clone()
    LowerOpset().apply(made, Context())
    for expected, found in zip(run(model, feeds), run(made, feeds), strict=True):
        np.testing.assert_array_equal(found, expected)


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, feeds)


@pytest.mark.parametrize(
    ("text", "floor", "opset"),
    [
        ("y = Softmax{axis=1}(x)", 7, 13),
        ("y = LogSoftmax(x)", 7, 13),
        ("y = Relu(x)", 7, 7),
        ("y = Relu(x)", 14, 14),
        ("y = ScatterND{reduction=max}(x, i, u)", 13, 18),
        ("y = ScatterND{reduction=add}(x, i, u)", 13, 16),
        ("y = ScatterND(x, i, u)", 13, 13),
        ("y = ReduceMean(x, [1])", 13, 18),
        ("y = RoiAlign(x, r, b)", 10, 16),
        ("y = Gelu(x)", 21, 21),
    ],
)
def test_the_floor_and_what_changed_above_it(text: str, floor: int, opset: int) -> None:
    inputs = {
        "x": "float[2, 6, 4, 4]",
        "i": "int64[2, 1]",
        "u": "float[2, 6, 4, 4]",
        "r": "float[1, 4]",
        "b": "int64[1]",
    }
    model = graph(text, inputs=inputs)
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
    apply(LowerOpset(floor=floor), model)
    assert model.opset_imports[""] == opset


def test_leaves_a_model_below_the_floor_alone() -> None:
    model = graph("y = Relu(x)", opset=15, inputs=X)
    assert LowerOpset().apply(model, Context()).findings == ()
    assert (model.opset_imports[""], model.ir_version) == (15, 10)


def test_functions_are_lowered_along() -> None:
    body = '<domain: "pkg", opset_import: ["": 23]> M (a) => (b) { b = Gelu (a) }'
    model = parse("g (float[2, 3] x) => (float[2, 3] y) { y = pkg.M (x) }", functions=body)
    apply(LowerOpset(), model)
    (function,) = model.functions.values()
    assert model.opset_imports[""] == function.opset_imports[""] == 20


def test_it_says_from_where_to_where() -> None:
    (finding,) = LowerOpset().apply(graph("y = Gelu(x)", inputs=X), Context()).findings
    assert finding.place == "opset 23 to 20, IR version 9"


@pytest.mark.parametrize("model", [CASES[0][1], CASES[1][1], CASES[5][1]])
def test_holds(model: ir.Model) -> None:
    assert holds(LowerOpset(), model) == 0.0
