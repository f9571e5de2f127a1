"""What follows from weights alone is computed once for all modules that have these weights."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.fx.held import Held
from tersor.ir.runner import Watcher
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_weights import QuantizeWeights

FEEDS = {"x": np.ones((2, 3), np.float32)}


def model() -> ir.Model:
    return graph(
        "d = DequantizeLinear{axis=1}(q, s)", "h = MatMul(x, d)", "e = DequantizeLinear{axis=1}(r, s)",
        "y = MatMul(h, e)",
        inputs={"x": "float[batch, 3]"}, q=np.arange(12, dtype=np.int8).reshape(3, 4),
        r=np.arange(16, dtype=np.int8).reshape(4, 4), s=np.array([1, 2, 3, 4], np.float32),
    )  # fmt: skip


def watched(source: ir.Model, held: Held) -> np.ndarray:
    """The value `y`, and what is held behind it is then in `held`."""
    seen: list[np.ndarray] = []
    Watcher(source, held).watch(FEEDS, ["y"], lambda _, array: bool(seen.append(array.copy())))
    return seen[0]


def changed(source: ir.Model, name: str) -> None:
    value = source.graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.Tensor(value.const_value.numpy() + 1, name=name)


def test_the_same_weights_are_dequantized_once() -> None:
    source, held = model(), Held()
    first = watched(source, held)
    before = {number: id(value) for number, value in held.values.items()}
    assert len(before) == 2
    assert np.array_equal(watched(source, held), first)
    assert {number: id(value) for number, value in held.values.items()} == before


def test_other_weights_are_other_values() -> None:
    source, held = model(), Held()
    watched(source, held)
    kept = {id(value) for value in held.values.values()}
    changed(source, "r")
    wanted = (
        FEEDS["x"] @ (np.arange(12).reshape(3, 4) * [1, 2, 3, 4]) @ ((np.arange(16).reshape(4, 4) + 1) * [1, 2, 3, 4])
    )
    assert np.array_equal(watched(source, held), wanted)
    # the one that stayed, and a new one in the place of the other
    assert len(kept & {id(value) for value in held.values.values()}) == 1
    assert len(held.values) == 2


def test_arguments_tell_values_apart() -> None:
    source = graph(
        "a = Transpose{perm=[0, 2, 1]}(w)", "b = Transpose{perm=[1, 0, 2]}(w)", "y = Add(a, b)",
        inputs={"x": "float[1]"}, w=np.zeros((2, 2, 2), np.float32),
    )  # fmt: skip
    module = to_fx(source)
    numbers = Held().number(module, {"w": source.graph.initializers["w"].const_value})
    turned = [number for node, number in numbers.items() if node.meta.get("onnx_name") in ("a", "b")]
    assert len(turned) == len(set(turned))


def numbers(*lines: str, **weights: np.ndarray) -> dict[str, int]:
    """The number of each value by name, the constants known by what they hold alone."""
    module = to_fx(graph(*lines, inputs={"x": "float[1]"}, **weights))
    return {str(node.meta.get("onnx_name")): number for node, number in Held().number(module, {}).items()}


def test_what_is_done_tells_values_apart() -> None:
    found = numbers("a = Neg(w)", "b = Abs(w)", "c = Neg(w)", "y = Sum(a, b, c)", w=np.ones(3, np.float32))
    assert found["a"] == found["c"] != found["b"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([1.0, 2.0], np.float32), np.array([1.0, 3.0], np.float32)),
        (np.array([1.0, 2.0], np.float32), np.array([1.0, 2.0], np.float64)),
        (np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32)),
        (np.ones(100, np.float32), np.ones(100, np.float32)),
    ],
    ids=["numbers", "dtype", "shape", "large"],
)
def test_constants_are_told_apart(one: np.ndarray, other: np.ndarray) -> None:
    found = numbers("a = Neg(v)", "b = Neg(w)", v=one, w=other)
    assert found["a"] != found["b"]


def test_small_constants_that_hold_the_same_are_the_same() -> None:
    found = numbers("a = Neg(v)", "b = Neg(w)", v=np.arange(3, dtype=np.float32), w=np.arange(3, dtype=np.float32))
    assert found["a"] == found["b"]


def test_weights_that_no_module_has_any_more_are_let_go() -> None:
    source, held = model(), Held()
    watched(source, held)
    before = weakref.ref(source.graph.initializers["r"].const_value)
    changed(source, "r")
    watched(source, held)
    gc.collect()
    assert before() is None


def test_what_a_module_does_not_compute_is_dropped() -> None:
    held = Held()
    watched(model(), held)
    watched(graph("y = Relu(x)", inputs={"x": "float[batch, 3]"}), held)
    assert not held.values


def test_what_is_like_an_input_takes_only_its_device() -> None:
    """Zero points of few bits are made when a model runs, where its input is."""
    weight = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    source, held = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 3]"}, w=weight), Held()
    QuantizeWeights(bits=3, group=2).apply(source, Context())
    assert any(node.op_type == "ConstantOfShape" for node in source.graph)
    watched(source, held)
    (kept,) = held.values.values()
    assert isinstance(kept, torch.Tensor)
    assert (kept.shape, kept.dtype) == (weight.shape, torch.float32), "dequantized, and not only unpacked"
