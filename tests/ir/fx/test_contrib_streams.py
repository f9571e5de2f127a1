"""Linear attention, causal convolutions, hyper-connections and n-gram memories against ONNX Runtime's CPU kernels;
what those leave out, against runs over prefixes or the text in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Array = np.ndarray
Check = Callable[..., dict[str, Array]]
RNG = np.random.default_rng(0)
B, T, K, V = 2, 5, 4, 3
_NAMES = {"float32": "float", "float64": "double", "int32": "int32", "int64": "int64"}


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def types(feeds: dict[str, Array]) -> dict[str, str]:
    return {name: f"{_NAMES[str(x.dtype)]}[{', '.join(map(str, x.shape))}]" for name, x in feeds.items()}


def run(line: str, feeds: dict[str, Array]) -> dict[str, Array]:
    return Interpreter(to_fx(graph(line, inputs=types(feeds)))).run(feeds)


def linear_feeds(query: int, key: int, rule: str, keys: int | None = None, *, wide: bool = True) -> dict[str, Array]:
    feeds = {"q": floats(B, T, query * K), "k": floats(B, T, (keys or key) * K) * 0.5, "v": floats(B, T, key * V)}
    if "gated" in rule:
        feeds["g"] = -np.abs(floats(B, T, key * (K if wide else 1)))
    if "delta" in rule:
        feeds["b"] = np.abs(floats(B, T, key))
    return feeds


def linear_line(query: int, key: int, rule: str, feeds: dict[str, Array], more: str = "") -> str:
    names = ", ".join(name if name in feeds else "_" for name in "qkvpgb")
    options = f"q_num_heads={query}, kv_num_heads={key}, update_rule='{rule}'{more}"
    return f"(y, s) = com.microsoft.LinearAttention{{{options}}}({names})"


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize(("query", "key", "keys"), [(4, 2, None), (2, 2, None), (1, 2, None), (2, 4, 2)])
def test_linear_attention(check: Check, rule: str, query: int, key: int, keys: int | None) -> None:
    feeds = linear_feeds(query, key, rule, keys, wide=query != 2) | {"p": floats(B, key, K, V)}
    check(linear_line(query, key, rule, feeds, ", scale=0.3"), feeds=feeds, **types(feeds))


@pytest.mark.parametrize("window", [1, 3, 8])
@pytest.mark.parametrize("rule", ["linear", "gated_delta"])
def test_states_of_the_last_tokens(window: int, rule: str) -> None:
    past = floats(window, B, 2, K, V)
    feeds = linear_feeds(4, 2, rule)
    found = run(linear_line(4, 2, rule, feeds | {"p": past}, f", state_window={window}"), feeds | {"p": past})
    for slot in range(window):
        count = T - window + slot + 1
        if count <= 0:
            np.testing.assert_array_equal(found["s"][slot], 0)
            continue
        prefix = {name: x[:, :count] for name, x in feeds.items()} | {"p": past[-1]}
        wanted = run(linear_line(4, 2, rule, prefix), prefix)
        np.testing.assert_allclose(found["s"][slot], wanted["s"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-6)


def test_linear_attention_gate(check: Check) -> None:
    feeds = {"a": floats(2, 3, 4), "c": floats(4), "d": floats(4), "b": floats(2, 3, 4)}
    check("(y, z) = com.microsoft.LinearAttentionGate(a, c, d, b)", feeds=feeds, **types(feeds))


@pytest.mark.parametrize("features", [(6,), (2, 3)])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("options", ["", "dilation=2", "activation='silu'", "channels_last=1", "window=3", "window=8"])
def test_causal_conv(check: Check, options: str, past: bool, features: tuple[int, ...]) -> None:
    last = len(features) > 1 or "last" in options
    state, length = (4 if "dilation" in options else 2), 5
    feeds = {"x": floats(2, length, *features) if last else floats(2, 6, length), "w": floats(6, 1, 3), "b": floats(6)}
    given = floats(2, state, *features) if last else floats(2, 6, state)
    names = f"x, w, b{', p' if past else ''}"
    window = int(options.removeprefix("window=")) if "window" in options else 0
    more = "" if "window" in options or not options or "last" in options else f"{options}, "
    line = f"(y, s) = com.microsoft.CausalConvWithState{{{more}channels_last={int(last)}"
    if not window:
        feeds = feeds | ({"p": given} if past else {})
        check(f"{line}}}({names})", feeds=feeds, **types(feeds))
        return
    # ONNX Runtime has windows on CUDA only
    many = feeds | ({"p": np.stack([given * 0 + 9] * (window - 1) + [given])} if past else {})
    found = run(f"{line}, state_window={window}}}({names})", many)
    axis = 1 if last else 2
    for slot in range(window):
        count = length - window + slot + 1
        if count <= 0:
            np.testing.assert_array_equal(found["s"][slot], 0)
            continue
        prefix = feeds | {"x": feeds["x"].take(range(count), axis)} | ({"p": given} if past else {})
        wanted = run(f"{line}}}({names})", prefix)
        np.testing.assert_array_equal(found["s"][slot], wanted["s"])
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-6)


def test_images_are_refused() -> None:
    feeds = {"x": floats(1, 2, 4, 4), "w": floats(2, 1, 2, 2)}
    with pytest.raises(ModelError, match="ndim"):
        run("(y, s) = com.microsoft.CausalConvWithState{ndim=2}(x, w)", feeds)


def _gated_delta(q: Array, k: Array, v: Array, g: Array, b: Array, s: Array, scale: float) -> tuple[Array, Array]:
    """S_t = exp(g) S + k (beta (v - exp(g) S^T k))^T, o = scale S^T q; all [batch, sequence, value heads, ...]."""
    out = np.zeros_like(v)
    for t in range(q.shape[1]):
        s = np.exp(g[:, t])[..., None, None] * s
        read = np.einsum("bhkv,bhk->bhv", s, k[:, t])
        s = s + np.einsum("bhk,bhv->bhkv", k[:, t], b[:, t, :, None] * (v[:, t] - read))
        out[:, t] = scale * np.einsum("bhkv,bhk->bhv", s, q[:, t])
    return out, s


@pytest.mark.parametrize("form", ["rank 4", "rank 3", "packed"])
def test_gated_delta_net(form: str) -> None:
    some, many = 2, 4
    q, k, v = (RNG.standard_normal((B, T, n, d)) for n, d in ((some, K), (some, K), (many, V)))
    decay, beta, state = (
        RNG.standard_normal((B, T, many)),
        RNG.standard_normal((B, T, many)),
        RNG.random((B, many, V, K)),
    )
    logs, bias = RNG.standard_normal(many), RNG.standard_normal(many)
    feeds = {"q": q, "k": k, "v": v, "d": decay, "b": beta, "s": state, "l": logs, "t": bias}
    if form != "rank 4":
        feeds |= {name: feeds[name].reshape(B * T, *feeds[name].shape[2:]) for name in "qkvdb"}
    names = "q, k, v"
    if form == "packed":
        rows = [feeds.pop(name).reshape(B * T, -1) for name in "qkv"]
        feeds["q"], names = np.concatenate(rows, 1), "q, _, _"
    options = "gate_activation='qwen', beta_activation='sigmoid', qk_l2_norm=1"
    line = f"(y, n) = com.microsoft.GatedDeltaNet{{{options}}}({names}, _, d, b, s, l, t)"
    found = run(line, feeds)
    q, k = (np.repeat(part / np.sqrt((part * part).sum(-1, keepdims=True) + 1e-6), many // some, 2) for part in (q, k))
    gates = -np.exp(logs) * np.log1p(np.exp(decay + bias))
    wanted, last = _gated_delta(q, k, v, gates, 1 / (1 + np.exp(-beta)), state.swapaxes(2, 3), K**-0.5)
    np.testing.assert_allclose(found["y"].reshape(wanted.shape), wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["n"], last.swapaxes(2, 3), rtol=1e-9, atol=1e-12)
    assert found["y"].ndim == (4 if form == "rank 4" else 3)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("GatedDeltaNet(q, k, v, c, _, b, s)", "cu_seqlens"),
        ("GatedDeltaNet(q, k, v, _, _, b)", "initial_state"),
        ("GatedDeltaNet(q)", "initial_state"),
        ("GatedDeltaNet{state_update_capacity=2}(q, k, v, _, _, b, s)", "state_update_capacity"),
    ],
)
def test_other_forms_are_refused(line: str, match: str) -> None:
    feeds = {
        "q": floats(4, 2, K),
        "k": floats(4, 2, K),
        "v": floats(4, 2, V),
        "b": floats(4, 2),
        "s": floats(1, 2, V, K),
        "c": np.array([0, 4], np.int32),
    }
    used = {name: x for name, x in feeds.items() if name in line.partition("(")[2].rstrip(")").split(", ")}
    with pytest.raises(ModelError, match=match):
        run(f"y = com.microsoft.{line}", used)


GROUPED, FLAT = (2, 5, 3, 4), (2, 5, 12)


@pytest.mark.parametrize("shape", [GROUPED, FLAT])
@pytest.mark.parametrize("scale", [None, (4,), (3, 4), (12,)])
def test_branchwise_rms_norm(check: Check, shape: tuple[int, ...], scale: tuple[int, ...] | None) -> None:
    feeds = {"x": floats(*shape), **({"s": floats(*scale)} if scale else {})}
    options = f"epsilon=0.01, num_branches={3 if shape is FLAT else 0}"
    line = f"y = com.microsoft.BranchwiseRMSNorm{{{options}}}({', '.join(feeds)})"
    check(line, feeds=feeds, **types(feeds))


@pytest.mark.parametrize("shape", [GROUPED, FLAT])
@pytest.mark.parametrize("gates", [(3,), (3, 1), (3, 4), (12,)])
def test_hyper_connections(check: Check, shape: tuple[int, ...], gates: tuple[int, ...]) -> None:
    options = f"num_branches={3 if shape is FLAT else 0}"
    feeds = {"x": floats(*shape), "m": floats(2, 5, *gates)}
    if gates != (12,) or shape is FLAT:
        line = f"y = com.microsoft.HyperConnectionPreMix{{{options}, reduction_scale=0.5}}(x, m)"
        check(line, feeds=feeds, **types(feeds))
    if gates != (12,):
        feeds |= {"b": floats(2, 5, 4), "s": floats(2, 5, 3, 3)}
        for names in ("x, b, m", "x, b, m, s"):
            used = {name: feeds[name] for name in names.split(", ")}
            check(f"y = com.microsoft.HyperConnectionPostMix{{{options}}}({names})", feeds=used, **types(used))


def test_gates(check: Check) -> None:
    feeds = {"x": floats(2, 3, 4), "z": floats(2, 3, 4), "g": floats(2, 3, 1)}
    check("y = com.microsoft.GatedAdd(x, z, g)", feeds=feeds, **types(feeds))
    feeds = {"k": floats(*GROUPED), "q": floats(*GROUPED), "v": floats(2, 5, 4)} | {n: floats(3, 4) for n in "abc"}
    check("(y, n) = com.microsoft.EngramGate{epsilon=0.001}(k, q, v, a, b, c)", feeds=feeds, **types(feeds))


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("names", ["", "p", "o", "e", "e, g", "p, e", "p, o, e, g"])
@pytest.mark.parametrize("reset", [0, 1])
def test_n_gram_hashes(check: Check, kind: type, names: str, reset: int) -> None:
    optional = {
        "p": RNG.integers(0, 6, (2, 3)).astype(kind),
        "o": RNG.integers(0, 100, 6).astype(kind),
        "e": np.array(2, kind),
        "g": np.sort(RNG.integers(0, 3, (2, 9)), 1).astype(np.int32),
    }
    high = np.iinfo(kind).max // 2
    feeds = {
        "i": RNG.integers(0, 6, (2, 9)).astype(kind),
        # products overflow
        "m": (RNG.integers(1, high, 4) | 1).astype(kind),
        "s": np.array([7, 11, 13, 17, 19, 23], kind),
        **{name: optional[name] for name in names.split(", ") if name},
    }
    inputs = ", ".join(name if name in feeds else "_" for name in "imspoeg")
    options = f"max_ngram_size=4, n_head_per_ngram=2, pad_id=5, reset_on_eos={reset}"
    line = f"(h, n) = com.microsoft.NGramHashMapping{{{options}}}({inputs})"
    check(line, feeds=feeds, tolerance=0, **types(feeds))
