"""Weights in few bits: what is stored, for every kind of site; what is left alone; calibrated methods on real rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.level import Level, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.edit import constant_of
from tersor.passes.quantize.methods.gptq import gptq
from tersor.passes.quantize.methods.grid import Scheme, nearest
from tersor.passes.quantize.methods.hqq import hqq
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.statistics import Calibration
from tersor.tests.support import apply, misses

RNG = np.random.default_rng(5)
X = {"x": "float[batch, 32]"}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


W, B = normal(32, 48), normal(48)
CONVOLUTION, TURNED = normal(16, 8, 3), normal(8, 16, 3)
GATES, STATE = normal(2, 64, 32), normal(2, 64, 16)
TABLE = normal(64, 32)

#: A model of one site, the pass's further options, and the stored weight as a matrix [in, out].
SITES: dict[str, tuple[ir.Model, dict[str, bool], list[np.ndarray]]] = {
    "matmul": (graph("y = MatMul(x, w)", inputs=X, w=W), {}, [W]),
    "gemm": (graph("y = Gemm{transB=1, alpha=0.5}(x, w, b)", inputs=X, w=W.T.copy(), b=B), {}, [W]),
    "left": (graph("y = MatMul(w, x)", inputs={"x": "float[32, batch]"}, w=W.T.copy()), {}, [W]),
    "half": (
        graph("y = MatMul(x, w)", inputs={"x": "float16[batch, 32]"}, w=W.astype(np.float16)),
        {},
        [W.astype(np.float16)],
    ),
    "conv": (
        graph("y = Conv(x, w)", inputs={"x": "float[batch, 8, time]"}, w=CONVOLUTION),
        {"convolutions": True},
        [CONVOLUTION.reshape(16, 24).T],
    ),
    "conv-transpose": (
        graph("y = ConvTranspose(x, w)", inputs={"x": "float[batch, 8, time]"}, w=TURNED),
        {"convolutions": True},
        [TURNED.reshape(8, 48)],
    ),
    "table": (
        graph("y = Gather(w, ids)", inputs={"ids": "int64[batch]"}, w=TABLE),
        {"embeddings": True},
        [TABLE.T],
    ),
    "lstm": (
        graph(
            "(y, h, c) = LSTM{hidden_size=16, direction=bidirectional}(x, w, r)",
            inputs={"x": "float[time, 2, 32]"},
            w=GATES,
            r=STATE,
        ),
        {},
        [GATES.reshape(128, 32).T, STATE.reshape(128, 16).T],
    ),
}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", SITES)
def test_every_kind_of_site_reads_the_rounded_weight(name: str, symmetric: bool, bits: int) -> None:
    source, options, weights = SITES[name]
    model, scheme = source.clone(), Scheme(bits=bits, group=16, symmetric=symmetric)
    apply(QuantizeWeights(bits=bits, group=16, symmetric=symmetric, smallest=1, **options), model)
    _same(name, model, [nearest(weight, scheme).dense() for weight in weights])


@pytest.mark.parametrize("name", SITES)
def test_hqq_takes_any_kind_of_site_without_data(name: str) -> None:
    source, options, weights = SITES[name]
    model, scheme = source.clone(), Scheme(bits=3, group=16, symmetric=False)
    apply(QuantizeWeights(algorithm="hqq", bits=3, group=16, smallest=1, **options), model)
    _same(name, model, [hqq(weight, scheme).dense() for weight in weights])


def _same(name: str, model: ir.Model, dense: list[np.ndarray]) -> None:
    """The model answers as one that holds these weights, [in, out], and holds the old ones no more."""
    assert violations(model, Level.SEMANTIC) == []
    wanted = SITES[name][0].clone()
    for initializer, weight in zip(("w", "r"), dense, strict=False):
        held = wanted.graph.initializers[initializer]
        shape = tuple(held.const_value.shape)
        held.const_value = ir.tensor((weight if _straight(name) else weight.T).reshape(shape).copy(), name=initializer)
        assert initializer not in model.graph.initializers
    feeds = {value.name: _feed(value) for value in model.graph.inputs}
    assert compare(runner(wanted), runner(model), [feeds]).within(1e-3 if name == "half" else 1e-6)


def _straight(name: str) -> bool:
    """Whether the weight is stored as [in, out]."""
    return name in ("matmul", "half", "conv-transpose")


def _feed(value: ir.Value) -> np.ndarray:
    rng = np.random.default_rng(1)
    if value.dtype == ir.DataType.INT64:
        return np.array([3, 60, 1])
    shape = [dim if isinstance(dim, int) else 5 for dim in value.shape]
    return rng.standard_normal(shape).astype(value.dtype.numpy())


def test_four_bits_by_group_are_dequantized_in_blocks() -> None:
    assert apply(QuantizeWeights(), graph("y = MatMul(x, w)", inputs=X, w=W)) == [
        "y/DequantizeLinear = DequantizeLinear{axis=0, block_size=32}(w_quantized, w_scale)",
        "y = MatMul(x, y/DequantizeLinear)",
    ]


def test_whole_columns_have_one_scale_each() -> None:
    assert apply(QuantizeWeights(group=0, bits=8), graph("y = MatMul(x, w)", inputs=X, w=W))[0] == (
        "y/DequantizeLinear = DequantizeLinear{axis=1}(w_quantized, w_scale)"
    )


def test_three_bits_take_three() -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    apply(QuantizeWeights(bits=3, group=0), model)
    assert model.graph.initializers["w_quantized_bits"].const_value.nbytes == W.size * 3 // 8


def _calibrated(seed: int = 0) -> tuple[ir.Model, Context, list[dict[str, np.ndarray]]]:
    """Two layers fed with rows of few directions, as activations are."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((6, 32))
    batches = [
        {"x": (rng.standard_normal((16, 6)) @ mix + 0.1 * rng.standard_normal((16, 32))).astype(np.float32)}
        for _ in range(6)
    ]
    model = graph("h = MatMul(x, w)", "r = Relu(h)", "y = MatMul(r, v)", inputs=X, w=W, v=normal(48, 16))
    return model, Context(calibration=Calibration(batches[:4])), batches[4:]


def test_gptq_is_the_methods_own_on_the_rows_that_were_seen() -> None:
    model, context, _ = _calibrated()
    rows = np.concatenate([batch["x"] for batch in context.calibration.batches]).astype(np.float64)
    QuantizeWeights(algorithm="gptq", only=("w",)).apply(model, context)
    wanted = gptq(W, rows.T @ rows, Scheme(bits=4, group=32))
    np.testing.assert_array_equal(constant_of(model.graph.initializers["w_quantized"]), wanted.values)


def test_gptq_loses_less_than_rounding_on_rows_it_has_not_seen() -> None:
    losses = {}
    for algorithm in ("rtn", "gptq"):
        model, context, unseen = _calibrated()
        original = runner(model.clone())
        QuantizeWeights(algorithm=algorithm, bits=3).apply(model, context)
        losses[algorithm] = compare(original, runner(model), unseen).relative_l2
    assert losses["gptq"] < 0.9 * losses["rtn"]


def test_gptq_without_data_is_refused() -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        QuantizeWeights(algorithm="gptq").apply(graph("y = MatMul(x, w)", inputs=X, w=W), Context())


@pytest.mark.parametrize(
    ("model", "options", "rule"),
    [
        (graph("y = MatMul(x, w)", inputs=X, w=W), {"only": ("other*",)}, "only"),
        (graph("y = MatMul(x, w)", inputs=X, w=W), {"ignore": ("w",)}, "ignore"),
        (graph("y = MatMul(x, w)", inputs=X, w=W), {"ignore": ("kind:linear",)}, "ignore"),
        (graph("y = MatMul(x, w)", inputs=X, w=W), {"smallest": 5000}, "size"),
        (graph("y = Gather(w, i)", inputs={"i": "int64[batch]"}, w=TABLE), {}, "kind"),
        (graph("y = Conv(x, w)", inputs={"x": "float[1, 8, time]"}, w=normal(64, 8, 3)), {}, "kind"),
        (graph("y = MatMul(x, w)", inputs=X, w=np.where(W > 2, np.nan, W)), {}, "finite"),
        (graph("y = MatMul(x, w)", inputs=X, w=np.where(W > 2, np.inf, W)), {}, "finite"),
        (graph("y = MatMul(x, w)", inputs={"x": "double[batch, 32]"}, w=W.astype(np.float64)), {}, "dtype"),
        (graph("a = MatMul(x, w)", "b = MatMul(x, w)", "y = Add(a, b)", inputs=X, w=W), {}, "tied"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_left_alone(model: ir.Model, options: dict[str, object], rule: str) -> None:
    found = misses(QuantizeWeights(**options), model)
    assert {miss.rule for miss in found} == {rule}


def test_what_is_quantized_already_stays() -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    before = apply(QuantizeWeights(), model)
    assert [miss.rule for miss in misses(QuantizeWeights(), model)] == ["quantized"]
    assert apply(QuantizeWeights(), model) == before


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 9}, {"group": -1}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="quantize-weights: expected"):
        QuantizeWeights(**options)
