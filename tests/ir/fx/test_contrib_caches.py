"""GroupQueryAttention over caches in 8 and 4 bits, and over caches of the last places only, against ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Array = np.ndarray
N, G, D = 4, 2, 16
RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def both(options: str, feeds: dict[str, Array]) -> tuple[list[Array], list[Array]]:
    """What we compute and what ONNX Runtime does."""
    types = {name: f"{onnx_ir.DataType.from_numpy(x.dtype)}".lower() for name, x in feeds.items()}
    inputs = {name: f"{types[name]}[{', '.join(map(str, x.shape))}]" for name, x in feeds.items()}
    names = ", ".join(name if name in feeds else "_" for name in ("q", "k", "v", "pk", "pv", "n", "t"))
    more = ", ".join(name if name in feeds else "_" for name in ("b", "_", "ks", "vs"))
    call = f"GroupQueryAttention{{num_heads={N}, kv_num_heads={G}, {options}}}"
    model = graph(f"(y, nk, nv) = com.microsoft.{call}({names}, _, _, _, {more})", inputs=inputs)
    for value, like in zip(model.graph.outputs, ("q", "pk", "pv"), strict=True):
        value.dtype = onnx_ir.DataType.from_numpy(feeds[like].dtype)
    found = list(Interpreter(to_fx(model)).run(feeds).values())
    proto = onnx_ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    return found, session.run(None, feeds)


def step(batch: int, new: int, past: int, cache: tuple[Array, Array]) -> dict[str, Array]:
    total = past + new
    return {
        "q": floats(batch, new, N * D),
        "k": floats(batch, new, G * D),
        "v": floats(batch, new, G * D),
        "pk": cache[0],
        "pv": cache[1],
        "n": np.full(batch, total - 1, np.int32),
        "t": np.array(total, np.int32),
    }


STEPS = [(2, 1, 6), (1, 3, 6), (1, 4, 0)]


@pytest.mark.parametrize("size", STEPS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("per", ["PER_TENSOR", "PER_CHANNEL"])
@pytest.mark.parametrize("options", ["", ", local_window_size=3", ", softcap=1.5"])
def test_quantized_caches(size: tuple[int, int, int], bits: int, per: str, options: str) -> None:
    batch, new, past = size
    shape, dtype = (batch, G, past, D * bits // 8), np.int8 if bits == 8 else np.uint8
    info = np.iinfo(dtype)
    feeds = step(batch, new, past, tuple(RNG.integers(info.min, info.max, shape).astype(dtype) for _ in range(2)))
    unit = 0.02 if bits == 8 else 0.3
    for name in ("ks", "vs"):
        wide = (1,) if per == "PER_TENSOR" else (1, G, 1, D)
        feeds[name] = ((RNG.random(wide) + 0.5) * unit).astype(np.float32)
    line = f"k_quant_type='{per}', v_quant_type='{per}', kv_cache_bit_width={bits}{options}"
    for found, wanted in zip(*both(line, feeds), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("sliding", ["", ", sliding_window_cache=1, local_window_size=3"])
def test_a_cache_in_float8(sliding: str) -> None:
    """ONNX Runtime has it on CUDA: the float cache that it stands for gives the same."""
    kind = ml_dtypes.float8_e4m3fn
    feeds = step(2, 1, 6, (floats(2, G, 6, D).astype(kind), floats(2, G, 6, D).astype(kind)))
    names = "q, k, v, pk, pv, n, t"
    plain = f"(y, nk, nv) = com.microsoft.GroupQueryAttention{{num_heads={N}, kv_num_heads={G}{sliding}"
    line = f"{plain}, k_quant_type='PER_TENSOR', v_quant_type='PER_TENSOR', kv_cache_bit_width=8}}"
    scale = np.array([0.5], np.float32)
    found = Interpreter(to_fx(graph(f"{line}({names}, _, _, _, _, _, s, s)", s=scale))).run(feeds)
    rounded = {name: (feeds[name] / 0.5).astype(kind).astype(np.float32) * 0.5 for name in "kv"}
    cache = {name: feeds[name].astype(np.float32) * 0.5 for name in ("pk", "pv")}
    wanted = Interpreter(to_fx(graph(f"{plain}}}({names})"))).run(feeds | rounded | cache)
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-6)
    assert found["nk"].dtype == kind
    np.testing.assert_allclose(found["nk"].astype(np.float32) * 0.5, wanted["nk"], rtol=1e-6)


def resident(total: int, capacity: int, window: int) -> int:
    step = capacity - window + 1
    return total if total <= capacity else total - step * -((capacity - total) // step)


@pytest.mark.parametrize(("window", "capacity"), [(4, 4), (4, 6), (3, 7)])
@pytest.mark.parametrize("size", [(2, 1, 9), (2, 1, 3), (1, 3, 9), (1, 9, 5), (2, 5, 0), (2, 9, 0)])
@pytest.mark.parametrize("bias", [False, True])
def test_sliding_caches(window: int, capacity: int, size: tuple[int, int, int], bias: bool) -> None:
    batch, new, past = size
    feeds = step(batch, new, past, (floats(batch, G, capacity, D), floats(batch, G, capacity, D)))
    if bias:
        feeds["b"] = floats(batch, 1, new, past + new)
    (y, *caches), (wanted, *others) = both(f"sliding_window_cache=1, local_window_size={window}", feeds)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=2e-6)
    rows = resident(past + new, capacity, window)
    for cache, other in zip(caches, others, strict=True):
        np.testing.assert_array_equal(cache[:, :, :rows], other[:, :, :rows])


def test_sliding_caches_of_several_lengths() -> None:
    feeds = step(2, 1, 9, (floats(2, G, 6, D), floats(2, G, 6, D))) | {"n": np.array([9, 4], np.int32)}
    (y, *caches), (wanted, *others) = both("sliding_window_cache=1, local_window_size=4, softcap=2.0", feeds)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=2e-6)
    for entry, total in enumerate((10, 5)):
        rows = resident(total, 6, 4)
        for cache, other in zip(caches, others, strict=True):
            np.testing.assert_array_equal(cache[entry, :, :rows], other[entry, :, :rows])


@pytest.mark.parametrize("sliding", [False, True])
def test_they_export_for_any_batch_and_length(sliding: bool) -> None:
    kind = "float" if sliding else "int8"
    wide = {"q": f"float[b, s, {N * D}]", "k": f"float[b, s, {G * D}]", "v": f"float[b, s, {G * D}]"}
    wide |= dict.fromkeys(("pk", "pv"), f"{kind}[b, {G}, 6, {D}]" if sliding else f"{kind}[b, {G}, p, {D}]")
    options = (
        "sliding_window_cache=1, local_window_size=4"
        if sliding
        else ("k_quant_type='PER_TENSOR', v_quant_type='PER_TENSOR', kv_cache_bit_width=8")
    )
    call = f"GroupQueryAttention{{num_heads={N}, kv_num_heads={G}, {options}}}"
    names = "q, k, v, pk, pv, n, narrow, _, _, _, _, _" + ("" if sliding else ", u, u")
    lines = [
        "now = Shape{start=1, end=2}(q)",
        "then = Shape{start=2, end=3}(pk)",
        "total = Add(now, then)",
        "narrow = Cast{to=6}(total)",
        f"(y, nk, nv) = com.microsoft.{call}({names})",
    ]
    constants = {} if sliding else {"u": np.array([0.02], np.float32)}
    module = to_fx(graph(*lines, inputs={**wide, "n": "int32[b]"}, **constants))

    def example(batch: int, new: int, past: int) -> tuple[torch.Tensor, ...]:
        shape = (batch, G, 6 if sliding else past, D)
        caches = [floats(*shape) if sliding else RNG.integers(-99, 99, shape).astype(np.int8) for _ in range(2)]
        feeds = step(batch, new, past, tuple(caches))
        return tuple(torch.from_numpy(feeds[name]) for name in ("q", "k", "v", "pk", "pv", "n"))

    dynamic = torch.export.Dim.DYNAMIC
    tokens, cache = {0: dynamic, 1: dynamic}, {0: dynamic} if sliding else {0: dynamic, 2: dynamic}
    shapes = (tokens, tokens, tokens, cache, cache, {0: dynamic})
    program = torch.export.export(module, example(2, 3, 5), dynamic_shapes=shapes, strict=False)
    for other in (example(3, 2, 7), example(2, 5, 4)):
        for found, wanted in zip(program.module()(*other), module(*other), strict=True):
            torch.testing.assert_close(found, wanted)
