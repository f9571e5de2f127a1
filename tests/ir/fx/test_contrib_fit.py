"""What the contrib ops owe what follows: programs for any batch and length, and derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.text import graph
from torch.fx import GraphModule

RNG = np.random.default_rng(0)
H, N, D, LONG = 16, 2, 8, 12
ANGLES = np.outer(np.arange(LONG), 10000.0 ** (-np.arange(0, D, 2) / D))


def floats(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


CONSTANTS: dict[str, object] = {
    "w": floats(H, 3 * H) * 0.3,
    "b": floats(3 * H),
    "g": floats(H),
    "c": np.cos(ANGLES).astype(np.float32),
    "s": np.sin(ANGLES).astype(np.float32),
    "packed": RNG.integers(0, 256, (24, 1, 8), np.uint8),
    "scales": RNG.random((24, 1), np.float32),
    "one": floats(4, H, H),
    "two": floats(4, H, H),
    "table": RNG.integers(0, 256, (9, H), np.uint8),
    "ts": RNG.random((9, 1), np.float32),
    "w8": RNG.integers(-60, 60, (H, 5), np.int8),
    "sc": np.float32(0.02),
    "zp": np.uint8(3),
    "start": np.array([0]),
}
LINES = {
    "attention": f"y = Attention{{num_heads={N}, unidirectional=1}}(x, w, b, m)",
    "multi head": f"(y, k, v) = MultiHeadAttention{{num_heads={N}}}(x, x, x, b, m)",
    "rotary": "y = RotaryEmbedding(x, start, c, s)",
    "skip": "(y, _, _, t) = SkipLayerNormalization(x, x, g)",
    "rms": "y = SkipSimplifiedLayerNormalization(x, x, g)",
    "nbits": f"y = MatMulNBits{{K={H}, N=24, bits=4, block_size=16}}(x, packed, scales)",
    "moe": "y = MoE{k=2, activation_type='silu'}(x, r, one, _, two)",
    "gather": "y = GatherBlockQuantized{bits=8, block_size=16}(table, m, ts)",
    "dynamic": "y = DynamicQuantizeMatMul(x, w8, sc)",
    "bias gelu": "y = BiasGelu(x, g)",
}


def made(line: str, constants: dict[str, object] = CONSTANTS) -> tuple[GraphModule, list[str]]:
    outputs, call = line.split(" = ")
    words = call.replace(",", " ").replace(")", " ").replace("(", " ").split()
    used = {name: value for name, value in constants.items() if name in words}
    inputs = {"x": f"float[n, l, {H}]", "m": "int32[n, l]", "r": "float[tokens, 4]"}
    present = {name: kind for name, kind in inputs.items() if name in words}
    module = to_fx(graph(f"{outputs} = com.microsoft.{call}", inputs=present, **used))
    return module, list(module.meta["inputs"])


def example(name: str, batch: int, length: int) -> torch.Tensor:
    if name == "m":
        return torch.ones(batch, length, dtype=torch.int32)
    return torch.from_numpy(floats(batch, length, H) if name == "x" else floats(batch * length, 4))


@pytest.mark.parametrize("name", LINES)
def test_programs_take_any_batch_and_length(name: str) -> None:
    module, inputs = made(LINES[name])
    shapes = tuple({0: torch.export.Dim.DYNAMIC, **({} if i == "r" else {1: torch.export.Dim.DYNAMIC})} for i in inputs)
    with torch.no_grad():
        given = tuple(example(i, 3, 5) for i in inputs)
        program = torch.export.export(module, given, dynamic_shapes=shapes, strict=False)
        for batch, length in ((2, 7), (4, 2)):
            other = tuple(example(i, batch, length) for i in inputs)
            found, wanted = program.module()(*other), module(*other)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LINES if name not in ("gather", "dynamic")])
def test_derivatives(name: str) -> None:
    doubles = {k: v.astype(np.float64) if np.asarray(v).dtype == np.float32 else v for k, v in CONSTANTS.items()}  # type: ignore[attr-defined]
    module, inputs = made(LINES[name], doubles)
    given = [example(i, 2, 3) for i in inputs]
    given = [part.double().requires_grad_() if part.is_floating_point() else part for part in given]
    assert torch.autograd.gradcheck(lambda *parts: first(module(*parts)), given)


def first(y: object) -> torch.Tensor:
    found = y[0] if isinstance(y, tuple) else y
    assert isinstance(found, torch.Tensor)
    assert found.dtype is torch.float64
    return found
