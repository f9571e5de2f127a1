"""Self-attention with its projections: com.microsoft Attention and QAttention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.expand_attention_mask import ExpandAttentionMask
from tersor.backends.onnxruntime.rules.fuse_packed_attention import FusePackedAttention
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.edit import constant_of
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.tests.backends.onnxruntime.attention_models import BOOLEAN, additive, feeds, normal, projected
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

TOLERANCE = FusePackedAttention.contract.tolerance  # type: ignore[union-attr]


def quantized(*args: object, **options: object) -> ir.Model:
    """With headroom, for 8-bit products saturate on x86 CPUs without VNNI, in the fused kernel alone."""
    model = projected(*args, **options)  # type: ignore[arg-type]
    QuantizeDynamic(smallest=1, headroom="bits").apply(model, Context())
    return model


def off_by(model: ir.Model, given: dict[str, np.ndarray]) -> float:
    """How far the fused kernel is from ai.onnx Attention, both on ONNX Runtime."""
    before, after = model.clone(), model.clone()
    ExpandAttentionMask().apply(before, Context())
    assert FusePackedAttention().apply(after, Context()).matches == 1
    return distance(on_onnxruntime(after, given), on_onnxruntime(before, given))


class TestRewrites:
    def test_three_projections_become_one(self) -> None:
        model = projected()
        weights = [constant_of(model.graph.initializers[f"w{name}"]) for name in "qkv"]
        biases = [constant_of(model.graph.initializers[f"b{name}"]) for name in "qkv"]
        assert apply(FusePackedAttention(), model) == [
            "y = com.microsoft.Attention{num_heads=4}(x, y/packed_weight, y/packed_bias)"
        ]
        np.testing.assert_array_equal(constant_of(model.graph.initializers["y/packed_weight"]), np.hstack(weights))
        np.testing.assert_array_equal(constant_of(model.graph.initializers["y/packed_bias"]), np.hstack(biases))

    @pytest.mark.parametrize(("biases", "missing"), [("", "qkv"), ("qv", "k"), ("k", "qv")])
    def test_a_missing_bias_is_zero(self, biases: str, missing: str) -> None:
        model = projected(biases=biases)
        apply(FusePackedAttention(), model)
        parts = np.split(constant_of(model.graph.initializers["y/packed_bias"]), 3)
        assert [name for name, part in zip("qkv", parts, strict=True) if not part.any()] == list(missing)

    @pytest.mark.parametrize(
        ("mask", "fill"), [(BOOLEAN, -3.4028235e38), (additive(), -3.4028235e38), (additive("-10000.0"), -1e4)]
    )
    def test_padding_becomes_a_mask_over_keys(self, mask: tuple[str, ...], fill: float) -> None:
        model = projected(mask)
        found = apply(FusePackedAttention(), model)
        assert found[0] == "y/Cast = Cast{to=6}(keep)"
        assert found[1].endswith("(x, y/packed_weight, y/packed_bias, y/Cast)")
        assert len(found) == 2
        assert model.graph.node(1).attributes["mask_filter_value"].as_float() == pytest.approx(fill)

    def test_scale_and_causality_become_attributes(self) -> None:
        (line,) = apply(FusePackedAttention(), projected(attributes="is_causal=1, scale=0.3"))
        assert line.startswith("y = com.microsoft.Attention{num_heads=4, scale=0.3, unidirectional=1}(x")

    def test_int8_projections_become_one(self) -> None:
        model = quantized(BOOLEAN)
        found = apply(FusePackedAttention(), model)
        assert [line.split(" = ")[1].split("(")[0].split("{")[0] for line in found] == [
            "DynamicQuantizeLinear",
            "Cast",
            "com.microsoft.QAttention",
        ]
        assert constant_of(model.graph.initializers["y/packed_weight"]).dtype == np.int8

    def test_in_branches(self) -> None:
        found = apply(FusePackedAttention(), inside_if(projected(BOOLEAN)))
        assert sum("com.microsoft.Attention" in line for line in found) == 2


HEADS, BARE = "{q_num_heads=4, kv_num_heads=4}", dict.fromkeys("qkv", "float[b, s, 16]")
REFUSED = [
    ("form", graph("y = Attention(q, k, v)", inputs=dict.fromkeys("qkv", "float[b, 4, s, 8]"))),
    ("heads", projected(heads=4, key_heads=2, widths={"k": 8, "v": 8})),
    ("cache", graph(f"(y, c) = Attention{HEADS}(q, k, v)", inputs=BARE)),
    ("softcap", projected(attributes="softcap=20.0")),
    ("dtype", graph(f"y = Attention{HEADS}(q, k, v)", inputs=dict.fromkeys("qkv", "float16[b, s, 16]"))),
    ("projections", graph(f"y = Attention{HEADS}(q, k, v)", inputs=BARE)),
    ("self-attention", projected(z="float[batch, keys, 16]")),
    ("widths", projected(widths={"v": 8})),
    ("readers", projected(more=("z = Neg(k)",))),
    ("mask", projected(("m = Unsqueeze(full, [1])",), full="bool[batch, sequence, sequence]")),
    ("mask", projected(("m = Unsqueeze(half, [1, 2])",), half="float[batch, sequence]")),
    ("mask", projected(("u = Unsqueeze(keep, [1, 2])", "m = Where(u, 1.0, -10000.0)"))),
    ("mask", projected(("u = Unsqueeze(keep, [1, 2])", "m = Where(u, 0.0, -inf)"))),
    ("mask", projected(("u = Unsqueeze(keep, [1, 2])", "m = Where(u, -10000.0, 0.0)"))),
    ("mask", projected(("m = Unsqueeze(keep, [0, 2])",), keep="bool[4, keys]")),
    ("mask", projected(BOOLEAN, keep="bool[1, keys]")),
    ("mask", projected(BOOLEAN, keep="bool[batch, 1]")),
    ("mask", projected(additive(), "is_causal=1")),
]


@pytest.mark.parametrize(("rule", "model"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, model: ir.Model) -> None:
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
    (miss,) = misses(FusePackedAttention(), model)
    assert miss.rule == rule, miss
    before = lines(model)
    assert apply(FusePackedAttention(), model) == before


@pytest.mark.parametrize("name", ["wq", "bk"])
def test_leaves_alone_weights_that_the_caller_may_override(name: str) -> None:
    model = projected()
    model.graph.inputs.append(model.graph.initializers[name])
    (miss,) = misses(FusePackedAttention(), model)
    assert miss.rule == "projections"


@pytest.mark.parametrize(("stored", "rule"), [("q", "precision"), ("k", "precision"), ("qkv", "precision")])
def test_leaves_alone_int8_weights_without_int8_activations(stored: str, rule: str) -> None:
    """A layer of int8 columns whose activation stays float is no QAttention, whichever of the three it is."""
    text, weights = [], {}
    for name in "qkv":
        if name in stored:
            weights |= {f"w{name}": np.ones((16, 16), np.int8), f"s{name}": np.ones(16, np.float32)}
            text += [f"d{name} = DequantizeLinear{{axis=1}}(w{name}, s{name})", f"{name} = MatMul(x, d{name})"]
        else:
            weights[f"w{name}"] = normal(16, 16)
            text.append(f"{name} = MatMul(x, w{name})")
    last = "y = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v)"
    model = graph(*text, last, inputs={"x": "float[batch, sequence, 16]"}, **weights)
    (miss,) = misses(FusePackedAttention(), model)
    assert miss.rule == rule


def test_leaves_alone_projections_whose_scales_belong_to_other_numbers() -> None:
    """A DequantizeLinear whose scale is not that of the quantizer behind it undoes no quantizer."""
    model = quantized()
    back = next(node for node in model.graph if node.op_type == "DequantizeLinear" and "axis" not in node.attributes)
    scale = ir.Value(
        name="other", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]), const_value=ir.tensor(np.float32(2))
    )
    model.graph.register_initializer(scale)
    back.replace_input_with(1, scale)
    (miss,) = misses(FusePackedAttention(), model)
    assert miss.rule == "projections"


MODELS = {
    "plain": projected(),
    "without biases": projected(biases=""),
    "with two biases": projected(biases="qv"),
    "boolean padding": projected(BOOLEAN),
    "additive padding": projected(additive()),
    "mild additive padding": projected(additive("-10000.0")),
    "causal": projected(attributes="is_causal=1"),
    "causal and padded": projected(BOOLEAN, "is_causal=1"),
    "causal and mildly padded": projected(additive("-10000.0"), "is_causal=1"),
    "scaled": projected(BOOLEAN, "scale=0.7"),
}


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_the_same(name: str, batch: int, sequence: int) -> None:
    assert off_by(MODELS[name], feeds(MODELS[name], batch, sequence)) <= TOLERANCE


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (3, 5)])
@pytest.mark.parametrize(
    "model", [quantized(), quantized(biases=""), quantized(BOOLEAN), quantized(attributes="is_causal=1, scale=0.3")]
)
def test_onnxruntime_computes_the_same_in_int8(model: ir.Model, batch: int, sequence: int) -> None:
    """The same integers are multiplied; only the order of the float sums behind them differs."""
    assert off_by(model, feeds(model, batch, sequence)) <= TOLERANCE


def test_a_query_that_no_key_may_answer_gets_their_mean() -> None:
    """ONNX defines no number there; the others are not touched by it."""
    model = projected(BOOLEAN)
    given = feeds(model, 3, 5)
    given["keep"][2] = False
    before, after = model.clone(), model.clone()
    ExpandAttentionMask().apply(before, Context())
    FusePackedAttention().apply(after, Context())
    (expected,), (found,) = on_onnxruntime(before, given), on_onnxruntime(after, given)
    assert distance([found[:2]], [expected[:2]]) <= TOLERANCE
    values = given["x"][2] @ constant_of(model.graph.initializers["wv"]) + constant_of(model.graph.initializers["bv"])
    np.testing.assert_allclose(found[2], np.broadcast_to(values.mean(axis=0), (5, 16)), rtol=1e-4, atol=1e-5)


def test_an_additive_mask_over_every_key_is_the_softmax_of_the_scores() -> None:
    """Finite fill on every key: ONNX defines the softmax of the scores as far as float32 still tells them apart."""
    for fill in ("-10000.0", "-3.4028234663852886e+38"):
        model = projected(additive(fill))
        given = feeds(model, 3, 5)
        given["keep"][2] = False
        after = model.clone()
        FusePackedAttention().apply(after, Context())
        assert distance(on_onnxruntime(after, given), [runner(model)(given)["y"]]) <= TOLERANCE


@pytest.mark.parametrize("name", ["plain", "boolean padding", "causal and padded"])
def test_holds(name: str) -> None:
    holds(FusePackedAttention(), MODELS[name])
