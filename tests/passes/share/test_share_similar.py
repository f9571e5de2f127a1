"""Initializers that hold nearly the same numbers, stored once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.constants import constant_of
from tersor.ir.errors import OptionError
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.report import Size
from tersor.passes.share.share_similar import ShareSimilar
from tersor.tests.passes.corpus_share import near_copies
from tersor.tests.support import apply, holds, misses

RNG = np.random.default_rng(0)
W = RNG.standard_normal((8, 8)).astype(np.float32)
WIDE = RNG.standard_normal((8, 6)).astype(np.float32)


def pair(w: np.ndarray, v: np.ndarray) -> ir.Model:
    return graph("a = MatMul(x, w)", "y = MatMul(a, v)", inputs={"x": f"float[n, {len(w)}]"}, w=w, v=v)


def held(model: ir.Model, name: str) -> np.ndarray:
    array = constant_of(model.graph.initializers[name])
    assert array is not None
    return array


class TestRewrites:
    def test_the_mean_stands_for_both(self) -> None:
        model = pair(W, W * np.float32(1.004))
        assert apply(ShareSimilar(), model) == ["a = MatMul(x, w)", "y = MatMul(a, w)"]
        assert held(model, "w") == pytest.approx(W * 1.002, rel=1e-6)

    def test_the_first_stands_for_both(self) -> None:
        model = pair(W, W * np.float32(1.004))
        apply(ShareSimilar(merge="first"), model)
        assert (held(model, "w") == W).all()

    def test_nearly_a_transpose(self) -> None:
        model = pair(WIDE, WIDE.T * np.float32(1.004))
        text = apply(ShareSimilar(), model)
        assert text == ["a = MatMul(x, w)", "y/Transpose = Transpose{perm=[1, 0]}(w)", "y = MatMul(a, y/Transpose)"]
        assert list(model.graph.initializers) == ["w"]

    def test_what_is_looked_up_stands_for_what_is_multiplied(self) -> None:
        model = near_copies()
        before = Size.of(model).bytes
        apply(ShareSimilar(), model)
        assert set(model.graph.initializers) == {"t", "w"}
        assert Size.of(model).bytes < before / 2
        assert any(node.op_type == "Gemm" and node.attributes["transB"].as_int() == 1 for node in model.graph)

    def test_no_member_is_farther_than_the_tolerance_from_what_stands_for_it(self) -> None:
        factors = [1.0, 1.006, 1.012, 1.018, 1.024]
        lines = [f"a{at} = MatMul({f'a{at - 1}' if at else 'x'}, w{at})" for at in range(5)]
        arrays = {f"w{at}": W * np.float32(factor) for at, factor in enumerate(factors)}
        model = graph(*lines, "y = Neg(a4)", inputs={"x": "float[n, 8]"}, **arrays)
        ShareSimilar(tolerance=0.01).apply(model, Context())
        reads = [node.inputs[1] for node in model.graph if node.op_type == "MatMul"]
        assert len(set(reads)) == 3
        for at, value in enumerate(reads):
            assert value is not None
            own, now = arrays[f"w{at}"], held(model, value.name or "")
            assert np.linalg.norm(own - now) <= 0.01 * np.linalg.norm(own)

    def test_a_smaller_tolerance_shares_less(self) -> None:
        sizes = []
        for tolerance in (0.001, 0.005, 0.1):
            model = near_copies()
            ShareSimilar(tolerance=tolerance).apply(model, Context())
            sizes.append(Size.of(model).bytes)
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] > sizes[-1]


class TestLeavesAlone:
    @pytest.mark.parametrize(
        ("w", "v"),
        [
            (W, W * np.float32(1.2)),
            (W, W.astype(np.float16)),
            (WIDE, (WIDE.T * np.float32(1.2))),
            (W[:2, :2], W[:2, :2] * np.float32(1.001)),
            (np.ones((8, 8), np.int32), np.ones((8, 8), np.int32)),
        ],
        ids=["far", "dtype", "far transposed", "few", "integers"],
    )
    def test_no_finding(self, w: np.ndarray, v: np.ndarray) -> None:
        model = graph("a = Of(x, w)", "y = Of(a, v)", w=w, v=v)
        assert not ShareSimilar().apply(model, Context()).findings
        assert list(model.graph.initializers) == ["w", "v"]

    def test_a_transpose_that_a_lookup_reads(self) -> None:
        model = graph(
            "a = Gather(t, i)", "b = Gather(u, j)", inputs={"i": "int64[n]", "j": "int64[n]"}, outputs=["a", "b"],
            t=WIDE, u=WIDE.T.copy(),
        )  # fmt: skip
        assert not ShareSimilar().apply(model, Context()).matches

    def test_transposes_unless_asked_for(self) -> None:
        assert not ShareSimilar(transposed=False).apply(pair(WIDE, WIDE.T.copy()), Context()).matches

    def test_not_finite(self) -> None:
        broken = W.copy()
        broken[3, 3] = np.inf
        assert [miss.rule for miss in misses(ShareSimilar(), pair(W, broken))] == ["finite"]

    def test_outputs(self) -> None:
        model = pair(W, W * np.float32(1.001))
        model.graph.outputs.append(model.graph.initializers["v"])
        assert [miss.rule for miss in misses(ShareSimilar(), model)] == ["signature"]

    def test_scales_of_what_is_quantized(self) -> None:
        model = pair(W, W * np.float32(1.001))
        QuantizeWeights(smallest=1).apply(model, Context())
        found = misses(ShareSimilar(smallest=2), model)
        assert {miss.rule for miss in found} == {"quantized"} and len(found) == 2
        assert not ShareSimilar(smallest=2).apply(model, Context()).matches

    @pytest.mark.parametrize(("options", "rule"), [({"ignore": ("v",)}, "ignore"), ({"only": ("w",)}, "only")])
    def test_names(self, options: dict[str, tuple[str, ...]], rule: str) -> None:
        made = ShareSimilar(**options)  # type: ignore[arg-type]
        assert [miss.rule for miss in misses(made, pair(W, W * np.float32(1.001)))] == [rule]

    @pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1, float("nan")])
    def test_options(self, tolerance: float) -> None:
        with pytest.raises(OptionError, match="tolerance"):
            ShareSimilar(tolerance=tolerance)


def test_holds() -> None:
    holds(ShareSimilar(), near_copies(), {"batch": 2, "sequence": 3})
