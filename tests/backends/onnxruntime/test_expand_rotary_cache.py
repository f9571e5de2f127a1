"""Rotary tables with a batch of one, which ONNX Runtime refuses."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.expand_rotary_cache import ExpandRotaryCache
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.tests.support import apply, distance, holds, misses, on_onnxruntime

X = {"x": "float[batch, 4, n, 8]"}
ONE = dict.fromkeys(("c", "s"), "float[1, n, 4]")
LOOKED_UP = {"c": "float[9, 4]", "s": "float[9, 4]", "p": "int64[batch, n]"}
TURN = "y = RotaryEmbedding(x, c, s)"


def model(turn: str = TURN, **more: str) -> ir.Model:
    return graph(turn, inputs=X | ONE | more)


def test_tables_get_the_batch() -> None:
    assert apply(ExpandRotaryCache(), model()) == [
        "y/Shape = Shape{end=1, start=0}(x)",
        "y/Concat = Concat{axis=0}(y/Shape, y/ones)",
        "y/Expand = Expand(c, y/Concat)",
        "y/Expand_1 = Expand(s, y/Concat)",
        "y = RotaryEmbedding(x, y/Expand, y/Expand_1)",
    ]


def test_attributes_stay() -> None:
    turn = "y = RotaryEmbedding{interleaved=1, num_heads=4}(x, c, s)"
    found = apply(ExpandRotaryCache(), model(turn, x="float[batch, n, 32]"))
    assert found[-1].startswith("y = RotaryEmbedding{interleaved=1, num_heads=4}(x")


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        ("positions", model("y = RotaryEmbedding(x, c, s, p)", **LOOKED_UP)),
        ("rank", model(x="float")),
        ("batch", model(x="float[1, 4, n, 8]")),
        ("batch", model(c="float[batch, n, 4]", s="float[batch, n, 4]")),
        ("batch", model(s="float[batch, n, 4]")),
    ],
)
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(ExpandRotaryCache(), made)
    assert miss.rule == rule
    before = lines(made)
    assert apply(ExpandRotaryCache(), made) == before


def test_holds() -> None:
    holds(ExpandRotaryCache(), model(), {"batch": 3, "n": 5})


def test_onnx_runtime_runs_it_then() -> None:
    made = model()
    rng = np.random.default_rng(0)
    sizes = {"x": (3, 4, 5, 8), "c": (1, 5, 4), "s": (1, 5, 4)}
    feeds = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    expected = runner(made)(feeds)["y"]
    with pytest.raises(Exception, match="cos_cache"):
        on_onnxruntime(made, feeds)
    ExpandRotaryCache().apply(made, Context())
    assert distance(on_onnxruntime(made, feeds), [expected]) <= ExpandRotaryCache.contract.tolerance
