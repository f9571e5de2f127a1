"""The contrib attentions' rarer forms: against ONNX Runtime where it has a CPU kernel, else against the plain op."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]
RNG = np.random.default_rng(0)
B, S, N, D, PAST, LONG = 2, 3, 2, 8, 4, 9
H = N * D
X, CACHE = f"float[{B}, {S}, {H}]", f"float[{B}, {N}, {PAST}, {D}]"
WEIGHTS = {"w": RNG.standard_normal((H, 3 * H)).astype(np.float32) * 0.3, "b": RNG.random(3 * H, np.float32)}


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def run(line: str, feeds: dict[str, np.ndarray], **constants: object) -> dict[str, np.ndarray]:
    return Interpreter(to_fx(graph(line, **constants))).run(feeds)


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        ("_", ""),
        ("m", f"int32[{B}, {PAST + S}]"),
        ("m", f"int32[{B}, {S}, {PAST + S}]"),
    ],
)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_a_past(check: Check, mask: str, kind: str, causal: int) -> None:
    line = f"(y, p) = com.microsoft.Attention{{num_heads={N}, unidirectional={causal}}}(x, w, b, {mask}, past)"
    types = {"x": X, "past": f"float[2, {B}, {N}, {PAST}, {D}]", **({"m": kind} if kind else {})}
    check(line, constants=WEIGHTS, **types)


@pytest.mark.parametrize("kind", [f"float[{B}, {N}, {S}, {S}]", f"float[1, 1, {S}, {S}]"])
def test_attention_bias(check: Check, kind: str) -> None:
    check(f"y = com.microsoft.Attention{{num_heads={N}, scale=0.2}}(x, w, b, _, _, a)", x=X, a=kind, constants=WEIGHTS)


def test_value_of_another_width(check: Check) -> None:
    constants = {"w": floats(H, 2 * H + 6), "b": RNG.random(2 * H + 6, np.float32)}
    line = f"y = com.microsoft.Attention{{num_heads={N}, qkv_hidden_sizes=[{H}, {H}, 6]}}(x, w, b)"
    check(line, x=X, constants=constants)


def test_attention_over_a_buffer_is_attention_over_its_filled_part() -> None:
    x, past = floats(B, S, H), floats(2, B, N, LONG, D)
    options = f"num_heads={N}, unidirectional=1"
    filled = np.array([PAST], np.int32)
    line = f"(y, p) = com.microsoft.Attention{{{options}, past_present_share_buffer=1}}(x, w, b, _, past, _, n)"
    whole = run(line, {"x": x, "past": past}, **WEIGHTS, n=filled)
    plain = f"(y, p) = com.microsoft.Attention{{{options}}}(x, w, b, _, past)"
    part = run(plain, {"x": x, "past": past[:, :, :, :PAST]}, **WEIGHTS)
    np.testing.assert_allclose(whole["y"], part["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(whole["p"][:, :, :, : PAST + S], part["p"])
    np.testing.assert_array_equal(whole["p"][:, :, :, PAST + S :], past[:, :, :, PAST + S :])


def test_attention_turns_by_position() -> None:
    # scores depend on distances only, so a turned query and key with a past equal the tail of the whole sequence
    x = floats(1, 6, H)
    line = f"(y, p) = com.microsoft.Attention{{num_heads={N}, do_rotary=1, unidirectional=1}}"
    whole = run(f"{line}(x, w, b)", {"x": x}, **WEIGHTS)
    first = run(f"{line}(x, w, b)", {"x": x[:, :4]}, **WEIGHTS)
    rest = run(f"{line}(x, w, b, _, past)", {"x": x[:, 4:], "past": first["p"]}, **WEIGHTS)
    np.testing.assert_allclose(rest["y"], whole["y"][:, 4:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", ["_", "b"])
@pytest.mark.parametrize(
    ("mask", "kind"),
    [("_", ""), ("m", f"int32[{B}]"), ("m", f"int32[{B}, {PAST + S}]"), ("m", f"int32[{B}, {S}, {PAST + S}]")],
)
def test_multi_head_with_a_past(check: Check, bias: str, mask: str, kind: str) -> None:
    line = f"(y, nk, nv) = com.microsoft.MultiHeadAttention{{num_heads={N}}}(q, k, v, {bias}, {mask}, _, pk, pv)"
    types = {**dict.fromkeys("qkv", X), "pk": CACHE, "pv": CACHE, **({"m": kind} if kind else {})}
    check(line, constants={"b": WEIGHTS["b"]} if bias == "b" else {}, **types)


def test_cross_attention(check: Check) -> None:
    line = f"y = com.microsoft.MultiHeadAttention{{num_heads={N}, scale=0.4}}"
    types = {"q": X, **dict.fromkeys("kv", f"float[{B}, 5, {H}]")}
    check(f"{line}(q, k, v, b, m)", constants={"b": WEIGHTS["b"]}, m=f"int32[{B}, 5]", **types)
    types = {"q": X, **dict.fromkeys("kv", f"float[{B}, {N}, 5, {D}]")}
    check(f"{line}(q, k, v)", **types)
    check(f"{line}(q, k, v, _, _, a)", a=f"float[1, {N}, {S}, 5]", **types)


def test_scores_are_the_fourth_output() -> None:
    fed = {name: floats(B, S, H) for name in "qkv"}
    line = f"(y, nk, nv, s) = com.microsoft.MultiHeadAttention{{num_heads={N}}}(q, k, v)"
    found = run(line, fed)
    q, k = (fed[name].reshape(B, S, N, D).transpose(0, 2, 1, 3) for name in "qk")
    np.testing.assert_allclose(found["s"], q @ k.transpose(0, 1, 3, 2) / D**0.5, rtol=1e-4, atol=1e-5)


def test_a_mask_of_the_longest_length_is_cut_to_the_rows_there_are() -> None:
    longest = RNG.integers(0, 2, (B, 1, LONG, LONG), np.int32) | np.eye(LONG, dtype=np.int32)
    fed = {"x": floats(B, S, H), "past": floats(2, B, N, PAST, D)}
    line = f"y = com.microsoft.Attention{{num_heads={N}}}(x, w, b, m, past)"
    found = run(line, {**fed, "m": longest}, **WEIGHTS)
    wanted = run(line, {**fed, "m": longest[:, 0, PAST : PAST + S, : PAST + S]}, **WEIGHTS)
    np.testing.assert_array_equal(found["y"], wanted["y"])


@pytest.mark.parametrize("packed", [False, True])
def test_decoder_masked_multi_head_attention(packed: bool) -> None:
    fed = {name: floats(B, 1, H) for name in "qkv"} | {name: floats(B, N, PAST, D) for name in ("pk", "pv")}
    wanted = run(f"y = com.microsoft.MultiHeadAttention{{num_heads={N}}}(q, k, v, _, _, _, pk, pv)", fed)
    line = f"y = com.microsoft.DecoderMaskedMultiHeadAttention{{num_heads={N}}}"
    if packed:
        together = {"q": np.concatenate([fed[name] for name in "qkv"], -1), "pk": fed["pk"], "pv": fed["pv"]}
        found = run(f"{line}(q, _, _, _, _, pk, pv)", together)
    else:
        found = run(f"{line}(q, k, v, _, _, pk, pv)", fed)
    np.testing.assert_array_equal(found["y"], wanted["y"])


def test_decoder_masked_over_a_buffer() -> None:
    fed = {name: floats(B, 1, H) for name in "qkv"} | {name: floats(B, N, LONG, D) for name in ("pk", "pv")}
    name = f"(y, nk, nv) = com.microsoft.DecoderMaskedMultiHeadAttention{{num_heads={N}"
    shared = f"{name}, past_present_share_buffer=1}}(q, k, v, _, _, pk, pv, n)"
    whole = run(shared, fed, n=np.array([PAST], np.int32))
    cut = {**fed, "pk": fed["pk"][:, :, :PAST], "pv": fed["pv"][:, :, :PAST]}
    part = run(f"{name}}}(q, k, v, _, _, pk, pv)", cut)
    np.testing.assert_allclose(whole["y"], part["y"], rtol=1e-5, atol=1e-6)


def test_decoder_masked_self_attention() -> None:
    fed = {"x": floats(B, 1, H), "past": floats(2, B, N, LONG, D)}
    options = f"num_heads={N}, past_present_share_buffer=1"
    one = np.array([PAST], np.int32)
    line = f"(y, p) = com.microsoft.DecoderMaskedSelfAttention{{{options}}}(x, w, b, _, past, _, n)"
    other = f"(y, p) = com.microsoft.Attention{{{options}}}(x, w, b, _, past, _, n)"
    found, wanted = run(line, fed, **WEIGHTS, n=one), run(other, fed, **WEIGHTS, n=one)
    np.testing.assert_array_equal(found["y"], wanted["y"])


def test_beams_are_refused() -> None:
    fed = {name: floats(B, 1, H) for name in "qkv"} | {"i": np.zeros((B, 1, LONG), np.int32)}
    line = f"y = com.microsoft.MultiHeadAttention{{num_heads={N}}}(q, k, v, _, _, _, _, _, _, i)"
    with pytest.raises(ModelError, match="cache_indirection"):
        run(line, fed)


LENGTHS = np.array([2, 3], np.int32)
REAL = np.array([0, 1, 3, 4, 5])
OFFSETS = np.array([[0, 1, 3], [4, 5, 2]], np.int32)
CUMULATED = np.array([0, 2, 5], np.int32)


def test_packed_attention_is_attention_without_the_padding() -> None:
    x, bias = floats(B, S, H), floats(B, N, S, S)
    options = f"{{num_heads={N}}}"
    wanted = run(f"y = com.microsoft.Attention{options}(x, w, b, n, _, a)", {"x": x, "a": bias}, **WEIGHTS, n=LENGTHS)
    line = f"y = com.microsoft.PackedAttention{options}(x, w, b, o, c, a)"
    found = run(line, {"x": x.reshape(-1, H)[REAL], "o": OFFSETS, "c": CUMULATED, "a": bias}, **WEIGHTS)
    np.testing.assert_allclose(found["y"], wanted["y"].reshape(-1, H)[REAL], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("together", [False, True])
def test_packed_multi_head_attention(together: bool) -> None:
    parts = {name: floats(B, S, H) for name in "qkv"}
    options = f"{{num_heads={N}}}"
    wanted = run(f"y = com.microsoft.MultiHeadAttention{options}(q, k, v, b, n)", parts, b=WEIGHTS["b"], n=LENGTHS)
    real = {name: part.reshape(-1, H)[REAL] for name, part in parts.items()}
    where = {"o": OFFSETS, "c": CUMULATED}
    if together:
        packed = np.stack([part.reshape(-1, N, D) for part in real.values()], 2)
        line = f"y = com.microsoft.PackedMultiHeadAttention{options}(q, _, _, b, o, c)"
        found = run(line, {"q": packed, **where}, b=WEIGHTS["b"])
    else:
        line = f"y = com.microsoft.PackedMultiHeadAttention{options}(q, k, v, b, o, c)"
        found = run(line, {**real, **where}, b=WEIGHTS["b"])
    np.testing.assert_allclose(found["y"], wanted["y"].reshape(-1, H)[REAL], rtol=1e-4, atol=1e-5)


def test_padding_goes_and_comes_back() -> None:
    x = floats(B, S, H)
    lines = ("(t, o, c, n) = com.microsoft.RemovePadding(x, l)", "y = com.microsoft.RestorePadding(t, o)")
    found = Interpreter(to_fx(graph(*lines, outputs=["t", "o", "c", "n", "y"]))).run({"x": x, "l": LENGTHS})
    np.testing.assert_array_equal(found["t"], x.reshape(-1, H)[REAL])
    np.testing.assert_array_equal(found["o"], [[0, 1, 3], [4, 5, 2]])
    np.testing.assert_array_equal(found["c"], CUMULATED)
    np.testing.assert_array_equal(found["n"], [3])
    x[0, 2] = 0
    np.testing.assert_array_equal(found["y"], x)


@pytest.mark.parametrize("both", [0, 1])
def test_relative_position_bias_is_that_of_t5(both: int) -> None:
    transformers = pytest.importorskip("transformers.models.t5.modeling_t5")
    table = floats(32, 4)
    options = f"max_distance=128, is_bidirectional={both}"
    # the op reads its table by column
    stored = np.ascontiguousarray(table.T).reshape(32, 4)
    line = f"y = com.microsoft.RelativePositionBias{{{options}}}(t, n, n)"
    found = run(line, {}, t=stored, n=np.array([200]))["y"]
    distance = torch.arange(200)[None] - torch.arange(200)[:, None]
    bucket = transformers.T5Attention._relative_position_bucket(distance, bool(both), 32, 128)
    np.testing.assert_array_equal(found[0], table[bucket.numpy()].transpose(2, 0, 1))


def test_gated_relative_position_bias() -> None:
    q, qb, w, b = floats(B, S, H), floats(H), floats(D, 8), floats(8)
    fed = {"q": q, "p": floats(1, N, S, S), "e": floats(1, N, 1, 1)}
    line = f"y = com.microsoft.GatedRelativePositionBias{{num_heads={N}}}(q, qb, p, w, b, e)"
    found = run(line, fed, qb=qb, w=w, b=b)["y"]
    heads = (q + qb).reshape(B, S, N, D).transpose(0, 2, 1, 3)
    gates = 1 / (1 + np.exp(-(heads @ w + b).reshape(B, N, S, 2, 4).sum(-1)))
    gate = gates[..., :1] * (gates[..., 1:] * fed["e"] - 1) + 2
    np.testing.assert_allclose(found, gate * fed["p"], rtol=1e-4, atol=1e-5)
