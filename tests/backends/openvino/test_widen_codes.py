from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.widen_codes import WidenCodes
from tersor.ir.runner import runner
from tersor.passes.base import Context
from tersor.tests.backends.openvino.test_unpack_by_remainders import unpacking
from tersor.tests.support import misses

pytest.importorskip("openvino")

RNG = np.random.default_rng(0)


def reading(codes: np.ndarray, bits: int) -> ir.Model:
    """A model that reads the codes, unpacked."""
    model = unpacking(codes, bits)
    reader = ir.node("Identity", [model.graph.outputs[0]])
    reader.outputs[0].name = "z"
    model.graph.append(reader)
    model.graph.outputs[0] = reader.outputs[0]
    return model


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("shape", [(8, 3), (5, 7), (1,), (2, 3, 4)])
def test_the_same_integers(bits: int, shape: tuple[int, ...]) -> None:
    codes = RNG.integers(0, 1 << bits, shape).astype(np.uint8)
    model = reading(codes, bits)
    assert WidenCodes().apply(model, Context()).matches == 1
    assert {node.op_type for node in model.graph} <= {"Cast", "Identity"}
    (stored,) = model.graph.initializers.values()
    assert stored.dtype == (ir.DataType.UINT4 if bits < 4 else ir.DataType.UINT8)
    found = runner(model)({})["z"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, codes)


def test_many_stay_in_planes() -> None:
    model = reading(np.zeros((400, 1000), np.uint8), 3)
    assert [miss.rule for miss in misses(WidenCodes(), model)] == ["bytes"]


def test_an_output_of_the_model_is_left_alone() -> None:
    model = unpacking(np.zeros(16, np.uint8), 3)
    assert [miss.rule for miss in misses(WidenCodes(), model)] == ["output"]


def test_computed_planes_are_left_alone() -> None:
    model = unpacking(np.zeros(16, np.uint8), 2)
    planes = ir.Value(name="p", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([2, 2]))
    model.graph.inputs.append(planes)
    model.graph.node(0).replace_input_with(0, planes)
    assert [miss.rule for miss in misses(WidenCodes(), model)] == ["planes"]
