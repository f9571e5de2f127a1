from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.backend import OpenVino
from tersor.backends.openvino.packed_size import width
from tersor.backends.openvino.widen_weights import WidenWeights
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.edit import Tape, declare_functions, replace
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.weights import Quantized
from tersor.passes.weights.stored import Stored
from tersor.tests.support import misses

pytest.importorskip("openvino")

RNG = np.random.default_rng(0)
BACKEND = OpenVino(threads=1)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def emitted(weight: Quantized, *more: str) -> ir.Model:
    """A model whose output w is the weight, dequantized."""
    model = graph("w = Identity(d)", *more, outputs=["w"], d=np.zeros(weight.values.shape, np.float32))
    tape = Tape()
    replace(tape, model.graph.node(0).outputs, [weight.emit(tape, "w")])
    declare_functions(model)
    return model


def weight_of(bits: int, shape: tuple[int, ...], block: int, *, signed: bool) -> Quantized:
    """Integers over their whole range; scales along the last axis or in blocks."""
    low, middle = (-(1 << (bits - 1)), 0) if signed else (0, 1 << (bits - 1))
    dtype = np.int8 if signed else np.uint8
    values = RNG.integers(low, low + (1 << bits), shape).astype(dtype)
    scales = (*shape[:-1], shape[-1] // block) if block else (shape[-1],)
    scale = np.abs(normal(*scales)) + np.float32(0.01)
    zero = None if signed else RNG.integers(low, middle + 1, scales).astype(dtype)
    return Quantized(values, scale, len(shape) - 1, zero, block, bits)


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("block", [0, 4])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(6, 8), (2, 3, 8)])
def test_the_same_numbers_in_a_type_of_their_own(bits: int, block: int, signed: bool, shape: tuple[int, ...]) -> None:
    weight = weight_of(bits, shape, block, signed=signed)
    model = emitted(weight)
    assert WidenWeights().apply(model, Context()).matches == 1
    (node,) = model.graph
    stored = Stored.of(node.outputs[0])
    assert stored is not None
    assert (stored.bits, stored.signed) == (4 if bits < 4 else 8, signed)
    # around the middle there is nothing to subtract
    assert (len(node.inputs) == 2) == signed
    np.testing.assert_array_equal(stored.read().dense(), weight.dense())
    np.testing.assert_array_equal(runner(model)({})["w"], weight.dense())


HELD = weight_of(3, (6, 8), 0, signed=True)


def shared() -> ir.Model:
    model = emitted(HELD)
    codes = next(node for node in model.graph if node.op_type == "UnpackBits").outputs[0]
    again = ir.node("Identity", [codes])
    again.outputs[0].name = "again"
    model.graph.append(again)
    model.graph.outputs.append(again.outputs[0])
    return model


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (emitted(weight_of(4, (6, 8), 0, signed=True)), "bits"),
        (emitted(weight_of(8, (6, 8), 4, signed=False)), "bits"),
        (emitted(weight_of(3, (1000, 512), 0, signed=True)), "bytes"),
        (shared(), "readers"),
        (graph("w = DequantizeLinear(x, s)", inputs={"x": "int8[n]"}, s=np.float32(1)), "weight"),
    ],
)
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    assert [miss.rule for miss in misses(WidenWeights(), model)] == [rule]


def size(model: ir.Model, folder: Path, **options: int | bool) -> int:
    """Bytes of what is written of a model quantized with these options."""
    made, target = model.clone(), folder / str(options["bits"])
    assert QuantizeWeights(group=32, smallest=1, embeddings=True, **options).apply(made, Context()).matches
    BACKEND.pipeline().apply(made, Context())
    target.mkdir()
    BACKEND.write(made, target)
    return sum((target / name).stat().st_size for name in ("openvino.xml", "openvino.bin"))


def lstm() -> ir.Model:
    text = "(y, h, c) = LSTM{hidden_size=32}(x, w, r)"
    return graph(text, inputs={"x": "float[time, 2, 64]"}, w=normal(1, 128, 64), r=normal(1, 128, 32))


def attention() -> ir.Model:
    heads = [f"{at} = MatMul(x, w{at})" for at in "qkv"]
    return graph(
        *heads, "a = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v)", "y = MatMul(a, wo)",
        inputs={"x": "float[b, s, 64]"}, wq=normal(64, 64), wk=normal(64, 64), wv=normal(64, 64), wo=normal(64, 64),
    )  # fmt: skip


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("make", [lstm, attention])
def test_no_file_is_larger_than_that_of_the_wider_type(make: object, symmetric: bool, tmp_path: Path) -> None:
    assert callable(make)
    model = make()
    sizes = {bits: size(model, tmp_path, bits=bits, symmetric=symmetric) for bits in (2, 3, 4, 5, 6, 7, 8)}
    # what the nodes are called may differ
    assert all(sizes[bits] <= sizes[width(bits)] * 1.01 for bits in sizes)


def test_a_large_table_stays_in_planes(tmp_path: Path) -> None:
    model = graph("y = Gather(t, ids)", inputs={"ids": "int64[n]"}, t=normal(4000, 128))
    three, four = (size(model, tmp_path, bits=bits) for bits in (3, 4))
    saved = 4000 * 128 // 8
    assert four - saved < three < four - saved / 2
