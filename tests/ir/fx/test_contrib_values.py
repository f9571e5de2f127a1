"""Attributes and optional inputs of the contrib ops, one by one, against ONNX Runtime's CPU kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph
from tersor.tests.ir.fx.conftest import expected

Array = np.ndarray
Check = Callable[..., dict[str, Array]]
RNG = np.random.default_rng(0)
B, S, N, D, PAST = 2, 4, 2, 8, 3
H = N * D
_NAMES = {"float32": "float", "float16": "float16"}


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def bits(*shape: int) -> Array:
    return RNG.integers(0, 2, shape).astype(np.int32)


def bytes_(*shape: int) -> Array:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def small(*shape: int) -> Array:
    """int8 of which pairs of products do not saturate in ONNX Runtime's AVX2 kernels."""
    return RNG.integers(-60, 60, shape).astype(np.int8)


def agree(check: Check, line: str, feeds: dict[str, Array], tolerance: float = 1e-5, **constants: object) -> None:
    types = {n: f"{_NAMES.get(str(x.dtype), x.dtype)}[{', '.join(map(str, x.shape))}]" for n, x in feeds.items()}
    outputs, _, call = line.partition(" = ")
    domain = "" if call.startswith("Simplified") else "com.microsoft."
    check(f"{outputs} = {domain}{call}", feeds=feeds, constants=constants, tolerance=tolerance, **types)


X = {"x": floats(B, S, H)}
PROJECTION = {"w": floats(H, 3 * H) * 0.3, "b": floats(3 * H)}


@pytest.mark.parametrize(
    ("options", "names", "more"),
    [
        ("mask_filter_value=-3.0", "m", {"m": bits(B, S)}),
        ("mask_filter_value=-3.0, unidirectional=1", "m", {"m": bits(B, S)}),
        ("scale=0.3", "m", {"m": np.array([0, 3], np.int32)}),
        ("unidirectional=0", "m, _, a", {"m": bits(B, S), "a": floats(B, 1, S, S)}),
        ("unidirectional=1", "_, _, a", {"a": floats(B, N, S, S)}),
        ("unidirectional=1", "_, past", {"past": floats(2, B, N, 0, D)}),
        ("unidirectional=1", "m, past", {"m": np.array([5, 7], np.int32), "past": floats(2, B, N, PAST, D)}),
        ("unidirectional=0", "m, past", {"m": np.array([5, 7, 1, 0], np.int32), "past": floats(2, B, N, PAST, D)}),
        (f"qkv_hidden_sizes=[{H}, {H}, {H}]", "_", {}),
    ],
)
def test_attention(check: Check, options: str, names: str, more: dict[str, Array]) -> None:
    outputs = "(y, p)" if "past" in more else "y"
    agree(check, f"{outputs} = Attention{{num_heads={N}, {options}}}(x, w, b, {names})", X | more, 1e-4, **PROJECTION)


@pytest.mark.parametrize(
    ("options", "names", "more"),
    [
        ("unidirectional=1", "_, qz, z", {}),
        ("mask_filter_value=-2.0", "m, qz, z", {"m": bits(B, S)}),
        ("mask_filter_value=-2.0, unidirectional=1", "m, qz, z", {"m": bits(B, S, S)}),
        ("scale=0.3", "m, qz, z", {"m": np.array([2, 4], np.int32)}),
        ("past_present_share_buffer=0", "_", {}),
        ("unidirectional=1", "m, qz, z, past", {"m": bits(B, S + PAST), "past": floats(2, B, N, PAST, D)}),
        ("unidirectional=0", "_, qz, columns", {}),
    ],
)
def test_qattention(check: Check, options: str, names: str, more: dict[str, Array]) -> None:
    columns = "columns" in names
    constants = {"w": small(H, 3 * H), "b": floats(3 * H), "qs": np.float32(0.03), "qz": np.uint8(120)}
    constants |= {"z": np.int8(0), "columns": np.zeros(3 * H, np.int8)}
    constants["s"] = RNG.random(3 * H, np.float32) * 0.01 if columns else np.float32(0.01)
    line = f"QAttention{{num_heads={N}, {options}}}(q, w, b, qs, s, {names})"
    used = {n: x for n, x in constants.items() if f" {n}" in line.replace("(", " ")}
    outputs = "(y, p)" if "past" in more else "y"
    agree(check, f"{outputs} = {line}", {"q": bytes_(B, S, H)} | more, 1e-4, **used)


QKV = {name: floats(B, S, H) for name in "qkv"}
CACHE = {name: floats(B, N, PAST, D) for name in ("pk", "pv")}


@pytest.mark.parametrize(
    ("options", "names", "feeds"),
    [
        ("scale=0.3", "q, k, v, _, m", QKV | {"m": np.array([2, 4], np.int32)}),
        ("scale=0.3", "q, k, v, _, m", QKV | {"m": np.array([2, 3, 0, 4, 8, 0, 2, 5], np.int32)}),
        ("scale=0.3", "q, k, v, _, m", QKV | {"m": bits(B, S, S)}),
        ("mask_filter_value=-2.0", "q, k, v, _, m", QKV | {"m": bits(B, S)}),
        ("mask_filter_value=-2.0, unidirectional=1", "q, k, v, _, m", QKV | {"m": bits(B, S)}),
        (
            "unidirectional=1",
            "q, k, v, b, m, a, pk, pv",
            QKV | CACHE | {"m": bits(B, S + PAST), "a": floats(B, N, S, S + PAST)},
        ),
        ("unidirectional=0", "q, k, v, b, _, a, pk, pv", QKV | CACHE | {"a": floats(1, 1, S, S + PAST)}),
        ("unidirectional=0", "q, k, v", {"q": floats(B, S, H), "k": floats(B, 7, H), "v": floats(B, 7, 24)}),
    ],
)
def test_multi_head_attention(check: Check, options: str, names: str, feeds: dict[str, Array]) -> None:
    constants = {"b": PROJECTION["b"]} if " b," in names else {}
    outputs = "(y, nk, nv)" if "pk" in feeds else "y"
    agree(check, f"{outputs} = MultiHeadAttention{{num_heads={N}, {options}}}({names})", feeds, 1e-4, **constants)


def test_causal_rows_are_counted_from_the_end_of_the_past() -> None:
    fed = {"q": floats(B, 3, H), "k": floats(B, 5, H), "v": floats(B, 5, H)}
    inputs = {name: f"float[{', '.join(map(str, x.shape))}]" for name, x in fed.items()}
    line = f"y = com.microsoft.MultiHeadAttention{{num_heads={N}, unidirectional=1}}(q, k, v)"
    model = graph(line, inputs=inputs)
    (found,), (wanted,) = Interpreter(to_fx(model)).run(fed).values(), expected(model, fed)
    # ONNX Runtime leaves the last row without a mask, whatever keys there are
    np.testing.assert_allclose(found[:, :-1], wanted[:, :-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(B, S, H), (1, S, H), (S, H)])
def test_skipped_sums_may_be_shared_by_the_batch(check: Check, shape: tuple[int, ...]) -> None:
    fed, weights = X | {"k": floats(*shape)}, {name: floats(H) for name in "gei"}
    agree(check, "(y, _, _, t) = SkipLayerNormalization(x, k, g, e, i)", fed, **weights)
    del weights["e"]
    agree(check, "(y, _, _, t) = SkipSimplifiedLayerNormalization(x, k, g, i)", fed, **weights)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("epsilon", ["", "{epsilon=0.01}"])
def test_the_epsilon_that_is_left_out(check: Check, op: str, epsilon: str) -> None:
    fed = {name: floats(6, H) * 1e-4 for name in "xk"}
    agree(check, f"y = {op}{epsilon}(x, k, g)", fed, g=floats(H))


@pytest.mark.parametrize("axis", [-1, 1])
def test_a_norm_has_the_type_of_its_scale(check: Check, axis: int) -> None:
    fed = {"x": floats(B, S, H).astype(np.float16)}
    agree(
        check, f"y = SimplifiedLayerNormalization{{axis={axis}}}(x, g)", fed, g=floats(*((S, H) if axis > 0 else (H,)))
    )


IDS = {"i": RNG.integers(0, 9, (B, S)).astype(np.int32)}
MORE_IDS = IDS | {"s": bits(B, S), "m": np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.int32)}


@pytest.mark.parametrize(
    ("line", "feeds"),
    [
        ("(y, n) = EmbedLayerNormalization(i, _, w, p, _, g, e)", IDS),
        ("(y, n) = EmbedLayerNormalization(i, _, w, p, _, g, e, m)", {n: MORE_IDS[n] for n in "im"}),
        (
            "(y, n) = EmbedLayerNormalization(i, s, w, p, u, g, e, m, q)",
            MORE_IDS | {"q": RNG.integers(0, 7, (B, S)).astype(np.int32)},
        ),
        (
            "(y, n, t) = EmbedLayerNormalization{epsilon=0.1}(i, s, w, p, u, g, e, m, q)",
            MORE_IDS | {"q": RNG.integers(0, 7, (1, S)).astype(np.int32)},
        ),
        ("(y, n, t) = EmbedLayerNormalization{mask_index_type=1}(i, s, w, p, u, g, e, m)", MORE_IDS),
    ],
)
def test_embeddings(check: Check, line: str, feeds: dict[str, Array]) -> None:
    constants = {"w": floats(9, H), "p": floats(7, H), "g": floats(H), "e": floats(H)}
    agree(check, line, feeds, **constants, **({"u": floats(2, H)} if "s" in feeds else {}))


ANGLES = RNG.random((16, D // 2), np.float32) * 3
PLACES = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(
    ("options", "shape", "width"),
    [
        ("num_heads=0", (B, S, H), D),
        (f"num_heads={N}, rotary_embedding_dim={D}", (B, S, H), D),
        (f"num_heads={N}, rotary_embedding_dim=4", (B, S, H), 4),
        (f"num_heads={N}, rotary_embedding_dim=4", (B, N, S, D), 4),
        ("is_packed_batching=1", (B, S, H), D),
    ],
)
def test_rotary_embedding(check: Check, interleaved: int, options: str, shape: tuple[int, ...], width: int) -> None:
    line = f"y = RotaryEmbedding{{interleaved={interleaved}, {options}}}(x, p, c, s)"
    caches = {name: part[:, : width // 2] for name, part in (("c", np.cos(ANGLES)), ("s", np.sin(ANGLES)))}
    agree(check, line, {"x": floats(*shape), "p": PLACES}, **caches)


ACTIVATIONS = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"), ""),
    **dict.fromkeys(("LeakyRelu", "Elu", "ThresholdedRelu"), ", activation_alpha=0.3"),
    **dict.fromkeys(("HardSigmoid", "ScaledTanh", "ParametricSoftplus"), ", activation_alpha=0.5, activation_beta=0.7"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_gemm(check: Check, name: str) -> None:
    options = f"activation='{name}'{ACTIVATIONS[name]}, transA=1, transB=1, beta=0.3, alpha=0.4"
    agree(check, f"y = FusedGemm{{{options}}}(a, b, c)", {"a": floats(4, 3), "b": floats(5, 4)}, c=floats(3, 1))


@pytest.mark.parametrize(
    "options",
    [
        "activation='Clip', activation_params=[-0.5, 0.6]",
        "activation='LeakyRelu', activation_params=[0.2]",
        "activation='HardSigmoid', activation_params=[0.3, 0.4]",
        "activation='Tanh'",
    ],
)
def test_activations_of_convolutions(check: Check, options: str) -> None:
    more = "group=2, strides=[2, 1], dilations=[1, 2], pads=[1, 0, 2, 1], kernel_shape=[3, 2]"
    weights = {"w": floats(6, 2, 3, 2), "b": floats(6)}
    agree(check, f"y = FusedConv{{{options}, {more}}}(x, w, b)", {"x": floats(1, 4, 6, 7)}, **weights)


@pytest.mark.parametrize("code", range(16))
def test_transposed_batches(check: Check, code: int) -> None:
    left, right, first, second = (code >> place & 1 for place in range(4))
    a, b = (2, 6, 4, 3) if left else (2, 6, 3, 4), (2, 6, 5, 4) if right else (2, 6, 4, 5)
    a, b = ((shape[2], *shape[:2], shape[3]) if turned else shape for shape, turned in ((a, first), (b, second)))
    options = f"transA={left}, transB={right}, transBatchA={first}, transBatchB={second}"
    agree(check, f"y = FusedMatMul{{{options}}}(a, b)", {"a": floats(*a), "b": floats(*b)})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("zero", [np.int8(3), small(5)])
def test_integer_products(check: Check, dtype: type, zero: Array) -> None:
    scale = RNG.random(5, np.float32) * 0.1 if zero.shape else np.float32(0.02)
    constants = {"w": small(H, 5), "s": np.float32(0.03), "t": scale, "z": dtype(7), "q": zero, "b": floats(5)}
    a = RNG.integers(0, 100, (2, 3, H)).astype(dtype)
    agree(check, "y = MatMulIntegerToFloat(a, w, s, t, z, q, b)", {"a": a}, **constants)
    del constants["s"], constants["z"]
    agree(check, "y = DynamicQuantizeMatMul(x, w, t, q, b)", X, 1e-4, **constants)


@pytest.mark.parametrize("options", ["", "{alpha=0.5}", "{transA=1}"])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (3, 1)])
def test_qgemm(check: Check, options: str, shape: tuple[int, ...]) -> None:
    constants = {"w": small(H, 5), "t": np.float32(0.02), "q": np.int8(0), "s": np.float32(0.03), "z": np.uint8(7)}
    constants["c"] = RNG.integers(-500, 500, shape).astype(np.int32)
    a = bytes_(*((H, 3) if "trans" in options else (3, H))) // 2
    agree(check, f"y = QGemm{options}(a, s, z, w, t, q, c)", {"a": a}, **constants)


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        "kernel_shape=[3, 2], auto_pad='SAME_UPPER'",
        "kernel_shape=[3, 2], auto_pad='SAME_LOWER', strides=[2, 2]",
        "kernel_shape=[3, 2], auto_pad='VALID', strides=[2, 2]",
        "kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1",
        "kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1",
    ],
)
def test_quantized_pools(check: Check, channels_last: int, options: str) -> None:
    constants = {"s": np.float32(0.05), "z": np.uint8(3), "o": np.float32(0.07), "r": np.uint8(100)}
    line = f"y = QLinearAveragePool{{{options}, channels_last={channels_last}}}(a, s, z, o, r)"
    agree(check, line, {"a": bytes_(2, 8, 9, 6)}, 3e-3, **constants)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shape", [(7,), (3, 1, 1), (), (5, 1)])
def test_quantized_broadcasts(check: Check, op: str, shape: tuple[int, ...]) -> None:
    constants = {"s": np.float32(0.05), "z": np.uint8(3), "t": np.float32(0.03), "u": np.uint8(9)}
    constants |= {"o": np.float32(0.07), "r": np.uint8(100)}
    fed = {"a": bytes_(2, 3, 5, 7), "b": np.asarray(bytes_(*shape))}
    agree(check, f"y = {op}(a, s, z, b, t, u, o, r)", fed, 3e-3, **constants)
    agree(check, f"y = {op}(b, s, z, a, t, u, o, r)", fed, 3e-3, **constants)


@pytest.mark.parametrize("opset", [12, 13])
@pytest.mark.parametrize("axis", [-1, 0, 2])
def test_quantized_softmax(check: Check, opset: int, axis: int) -> None:
    constants = {"s": np.float32(0.05), "z": np.uint8(3), "o": np.float32(1 / 256), "r": np.uint8(0)}
    line = f"y = QLinearSoftmax{{axis={axis}, opset={opset}}}(a, s, z, o, r)"
    agree(check, line, {"a": bytes_(2, 3, 4, 5)}, 1e-2, **constants)


GATES = {
    "['HardSigmoid', 'Relu', 'LeakyRelu']": "activation_alpha=[0.3, 0.2], activation_beta=[0.4]",
    "['Sigmoid', 'Softsign', 'Softplus']": "clip=9.0",
    "['Sigmoid', 'Affine', 'ScaledTanh']": "activation_alpha=[0.3, 0.2], activation_beta=[0.4, 0.9]",
    "['Sigmoid', 'ThresholdedRelu', 'Elu']": "activation_alpha=[0.1, 0.9]",
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("direction='reverse'", "_, _, _, _"),
        ("direction='bidirectional'", "n, i, j, _"),
        ("direction='reverse'", "n, _, _, _"),
        ("direction='forward'", "n, i, j, p"),
        ("clip=0.5", "_, i, j, p"),
        ("input_forget=1", "_, _, _, _"),
        *((f"activations={names}, {more}", "_, _, _, _") for names, more in GATES.items()),
    ],
)
def test_quantized_lstm(check: Check, batch: int, options: str, names: str) -> None:
    count, hidden = (2 if "bidirectional" in options else 1), 8
    wide = (count, 4 * hidden)
    constants = {
        "w": small(count, 6, 4 * hidden),
        "r": small(count, hidden, 4 * hidden),
        "b": floats(count, 8 * hidden),
    }
    constants |= {name: RNG.random(wide, np.float32) * 0.01 + 0.002 for name in ("ws", "rs")}
    constants |= {"z": np.zeros(wide, np.int8), "p": floats(count, 3 * hidden)}
    constants |= {name: floats(count, batch, hidden) for name in "ij"} | {"n": np.array([4, 3, 2][:batch], np.int32)}
    line = f"(y, h, c) = DynamicQuantizeLSTM{{hidden_size={hidden}, {options}}}(x, w, r, b, {names}, ws, z, rs, z)"
    used = {
        name: x
        for name, x in constants.items()
        if name in ["w", "r", "b", "ws", "rs", "z"] or name in names.split(", ")
    }
    agree(check, line, {"x": floats(5, batch, 6)}, 2e-4, **used)


EXPERTS, INNER, WIDE = 4, 64, 32


@pytest.mark.parametrize("bits_", [2, 4, 8])
@pytest.mark.parametrize("weights", [False, True])
def test_experts_with_zero_points_of_whole_rows(check: Check, bits_: int, weights: bool) -> None:
    constants: dict[str, object] = {}
    for name, rows, columns in (("one", INNER, WIDE), ("two", WIDE, INNER)):
        constants[name] = bytes_(EXPERTS, rows, columns * bits_ // 8)
        constants[f"{name}_s"] = RNG.random((EXPERTS, rows), np.float32) * 0.02
        constants[f"{name}_z"] = bytes_(EXPERTS, rows * bits_ // 8)
    options = f"k=2, expert_weight_bits={bits_}, weights_prepacked=0, activation_type='silu'"
    options += "" if weights else ", normalize_routing_weights=1"
    names = "x, r, one, one_s, _, two, two_s, _, _, _, _, one_z, two_z" + (", _, f" if weights else "")
    fed = {
        "x": floats(6, WIDE),
        "r": floats(6, EXPERTS),
        **({"f": RNG.random((6, EXPERTS), np.float32)} if weights else {}),
    }
    agree(check, f"y = QMoE{{{options}}}({names})", fed, 1e-4, **constants)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("normalize", [0, 1])
@pytest.mark.parametrize("kind", ["identity", "gelu"])
def test_shares_of_experts(check: Check, count: int, normalize: int, kind: str) -> None:
    constants = {"one": floats(EXPERTS, INNER, WIDE) * 0.1, "two": floats(EXPERTS, WIDE, INNER) * 0.1}
    options = f"k={count}, normalize_routing_weights={normalize}, activation_type='{kind}'"
    fed = {"x": floats(6, WIDE), "r": floats(6, EXPERTS)}
    agree(check, f"y = MoE{{{options}}}(x, r, one, _, two)", fed, 2e-5, **constants)
