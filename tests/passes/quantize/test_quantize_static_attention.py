"""Attention's own products in 8 bits: what is written, the formula in float64, what is left alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, Signature, violations
from tersor.ir.provenance import sources
from tersor.ir.runner import runner, watch
from tersor.ir.text import graph, lines
from tersor.passes.accumulators import Histogram, Range
from tersor.passes.attending import INPUTS
from tersor.passes.base import Context, Exact, Outcome
from tersor.passes.edit import attribute, constant_of
from tersor.passes.padding import Padding
from tersor.passes.quantize.methods.ranges import activation_grid, mse
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.run import run_pipeline
from tersor.passes.statistics import Calibration
from tersor.passes.verify import allowed, worst_loss
from tersor.tests.backends.openvino.test_decompose_attention import FOUR, MASK, PAST, THREE, VARIANTS
from tersor.tests.support import distance, inside_if, installed, misses

Feeds = Mapping[str, np.ndarray]
Wide = NDArray[np.float64]

CASES: Mapping[str, ir.Model] = {
    **VARIANTS,
    "capped": graph("y = Attention{softcap=1.5}(q, k, v, m)", inputs={**FOUR, **MASK}),
    "present without a past": graph("(y, k2, v2) = Attention(q, k, v)", inputs=FOUR, outputs=["y", "k2", "v2"]),
}
del CASES["past unread"]  # type: ignore[attr-defined]
#: Those whose mask no node computes.
FED = [name for name in CASES if name not in ("expanded", "causal and lowest")]
PLAIN = "y = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v)"
SIDE = dict.fromkeys("qkv", "float[batch, s, 32]")


def feeds_of(model: ir.Model, seed: int = 0) -> Feeds:
    """Sizes that differ, so that no axis is taken for another."""
    known = {"batch": 2, "sequence": 5, "s": 5, "t": 7, "past": 3}
    names = {str(dim) for value in model.graph.inputs for dim in value.shape or ()}
    found = random_feeds(model, {name: size for name, size in known.items() if name in names}, seed=seed)
    if found.get("m", np.zeros(0)).dtype == np.bool_:
        found["m"] = np.random.default_rng(seed).random(found["m"].shape) < 0.6
        if found["m"].shape[-2] > 1:
            found["m"][..., -1, :] = False  # a row that may attend to nothing
    return found


def applied(model: ir.Model, feeds: Feeds, **options: object) -> tuple[ir.Model, Outcome]:
    after = model.clone()
    made = QuantizeStatic(attention=True, **options)  # type: ignore[arg-type]
    found = made.apply(after, Context(calibration=Calibration([feeds])))
    assert violations(after, Level.SEMANTIC, signature=Signature.of(model)) == []
    return after, found


def stored(model: ir.Model, name: str) -> np.ndarray:
    return constant_of(model.graph.initializers[name])


def rounded(model: ir.Model, name: str, x: Wide, ends: tuple[int, int]) -> Wide:
    """x on the grid that the model has for the value of that name."""
    scale, zero = (stored(model, f"{name}_{part}").astype(np.float64) for part in ("scale", "zero_point"))
    return scale * (np.clip(np.rint(x / scale) + zero, *ends) - zero)


def apart(x: Wide, heads: int) -> Wide:
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def formula(before: ir.Model, after: ir.Model, feeds: Feeds, *, by_row: bool = False) -> Wide:
    """ONNX's definition of Attention in float64, its four operands rounded."""
    node = next(node for node in before.graph if node.op_type == "Attention")
    given = {
        name: None if value is None else np.asarray(feeds[value.name or ""])
        for name, value in zip(INPUTS, node.inputs, strict=False)
    }
    heads = given["query"].shape[1] if given["query"].ndim == 4 else attribute(node, "q_num_heads", 0)
    shared = given["key"].shape[1] if given["key"].ndim == 4 else attribute(node, "kv_num_heads", 0)
    query, key, value = (given[name].astype(np.float64) for name in ("query", "key", "value"))
    q = apart(rounded(after, "q", query, (0, 255)), heads)
    k, v = apart(key, shared), apart(value, shared)
    names, past = "kv", 0
    if given.get("past_key") is not None:
        past = given["past_key"].shape[2]
        k, v = np.concatenate([given["past_key"], k], 2), np.concatenate([given["past_value"], v], 2)
        names = ("k2", "v2")
    k, v = (
        np.repeat(rounded(after, name, each, (-64, 63)), heads // shared, axis=1)
        for name, each in zip(names, (k, v), strict=True)
    )
    scale, cap = (node.attributes[name].as_float() if name in node.attributes else 0.0 for name in ("scale", "softcap"))
    scores = q @ k.swapaxes(2, 3) * (scale or q.shape[-1] ** -0.5)
    scores = cap * np.tanh(scores / cap) if cap else scores
    mask = given.get("mask")
    if mask is not None:
        scores = scores + (np.where(mask, 0, -np.inf) if mask.dtype == np.bool_ else mask)
    if attribute(node, "is_causal", 0):
        scores = np.where(np.arange(k.shape[2]) <= np.arange(q.shape[2])[:, None] + past, scores, -np.inf)
    most = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(most), 0, most))
    shares = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    largest = np.maximum(shares.max(-1, keepdims=True), 1e-300) if by_row else 1.0
    y = np.rint(shares / largest * 255) / 255 @ v * largest
    return y if given["query"].ndim == 4 else y.transpose(0, 2, 1, 3).reshape(*given["query"].shape[:2], -1)


class TestForm:
    def test_every_operand_goes_through_integers(self) -> None:
        model = graph(PLAIN, inputs=SIDE)
        after, found = applied(model, feeds_of(model))
        assert [(each.place, each.miss) for each in found.findings] == [("Attention at y", None)]
        assert lines(after) == [
            "y/Clip = Clip(k, y/end, y/end_1)",
            "y/QuantizeLinear = QuantizeLinear(y/Clip, k_scale, k_zero_point)",
            "y/DequantizeLinear = DequantizeLinear(y/QuantizeLinear, k_scale, k_zero_point)",
            "y/Clip_1 = Clip(v, y/end_2, y/end_3)",
            "y/QuantizeLinear_1 = QuantizeLinear(y/Clip_1, v_scale, v_zero_point)",
            "y/DequantizeLinear_1 = DequantizeLinear(y/QuantizeLinear_1, v_scale, v_zero_point)",
            "y/Reshape = Reshape(y/DequantizeLinear_1, y/shape)",
            "y/Transpose = Transpose{perm=[0, 2, 1, 3]}(y/Reshape)",
            "y/Reshape_1 = Reshape(y/DequantizeLinear, y/shape_1)",
            "y/Transpose_1 = Transpose{perm=[0, 2, 3, 1]}(y/Reshape_1)",
            "y/QuantizeLinear_2 = QuantizeLinear(q, q_scale, q_zero_point)",
            "y/DequantizeLinear_2 = DequantizeLinear(y/QuantizeLinear_2, q_scale_back, q_zero_point)",
            "y/Reshape_2 = Reshape(y/DequantizeLinear_2, y/shape_2)",
            "y/Transpose_2 = Transpose{perm=[0, 2, 1, 3]}(y/Reshape_2)",
            "y/MatMul = MatMul(y/Transpose_2, y/Transpose_1)",
            "y/Softmax = Softmax{axis=-1}(y/MatMul)",
            "y/QuantizeLinear_3 = QuantizeLinear(y/Softmax, y_shares_scale, y_shares_zero_point)",
            "y/DequantizeLinear_3 = DequantizeLinear(y/QuantizeLinear_3, y_shares_scale, y_shares_zero_point)",
            "y/MatMul_1 = MatMul(y/DequantizeLinear_3, y/Transpose)",
            "y/Transpose_3 = Transpose{perm=[0, 2, 1, 3]}(y/MatMul_1)",
            "y = Reshape(y/Transpose_3, y/shape_3)",
        ]
        assert {sources(node) for node in after.graph} == {("y",)}

    def test_grids_are_the_methods_own(self) -> None:
        model = graph(PLAIN, inputs=SIDE)
        feeds = feeds_of(model)
        for method, kind in (("min-max", Range), ("mse", Histogram)):
            after, _ = applied(model, feeds, range=method)
            for name, bits, symmetric in (("q", 8, False), ("k", 7, True), ("v", 7, True)):
                seen = kind()
                seen.add(feeds[name])
                ends = (seen.low, seen.high) if kind is Range else mse(seen, bits=bits, symmetric=symmetric)
                scale, zero = activation_grid(*ends, bits=bits, symmetric=symmetric)
                assert (stored(after, f"{name}_scale"), stored(after, f"{name}_zero_point")) == (scale, zero)
                assert stored(after, f"{name}_zero_point").dtype == (np.int8 if symmetric else np.uint8)

    def test_probabilities_have_the_grid_of_a_softmax(self) -> None:
        model = graph(PLAIN, inputs=SIDE)
        after, _ = applied(model, feeds_of(model))
        scale, zero = stored(after, "y_shares_scale"), stored(after, "y_shares_zero_point")
        assert (scale, zero, zero.dtype) == (np.float32(1 / 255), 0, np.uint8)

    def test_the_scale_is_in_the_way_back(self) -> None:
        model = graph("y = Attention{scale=0.25}(q, k, v)", inputs=FOUR)
        after, _ = applied(model, feeds_of(model))
        assert stored(after, "q_scale_back") == stored(after, "q_scale") / 4
        assert "Mul" not in [node.op_type for node in after.graph]

    @pytest.mark.parametrize(("type", "zero"), [("uint8", np.uint8), ("int8", np.int8)])
    def test_queries_are_of_the_type_that_is_asked_for(self, type: str, zero: type) -> None:
        model = graph(PLAIN, inputs=SIDE)
        after, _ = applied(model, feeds_of(model), type=type)
        assert stored(after, "q_zero_point").dtype == zero
        assert stored(after, "k_zero_point").dtype == np.int8

    def test_one_run_over_the_data_serves_layers_and_attention(self) -> None:
        rng = np.random.default_rng(0)
        weights = {f"w{name}": rng.standard_normal((32, 32)).astype(np.float32) for name in "qkv"}
        model = graph(
            *(f"{name} = MatMul(x, w{name})" for name in "qkv"), PLAIN, inputs={"x": "float[batch, s, 32]"}, **weights
        )
        calibration = Calibration([random_feeds(model)])
        found = QuantizeStatic(attention=True).apply(model, Context(calibration=calibration))
        assert (found.matches, calibration.runs) == (4, 1)

    def test_without_the_option_attention_is_not_spoken_of(self) -> None:
        model = graph(PLAIN, inputs=SIDE)
        assert QuantizeStatic().apply(model, Context(calibration=Calibration([feeds_of(model)]))) == Outcome()
        assert [node.op_type for node in model.graph] == ["Attention"]


class TestHeadroom:
    @pytest.mark.parametrize(
        ("headroom", "lowest", "highest"), [("pairs", -64, 63), ("bits", -64, 63), ("none", -128, 127)]
    )
    def test_no_data_reach_beyond_the_codes(self, headroom: str, lowest: int, highest: int) -> None:
        model = graph(PLAIN, inputs=SIDE)
        after, _ = applied(model, feeds_of(model), headroom=headroom)
        louder = {name: 50 * array for name, array in feeds_of(model).items()}
        codes: dict[str, np.ndarray] = {}

        def see(name: str, array: np.ndarray) -> bool:
            codes[name] = array
            return True

        names = [node.outputs[0].name or "" for node in after.graph if node.op_type == "QuantizeLinear"]
        watch(after, louder, names, see)
        signed = [array for array in codes.values() if array.dtype == np.int8]
        assert {(array.min(), array.max()) for array in signed} == {(lowest, highest)}


class TestFormula:
    @pytest.mark.parametrize("shares", ["tensor", "row"])
    @pytest.mark.parametrize("name", FED)
    def test_in_float64(self, name: str, shares: str) -> None:
        """A number that falls on the other side of a half moves one code by one: few do, and none by more."""
        model = CASES[name]
        feeds = feeds_of(model)
        after, _ = applied(model, feeds, shares=shares)
        wanted = formula(model, after, feeds, by_row=shares == "row")
        off = np.abs(runner(after)(feeds)["y"] - wanted)
        largest = max(float(np.abs(feeds[each]).max()) for each in feeds if each in ("v", "pv"))
        assert off.max() <= largest / 255
        assert np.quantile(off, 0.9) <= Exact().tolerance * largest

    @pytest.mark.parametrize("name", CASES)
    def test_holds_the_contract(self, name: str) -> None:
        model = CASES[name]
        feeds = feeds_of(model)
        after, _ = applied(model, feeds)
        loss = worst_loss(QuantizeStatic.contract, compare(runner(model), runner(after), feeds))
        assert 0 < loss <= allowed(QuantizeStatic.contract)

    def test_what_is_kept_for_the_next_run_is_not_rounded(self) -> None:
        for name in ("past", "shared keys of a past", "present without a past"):
            feeds = feeds_of(CASES[name])
            after, _ = applied(CASES[name], feeds)
            found, wanted = runner(after)(feeds), runner(CASES[name])(feeds)
            assert all(np.array_equal(found[each], wanted[each]) for each in ("k2", "v2"))

    def test_a_row_that_may_attend_to_nothing_is_zero(self) -> None:
        feeds = feeds_of(CASES["masked"])
        for shares in ("tensor", "row"):
            after, _ = applied(CASES["masked"], feeds, shares=shares)
            assert not runner(after)(feeds)["y"][:, :, -1].any()

    def test_rows_spread_over_many_keys_need_a_grid_each(self) -> None:
        model = graph(PLAIN, inputs=SIDE)
        feeds = {name: array / 100 for name, array in random_feeds(model, {"batch": 1, "s": 600}).items()}
        losses = {
            shares: compare(runner(model), runner(applied(model, feeds, shares=shares)[0]), feeds).relative_l2
            for shares in ("tensor", "row")
        }
        assert losses["tensor"] > 0.9
        assert losses["row"] < 0.05


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_backends_agree_with_the_graph(name: str, backend: str) -> None:
    model = CASES[name]
    feeds = feeds_of(model)
    for options in ({}, {"type": "int8", "headroom": "none", "shares": "row"}):
        after, _ = applied(model, feeds, **options)
        lowered = after.clone()
        made = installed(backend)
        run_pipeline(made.pipeline(), lowered)
        found = made.compile(lowered).run(feeds)
        wanted, plain = runner(after)(feeds), runner(model)(feeds)
        cost = distance([wanted["y"]], [plain["y"]])
        assert distance([found["y"]], [wanted["y"]]) < cost / 2


LEFT = {
    "only": (graph(PLAIN, inputs=SIDE), {"only": ("other*",)}),
    "ignore": (graph(PLAIN, inputs=SIDE), {"ignore": ("kind:attention",)}),
    "dtype": (graph(PLAIN, inputs=dict.fromkeys("qkv", "float16[batch, s, 32]")), {}),
    "constant": (graph("y = Attention(q, k, v)", inputs={"q": FOUR["q"]}, k=np.ones((2, 4, 5, 8), np.float32),
                       v=np.ones((2, 4, 5, 8), np.float32)), {}),
    "cache": (graph("y = Attention(q, k, v, _, pk, pv)", inputs=PAST), {}),
    "heads": (graph("y = Attention(q, k, v)", inputs={**FOUR, "k": "float[b, h, s, 8]", "v": "float[b, h, s, 8]"}), {}),
    "scale": (graph("y = Attention(q, k, v)", inputs=dict.fromkeys("qkv", "float[b, 4, s, d]")), {}),
    "size": (graph("y = Attention(q, k, v)", inputs={**FOUR, "k": "float[b, 2, s, 8]", "v": "float[b, 2, s, d]"}), {}),
    "outputs": (graph("(y, a, b, scores) = Attention(q, k, v)", inputs=FOUR, outputs=["y", "scores"]), {}),
    "inputs": (graph("y = Attention(q, k, v, _, _, _, n)", inputs={**FOUR, "n": "int64[b]"}, opset=24), {}),
    "subgraph": (inside_if(graph("y = Attention(q, k, v)", inputs=FOUR)), {}),
}  # fmt: skip


@pytest.mark.parametrize("rule", LEFT)
def test_left_alone(rule: str) -> None:
    model, options = LEFT[rule]
    found = misses(QuantizeStatic(attention=True, **options), model)  # type: ignore[arg-type]
    assert {miss.rule for miss in found} == {rule}


@pytest.mark.parametrize("number", [0.0, 0.4])
def test_what_calibration_does_not_see_is_left(number: float) -> None:
    model = graph(PLAIN, inputs=SIDE)
    feeds = {**feeds_of(model), "k": np.full((2, 5, 32), number, np.float32)}
    after, found = applied(model, feeds)
    assert [finding.miss.rule for finding in found.findings if finding.miss] == ["data"]
    assert lines(after) == lines(model)


def test_three_dimensions_of_keys_of_another_length() -> None:
    model = graph("y = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v)", inputs=THREE)
    feeds = feeds_of(model)
    after, _ = applied(model, feeds)
    assert runner(after)(feeds)["y"].shape == (2, 5, 16)


@pytest.mark.parametrize("correct", ["bias", "least-squares"])
def test_corrections_are_refused(correct: str) -> None:
    with pytest.raises(OptionError, match="corrections know nothing of what attention=true rounds"):
        QuantizeStatic(attention=True, correct=correct)


@pytest.mark.parametrize("type", ["uint16", "int16", "float8_e4m3fn"])
def test_other_types_are_refused(type: str) -> None:
    with pytest.raises(OptionError, match="expected activations of uint8 or int8 with attention"):
        QuantizeStatic(attention=True, type=type)  # type: ignore[arg-type]


def test_padding_is_known_behind_it() -> None:
    """What calibrates later sees the mask for what it is, though no Attention reads it any more."""
    model = graph(
        "keep = Cast{to=9}(attention_mask)", "m = Unsqueeze(keep, [1, 2])",
        "y = Attention{q_num_heads=4, kv_num_heads=4}(x, x, x, m)",
        inputs={"x": "float[batch, sequence, 32]", "attention_mask": "int64[batch, sequence]"},
    )  # fmt: skip
    after, found = applied(model, random_feeds(model))
    assert found.matches == 1
    assert Padding.of(after).masks == Padding.of(model).masks == {"attention_mask": ("batch", "sequence")}
