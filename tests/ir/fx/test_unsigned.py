from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.load import load
from tersor.ir.text import graph, lines

Arrays = dict[str, np.ndarray]
TYPES = ["uint16", "uint32", "uint64"]


def run(line: str, feeds: Arrays, opset: int = 18, **constants: object) -> list[np.ndarray]:
    model = graph(line, inputs={name: str(value.dtype) for name, value in feeds.items()}, opset=opset, **constants)
    return list(Interpreter(to_fx(model)).run(feeds).values())


def pair(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers on both sides of half the range, in which the sign of a signed type would lie."""
    most = np.iinfo(dtype).max
    a = np.array([[most, most - 1, 3], [most // 2 + 1, most // 3, 0]], dtype)
    b = np.array([[2, most, most], [3, most // 2 + 2, 7]], dtype)
    return a, b


BINARY: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,
    "Mod": np.remainder,
    "Mod{fmod=1}": np.fmod,
    "Max": np.maximum,
    "Min": np.minimum,
    "Less": np.less,
    "GreaterOrEqual": np.greater_equal,
    "Equal": np.equal,
    "BitwiseXor": np.bitwise_xor,
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op", BINARY)
def test_wraps_around_as_numpy_does(op: str, dtype: str) -> None:
    a, b = pair(dtype)
    (found,) = run(f"y = {op}(a, b)", {"a": a, "b": b})
    with np.errstate(over="ignore"):
        wanted = BINARY[op](a, b)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    (found,) = run(f"y = {op}(a, b)", {"a": a, "b": b[0, :1]})
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found, BINARY[op](a, b[0, :1]))


REDUCED: dict[str, Callable[..., np.ndarray]] = {
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceSum": np.sum,
    "ReduceProd": np.prod,
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op", REDUCED)
def test_reductions(op: str, dtype: str) -> None:
    a, _ = pair(dtype)
    (found,) = run(f"y = {op}{{keepdims=0}}(a, axes)", {"a": a}, axes=np.array([1]))
    keywords = {"dtype": dtype} if op in ("ReduceSum", "ReduceProd") else {}
    np.testing.assert_array_equal(found, REDUCED[op](a, axis=1, **keywords))
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", TYPES)
def test_order_and_places(dtype: str) -> None:
    a, _ = pair(dtype)
    values, places = run("(v, i) = TopK{axis=1}(a, k)", {"a": a}, k=np.array([2]))
    np.testing.assert_array_equal(values, -np.sort(-a.astype(object), 1)[:, :2])
    assert (values.dtype, places.dtype) == (dtype, np.int64)
    (found,) = run("y = ArgMax{axis=1, keepdims=0}(a)", {"a": a})
    np.testing.assert_array_equal(found, a.argmax(1))
    (found,) = run("y = Clip(a, low, high)", {"a": a}, low=np.array(5, dtype), high=np.array(a[1, 0], dtype))
    np.testing.assert_array_equal(found, a.clip(5, a[1, 0]))


@pytest.mark.parametrize("dtype", TYPES)
def test_selections(dtype: str) -> None:
    a, b = pair(dtype)
    where = np.array([[2, 0], [1, 1]])
    (found,) = run("y = GatherElements{axis=1}(a, k)", {"a": a}, k=where)
    np.testing.assert_array_equal(found, np.take_along_axis(a, where, 1))
    (found,) = run("y = ScatterElements{axis=1, reduction='max'}(a, k, b)", {"a": a, "b": b[:, :1]}, k=where[:, 1:])
    wanted = a.copy()
    np.put_along_axis(wanted, where[:, 1:], np.maximum(np.take_along_axis(a, where[:, 1:], 1), b[:, :1]), 1)
    np.testing.assert_array_equal(found, wanted)
    (found,) = run("y = OneHot(k, depth, values)", {"k": np.array([2, 0], dtype)}, depth=3, values=np.float32([0, 1]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.eye(3)[[2, 0]])
    (found,) = run("y = Abs(a)", {"a": a})
    np.testing.assert_array_equal(found, a)
    (found,) = run("y = Sign(a)", {"a": a})
    np.testing.assert_array_equal(found, np.sign(a))


@pytest.mark.parametrize("dtype", ["uint8", *TYPES, "int8", "int32", "int64"])
def test_shifts(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = np.array([info.max, info.min, 5, info.max // 2 + 1, info.max], dtype)
    by = np.array([1, 1, 2, info.bits - 1, info.bits], dtype)
    big, fill = [int(value) for value in x], [-1 if value < 0 else 0 for value in x]
    (right,) = run("y = BitShift{direction='RIGHT'}(x, n)", {"x": x, "n": by}, opset=28)
    (left,) = run("y = BitShift{direction='LEFT'}(x, n)", {"x": x, "n": by}, opset=28)
    inside = [int(n) < info.bits for n in by]
    wanted = [v >> int(n) if ok else f for v, n, ok, f in zip(big, by, inside, fill, strict=True)]
    assert right.tolist() == wanted
    wrapped = [(v << int(n)) % 2**info.bits if ok else 0 for v, n, ok in zip(big, by, inside, strict=True)]
    assert [int(value) % 2**info.bits for value in left] == wrapped
    assert right.dtype == left.dtype == dtype


def test_is_written_as_the_op_it_was() -> None:
    model = graph("s = Add(a, b)", "y = Div(s, b)", inputs={"a": "uint64[2]", "b": "uint64[2]"}, opset=18)
    assert lines(load(to_fx(model))) == lines(model)


@pytest.mark.parametrize("dtype", TYPES)
def test_slices_backward(dtype: str) -> None:
    a, _ = pair(dtype)
    (found,) = run("y = Slice(a, [-1], [-9], [1], [-2])", {"a": a})
    np.testing.assert_array_equal(found, a[:, ::-2])
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads(dtype: str, mode: str) -> None:
    a, _ = pair(dtype)
    (found,) = run(f"y = Pad{{mode={mode}}}(a, [0, 1, 0, 1])", {"a": a})
    np.testing.assert_array_equal(found, np.pad(a, [(0, 0), (1, 1)], mode))
    assert found.dtype == dtype
