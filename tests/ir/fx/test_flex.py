from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import onnx_ir
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx

Arrays = dict[str, np.ndarray]
TEXT = """
<ir_version: 11, opset_import: ["" : 24, "ai.onnx.preview" : 1]>
agraph (float[b, 4, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 6] v, float[t] bias) => (float[b, 4, s, 6] y)
{{ y = ai.onnx.preview.FlexAttention{attributes}(q, k, v) }}
"""
SCORES = "score_mod: graph = body (float[b, 4, s, t] x) => (float[b, 4, s, t] z) { c = Tanh(x) z = Add(c, bias) }"
CHANCES = "prob_mod: graph = after (float[b, 4, s, t] p) => (float[b, 4, s, t] o) { o = Mul(p, p) }"


def feeds(batch: int = 2, rows: int = 3, total: int = 5) -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {"q": (batch, 4, rows, 8), "k": (batch, 2, total, 8), "v": (batch, 2, total, 6), "bias": (total,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def model(attributes: str) -> onnx_ir.Model:
    return onnx_ir.serde.deserialize_model(onnx.parser.parse_model(TEXT.format(attributes=attributes)))


def plain(given: Arrays, scale: float, *, scores: bool, chances: bool) -> np.ndarray:
    """The operator's own formula."""
    q, k, v = (given[name].astype(np.float64) for name in "qkv")
    raw = q @ k.repeat(2, 1).transpose(0, 1, 3, 2) * scale
    if scores:
        raw = np.tanh(raw) + given["bias"]
    weights = np.exp(raw - raw.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights**2 if chances else weights) @ v.repeat(2, 1)


@pytest.mark.parametrize(
    ("attributes", "scale", "scores", "chances"),
    [
        ("", 8**-0.5, False, False),
        ("<scale = 0.3>", 0.3, False, False),
        (f"<{SCORES}>", 8**-0.5, True, False),
        (f"<scale = 0.3, {SCORES}, {CHANCES}>", 0.3, True, True),
        ("<softmax_precision = 11>", 8**-0.5, False, False),
    ],
)
def test_graphs_change_scores_and_chances(attributes: str, scale: float, scores: bool, chances: bool) -> None:
    given = feeds()
    found = Interpreter(to_fx(model(attributes))).run(given)["y"]
    np.testing.assert_allclose(found, plain(given, scale, scores=scores, chances=chances), rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


def test_exports_with_every_size_open() -> None:
    module, auto = to_fx(model(f"<{SCORES}>")), torch.export.Dim.AUTO
    arguments = tuple(torch.from_numpy(value) for value in feeds().values())
    shapes = ({0: auto, 2: auto}, {0: auto, 2: auto}, {0: auto, 2: auto}, {0: auto})
    program = torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False).module()
    other = [torch.from_numpy(value) for value in feeds(3, 7, 4).values()]
    torch.testing.assert_close(program(*other), module(*other))


def test_a_graph_of_two_inputs() -> None:
    two = "score_mod: graph = body (float[b, 4, s, t] x, float i) => (float[b, 4, s, t] z) { z = Add(x, i) }"
    with pytest.raises(ModelError, match="score_mod has 2 inputs and 1 outputs, expected 1"):
        to_fx(model(f"<{two}>"))
