from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.reference
import onnx_ir
import pytest
import torch
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

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


@pytest.mark.parametrize("shape", [(ROWS, TOTAL), (HEADS, ROWS, TOTAL), (BATCH, 1, 1, TOTAL), (BATCH, 1, ROWS, TOTAL)])
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
