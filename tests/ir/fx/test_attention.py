from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.reference
import onnx_ir
import pytest
import torch
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph
from torch.nn.attention import SDPBackend, sdpa_kernel

Check = Callable[..., dict[str, np.ndarray]]
BATCH, HEADS, ROWS, TOTAL, HEAD = 2, 4, 3, 5, 8


def reference(model: onnx_ir.Model, feeds: dict[str, np.ndarray]) -> None:
    """FX agrees with ONNX's reference evaluator."""
    wanted = onnx.reference.ReferenceEvaluator(onnx_ir.serde.serialize_model(model)).run(None, dict(feeds))
    found = Interpreter(to_fx(model)).run(feeds)
    for value, other in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(value, other, rtol=2e-5, atol=2e-6)


def qkv(key_heads: int = HEADS, *, packed: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def tensor(heads: int, length: int) -> np.ndarray:
        x = rng.standard_normal((BATCH, heads, length, HEAD), np.float32)
        return x.transpose(0, 2, 1, 3).reshape(BATCH, length, heads * HEAD) if packed else x

    return {"q": tensor(HEADS, ROWS), "k": tensor(key_heads, TOTAL), "v": tensor(key_heads, TOTAL)}


@pytest.mark.parametrize("options", ["", "{is_causal=1}", "{scale=0.5}", "{softcap=2.0}", "{is_causal=1, softcap=1.5}"])
@pytest.mark.parametrize("key_heads", [HEADS, 2])
def test_options_and_grouped_heads(options: str, key_heads: int) -> None:
    reference(graph(f"y = Attention{options}(q, k, v)"), qkv(key_heads))


@pytest.mark.parametrize(
    "shape", [(TOTAL,), (ROWS, TOTAL), (HEADS, ROWS, TOTAL), (BATCH, 1, 1, TOTAL), (BATCH, 1, ROWS, TOTAL)]
)
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("causal", [0, 1])
def test_masks_broadcast(shape: tuple[int, ...], kind: str, causal: int) -> None:
    rng = np.random.default_rng(1)
    mask = rng.random(shape) < 0.6 if kind == "bool" else rng.standard_normal(shape).astype(np.float32)
    model = graph(f"y = Attention{{is_causal={causal}}}(q, k, v, m)", inputs={"m": kind})
    # the reference evaluator takes the number of rows from the mask, so it gets them spelled out
    rows = np.broadcast_to(mask, (*shape[:-2], ROWS, TOTAL))
    reference(model, {"m": rows, **qkv()})
    run = Interpreter(to_fx(model)).run
    np.testing.assert_allclose(run({"m": mask, **qkv()})["y"], run({"m": rows, **qkv()})["y"], rtol=1e-6)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_a_row_that_sees_nothing_is_zero(softcap: float) -> None:
    mask = np.ones((ROWS, TOTAL), bool)
    mask[1] = False
    model = graph(f"y = Attention{{softcap={softcap}}}(q, k, v, m)", m=mask)
    feeds = qkv()
    reference(model, feeds)
    assert not Interpreter(to_fx(model)).run(feeds)["y"][:, :, 1].any()


def test_a_short_mask_hides_the_rest() -> None:
    reference(graph("y = Attention(q, k, v, m)", m=np.ones((ROWS, TOTAL - 2), bool)), qkv())


def test_packed_heads() -> None:
    reference(graph("y = Attention{q_num_heads=4, kv_num_heads=2}(q, k, v)"), qkv(2, packed=True))


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("causal", [0, 1])
def test_cache_and_scores(mode: int, causal: int) -> None:
    rng = np.random.default_rng(2)
    past = {name: rng.standard_normal((BATCH, HEADS, 4, HEAD), np.float32) for name in ("pk", "pv")}
    # the reference evaluator caps the raw scores of mode 0, which ONNX's schema and function body do not
    softcap = 2.0 if mode else 0.0
    options = f"is_causal={causal}, softcap={softcap}, qk_matmul_output_mode={mode}"
    reference(graph(f"(y, key, value, scores) = Attention{{{options}}}(q, k, v, _, pk, pv)"), {**qkv(), **past})


def test_attention_of_half_precision_stays_half() -> None:
    feeds = {name: value.astype(np.float16) for name, value in qkv().items()}
    model = graph("y = Attention(q, k, v)", inputs=dict.fromkeys("qkv", "float16"))
    assert Interpreter(to_fx(model)).run(feeds)["y"].dtype == np.float16


def test_plain_attention_is_one_fused_call() -> None:
    module = to_fx(graph("y = Attention{is_causal=1}(q, k, v)"))
    feeds = [torch.from_numpy(value) for value in qkv().values()]
    program = torch.export.export(module, tuple(feeds))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names == ["aten.scaled_dot_product_attention.default"]


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("width", [0, 4])
def test_rotary_embedding(interleaved: int, width: int) -> None:
    rng = np.random.default_rng(3)
    half = (width or HEAD) // 2
    caches = {name: rng.standard_normal((16, half), np.float32) for name in ("c", "s")}
    options = f"interleaved={interleaved}, rotary_embedding_dim={width}"
    model = graph(f"y = RotaryEmbedding{{{options}}}(x, c, s, p)", inputs={"p": "int64"})
    x = rng.standard_normal((BATCH, HEADS, ROWS, HEAD), np.float32)
    feeds = {"p": np.array([[0, 1, 2], [5, 6, 7]]), "x": x, **caches}
    reference(model, feeds)
    packed = {**feeds, "x": x.transpose(0, 2, 1, 3).reshape(BATCH, ROWS, -1)}
    line = f"y = RotaryEmbedding{{{options}, num_heads={HEADS}}}(x, c, s, p)"
    reference(graph(line, inputs={"p": "int64"}), packed)


@pytest.mark.parametrize("window", [(2, 0), (0, 1), (-1, 2), (3, -1), (1, 1)])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("past", [False, True])
def test_windows(window: tuple[int, int], causal: int, past: bool) -> None:
    rng = np.random.default_rng(4)
    options = f"is_causal={causal}, left_window_size={window[0]}, right_window_size={window[1]}"
    if past:
        shape = (BATCH, HEADS, 4, HEAD)
        cache = {name: rng.standard_normal(shape, np.float32) for name in ("pk", "pv")}
        model = graph(f"(y, key, value) = Attention{{{options}}}(q, k, v, _, pk, pv)", opset=25)
        reference(model, {**qkv(), **cache})
    else:
        reference(graph(f"y = Attention{{{options}}}(q, k, v)", opset=25), qkv())


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [False, True])
def test_a_cache_filled_from_outside(causal: int, mask: bool) -> None:
    """The second sequence has fewer positions than queries, so that some rows see nothing."""
    lengths = np.array([TOTAL, ROWS - 1])
    shown = {"m": np.random.default_rng(5).random((BATCH, 1, ROWS, TOTAL)) < 0.7} if mask else {}
    text = f"y = Attention{{is_causal={causal}}}(q, k, v, {'m' if mask else '_'}, _, _, n)"
    model = graph(text, inputs={"n": "int64", **dict.fromkeys(shown, "bool")}, opset=24)
    reference(model, {"n": lengths, **shown, **qkv()})


@pytest.mark.parametrize("precision", [1, 10, 11])
def test_a_softmax_of_at_least_float32_stays_fused(precision: int) -> None:
    module = to_fx(graph(f"y = Attention{{softmax_precision={precision}}}(q, k, v)"))
    program = torch.export.export(module, tuple(torch.from_numpy(value) for value in qkv().values()))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert ("aten.scaled_dot_product_attention.default" in names) is (precision != 11)
    reference(graph(f"y = Attention{{softmax_precision={precision if precision != 10 else 1}}}(q, k, v)"), qkv())


def test_a_decoding_step_has_no_mask() -> None:
    rng = np.random.default_rng(6)
    line = "(y, key, value) = Attention{is_causal=1}(q, k, v, _, pk, pv)"
    feeds = {name: rng.standard_normal((BATCH, HEADS, 1, HEAD), np.float32) for name in "qkv"}
    feeds |= {name: rng.standard_normal((BATCH, HEADS, 4, HEAD), np.float32) for name in ("pk", "pv")}
    model = graph(line)
    reference(model, feeds)
    named = {f"{'past_' * (len(name) > 1)}{name[-1]}": torch.from_numpy(value) for name, value in feeds.items()}
    program = torch.export.export(to_fx(model), tuple(named.values()))
    (call,) = [node for node in program.graph.nodes if "scaled_dot_product" in str(node.target)]
    assert len(call.args) == 3
    assert not call.kwargs.get("is_causal")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("y = Attention{q_num_heads=4}(p, p, p)", "rank 3 need q_num_heads and kv_num_heads"),
        ("y = Attention(q, k, v, _, k)", "past_key and past_value come together"),
        ("y = Attention(q, k, v, _, k, v, n)", "exclude each other"),
        ("y = Attention{left_window_size=-2}(q, k, v)", "window sizes are -2 and -1"),
    ],
)
def test_inputs_that_contradict_each_other(line: str, message: str) -> None:
    feeds = {"p": np.zeros((BATCH, ROWS, 32), np.float32), "n": np.array([1, 1]), **qkv()}
    model = graph(line, inputs={"n": "int64"} if ", n)" in line else {}, opset=25)
    names = {value.name for value in model.graph.inputs}
    with pytest.raises(Exception, match=message):
        Interpreter(to_fx(model)).run({name: value for name, value in feeds.items() if name in names})


@pytest.mark.parametrize(
    ("call", "key_heads", "mask"),
    [
        ("Attention(q, k, v)", HEADS, None),
        ("Attention{is_causal=1}(q, k, v)", 2, None),
        ("Attention{is_causal=1, left_window_size=2}(q, k, v)", 2, None),
        ("Attention(q, k, v, m)", HEADS, np.ones(TOTAL, bool)),
        ("Attention(q, k, v, m)", 2, np.ones((ROWS, TOTAL), bool)),
        ("Attention(q, k, v, m)", HEADS, np.zeros((HEADS, ROWS, TOTAL), np.float32)),
        ("Attention(q, k, v, m)", 2, np.ones((BATCH, 1, 1, TOTAL), bool)),
    ],
)
def test_reaches_the_flash_kernel(call: str, key_heads: int, mask: np.ndarray | None) -> None:
    """torch refuses to run where no kernel but flash is allowed and it does not fit."""
    module = to_fx(graph(f"y = {call}", opset=25, **({} if mask is None else {"m": mask})))
    with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert module(*(torch.from_numpy(value) for value in qkv(key_heads).values())).shape[-1] == HEAD
