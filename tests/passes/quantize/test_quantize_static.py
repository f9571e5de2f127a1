"""Weights and activations in few bits on calibrated grids: what is written, what is seen, what is left alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.level import Level, violations
from tersor.ir.provenance import sources
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.accumulators import Histogram
from tersor.passes.base import Context, Outcome
from tersor.passes.edit import constant_of
from tersor.passes.numerics.grid import Scheme, nearest
from tersor.passes.quantize.methods.embedding_groups import embedding_groups
from tersor.passes.quantize.methods.floats import float8
from tersor.passes.quantize.methods.ranges import activation_grid, entropy, mse, percentile
from tersor.passes.quantize.methods.uniform import PAIR_LIMIT, symmetric
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.statistics import Calibration
from tersor.tests.passes.quantize.holding import HELD
from tersor.tests.support import inside_if, misses

RNG = np.random.default_rng(7)
X = {"x": "float[batch, 32]"}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


W, V, B = normal(32, 48), normal(48, 32), normal(48)
LOUD = np.exp(np.random.default_rng(3).uniform(-2, 2, 32)).astype(np.float32)


#: Two layers of one weight, by way of what only the first makes.
TWICE = graph("a = MatMul(x, w)", "h = Relu(a)", "y = MatMul(h, w)", inputs=X, w=normal(32, 32))


def batches(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": (rng.standard_normal((8, 32)) * LOUD).astype(np.float32)} for _ in range(count)]


def context(feeds: list[dict[str, np.ndarray]] | None = None) -> Context:
    return Context(calibration=Calibration(batches(3) if feeds is None else feeds))


def linear() -> ir.Model:
    return graph("h = MatMul(x, w)", "y = Add(h, b)", inputs=X, w=W, b=B)


def layers() -> ir.Model:
    return graph("h = MatMul(x, w)", "a = Add(h, b)", "r = Gelu(a)", "y = MatMul(r, v)", inputs=X, w=W, v=V, b=B)


def applied(model: ir.Model, feeds: list[dict[str, np.ndarray]] | None = None, **options: object) -> Outcome:
    found = QuantizeStatic(**options).apply(model, context(feeds))  # type: ignore[arg-type]
    assert violations(model, Level.SEMANTIC) == []
    return found


def stored(model: ir.Model, name: str) -> np.ndarray:
    return constant_of(model.graph.initializers[name])


def rules(found: Outcome) -> set[str]:
    return {finding.miss.rule for finding in found.misses if finding.miss is not None}


class TestForm:
    def test_both_operands_go_through_integers(self) -> None:
        model = linear()
        applied(model)
        assert lines(model) == [
            "h/QuantizeLinear = QuantizeLinear(x, x_scale, x_zero_point)",
            "h/DequantizeLinear = DequantizeLinear(h/QuantizeLinear, x_scale, x_zero_point)",
            "h/DequantizeLinear_1 = DequantizeLinear{axis=1}(w_quantized, w_scale)",
            "h = MatMul(h/DequantizeLinear, h/DequantizeLinear_1)",
            "y = Add(h, b)",
        ]

    def test_an_activation_is_rounded_once_for_all_that_read_it(self) -> None:
        model = graph("a = MatMul(x, w)", "b = MatMul(x, u)", "c = Gemm(x, t)", "d = Neg(x)", inputs=X,
                      w=W, u=normal(32, 40), t=normal(32, 40))  # fmt: skip
        applied(model)
        ops = [node.op_type for node in model.graph]
        assert (ops.count("QuantizeLinear"), ops.count("DequantizeLinear")) == (1, 1 + 3)
        assert lines(model)[-1] == "d = Neg(x)"

    @pytest.mark.parametrize(("headroom", "bits", "paired"), [("pairs", 8, 0), ("bits", 7, None), ("none", 8, None)])
    def test_weights_are_the_methods_own(self, headroom: str, bits: int, paired: int | None) -> None:
        model = linear()
        applied(model, headroom=headroom)
        wanted = symmetric(W, bits=bits, axis=1, paired=paired)
        np.testing.assert_array_equal(stored(model, "w_quantized"), wanted.values)
        np.testing.assert_array_equal(stored(model, "w_scale"), wanted.scale)

    def test_one_scale_for_the_weight(self) -> None:
        model = linear()
        applied(model, granularity="tensor")
        np.testing.assert_array_equal(stored(model, "w_quantized"), symmetric(W, paired=0).values)
        assert stored(model, "w_scale").shape == ()

    def test_four_bits_in_groups(self) -> None:
        model = linear()
        applied(model, bits=4, group=16)
        wanted = nearest(W, Scheme(bits=4, group=16))
        np.testing.assert_array_equal(stored(model, "w_quantized").astype(np.int8), wanted.values)
        np.testing.assert_array_equal(stored(model, "w_scale"), wanted.scale)

    def test_the_new_nodes_stand_for_the_layer(self) -> None:
        model = linear()
        applied(model)
        assert {sources(node) for node in model.graph if node.op_type == "QuantizeLinear"} == {("h",)}

    def test_an_activation_that_is_rounded_already_is_not_rounded_again(self) -> None:
        model = graph("q = QuantizeLinear(x, s, z)", "d = DequantizeLinear(q, s, z)", "y = MatMul(d, w)", inputs=X,
                      w=W, s=np.float32(0.1).reshape(()), z=np.array(7, np.uint8))  # fmt: skip
        applied(model)
        assert [node.op_type for node in model.graph].count("QuantizeLinear") == 1

    @pytest.mark.parametrize("name", HELD)
    def test_every_kind_of_site(self, name: str) -> None:
        held = HELD[name]
        option = {held.option: True} if held.option else {}
        model = held.model
        half = any(each.dtype != np.float32 for each in held.weights.values()) and held.reads is None
        rng = np.random.default_rng(0)
        feeds = [_feed(model, rng) for _ in range(2)]
        found = QuantizeStatic(smallest=1, **option).apply(model, Context(calibration=Calibration(feeds)))
        assert violations(model, Level.SEMANTIC) == []
        if half and name != "table":
            assert rules(found) == {"dtype"}
            return
        assert not found.misses
        loss = compare(runner(held.model), runner(model), feeds).relative_l2
        assert 0 < loss < 0.05


def _feed(model: ir.Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    made = {}
    for value in model.graph.inputs:
        shape = [dim if isinstance(dim, int) else 6 for dim in value.shape]
        kind = value.dtype.numpy()
        made[value.name] = (
            rng.integers(0, 60, shape)
            if kind == np.int64
            else rng.standard_normal(shape).astype(np.float32).astype(kind)
        )
    return made


class TestGrids:
    @pytest.mark.parametrize(
        ("options", "bits", "around", "dtype", "shift"),
        [
            ({}, 8, False, np.uint8, 0),
            ({"type": "int8"}, 8, False, np.int8, -128),
            ({"symmetric": True}, 8, True, np.uint8, 128),
            ({"type": "int8", "symmetric": True}, 8, True, np.int8, 0),
            ({"type": "uint16"}, 16, False, np.uint16, 0),
            ({"type": "int16", "symmetric": True}, 16, True, np.int16, 0),
        ],
    )
    def test_min_max(self, options: dict[str, object], bits: int, around: bool, dtype: type, shift: int) -> None:
        model = linear()
        applied(model, range="min-max", **options)
        every = np.concatenate([feeds["x"] for feeds in batches(3)])
        scale, zero = activation_grid(every.min(), every.max(), bits=bits, symmetric=around)
        assert stored(model, "x_scale") == scale
        assert stored(model, "x_zero_point") == int(zero) + shift
        assert stored(model, "x_zero_point").dtype == dtype

    @pytest.mark.parametrize("type", ["float8_e4m3fn", "float8_e5m2"])
    def test_floats(self, type: str) -> None:
        model = linear()
        applied(model, range="min-max", type=type)
        largest = max(float(np.abs(feeds["x"]).max()) for feeds in batches(3))
        limit = {"float8_e4m3fn": 448, "float8_e5m2": 57344}[type]
        assert stored(model, "x_scale") == np.float32(largest / limit)
        wanted = float8(W, type, axis=1)  # type: ignore[arg-type]
        np.testing.assert_array_equal(stored(model, "w_quantized").view(np.uint8), wanted.values.view(np.uint8))

    def test_groups_of_features(self) -> None:
        model = linear()
        applied(model, range="min-max", groups=4)
        every = np.concatenate([feeds["x"] for feeds in batches(3)]).astype(np.float64)
        wanted = embedding_groups(every.min(0), every.max(0), 4)
        scale, zero = wanted.grid()
        np.testing.assert_array_equal(stored(model, "x_scale"), wanted.spread(scale))
        np.testing.assert_array_equal(stored(model, "x_zero_point"), wanted.spread(zero))
        assert "QuantizeLinear{axis=-1}" in lines(model)[0]

    @pytest.mark.parametrize("groups", [3, 5])
    def test_neighbours_of_a_group_have_headroom(self, groups: int) -> None:
        model = linear()
        applied(model, range="min-max", groups=groups)
        members = np.unique(stored(model, "x_scale"), return_inverse=True)[1]
        for group in range(groups):
            part = stored(model, "w_quantized")[members == group].astype(np.int32)
            even = part[: len(part) // 2 * 2]
            assert np.abs(even[::2] + even[1::2]).max() <= PAIR_LIMIT
        assert np.abs(stored(model, "w_quantized")).max() > 63

    def test_groups_lose_less_where_features_differ(self) -> None:
        losses = []
        for options in ({}, {"groups": 4}, {"groups": 32}):
            model = linear()
            applied(model, range="min-max", headroom="none", **options)
            losses.append(compare(runner(linear()), runner(model), batches(3)).relative_l2)
        assert losses[2] < losses[1] < losses[0]

    @pytest.mark.parametrize("range", ["percentile", "entropy", "mse"])
    def test_ranges_are_the_methods_own(self, range: str) -> None:
        model, seen = linear(), Histogram()
        applied(model, range=range, fraction=0.99)
        for feeds in batches(3):
            seen.add(feeds["x"])
        ends = {"percentile": percentile(seen, fraction=0.99), "entropy": entropy(seen), "mse": mse(seen)}[range]
        scale, zero = activation_grid(*ends)
        assert (stored(model, "x_scale"), stored(model, "x_zero_point")) == (scale, zero)

    def test_padding_does_not_count(self) -> None:
        table = np.concatenate([np.full((1, 32), 1e4, np.float32), normal(15, 32)])
        model = graph(
            "e = Gather(t, input_ids)", "y = MatMul(e, w)", "keep = Cast{to=9}(attention_mask)",
            "m = Unsqueeze(keep, [1, 2])", "z = Attention{q_num_heads=4, kv_num_heads=4}(e, e, e, m)",
            inputs={"input_ids": "int64[batch, sequence]", "attention_mask": "int64[batch, sequence]"},
            t=table, w=W,
        )  # fmt: skip
        feeds = [{"input_ids": np.array([[3, 5, 0]]), "attention_mask": np.array([[1, 1, 0]])}]
        applied(model, feeds, range="min-max")
        scale, zero = activation_grid(table[[3, 5]].min(), table[[3, 5]].max())
        assert (stored(model, "e_scale"), stored(model, "e_zero_point")) == (scale, zero)


class TestBadData:
    @pytest.mark.parametrize("number", [0.0, 0.37])
    def test_activations_that_are_one_number_are_left(self, number: float) -> None:
        model = linear()
        assert rules(applied(model, [{"x": np.full((4, 32), number, np.float32)}])) == {"data"}
        assert lines(model) == lines(linear())

    def test_one_sample(self) -> None:
        model = linear()
        applied(model, [{"x": normal(1, 32)}], correct="least-squares")
        assert np.isfinite(stored(model, "w_scale")).all()

    def test_columns_of_zeros(self) -> None:
        weight = W.copy()
        weight[:, 3] = 0
        model = graph("y = MatMul(x, w)", inputs=X, w=weight)
        applied(model)
        assert not runner(model)(batches(1)[0])["y"][:, 3].any()

    def test_activations_that_are_never_seen_are_left(self) -> None:
        model = linear()
        found = applied(model, [{"x": np.zeros((0, 32), np.float32)}])
        assert rules(found) == {"data"}
        assert lines(model) == lines(linear())

    def test_infinity_is_an_error_that_names_the_value(self) -> None:
        with pytest.raises(ModelError, match="x: calibration met inf"):
            applied(linear(), [{"x": np.full((1, 32), np.inf, np.float32)}])

    def test_data_are_needed(self) -> None:
        with pytest.raises(OptionError, match="calibration data are needed"):
            QuantizeStatic().apply(linear(), Context())


class TestCorrections:
    def test_means_are_kept(self) -> None:
        model, feeds = layers(), batches(6)
        applied(model, feeds, bits=4, correct="bias")
        wanted, found = (
            np.concatenate([runner(each)(batch)["y"] for batch in feeds]).mean(0) for each in (layers(), model)
        )
        plain = layers()
        applied(plain, feeds, bits=4)
        without = np.concatenate([runner(plain)(batch)["y"] for batch in feeds]).mean(0)
        assert np.abs(found - wanted).max() < 1e-3 * np.abs(without - wanted).max() + 1e-4

    @pytest.mark.parametrize(
        "model",
        [
            layers(),
            graph("y = MatMul(x, w)", inputs=X, w=W),
            graph("y = Gemm{alpha=0.5, beta=2.0}(x, w, b)", inputs=X, w=W, b=B),
            graph("y = Gemm{transB=1}(x, w)", inputs=X, w=np.ascontiguousarray(W.T)),
            graph("t = Transpose(x)", "y = MatMul(w, t)", inputs=X, w=np.ascontiguousarray(W.T)),
        ],
    )
    def test_every_spelling_of_a_layer(self, model: ir.Model) -> None:
        losses = {}
        for correct in ("none", "bias"):
            after, feeds = model.clone(), [{"x": batch["x"] + 3 * LOUD} for batch in batches(6)]
            applied(after, feeds, bits=4, correct=correct)
            losses[correct] = compare(runner(model), runner(after), feeds).relative_l2
        assert losses["bias"] < losses["none"]

    def test_least_squares_loses_less_than_bias_on_rows_it_has_not_seen(self) -> None:
        losses = {}
        mix = np.random.default_rng(1).standard_normal((6, 32))
        rng = np.random.default_rng(2)
        feeds = [{"x": (rng.standard_normal((64, 6)) @ mix).astype(np.float32)} for _ in range(8)]
        for correct in ("bias", "least-squares"):
            model = layers()
            applied(model, feeds[:6], bits=3, correct=correct)
            losses[correct] = compare(runner(layers()), runner(model), feeds[6:]).relative_l2
        assert losses["least-squares"] < losses["bias"]


@pytest.mark.parametrize(
    ("model", "options", "rule"),
    [
        (graph("y = MatMul(x, w)", inputs=X, w=W), {"only": ("other*",)}, "only"),
        (graph("y = MatMul(x, w)", inputs=X, w=W), {"ignore": ("w",)}, "ignore"),
        (graph("y = MatMul(x, w)", inputs=X, w=W), {"smallest": 5000}, "size"),
        (graph("y = Gather(w, i)", inputs={"i": "int64[batch]"}, w=normal(64, 32)), {}, "kind"),
        (graph("y = Conv(x, w)", inputs={"x": "float[1, 8, time]"}, w=normal(64, 8, 3)), {}, "kind"),
        (graph("y = MatMul(x, w)", inputs=X, w=np.where(W > 2, np.nan, W)), {}, "finite"),
        (graph("y = MatMul(x, w)", inputs={"x": "float16[n, 32]"}, w=W.astype(np.float16)), {}, "dtype"),
        (graph("a = MatMul(x, w)", "y = Gemm{transB=1}(a, w)", inputs=X, w=W), {}, "tied"),
        (TWICE, {"correct": "bias"}, "tied"),
        (TWICE, {"groups": 4, "range": "min-max"}, "tied"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_left_alone(model: ir.Model, options: dict[str, object], rule: str) -> None:
    assert {miss.rule for miss in misses(QuantizeStatic(**options), model)} == {rule}  # type: ignore[arg-type]


def test_what_a_subgraph_computes_is_left() -> None:
    model = inside_if(graph("h = Relu(x)", "y = MatMul(h, w)", inputs=X, w=W))
    node = next(node for node in model.graph if node.op_type == "If")
    for inner in [each for each in node.attributes["else_branch"].as_graph() if each.op_type == "MatMul"]:
        inner.replace_input_with(1, inner.inputs[0])
    assert "subgraph" in {miss.rule for miss in misses(QuantizeStatic(), model)}


def test_what_branches_read_beside_the_graph_is_rounded_in_each() -> None:
    model = graph("h = MatMul(x, w)", "y = Relu(h)", inputs={"x": "float[batch, 32]"}, w=W, v=W, u=W)
    whole = inside_if(model)
    x, other = whole.graph.inputs[1], whole.graph.initializers["v"]
    node = ir.node("MatMul", [x, whole.graph.initializers["u"]])
    node.outputs[0].name, node.outputs[0].type = "z", ir.TensorType(ir.DataType.FLOAT)
    whole.graph.append(node)
    whole.graph.outputs.append(node.outputs[0])
    batches = [{"cond": np.array(bool(number)), "x": normal(4, 32)} for number in range(2)]
    # a weight for each of the three products
    branch = next(each for each in whole.graph if each.op_type == "If").attributes["else_branch"].as_graph()
    product = next(each for each in branch if each.op_type == "MatMul")
    product.replace_input_with(1, other)
    original = runner(whole.clone())
    assert QuantizeStatic().apply(whole, Context(calibration=Calibration(batches))).matches == 3
    assert violations(whole, Level.SEMANTIC) == []
    assert compare(original, runner(whole), batches).relative_l2 < 0.05


def test_a_second_application_finds_everything_quantized() -> None:
    model = layers()
    applied(model)
    before = lines(model)
    assert rules(applied(model)) == {"quantized"}
    assert lines(model) == before


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 1}, {"group": -1}, {"fraction": 0.0}, {"groups": 0}, {"groups": 4},
        {"granularity": "tensor", "bits": 4}, {"type": "float8_e4m3fn", "bits": 4},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="quantize-static: expected"):
        QuantizeStatic(**options)  # type: ignore[arg-type]
