"""Selection in the types and forms that ONNX's own tests leave out."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx.reference
import onnx_ir
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.index import bit_cast
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]
RNG = np.random.default_rng(0)
PLACES = np.array([[0, 1], [2, 1], [1, 0]])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.int8])
@pytest.mark.parametrize(
    "call",
    [
        "GatherElements{axis=1}(x, e)",
        "GatherND(x, e)",
        "ScatterElements{axis=1}(x, e, u)",
        "ScatterElements{axis=1, reduction='add'}(x, e, u)",
        "ScatterElements{axis=0, reduction='mul'}(x, e, u)",
        "ScatterElements{axis=1, reduction='max'}(x, e, u)",
        "ScatterElements{axis=1, reduction='min'}(x, e, u)",
        "ScatterND{reduction='max'}(x, e, v)",
        "ScatterND(x, e, v)",
        "NonZero(x)",
        "Trilu(x)",
        "Compress{axis=1}(x, c)",
        "CumSum{reverse=1}(x, 0)",
    ],
)
def test_integers_of_every_width(call: str, dtype: type) -> None:
    top = np.iinfo(dtype).max
    x = np.array([[0, 1, top], [top - 1, 2, top // 2 + 1], [3, 0, 5]], dtype=dtype)
    every = {"x": x, "e": PLACES, "u": x[:, :2] // 3, "v": x[0], "c": np.array([True, False, True])}
    names = {part.strip() for part in call.split("(")[1].rstrip(")").split(",")}
    feeds = {name: value for name, value in every.items() if name in names}
    inputs = {name: f"{value.dtype}{list(value.shape)}" for name, value in feeds.items()}
    model = graph(f"y = {call}", inputs=inputs, opset=18)
    found = Interpreter(to_fx(model)).run(feeds)["y"]
    with np.errstate(over="ignore"):
        (wanted,) = onnx.reference.ReferenceEvaluator(onnx_ir.serde.serialize_model(model)).run(None, feeds)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_scatter_had_another_name_before_opset_11(check: Check) -> None:
    feeds = {"x": np.zeros((3, 3), np.float32), "e": PLACES, "u": RNG.random((3, 2)).astype(np.float32)}
    check("y = Scatter{axis=1}(x, e, u)", x="float[3, 3]", e="int64[3, 2]", u="float[3, 2]", opset=9, feeds=feeds)


def test_topk_had_its_size_as_an_attribute_before_opset_10(check: Check) -> None:
    check("(y, i) = TopK{k=2, axis=0}(x)", x="float[5, 3]", opset=9)


@pytest.mark.parametrize(
    ("source", "target"),
    [("int4", "uint4"), ("uint4", "int4"), ("float4e2m1", "uint4"), ("int4", "float4e2m1"), ("float16", "bfloat16")],
)
def test_bits_of_types_that_torch_holds_unpacked(source: str, target: str) -> None:
    kinds = {
        "int4": ml_dtypes.int4,
        "uint4": ml_dtypes.uint4,
        "float4e2m1": ml_dtypes.float4_e2m1fn,
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
    }
    small = source != "float16"
    codes = np.arange(16, dtype=np.uint8) if small else np.arange(1, 60000, 5000, dtype=np.uint16)
    numbers = {"int4": np.where(codes > 7, codes.astype(int) - 16, codes), "uint4": codes}
    x = numbers[source].astype(kinds[source]) if source in numbers else codes.view(kinds[source])
    to = onnx_ir.DataType[target.upper()]
    model = graph(f"y = BitCast{{to={to.value}}}(x)", inputs={"x": f"{source}[{len(x)}]"}, opset=26)
    found = Interpreter(to_fx(model)).run({"x": x})["y"]
    assert found.dtype == kinds[target]
    bits = found.astype(np.int64) if target in numbers else found.view(codes.dtype).astype(np.int64)
    np.testing.assert_array_equal(bits & 0xF if small else bits, codes)


def test_bits_of_another_width_are_refused() -> None:
    model = graph("y = BitCast{to=7}(x)", inputs={"x": "float[2]"}, opset=26)
    with pytest.raises(ModelError, match="FLOAT has 32 bits and INT64 64; expected as many"):
        Interpreter(to_fx(model)).run({"x": np.zeros(2, np.float32)})
    assert bit_cast(torch.tensor([True]), to=onnx_ir.DataType.UINT8.value).tolist() == [1]


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("sorted_", [0, 1])
def test_unique_rebuilds_its_input(axis: int | None, sorted_: int) -> None:
    x = np.array([[2, 1, 2], [2, 1, 2], [0, 3, 0]], np.float32)
    attributes = f"sorted={sorted_}" + (f", axis={axis}" if axis is not None else "")
    model = graph(f"(v, first, inverse, counts) = Unique{{{attributes}}}(x)", inputs={"x": "float[3, 3]"})
    v, first, inverse, counts = Interpreter(to_fx(model)).run({"x": x}).values()
    np.testing.assert_array_equal(np.take(v, inverse, axis or 0).reshape(x.shape), x)
    np.testing.assert_array_equal(np.take(x if axis is not None else x.ravel(), first, axis or 0), v)
    assert counts.sum() == inverse.size
    assert (np.diff(first) > 0).all() or sorted_


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e8m0fnu])
def test_a_cache_of_float8_is_written(dtype: type) -> None:
    name = onnx_ir.DataType.from_numpy(np.dtype(dtype)).name.lower()
    kinds = {"p": f"{name}[2, 3, 2]", "u": f"{name}[2, 1, 2]"}
    model = graph("y = TensorScatter(p, u, [1, 0])", inputs=kinds, opset=24)
    past, update = np.ones((2, 3, 2), dtype), np.full((2, 1, 2), 4, dtype)
    wanted = past.copy()
    wanted[0, 1], wanted[1, 0] = update[:, 0]
    np.testing.assert_array_equal(Interpreter(to_fx(model)).run({"p": past, "u": update})["y"], wanted)
