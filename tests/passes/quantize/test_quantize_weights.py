"""Weights in few bits: what is stored, for every kind of site; what is left alone; calibrated methods on real rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.level import Level, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.accumulators import Gram
from tersor.passes.base import Context
from tersor.passes.edit import constant_of
from tersor.passes.numerics.grid import Scheme, nearest
from tersor.passes.quantize.methods.awq import Scaling, awq
from tersor.passes.quantize.methods.gptq import gptq
from tersor.passes.quantize.methods.hqq import hqq
from tersor.passes.quantize.methods.lqer import lqer
from tersor.passes.quantize.methods.refine import refine
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.statistics import Calibration
from tersor.passes.weights import Corrected, Quantized
from tersor.tests.passes.quantize.holding import HELD, LEFT
from tersor.tests.support import apply, inside_if, misses

RNG = np.random.default_rng(5)
X = {"x": "float[batch, 32]"}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


W, B = normal(32, 48), normal(48)
#: Sums of 16-bit products are rounded; of others only the order differs.
TOLERANCE = {"matmul, half": 1e-3, "matmul, bfloat16": 1e-2}


def reads(name: str, weights: Mapping[str, Quantized | Corrected], **options: object) -> None:
    """The pass with these options makes the site read these weights."""
    held = HELD[name]
    model = held.model
    apply(QuantizeWeights(smallest=1, **({held.option: True} if held.option else {}), **options), model)
    found = held.compared(model, {each: weight.dense() for each, weight in weights.items()})
    assert found.within(TOLERANCE.get(name, 1e-6))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", HELD)
def test_every_kind_of_site_reads_the_rounded_weight(name: str, symmetric: bool, bits: int) -> None:
    scheme = Scheme(bits=bits, group=16, symmetric=symmetric)
    wanted = {each: nearest(matrix, scheme) for each, matrix in HELD[name].matrices.items()}
    reads(name, wanted, bits=bits, group=16, symmetric=symmetric)


@pytest.mark.parametrize("name", HELD)
def test_hqq_takes_any_kind_of_site_without_data(name: str) -> None:
    scheme = Scheme(bits=3, group=16, symmetric=False)
    wanted = {each: hqq(matrix, scheme) for each, matrix in HELD[name].matrices.items()}
    reads(name, wanted, algorithm="hqq", bits=3, group=16)


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
    v = rng.standard_normal((48, 32)).astype(np.float32)
    model = graph("h = MatMul(x, w)", "r = Relu(h)", "y = MatMul(r, v)", inputs=X, w=W, v=v)
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
    for made in (QuantizeWeights(algorithm="gptq"), QuantizeWeights(algorithm="awq"), QuantizeWeights(refine=True)):
        with pytest.raises(OptionError, match="calibration data are needed"):
            made.apply(graph("y = MatMul(x, w)", inputs=X, w=W), Context())


@pytest.mark.parametrize("algorithm", ["rtn", "hqq", "gptq"])
def test_refinement_is_the_methods_own(algorithm: str) -> None:
    model, context, _ = _calibrated()
    QuantizeWeights(algorithm=algorithm, bits=3, refine=True, only=("w",)).apply(model, context)
    gram, scheme = _gram(context, "x").matrix, Scheme(bits=3, group=32)
    start = {"rtn": nearest(W, scheme), "hqq": hqq(W, scheme, zero="integer"), "gptq": gptq(W, gram, scheme)}
    np.testing.assert_array_equal(_read(model, 0), refine(W, gram, start[algorithm], scheme).dense())


@pytest.mark.parametrize("algorithm", ["rtn", "gptq", "awq"])
def test_refinement_and_a_correction_lose_less_on_rows_that_were_not_seen(algorithm: str) -> None:
    losses = []
    for options in ({}, {"refine": True}, {"refine": True, "rank": 4}):
        model, context, unseen = _calibrated()
        original = runner(model.clone())
        QuantizeWeights(algorithm=algorithm, bits=2, **options).apply(model, context)
        losses.append(compare(original, runner(model), unseen).relative_l2)
    assert losses[2] < losses[1] < losses[0]


def _read(model: ir.Model, index: int) -> np.ndarray:
    """The weight, [in, out], that the product reads which is so many places down among them."""
    node = [node for node in model.graph if node.op_type == "MatMul" and not node.inputs[0].is_initializer()][index]
    side = model.clone()
    value = next(made for each in side.graph for made in each.outputs if made.name == node.inputs[1].name)
    side.graph.outputs.append(value)
    return runner(side)({"x": np.zeros((1, 32), np.float32)})[value.name]


def _gram(context: Context, name: str) -> Gram:
    """Of a value of the model before anything was quantized."""
    model = _calibrated()[0]
    model.graph.outputs.append(next(value for node in model.graph for value in node.outputs if value.name == "r"))
    seen = Gram(32 if name == "x" else 48)
    for batch in context.calibration.batches:
        seen.add(batch["x"] if name == "x" else runner(model)(batch)[name])
    return seen


def _awq(weights: list[np.ndarray], seen: Gram, scheme: Scheme) -> Scaling:
    return awq(weights, np.sqrt(np.diagonal(seen.matrix) / seen.count), seen.matrix, scheme)


def test_awq_goes_into_the_layer_before() -> None:
    model, context, _ = _calibrated()
    v = model.graph.initializers["v"].const_value.numpy()
    QuantizeWeights(algorithm="awq", bits=3, only=("v",)).apply(model, context)
    found = _awq([v], _gram(context, "r"), Scheme(bits=3, group=32))
    assert found.alpha > 0
    np.testing.assert_array_equal(constant_of(model.graph.initializers["w"]), W / found.scales)
    (wanted,) = found.quantized([v], Scheme(bits=3, group=32))
    np.testing.assert_array_equal(_read(model, 1), wanted.dense())


@pytest.mark.parametrize("multiply", [False, True])
def test_awq_in_front_of_a_site_that_reads_an_input(multiply: bool) -> None:
    model, context, _ = _calibrated()
    QuantizeWeights(algorithm="awq", bits=3, multiply=multiply, only=("w",)).apply(model, context)
    seen, scheme = _gram(context, "x"), Scheme(bits=3, group=32)
    # without scales the ratios are those of alpha 0
    found = _awq([W], seen, scheme) if multiply else awq([W], np.zeros(32), seen.matrix, scheme)
    assert (found.alpha > 0) == multiply
    np.testing.assert_allclose(_read(model, 0), found.quantized([W], scheme)[0].dense(), rtol=0, atol=0)
    assert ("w_input_scale" in model.graph.initializers) == multiply
    if multiply:
        factors = constant_of(model.graph.initializers["w_input_scale"])
        np.testing.assert_array_equal(factors, (1 / found.scales.astype(np.float64)).astype(np.float32))


def _attention(bits: int = 3) -> tuple[ir.Model, dict[str, np.ndarray], Context]:
    """A block before which a normalization stands, quantized by awq, its weights, and what it was quantized on."""
    weights = {name: normal(32, 32) for name in ("q", "k", "v", "o")} | {"up": normal(32, 48)}
    gain = np.exp(np.random.default_rng(2).uniform(-2, 2, 32)).astype(np.float32)
    # what the output layer reads is loud in some channels
    weights["v"] *= gain
    model = graph(
        "n = LayerNormalization(x, gain)", "a = MatMul(n, q)", "b = MatMul(n, k)", "c = MatMul(n, v)",
        "r = Reshape(b, [0, 0, 32])", "h = Attention{q_num_heads=4, kv_num_heads=4}(a, r, c)", "p = MatMul(h, o)",
        "s = Add(p, x)", "m = RMSNormalization(s, gain)", "y = MatMul(m, up)",
        inputs={"x": "float[batch, 5, 32]"}, gain=gain, **weights,
    )  # fmt: skip
    return model, weights, Context(calibration=Calibration([{"x": normal(4, 5, 32)} for _ in range(3)]))


def test_awq_scales_what_shares_an_activation_together_and_does_not_clip_queries_and_keys() -> None:
    model, weights, context = _attention()
    before = model.clone()
    before.graph.outputs.append(next(value for node in before.graph for value in node.outputs if value.name == "n"))
    QuantizeWeights(algorithm="awq", bits=3, sequential=False).apply(model, context)
    seen, scheme = Gram(32), Scheme(bits=3, group=32)
    for batch in context.calibration.batches:
        seen.add(runner(before)(batch)["n"].reshape(-1, 32))
    shared = [weights[name] for name in "qkv"]
    scales = _awq(shared, seen, scheme).scales
    gain = constant_of(before.graph.initializers["gain"])
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    np.testing.assert_array_equal(constant_of(norm.inputs[1]), (gain.astype(np.float64) / scales).astype(np.float32))
    plain = awq(shared, np.sqrt(np.diagonal(seen.matrix) / seen.count), seen.matrix, scheme, clip=False)
    clipped = _awq(shared, seen, scheme).quantized(shared, scheme)
    for index, unclipped in enumerate(plain.quantized(shared, scheme)[:2]):
        name = "qk"[index]
        np.testing.assert_array_equal(_stored(model, f"{name}_scale"), unclipped.scale, err_msg=f"the scales of {name}")
        assert not np.array_equal(clipped[index].scale, unclipped.scale)
    # the values' columns are divided by what the layer behind them is multiplied by: their scales tell
    ratio = _stored(model, "v_scale") / clipped[2].scale
    assert ratio.std() > 0.01
    assert violations(model, Level.SEMANTIC) == []


def test_awq_does_not_clip_queries_and_keys_that_layers_share() -> None:
    rng = np.random.default_rng(6)
    lines, fed = [], "x"
    for layer in range(2):
        lines += [f"{name}{layer} = MatMul({fed}, {name})" for name in "qkv"]
        lines += [f"a{layer} = Attention{{q_num_heads=2, kv_num_heads=2}}(q{layer}, k{layer}, v{layer})"]
        fed = f"a{layer}"
    weights = {name: rng.standard_normal((32, 32)).astype(np.float32) ** 3 for name in "qkv"}
    model = graph(*lines, inputs={"x": "float[batch, time, 32]"}, outputs=[fed], **weights)
    data = [{"x": rng.standard_normal((2, 8, 32)).astype(np.float32)} for _ in range(4)]
    QuantizeWeights(algorithm="awq", bits=3).apply(model, Context(calibration=Calibration(data)))
    plain = {name: nearest(weight, Scheme(bits=3, group=32)) for name, weight in weights.items()}
    for name in "qk":
        np.testing.assert_array_equal(_stored(model, f"{name}_scale"), plain[name].scale)
    assert not np.array_equal(_stored(model, "v_scale"), plain["v"].scale)


def _stored(model: ir.Model, name: str) -> np.ndarray:
    return constant_of(model.graph.initializers[name])


@pytest.mark.parametrize("multiply", [False, True])
def test_awq_loses_less_than_rounding_on_rows_it_has_not_seen(multiply: bool) -> None:
    losses = {}
    for algorithm in ("rtn", "awq"):
        model, context, unseen = _calibrated()
        original = runner(model.clone())
        QuantizeWeights(algorithm=algorithm, bits=3, multiply=multiply and algorithm == "awq").apply(model, context)
        losses[algorithm] = compare(original, runner(model), unseen).relative_l2
    assert losses["awq"] < 0.9 * losses["rtn"]


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_what_a_subgraph_computes_is_rounded_to_the_nearest(algorithm: str) -> None:
    model = graph("h = Relu(x)", "y = MatMul(h, w)", inputs=X, w=W)
    branch = inside_if(model)
    node = next(node for node in branch.graph if node.op_type == "If")
    # the weight is then read in one branch alone
    node.attributes["else_branch"] = ir.AttrGraph("else_branch", _zeros())
    branch = branch.clone()
    context = Context(calibration=Calibration([{"cond": np.array(True), "x": normal(4, 32)}]))
    assert QuantizeWeights(algorithm=algorithm).apply(branch, context).matches == 1
    feeds = {"cond": np.array(True), "x": normal(4, 32)}
    wanted = graph("h = Relu(x)", "y = MatMul(h, w)", inputs=X, w=nearest(W, Scheme(bits=4, group=32)).dense())
    assert compare(lambda fed: runner(wanted)({"x": fed["x"]}), runner(branch), [feeds]).within(1e-6)


def _zeros() -> ir.Graph:
    """A branch that makes zeros."""
    zeros = ir.node("Constant", [], {"value": ir.tensor(np.zeros((4, 48), np.float32))})
    zeros.outputs[0].name = "zeros"
    return ir.Graph([], zeros.outputs, nodes=[zeros], name="else")


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_correction_is_the_methods_own(calibrated: bool) -> None:
    model, context, _ = _calibrated()
    QuantizeWeights(bits=2, rank=3, only=("w",)).apply(model, context if calibrated else Context())
    gram = _gram(context, "x").matrix if calibrated else None
    wanted = lqer(W, nearest(W, Scheme(bits=2, group=32)), 3, gram=gram)
    np.testing.assert_allclose(_read(model, 0), wanted.dense(), rtol=0, atol=4 * np.finfo(np.float32).eps)
    assert _stored(model, "w_left").shape == (32, 3)


@pytest.mark.parametrize("name", HELD)
def test_a_correction_goes_with_every_kind_of_site_but_tables(name: str) -> None:
    scheme = Scheme(bits=2, group=16)
    rounded = {each: (matrix, nearest(matrix, scheme)) for each, matrix in HELD[name].matrices.items()}
    wanted = {each: found if "table" in name else lqer(matrix, found, 2) for each, (matrix, found) in rounded.items()}
    reads(name, wanted, bits=2, group=16, rank=2)


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model, options, rule = LEFT[name]
    assert {miss.rule for miss in misses(QuantizeWeights(**options), model)} == {rule}


def test_what_is_quantized_already_stays() -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    before = apply(QuantizeWeights(), model)
    assert [miss.rule for miss in misses(QuantizeWeights(), model)] == ["quantized"]
    assert apply(QuantizeWeights(), model) == before


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 9}, {"group": -1}, {"rank": -1}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="quantize-weights: expected"):
        QuantizeWeights(**options)


@pytest.mark.parametrize("options", [{"clip": True}, {"multiply": True}, {"algorithm": "awq", "clip": True}])
def test_options_of_another_algorithm_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="does not take"):
        QuantizeWeights(**options)


@pytest.mark.parametrize(
    ("options", "bytes_"),
    [
        # 32 x 48 weights of 4 bytes are 6144; 4 bits of each are 768, and each run has a scale of 4 bytes
        ({"group": 1}, 768 + 6144),
        ({"bits": 8, "group": 2, "algorithm": "hqq"}, 1536 + 2 * 3072),
        ({"group": 32, "rank": 18}, 768 + 4 * 48 + 4 * 18 * 80),
    ],
)
def test_what_would_be_no_smaller_stays(options: dict[str, object], bytes_: int) -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    assert [(miss.rule, miss.value) for miss in misses(QuantizeWeights(**options), model)] == [("bytes", str(bytes_))]
    assert apply(QuantizeWeights(**options), model) == ["y = MatMul(x, w)"]


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("algorithm", ["rtn", "hqq"])
def test_bytes_are_foretold(algorithm: str, symmetric: bool, rank: int) -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    made = QuantizeWeights(algorithm=algorithm, symmetric=symmetric, rank=rank)
    (site,) = (site for site, _ in made.verdicts(model))
    assert made.quantized(site, None).bytes == made._bytes(site, 4)
