"""Low-bit products: the kernels against the plain way, and the pass that packs weights for them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.fx.kernels import products
from tersor.ir.fx.kernels.prepack import prepack
from tersor.ir.text import graph

VECTORS = torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def integers(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    info = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(info.min, info.max + 1, shape, generator=generator).to(dtype)


ZEROS: list[tuple[list[int] | int | None, list[int] | int | None]] = [
    (None, None),
    (7, None),
    (None, 3),
    (7, 3),
    (7, [1, 2, 3, 4, 5, 6]),
]


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize(("p", "q"), ZEROS)
@pytest.mark.parametrize("a_type", [torch.int8, torch.uint8])
@pytest.mark.parametrize("b_type", [torch.int8, torch.uint8])
def test_integer_product_is_exact(
    monkeypatch: pytest.MonkeyPatch,
    vnni: bool,
    p: object,
    q: object,
    a_type: torch.dtype,
    b_type: torch.dtype,
) -> None:
    monkeypatch.setattr(products, "has_vnni", lambda: vnni)
    a, b = integers(a_type, 2, 3, 40), integers(b_type, 40, 6, seed=1)
    zeros = [None if z is None else torch.tensor(z, dtype=t) for z, t in ((p, a_type), (q, b_type))]
    found = products.integer_product(a, b, *zeros)
    left, right = (x.long() - (0 if z is None else z.long()) for x, z in zip((a, b), zeros, strict=True))
    assert found.dtype is torch.int32
    torch.testing.assert_close(found.long(), left @ right, rtol=0, atol=0)


def test_a_zero_point_per_row_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "has_vnni", lambda: True)
    monkeypatch.setattr(torch, "_int_mm", None)
    a, b, zero = integers(torch.uint8, 3, 8), integers(torch.int8, 8, 5), torch.tensor([1, 2, 3], dtype=torch.uint8)
    wanted = (a.long() - zero.long().unsqueeze(1)) @ b.long()
    torch.testing.assert_close(products.integer_product(a, b, zero).long(), wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rows", "columns", "group", "dtype"),
    [(64, 128, 16, torch.bfloat16), (60, 128, 32, torch.bfloat16), (64, 128, 32, torch.float32)],
)
def test_int4_kernel_is_for_some_shapes_and_types(rows: int, columns: int, group: int, dtype: torch.dtype) -> None:
    assert not products.int4_fits(rows, columns, group, dtype, torch.device("cpu"))


def int4() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A packed weight [64, 128] with groups of 32, and what it stands for in float64."""
    codes = torch.randint(0, 16, (64, 128), generator=torch.Generator().manual_seed(2))
    scales = (torch.rand(64, 4, generator=torch.Generator().manual_seed(3)) * 0.1).bfloat16()
    zeros = torch.randint(0, 16, (64, 4), generator=torch.Generator().manual_seed(4))
    plain = (codes - zeros.repeat_interleave(32, 1)).double() * scales.double().repeat_interleave(32, 1)
    return (*products.int4_pack(codes, scales, zeros), plain, torch.randn(2, 3, 128).bfloat16())


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def test_int4_linear_is_the_product_with_the_dequantized_weight() -> None:
    weight, pairs, plain, x = int4()
    found = products.int4_linear(x, weight, pairs, group=32)
    assert found.dtype is torch.bfloat16
    assert relative(found, x.double() @ plain.T) < 2**-8


def test_int4_linear_is_differentiable() -> None:
    weight, pairs, plain, x = int4()
    x.requires_grad_()
    y = products.int4_linear(x, weight, pairs, group=32)
    y.sum().backward()
    assert x.grad is not None
    assert relative(x.grad, plain.sum(0).expand(x.shape)) < 2**-7
    assert relative(y.detach(), x.detach().double() @ plain.T) < 2**-7


@pytest.mark.parametrize("columns", [36, 40, 48, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_linear(dtype: torch.dtype, columns: int) -> None:
    x, weight, scales = torch.randn(2, 3, columns, dtype=dtype), integers(torch.int8, 24, columns), torch.rand(24)
    wanted = x.double() @ (weight.double() * scales.to(dtype).double().unsqueeze(1)).T
    assert relative(products.int8_linear(x, weight, scales), wanted) < (2**-8 if dtype is torch.bfloat16 else 1e-6)


def test_float8_product() -> None:
    a, b = torch.randn(2, 3, 32).to(torch.float8_e4m3fn), torch.randn(32, 16).to(torch.float8_e4m3fn)
    found = products.float8_product(a, b, torch.tensor(0.5), torch.tensor([2.0]), dtype=torch.float32)
    torch.testing.assert_close(found, a.float() @ b.float())


RNG = np.random.default_rng(0)


def nbits(options: str = "", dtype: type = ml_dtypes.bfloat16, **more: object) -> torch.fx.GraphModule:
    constants = {
        "w": RNG.integers(0, 256, (32, 4, 16), np.uint8),
        "s": (RNG.random((32, 4)) * 0.1).astype(dtype),
        "z": RNG.integers(0, 256, (32, 2), np.uint8),
        "b": RNG.random(32).astype(dtype),
        **more,
    }
    line = f"y = com.microsoft.MatMulNBits{{K=128, N=32, bits=4, block_size=32{options}}}(x, w, s, z, _, b)"
    return to_fx(graph(line, inputs={"x": "bfloat16[n, 5, 128]"}, **constants))


def targets(module: torch.fx.GraphModule) -> set[object]:
    return {node.target for node in module.graph.nodes if node.op == "call_function"}


@pytest.mark.skipif(not VECTORS, reason="this CPU has no vector kernels")
def test_prepack_matmul_nbits() -> None:
    module, x = nbits(), torch.randn(2, 5, 128).bfloat16()
    with torch.no_grad():
        before = module(x)
        assert prepack(module) == 1
        after = module(x)
    assert products.int4_linear in targets(module)
    assert relative(after, before.double()) < 2**-7
    assert sorted(module.meta["initializers"]) == ["b", "s", "w", "z"]
    assert all(hasattr(module, path) for path in module.meta["initializers"].values())
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n", max=9)},), strict=False)
    wide = torch.randn(7, 5, 128).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(program.module()(wide), module(wide), rtol=0, atol=0)


def test_float32_is_packed_only_where_its_input_may_be_rounded() -> None:
    assert prepack(nbits(dtype=np.float32)) == 0
    assert prepack(nbits(", accuracy_level=4", np.float32)) == 0
    assert prepack(nbits(", accuracy_level=1", np.float32), rounded=True) == 0
    assert prepack(nbits(", accuracy_level=4", np.float32), rounded=True) == int(VECTORS)


def test_prepack_int8_weights() -> None:
    constants = {"w": integers(torch.int8, 40, 24).numpy(), "s": RNG.random(24).astype(ml_dtypes.bfloat16)}
    lines = ("d = DequantizeLinear{axis=1}(w, s)", "y = MatMul(x, d)")
    module = to_fx(graph(*lines, inputs={"x": "bfloat16[n, 40]"}, **constants))
    x = torch.randn(3, 40).bfloat16()
    with torch.no_grad():
        before = module(x)
        assert prepack(module) == 1
        assert relative(module(x), before.double()) < 2**-6
    assert products.int8_linear in targets(module)


def test_prepack_float8() -> None:
    constants = {
        "w": RNG.standard_normal((32, 16)).astype(ml_dtypes.float8_e4m3fn),
        "s": np.float32(0.5),
        "t": np.float32(0.1),
        "z": np.array(0, ml_dtypes.float8_e4m3fn),
    }
    lines = (
        "q = QuantizeLinear(x, t, z)",
        "a = DequantizeLinear(q, t, z)",
        "d = DequantizeLinear(w, s)",
        "y = MatMul(a, d)",
    )
    module = to_fx(graph(*lines, inputs={"x": "float[3, 32]"}, **constants))
    x = torch.randn(3, 32)
    before = module(x)
    assert prepack(module) == 1
    assert products.float8_product in targets(module)
    torch.testing.assert_close(module(x), before)
