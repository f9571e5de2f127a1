from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.unpack_by_remainders import UnpackByRemainders
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.edit import Tape, declare_functions, replace
from tersor.passes.weights import packing
from tersor.tests.support import apply, misses

RNG = np.random.default_rng(0)


def unpacking(codes: np.ndarray, bits: int) -> ir.Model:
    """A model whose output is the codes, unpacked."""
    model = graph("y = Identity(w)", outputs=["y"], w=codes)
    tape, node = Tape(), model.graph.node(0)
    replace(tape, node.outputs, [packing.emit(tape, codes, bits, "w")])
    declare_functions(model)
    return model


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("shape", [(8, 3), (5, 7), (1,), (2, 3, 4)])
def test_unpacks_what_was_packed(bits: int, shape: tuple[int, ...]) -> None:
    codes = RNG.integers(0, 1 << bits, shape).astype(np.uint8)
    model = unpacking(codes, bits)
    apply(UnpackByRemainders(), model)
    ops = {node.op_type for node in model.graph}
    assert "Mod" in ops
    assert ops.isdisjoint({"UnpackBits", "BitShift", "BitwiseAnd", "BitwiseOr"})
    found = runner(model)({})["y"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, codes)


def test_every_byte_comes_apart() -> None:
    codes = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little")
    model = unpacking(codes, 1)
    apply(UnpackByRemainders(), model)
    np.testing.assert_array_equal(runner(model)({})["y"], codes)


def test_computed_planes_are_left_alone() -> None:
    model = unpacking(np.zeros(16, np.uint8), 2)
    planes = ir.Value(name="p", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([2, 2]))
    model.graph.inputs.append(planes)
    model.graph.node(0).replace_input_with(0, planes)
    assert [miss.rule for miss in misses(UnpackByRemainders(), model)] == ["planes"]
