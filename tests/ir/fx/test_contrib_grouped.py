"""GroupQueryAttention and SparseAttention against ONNX Runtime's CPU kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph
from tersor.tests.ir.fx.conftest import expected

Check = Callable[..., dict[str, np.ndarray]]
B, N, G, D, LONG = 2, 4, 2, 16, 12
ANGLES = np.outer(np.arange(LONG), 10000.0 ** (-np.arange(0, D, 2) / D))
CACHES = {"c": np.cos(ANGLES).astype(np.float32), "s": np.sin(ANGLES).astype(np.float32)}


def feeds(new: int, past: int | None, lengths: list[int], *, packed: bool = False) -> dict[str, np.ndarray]:
    """`new` tokens after `past` cached ones; lengths count both."""
    rng = np.random.default_rng(0)
    batch = len(lengths)
    wide = {"p": (N + 2 * G) * D} if packed else {"q": N * D, "k": G * D, "v": G * D}
    made = {name: rng.standard_normal((batch, new, width)) for name, width in wide.items()}
    if past is not None:
        made |= {name: rng.standard_normal((batch, G, past, D)) for name in ("pk", "pv")}
    floats = {name: value.astype(np.float32) for name, value in made.items()}
    return {**floats, "n": np.array(lengths, np.int32) - 1, "t": np.array(max(lengths), np.int32)}


def types(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    names = {np.dtype(np.float32): "float", np.dtype(np.int32): "int32", np.dtype(np.int64): "int64"}
    return {name: f"{names[array.dtype]}[{', '.join(map(str, array.shape))}]" for name, array in arrays.items()}


def line(options: str = "", inputs: str = "q, k, v, _, _, n, t", outputs: str = "(y, nk, nv)") -> str:
    options = f", {options}" if options else ""
    return f"{outputs} = com.microsoft.GroupQueryAttention{{num_heads={N}, kv_num_heads={G}{options}}}({inputs})"


PAST = "q, k, v, pk, pv, n, t"
STEPS = {
    "prompt": (5, None, [5, 5]),
    "one token": (1, 6, [7, 7]),
    "several tokens": (3, 6, [9]),
}


def inputs_for(step: str) -> str:
    return "q, k, v, _, _, n, t" if step == "prompt" else PAST


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "options",
    [
        *("", "scale=0.3", "softcap=2.0", "local_window_size=2", "smooth_softmax=1", "smooth_softmax=-1"),
        "local_window_size=3, softcap=1.5",
    ],
)
def test_steps(check: Check, step: str, options: str) -> None:
    fed = feeds(*STEPS[step])
    check(line(options, inputs_for(step)), feeds=fed, **types(fed))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary(check: Check, step: str, interleaved: int) -> None:
    fed = feeds(*STEPS[step])
    options = f"do_rotary=1, rotary_interleaved={interleaved}"
    check(line(options, f"{inputs_for(step)}, c, s"), feeds=fed, constants=CACHES, **types(fed))


def test_positions_move_the_angles(check: Check) -> None:
    fed = {**feeds(1, 6, [7, 7]), "at": np.array([[3], [5]])}
    check(line("do_rotary=1", f"{PAST}, c, s, at"), feeds=fed, constants=CACHES, **types(fed))


def test_packed(check: Check) -> None:
    fed = feeds(5, None, [5, 5], packed=True)
    check(line("do_rotary=1", "p, _, _, _, _, n, t, c, s"), feeds=fed, constants=CACHES, **types(fed))


def test_a_buffer_longer_than_what_is_in_it(check: Check) -> None:
    fed = feeds(1, LONG, [7, 4])
    for name in ("pk", "pv"):
        fed[name][0, :, 6:] = fed[name][1, :, 3:] = 0
    check(line("do_rotary=1", f"{PAST}, c, s"), feeds=fed, constants=CACHES, **types(fed))


@pytest.mark.parametrize("step", STEPS)
def test_bias_and_sink(check: Check, step: str) -> None:
    fed = feeds(*STEPS[step])
    batch, new, total = len(STEPS[step][2]), STEPS[step][0], int(fed["t"])
    rng = np.random.default_rng(1)
    fed["b"] = rng.standard_normal((batch, 1, new, total)).astype(np.float32)
    check(line("", f"{inputs_for(step)}, _, _, _, b"), feeds=fed, **types(fed))
    fed["z"] = rng.standard_normal(N).astype(np.float32)
    check(line("", f"{inputs_for(step)}, _, _, _, b, z"), feeds=fed, **types(fed))


@pytest.mark.parametrize("stage", [1, 2])
def test_scores(check: Check, stage: int) -> None:
    fed = feeds(1, 6, [7, 7])
    fed["b"] = np.random.default_rng(1).standard_normal((2, 1, 1, 7)).astype(np.float32)
    text = line(f"qk_output={stage}, softcap=1.5", f"{PAST}, _, _, _, b", "(y, nk, nv, qk)")
    check(text, feeds=fed, **types(fed))


def test_both_ways(check: Check) -> None:
    fed = feeds(5, None, [5, 5])
    check(line("causal=0"), feeds=fed, **types(fed))


def test_right_padding_of_a_prompt_is_not_seen_by_real_tokens() -> None:
    fed = feeds(5, None, [3, 5])
    module = to_fx(graph(line(), inputs=types(fed)))
    given = [torch.from_numpy(np.asarray(fed[name])) for name in ("q", "k", "v", "n", "t")]
    y, *_ = module(*given)
    changed = given[1].clone()
    changed[0, 3:] = 7.0
    again, *_ = module(given[0], changed, *given[2:])
    torch.testing.assert_close(y[0, :3], again[0, :3], rtol=0, atol=0)


@pytest.mark.parametrize("options", ["", "local_window_size=2", "smooth_softmax=1"])
@pytest.mark.parametrize("rotary", [False, True])
def test_real_tokens_of_a_padded_prompt(options: str, rotary: bool) -> None:
    fed = feeds(5, None, [3, 5])
    options = f"do_rotary={int(rotary)}" + (f", {options}" if options else "")
    names = "q, k, v, _, _, n, t" + (", c, s" if rotary else "")
    model = graph(line(options, names), inputs=types(fed), **(CACHES if rotary else {}))
    found, wanted = list(Interpreter(to_fx(model)).run(fed).values()), expected(model, fed)
    for entry, length in enumerate((3, 5)):
        np.testing.assert_allclose(found[0][entry, :length], wanted[0][entry, :length], rtol=1e-4, atol=1e-5)
        for cache, other in zip(found[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(cache[entry, :, :length], other[entry, :, :length], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", ["k_quant_type='PER_TENSOR'", "k_quant_type='ODD'", "sliding_window_cache=1"])
def test_caches_that_nothing_describes_are_refused(option: str) -> None:
    fed = feeds(1, 6, [7, 7])
    with pytest.raises(ModelError, match=r"a quantized cache needs|NONE, PER_TENSOR|sliding_window_cache needs"):
        Interpreter(to_fx(graph(line(option, PAST), inputs=types(fed)))).run(fed)


def test_it_exports_for_any_batch_and_length() -> None:
    lines = [
        "shape = Shape{start=1, end=2}(q)",
        "narrow = Cast{to=6}(shape)",
        line("do_rotary=1", "q, k, v, _, _, n, narrow, c, s", "(y, nk, nv)"),
    ]
    wide = {"q": "float[b, s, 64]", "k": "float[b, s, 32]", "v": "float[b, s, 32]", "n": "int32[b]"}
    module = to_fx(graph(*lines, inputs=wide, **CACHES))
    fed = feeds(5, None, [5, 5])
    given = tuple(torch.from_numpy(fed[name]) for name in ("q", "k", "v", "n"))
    b, s = torch.export.Dim("b", min=1, max=8), torch.export.Dim("s", min=2, max=LONG)
    dims = ({0: b, 1: s}, {0: b, 1: s}, {0: b, 1: s}, {0: b})
    program = torch.export.export(module, given, dynamic_shapes=dims, strict=False)
    fed = feeds(7, None, [7, 7, 7])
    other = tuple(torch.from_numpy(fed[name]) for name in ("q", "k", "v", "n"))
    for found, wanted in zip(program.module()(*other), module(*other), strict=True):
        torch.testing.assert_close(found, wanted)


def test_sparse_attention(check: Check) -> None:
    """Two layouts, each for two heads; blocks of 16."""
    blocks = np.array([[[1, 0, 0], [1, 1, 0], [0, 1, 1]], [[1, 0, 0], [0, 1, 0], [1, 0, 1]]])
    counts = blocks.sum(2)
    columns = np.full((2, 5), -1, np.int32)
    for layout, part in enumerate(blocks):
        found = np.nonzero(part)[1]
        columns[layout, : len(found)] = found
    constants = {
        "rows": np.concatenate([np.zeros((2, 1), int), counts.cumsum(1)], 1).astype(np.int32),
        "columns": columns,
        "total": np.array([40], np.int32),
    }
    fed = feeds(40, 48, [40])
    fed["pk"], fed["pv"] = fed["pk"] * 0, fed["pv"] * 0
    del fed["t"]
    fed["n"] = fed["n"] + 1
    options = f"num_heads={N}, kv_num_heads={G}, sparse_block_size=16"
    text = f"(y, nk, nv) = com.microsoft.SparseAttention{{{options}}}(q, k, v, pk, pv, rows, columns, total, n)"
    model = graph(text, inputs=types(fed), **constants)
    found = Interpreter(to_fx(model)).run(fed)
    q, k, v = (fed[name].reshape(40, heads, D).transpose(1, 0, 2) for name, heads in (("q", N), ("k", G), ("v", G)))
    k, v = (np.repeat(part, N // G, 0) for part in (k, v))
    seen = np.kron(blocks[[0, 1, 0, 1]], np.ones((16, 16)))[:, :40, :40] * np.tril(np.ones((40, 40)))
    scores = np.exp(q @ k.transpose(0, 2, 1) / D**0.5) * seen
    wanted = (scores / scores.sum(2, keepdims=True)) @ v
    np.testing.assert_allclose(found["y"][0], wanted.transpose(1, 0, 2).reshape(40, -1), rtol=1e-4, atol=1e-5)
