"""Initializers that are equal byte for byte, stored once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.load import load
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.report import Size
from tersor.passes.share.share_identical import ShareIdentical
from tersor.tests.support import apply, holds, inside_if, parse

W = np.arange(64, dtype=np.float32).reshape(8, 8)
TEXT = ("a = MatMul(x, w)", "y = MatMul(a, v)")


def pair(w: object, v: object, **more: object) -> ir.Model:
    return graph("a = Of(x, w)", "y = Of(a, v)", w=w, v=v, **more)


def mapped_memory() -> int:
    """Bytes of files that are in this process's memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssFile"))) * 1024


def nearly() -> np.ndarray:
    """One element off, at a place that no sample looks at."""
    other = W.copy()
    other.reshape(-1)[1] += 1
    return other


class TestRewrites:
    @pytest.mark.parametrize(
        ("w", "v"),
        [
            (W, W.copy()),
            (np.float32(2.0), np.float32(2.0)),
            (np.zeros(0, np.float32), np.zeros(0, np.float32)),
            (np.array([np.nan, 1.0], np.float32), np.array([np.nan, 1.0], np.float32)),
            (W.T, np.ascontiguousarray(W.T)),
            (np.array([True, False]), np.array([True, False])),
        ],
    )
    def test_equal_bytes(self, w: object, v: object) -> None:
        model = pair(w, v)
        assert apply(ShareIdentical(), model) == ["a = Of(x, w)", "y = Of(a, w)"]
        assert list(model.graph.initializers) == ["w"]

    def test_three_of_a_kind(self) -> None:
        model = graph("a = Of(x, p)", "b = Of(a, q)", "y = Of(b, r)", p=W, q=W.copy(), r=W.copy())
        outcome = ShareIdentical().apply(model, Context())
        assert lines(model) == ["a = Of(x, p)", "b = Of(a, p)", "y = Of(b, p)"]
        assert [finding.place for finding in outcome.findings] == ["q is p", "r is p"]

    def test_what_branches_read(self) -> None:
        model = inside_if(graph(*TEXT, inputs={"x": "float[n, 8]"}, w=W, v=W.copy()))
        apply(ShareIdentical(), model)
        assert list(model.graph.initializers) == ["w"]
        assert Size.of(model).bytes == W.nbytes

    def test_within_a_branch(self) -> None:
        model = parse(
            """g (bool c, float[2] x) => (float[2] y) {
                y = If (c) <then_branch = t () => (float[2] p) <float[2] k = {1.0, 2.0}, float[2] m = {1.0, 2.0}>
                                { h = Mul (x, k)  p = Add (h, m) },
                            else_branch = e () => (float[2] q) { q = Neg (x) }>
            }"""
        )
        assert any("p = Add(h, k)" in line for line in apply(ShareIdentical(), model))

    def test_weights_that_lie_in_a_file(self, tmp_path: Path) -> None:
        ir.save(graph(*TEXT, w=W, v=W.copy()), tmp_path / "m.onnx", external_data="m.data")
        model = ir.load(tmp_path / "m.onnx")
        assert apply(ShareIdentical(), model) == ["a = MatMul(x, w)", "y = MatMul(a, w)"]

    def test_weights_that_are_compared_in_pieces(self) -> None:
        w = np.arange(3 << 18, dtype=np.float32).reshape(2, 3 << 5, -1)
        same, other = np.asfortranarray(w), w.copy()
        other[1, -1, -1] += 1
        model = graph("a = Of(x, w)", "b = Of(a, v)", "y = Of(b, u)", w=w, v=same, u=other)
        assert apply(ShareIdentical(), model) == ["a = Of(x, w)", "b = Of(a, w)", "y = Of(b, u)"]

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
    def test_mapped_weights_stay_out_of_memory(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        weights = {f"w{index}": random.standard_normal((512, 1024), np.float32) for index in range(8)}
        weights["w8"] = weights["w0"]
        nodes = [f"x{index + 1} = Add(x{index}, w{index})" for index in range(9)]
        ir.save(graph(*nodes, inputs={"x0": "float"}, **weights), tmp_path / "m.onnx", external_data="m.data")
        model = load(tmp_path / "m.onnx")
        before = mapped_memory()
        assert ShareIdentical().apply(model, Context()).matches == 1
        assert mapped_memory() - before < 1 << 20


@pytest.mark.parametrize(
    ("w", "v", "why"),
    [
        (W, nearly(), "one element"),
        (W, W.reshape(4, 16), "shape"),
        (W, W.astype(np.float64), "dtype"),
        (np.float32([0.0]), np.float32([-0.0]), "sign of zero"),
        (np.array([1, 0], np.int8), np.array([True, False]), "dtype of equal bytes"),
        (np.array(["a"]), np.array(["a"]), "strings"),
    ],
)
def test_leaves_alone(w: np.ndarray, v: np.ndarray, why: str) -> None:
    model = pair(w, v)
    assert apply(ShareIdentical(), model) == ["a = Of(x, w)", "y = Of(a, v)"], why
    assert list(model.graph.initializers) == ["w", "v"]


def test_leaves_inputs_and_outputs_alone() -> None:
    model = graph("a = Of(x, w)", "y = Of(a, v)", w=W, v=W.copy())
    model.graph.outputs.append(model.graph.initializers["v"])
    assert apply(ShareIdentical(), model) == ["a = Of(x, w)", "y = Of(a, v)"]


def test_holds() -> None:
    assert holds(ShareIdentical(), graph(*TEXT, inputs={"x": "float[n, 8]"}, w=W, v=W.copy())) == 0.0
