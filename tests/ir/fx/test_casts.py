from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx.reference
import onnx_ir
import pytest
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

FLOATS = ("double", "float", "float16", "bfloat16")
SMALL = ("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float4e2m1", "float6e2m3", "float6e3m2")
INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "int4", "uint4", "int2", "uint2")
# each small type's ties and ends among them
VALUES = np.concatenate(
    [np.arange(-40, 41) / 8, np.arange(-64, 65) * 7.5, [232, 244, 248, 464, 465, 480, 57344, 61439, 61440, 1e6, -1e6]]
)


def code(name: str) -> onnx_ir.DataType:
    return onnx_ir.DataType["FLOAT" if name == "float" else name.upper()]


def cast(x: np.ndarray, to: str, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """What FX makes of it, and what ONNX does."""
    source = onnx_ir.DataType.from_numpy(x.dtype).name.lower()
    text = "".join(f", {name}={value!r}" for name, value in options.items())
    model = graph(f"y = Cast{{to={code(to).value}{text}}}(x)", inputs={"x": f"{source}[n]"}, opset=28)
    (found,) = Interpreter(to_fx(model)).run({"x": x}).values()
    (wanted,) = onnx.reference.ReferenceEvaluator(onnx_ir.serde.serialize_model(model)).run(None, {"x": x})
    assert found.dtype == code(to).numpy()
    return found.astype(np.float64), np.asarray(wanted).astype(np.float64)


@pytest.mark.parametrize("to", SMALL)
@pytest.mark.parametrize("source", FLOATS)
def test_floats_are_rounded_to_even_and_saturate(source: str, to: str) -> None:
    with np.errstate(over="ignore"):
        x = np.append(VALUES, [np.inf, -np.inf]).astype(code(source).numpy())
    found, wanted = cast(x, to)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))


@pytest.mark.parametrize("to", [name for name in SMALL if name.startswith("float8")])
def test_what_is_beyond_a_float8_that_does_not_saturate(to: str) -> None:
    found, wanted = cast(np.append(VALUES, [np.inf, -np.inf, np.nan]).astype(np.float32), to, saturate=0)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("to", [*FLOATS, "bool", "int32", "uint8"])
@pytest.mark.parametrize("source", SMALL)
def test_small_floats_come_back(source: str, to: str) -> None:
    x = np.abs(VALUES[np.abs(VALUES) < 6]).astype(np.float32).astype(code(source).numpy())
    found, wanted = cast(x, to)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("to", INTEGERS)
@pytest.mark.parametrize("source", ["int64", "uint64", "int32", "uint32", "int16", "uint16", "int8", "uint8"])
def test_integers_drop_the_bits_that_do_not_fit(source: str, to: str) -> None:
    info, bits = np.iinfo(source), code(to).bitwidth
    x = np.array([info.min, info.max, info.max // 2 + 1, 0, 1, 7, 9, 100], source)
    found, _ = cast(x, to)
    signed = not to.startswith("u")
    for before, after in zip(x.tolist(), found.tolist(), strict=True):
        wanted = before % 2**bits
        wanted -= 2**bits if signed and wanted >= 2 ** (bits - 1) else 0
        assert after == float(wanted)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_exponents_are_rounded_as_told(mode: str) -> None:
    x = np.array([1, 1.25, 1.5, 1.75, 2, 3, 0.75, 2.0**-126, 3e38, 1.2e38], np.float32)
    found, wanted = cast(x, "float8e8m0", round_mode=mode)
    np.testing.assert_array_equal(found, wanted)
    found, wanted = cast(x, "float8e8m0", round_mode=mode, saturate=0)
    np.testing.assert_array_equal(found, wanted)


def test_the_ends_of_the_exponents() -> None:
    """As the tables of the Cast operator have them, which ONNX's reference does not follow."""
    x = np.array([np.inf, 2.0**-127, 2.0**-140], np.float32)
    assert cast(x, "float8e8m0")[0].tolist() == [2.0**127, 2.0**-127, 2.0**-127]
    assert cast(np.array([2.0**-127, 1.0], ml_dtypes.float8_e8m0fnu), "bool")[0].tolist() == [1, 1]


def test_a_rounding_without_a_name() -> None:
    with pytest.raises(Exception, match="expected up, down or nearest"):
        cast(np.ones(1, np.float32), "float8e8m0", round_mode="away")


@pytest.mark.parametrize("to", ["int4", "uint2", "float4e2m1", "float8e5m2", "uint16", "bool"])
def test_like_another_tensor_of_any_type(to: str) -> None:
    model = graph("y = CastLike(x, like)", inputs={"x": "float[4]", "like": f"{to}[1]"}, opset=28)
    x = np.array([0, 1, 1.75, 3], np.float32)
    found = Interpreter(to_fx(model)).run({"x": x, "like": np.zeros(1).astype(code(to).numpy())})["y"]
    np.testing.assert_array_equal(found.astype(np.float64), cast(x, to)[0])
    assert found.dtype == code(to).numpy()


@pytest.mark.parametrize("name", SMALL[:4])
def test_infinity_is_found_in_the_float8_types_that_have_it(name: str) -> None:
    model = graph("y = IsInf(x)", inputs={"x": f"{name}[3]"})
    x = np.array([1, np.inf, np.nan]).astype(code(name).numpy())
    assert Interpreter(to_fx(model)).run({"x": x})["y"].tolist() == np.isinf(x.astype(np.float32)).tolist()
