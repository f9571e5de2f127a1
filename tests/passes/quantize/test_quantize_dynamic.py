"""int8 weights by channel, activations quantized at run time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.level import Level, violations
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.edit import constant_of
from tersor.passes.quantize.methods.uniform import symmetric
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.report import Size
from tersor.tests.passes.quantize.holding import HELD
from tersor.tests.support import apply, holds, inside_if, misses

RNG = np.random.default_rng(0)
X = {"x": "float[batch, 32]"}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


W, V, B = normal(32, 48), normal(32, 48), normal(48)
TABLE = normal(64, 32)
PARTS = "h/DynamicQuantizeLinear, h/DynamicQuantizeLinear_1, h/DynamicQuantizeLinear_2"


def linear(**weights: np.ndarray) -> ir.Model:
    return graph("h = MatMul(x, w)", "y = Add(h, b)", inputs=X, **({"w": W, "b": B} | weights))


def lstm(directions: int = 1, **options: object) -> ir.Model:
    word = "" if directions == 1 else ", direction=bidirectional"
    weights = {"w": normal(directions, 64, 32), "r": normal(directions, 64, 16), "b": normal(directions, 128)}
    return graph(f"(y, h, c) = LSTM{{hidden_size=16{word}}}(x, w, r, b)", inputs={"x": "float[time, 2, 32]"}, **weights)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


def is_quantized(
    model: ir.Model, name: str, weight: np.ndarray, axis: int, bits: int = 8, paired: int | None = None
) -> None:
    """The stored integers and scales are the method's own."""
    wanted = symmetric(weight, bits=bits, axis=axis, paired=paired)
    np.testing.assert_array_equal(constant_of(model.graph.initializers[f"{name}_quantized"]), wanted.values)
    np.testing.assert_array_equal(constant_of(model.graph.initializers[f"{name}_scale"]), wanted.scale)
    assert name not in model.graph.initializers


class TestLinear:
    def test_both_operands_go_through_integers(self) -> None:
        model = linear()
        assert apply(QuantizeDynamic(), model) == [
            f"({PARTS}) = DynamicQuantizeLinear(x)",
            f"h/DequantizeLinear = DequantizeLinear({PARTS})",
            "h/DequantizeLinear_1 = DequantizeLinear{axis=1}(w_quantized, w_scale)",
            "h = MatMul(h/DequantizeLinear, h/DequantizeLinear_1)",
            "y = Add(h, b)",
        ]
        is_quantized(model, "w", W, 1, paired=0)

    def test_an_activation_that_two_layers_read_is_quantized_once(self) -> None:
        model = graph("a = MatMul(x, w)", "b = MatMul(x, v)", inputs=X, w=W, v=V)
        apply(QuantizeDynamic(), model)
        assert ops(model).count("DynamicQuantizeLinear") == 1

    def test_each_branch_quantizes_for_itself(self) -> None:
        """What one branch computes the other cannot read, nor can what follows."""
        text = ("a = MatMul(x, w)", "b = MatMul(x, v)", "y = Add(a, b)")
        model = inside_if(graph(*text, inputs=X, w=W, v=V))
        for node in [node for node in model.graph.all_nodes() if node.op_type == "MatMul"]:
            if node.outputs[0].name.endswith("_else"):
                # the else branch has weights of its own, so that none is tied
                array = constant_of(node.inputs[1])
                name = f"{node.inputs[1].name}_else"
                copy = ir.Value(name=name, type=node.inputs[1].type, const_value=ir.tensor(array, name=name))
                copy.shape = node.inputs[1].shape
                model.graph.register_initializer(copy)
                node.replace_input_with(1, copy)
        apply(QuantizeDynamic(), model)
        assert ops(model).count("DynamicQuantizeLinear") == 2
        assert ops(model).count("DequantizeLinear") == 2 + 4

    @pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
    def test_gemm_has_its_channels_where_its_outputs_are(self, transposed: int, axis: int) -> None:
        weight = np.ascontiguousarray(W.T) if transposed else W
        text = f"y = Gemm{{alpha=0.5, beta=2.0, transB={transposed}}}(x, w, b)"
        model = graph(text, inputs={"x": "float[8, 32]"}, w=weight, b=B)
        assert apply(QuantizeDynamic(), model)[-1].startswith(f"y = Gemm{{alpha=0.5, beta=2.0, transB={transposed}}}")
        is_quantized(model, "w", weight, axis, paired=1 - axis)

    def test_a_weight_on_the_left(self) -> None:
        model = graph("y = MatMul(w, x)", inputs={"x": "float[32, 5]"}, w=np.ascontiguousarray(W.T))
        apply(QuantizeDynamic(), model)
        is_quantized(model, "w", W.T, 0, paired=1)

    def test_a_scale_for_each_row(self) -> None:
        model = linear()
        apply(QuantizeDynamic(rows=True), model)
        assert ops(model) == [
            "Abs",
            "ReduceMax",
            "Max",
            "Div",
            "DynamicQuantizeLinear",
            "DequantizeLinear",
            "DequantizeLinear",
            "MatMul",
            "Mul",
            "Add",
        ]

    def test_rows_and_a_gemm_on_one_activation_do_not_share_a_scale(self) -> None:
        model = graph("a = MatMul(x, w)", "b = Gemm(x, v, c)", inputs={"x": "float[8, 32]"}, w=W, v=V, c=B)
        apply(QuantizeDynamic(rows=True), model)
        assert ops(model).count("DynamicQuantizeLinear") == 2
        assert ops(model).count("Mul") == 1

    @pytest.mark.parametrize(("headroom", "bits", "paired"), [("pairs", 8, 0), ("bits", 7, None), ("none", 8, None)])
    def test_headroom(self, headroom: str, bits: int, paired: int | None) -> None:
        model = linear()
        apply(QuantizeDynamic(headroom=headroom), model)  # type: ignore[arg-type]
        is_quantized(model, "w", W, 1, bits=bits, paired=paired)

    @pytest.mark.parametrize(("text", "axis", "paired"), [("MatMul(x, w)", 2, 1), ("MatMul(w, x)", 1, 2)])
    def test_headroom_of_a_matrix_with_more_axes(self, text: str, axis: int, paired: int) -> None:
        weight = np.abs(W if axis == 2 else W.T)[None]
        model = graph(f"y = {text}", inputs={"x": "float[4, 5, 32]" if axis == 2 else "float[4, 32, 5]"}, w=weight)
        apply(QuantizeDynamic(), model)
        is_quantized(model, "w", weight, axis, paired=paired)

    def test_the_new_nodes_stand_for_the_layer(self) -> None:
        model = linear()
        apply(QuantizeDynamic(), model)
        assert {sources(node) for node in model.graph if node.op_type == "MatMul"} == {("h",)}


class TestStored:
    def test_an_embedding_has_a_scale_for_each_row(self) -> None:
        model = graph("y = Gather(t, ids)", inputs={"ids": "int64[batch, sequence]"}, t=TABLE)
        assert apply(QuantizeDynamic(embeddings=True), model) == [
            "y/DequantizeLinear = DequantizeLinear{axis=0}(t_quantized, t_scale)",
            "y = Gather(y/DequantizeLinear, ids)",
        ]
        is_quantized(model, "t", TABLE, 0)

    @pytest.mark.parametrize("directions", [1, 2])
    def test_both_weights_of_an_lstm_in_every_direction(self, directions: int) -> None:
        model = lstm(directions)
        w, r = (constant_of(model.graph.initializers[name]) for name in "wr")
        apply(QuantizeDynamic(), model)
        assert ops(model) == ["DequantizeLinear", "DequantizeLinear", "LSTM"]
        is_quantized(model, "w", w, 1)
        is_quantized(model, "r", r, 1)
        assert model.graph.node(2).outputs[0].name == "y"

    def test_a_gru_that_gives_its_last_state_alone(self) -> None:
        weights = {"w": normal(1, 48, 32), "r": normal(1, 48, 16)}
        model = graph("(_, h) = GRU{hidden_size=16}(x, w, r)", inputs={"x": "float[time, 2, 32]"}, **weights)
        assert apply(QuantizeDynamic(smallest=1), model)[-1] == (
            "(_, h) = GRU{hidden_size=16}(x, h/DequantizeLinear, h/DequantizeLinear_1)"
        )

    def test_half_precision(self) -> None:
        model = graph("y = Gather(t, ids)", inputs={"ids": "int64[batch]"}, t=TABLE.astype(np.float16))
        apply(QuantizeDynamic(embeddings=True), model)
        assert constant_of(model.graph.initializers["t_scale"]).dtype == np.float16

    def test_bytes_shrink_by_nearly_four(self) -> None:
        model = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 256]"}, w=normal(256, 256))
        before = Size.of(model).bytes
        apply(QuantizeDynamic(), model)
        assert Size.of(model).bytes <= before / 3.9


class TestComputed:
    def test_both_weights_and_the_state_go_through_integers(self) -> None:
        model = lstm()
        w, r = (constant_of(model.graph.initializers[name]) for name in "wr")
        text = apply(QuantizeDynamic(recurrent="computed"), model)
        assert text[-1] == (
            "(y, h, c) = tersor.DynamicQuantizeLSTM{hidden_size=16}"
            "(x, y/DequantizeLinear, y/DequantizeLinear_1, b, y/state, y/state)"
        )
        # the sums of pairs of neighbouring inputs
        is_quantized(model, "w", w, 1, paired=2)
        is_quantized(model, "r", r, 1, paired=2)

    @pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
    @pytest.mark.parametrize("before", [0, 1])
    def test_gru(self, direction: str, before: int) -> None:
        ways = 2 if direction == "bidirectional" else 1
        weights = {"w": normal(ways, 48, 32) / 4, "r": normal(ways, 48, 16) / 4}
        options = f"hidden_size=16, direction={direction}, linear_before_reset={before}"
        text = f"(y, h) = GRU{{{options}}}(x, w, r, _, _, h0)"
        states = {"h0": f"float[{ways}, batch, 16]"}
        model = graph(text, inputs={"x": "float[time, batch, 32]"} | states, outputs=["y", "h"], **weights)
        after = model.clone()
        apply(QuantizeDynamic(recurrent="computed", smallest=1), after)
        call = after.graph.node(-1)
        assert call.op_identifier() == ("tersor", "DynamicQuantizeGRU", direction + "_before_reset" * before)
        assert holds(QuantizeDynamic(recurrent="computed", smallest=1), model, {"time": 5, "batch": 2}) < 1e-3

    def test_a_weight_that_is_left_leaves_the_state_alone(self) -> None:
        model = lstm()
        apply(QuantizeDynamic(recurrent="computed", ignore=("kind:recurrent-hidden",)), model)
        assert ops(model) == ["DequantizeLinear", "LSTM"]

    @pytest.mark.parametrize(
        ("rule", "op", "inputs"),
        [
            ("op", "RNN{hidden_size=16}", "x, w, r"),
            ("lengths", "LSTM{hidden_size=16}", "x, w, r, _, n"),
            ("peepholes", "LSTM{hidden_size=16}", "x, w, r, _, _, _, _, p"),
            ("layout", "LSTM{hidden_size=16, layout=1}", "x, w, r"),
            ("activations", "GRU{hidden_size=16, clip=1.0}", "x, w, r"),
            ("activations", "GRU{hidden_size=16, activations=['Relu', 'Tanh']}", "x, w, r"),
        ],
    )
    def test_what_only_can_be_stored(self, rule: str, op: str, inputs: str) -> None:
        gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op[:4].rstrip("{")]
        fed = {"x": "float[5, 2, 32]"} | ({"n": "int32[2]"} if "n" in inputs else {})
        weights = {"w": normal(1, 16 * gates, 32), "r": normal(1, 16 * gates, 16)}
        weights |= {"p": normal(1, 48)} if "p" in inputs else {}
        model = graph(f"y = {op}({inputs})", inputs=fed, **weights)
        found = misses(QuantizeDynamic(recurrent="computed", smallest=1), model)
        assert [miss.rule for miss in found] == [rule, rule]
        assert all("recurrent=stored takes" in miss.need for miss in found)
        apply(QuantizeDynamic(smallest=1), model)
        assert ops(model).count("DequantizeLinear") == 2


class TestChoice:
    def model(self) -> ir.Model:
        weights = {f"enc.{i}.{name}.weight": normal(32, 32) for i in range(2) for name in ("q", "o")}
        text, last = [], "x"
        for name in weights:
            text.append(f"{name}.y = MatMul({last}, {name})")
            last = f"{name}.y"
        return graph(*text, inputs=X, **weights)

    @pytest.mark.parametrize(
        ("options", "chosen"),
        [
            ({}, {"enc.0.q", "enc.0.o", "enc.1.q", "enc.1.o"}),
            ({"only": ("enc.0.*",)}, {"enc.0.q", "enc.0.o"}),
            ({"only": ("*.q", "enc.1.o")}, {"enc.0.q", "enc.1.q", "enc.1.o"}),
            ({"ignore": ("*.q",)}, {"enc.0.o", "enc.1.o"}),
            ({"only": ("enc.0.*",), "ignore": ("*.q",)}, {"enc.0.o"}),
            ({"smallest": 1025}, set()),
        ],
    )
    def test_by_name_and_size(self, options: dict[str, tuple[str, ...]], chosen: set[str]) -> None:
        outcome = QuantizeDynamic(**options).apply(self.model(), Context())  # type: ignore[arg-type]
        assert {finding.place.split(" ")[0] for finding in outcome.findings if finding.miss is None} == chosen

    def test_explaining_says_the_same_and_leaves_the_model_alone(self) -> None:
        made = QuantizeDynamic(ignore=("*.q",))
        model = self.model()
        before = lines(model)
        explained = made.explain(model, Context())
        assert lines(model) == before
        assert made.apply(model, Context()) == explained


#: Of a weight of 16 levels.
CODES = np.arange(32 * 48, dtype=np.int32).reshape(32, 48) % 16
REFUSED = [
    ("only", linear(), {"only": ("other",)}, "a name like other"),
    ("ignore", linear(), {"ignore": ("*",)}, "a name unlike *"),
    ("kind", graph("y = Conv(x, k)", inputs={"x": "float[1, 8, 9, 9]"}, k=normal(16, 8, 3, 3)), {}, "kind linear"),
    ("kind", graph("y = Gather(t, i)", inputs={"i": "int64[n]"}, t=TABLE), {}, "the option embeddings=true"),
    (
        "weight",
        graph("v = Transpose(w)", "y = MatMul(x, v)", inputs=X, w=normal(48, 32)),
        {},
        "fold-constants",
    ),
    ("dtype", graph("y = MatMul(x, w)", inputs={"x": "double[n, 32]"}, w=W.astype(np.float64)), {}, "of float"),
    (
        "dtype",
        graph("y = MatMul(x, w)", inputs={"x": "float16[n, 32]"}, w=W.astype(np.float16)),
        {},
        "of float",
    ),
    ("size", linear(), {"smallest": 32 * 48 + 1}, "at least 1537"),
    ("finite", linear(w=np.where(W > 3, np.nan, W).astype(np.float32)), {}, "without NaN"),
    ("finite", linear(w=np.where(W > 3, np.inf, W).astype(np.float32)), {}, "without NaN"),
    ("op", graph("y = Conv(x, k)", inputs={"x": "float[1, 64, 9, 9]"}, k=normal(32, 64, 1, 1)), {}, "MatMul or Gemm"),
    (
        "quantized",
        graph("v = Gather(levels, codes)", "y = MatMul(x, v)", inputs=X, levels=normal(16), codes=CODES),
        {},
        "not quantized yet",
    ),
]


@pytest.mark.parametrize(
    ("rule", "model", "options", "need"), REFUSED, ids=[f"{i}-{c[0]}" for i, c in enumerate(REFUSED)]
)
def test_leaves_alone(rule: str, model: ir.Model, options: dict[str, object], need: str) -> None:
    made = QuantizeDynamic(**options)  # type: ignore[arg-type]
    (miss,) = misses(made, model)
    assert miss.rule == rule, miss
    assert need in miss.need
    before = lines(model)
    assert apply(made, model) == before


def test_leaves_weights_that_are_read_in_two_ways_alone() -> None:
    model = graph("h = Gather(t, i)", "y = MatMul(h, t)", inputs={"i": "int64[n]"}, t=normal(32, 32))
    assert [miss.rule for miss in misses(QuantizeDynamic(embeddings=True), model)] == ["tied", "tied"]
    cells = HELD["two cells of one weight"].model
    assert {miss.rule for miss in misses(QuantizeDynamic(recurrent="computed"), cells)} == {"tied"}
    assert misses(QuantizeDynamic(), cells) == []


def test_a_weight_of_two_layers_is_stored_once() -> None:
    weight = normal(32, 32)
    model = graph("a = MatMul(x, w)", "h = Relu(a)", "y = MatMul(h, w)", inputs=X, w=weight)
    apply(QuantizeDynamic(), model)
    is_quantized(model, "w", weight, 1, paired=0)
    assert ops(model).count("DynamicQuantizeLinear") == 2
    assert sum(value.dtype == ir.DataType.INT8 for value in model.graph.initializers.values()) == 1


def test_leaves_recurrent_weights_alone_when_told() -> None:
    assert [miss.rule for miss in misses(QuantizeDynamic(recurrent="none"), lstm())] == ["kind", "kind"]


def test_leaves_what_is_no_site_alone() -> None:
    for model in (
        graph("y = MatMul(x, z)", inputs={"x": "float[n, 32]", "z": "float[32, 8]"}),
        graph("y = my.MatMul(x, w)", w=W),
        graph("y = Mul(x, w)", inputs={"x": "float[32, 48]"}, w=W),
    ):
        assert misses(QuantizeDynamic(), model) == []


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        linear(),
        graph("a = MatMul(x, w)", "b = MatMul(x, v)", "y = Add(a, b)", inputs=X, w=W, v=V),
        graph("a = MatMul(x, w)", "b = Gemm(x, v, c)", inputs={"x": "float[8, 32]"}, w=W, v=V, c=B),
        graph("y = Gemm{transB=1, alpha=0.5}(x, w, c)", inputs={"x": "float[8, 32]"}, w=np.ascontiguousarray(W.T), c=B),
        graph("y = MatMul(w, x)", inputs={"x": "float[32, 5]"}, w=np.ascontiguousarray(W.T)),
        graph("h = Gather(t, i)", "y = MatMul(h, w)", inputs={"i": "int64[batch, n]"}, t=TABLE, w=W),
        graph("a = MatMul(x, w)", "h = Add(a, b)", "y = MatMul(h, w)", inputs=X, w=normal(32, 32), b=normal(32)),
        lstm(),
        lstm(2),
    ],
)
def test_holds(model: ir.Model, rows: bool) -> None:
    """Random weights of one size lose about 1e-4; the budget is for real ones."""
    loss = holds(QuantizeDynamic(rows=rows, embeddings=True, smallest=1), model)
    assert loss < QuantizeDynamic.contract.budget / 50  # type: ignore[union-attr]


def test_holds_inside_branches() -> None:
    model = inside_if(graph("y = MatMul(x, w)", inputs=X, w=W))
    assert [miss.rule for miss in misses(QuantizeDynamic(), model)] == ["tied", "tied"]
    assert violations(model, Level.SEMANTIC) == []


def test_rows_save_the_quiet_tokens_from_a_loud_one() -> None:
    """One row a thousand times louder takes nearly all levels of a scale for the whole tensor."""
    x = normal(16, 32)
    x[3] *= 1000
    quiet = np.delete(np.arange(16), 3)
    errors = {}
    for rows in (False, True):
        model = graph("y = MatMul(x, w)", "z = Gather(y, rest)", inputs=X, outputs=["z"], w=W, rest=quiet)
        after = model.clone()
        QuantizeDynamic(rows=rows).apply(after, Context())
        errors[rows] = compare(model, after, {"x": x}).relative_l2
    assert errors[True] < 0.02 < 0.5 < errors[False]


def test_rows_of_zeros_stay_zeros() -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    after = model.clone()
    QuantizeDynamic(rows=True).apply(after, Context())
    assert compare(model, after, {"x": np.zeros((2, 32), np.float32)}).relative_l2 == 0.0
