"""Models of 16-bit floats on the same numbers in float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.ir.widened import coarsest, widened, widened_feeds

HALF = np.random.default_rng(1).standard_normal((32, 8)).astype(np.float16)


def half_layer() -> ir.Model:
    return graph("h = MatMul(x, w)", "y = Cast{to=1}(h)", inputs={"x": "float16[batch, 32]"}, w=HALF)


@pytest.mark.parametrize(("dtype", "eps"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7), ("float", 0.0)])
def test_the_coarsest_type_is_known(dtype: str, eps: float) -> None:
    assert coarsest(graph("y = Relu(x)", inputs={"x": f"{dtype}[4]"})) == eps


def test_types_of_subgraphs_count() -> None:
    model = graph("h = Cast{to=10}(x)", "y = Cast{to=1}(h)", inputs={"x": "float[4]"})
    for node in model.graph:
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16 if node.outputs[0].name == "h" else ir.DataType.FLOAT)
    assert coarsest(model) == 2.0**-10


def test_the_copy_computes_in_float32_on_the_same_weights() -> None:
    model, x = half_layer(), np.random.default_rng(2).standard_normal((4, 32)).astype(np.float16)
    wide = widened(model)
    found = runner(wide)(widened_feeds({"x": x}))["y"]
    wanted = x.astype(np.float64) @ HALF.astype(np.float64)
    # sums of 32 products in float32; float16 would be off by 2^-11
    assert np.abs(found - wanted).max() < 32 * np.finfo(np.float32).eps * np.abs(wanted).max()
    assert coarsest(wide) == 0.0
    assert coarsest(model) == 2.0**-10, "the model itself stays as it is"


def test_what_attributes_name_becomes_float32() -> None:
    model = graph("h = Cast{to=10}(x)", "g = Mul(h, h)", "y = Cast{to=1}(g)", inputs={"x": "float[4]"})
    number = np.float32(1 + 2**-20)
    found = runner(widened(model))({"x": np.full(4, number)})["y"]
    assert np.allclose(found, float(number) ** 2, rtol=1e-7, atol=0)


def test_feeds_keep_their_numbers() -> None:
    given = {"a": np.array([1.5], ml_dtypes.bfloat16), "b": np.array([3]), "c": np.array([0.1], np.float32)}
    wide = widened_feeds(given)
    assert [array.dtype for array in wide.values()] == [np.float32, np.int64, np.float32]
    assert wide["a"] == 1.5
