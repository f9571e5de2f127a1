"""The oracle of these tests: ONNX Runtime, or ONNX's reference evaluator where it has no kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.reference
import onnx_ir
import onnxruntime
import pytest
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Arrays = dict[str, np.ndarray]


def random_feeds(model: onnx_ir.Model, seed: int = 0) -> Arrays:
    """Normal floats, integers 0 to 3, random bools, for inputs of static shape."""
    rng = np.random.default_rng(seed)
    feeds: Arrays = {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None
        shape = tuple(value.shape.numpy())
        dtype = value.dtype.numpy()
        if np.issubdtype(dtype, np.floating):
            feeds[value.name or ""] = rng.standard_normal(shape).astype(dtype)
        else:
            feeds[value.name or ""] = rng.integers(0, 2 if dtype == np.bool_ else 4, shape).astype(dtype)
    return feeds


def expected(model: onnx_ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX says the outputs are."""
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    proto = onnx_ir.serde.serialize_model(model)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # a quantized LSTM divides the batch among the threads, each with a range of its own
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return [np.asarray(value) for value in onnx.reference.ReferenceEvaluator(proto).run(None, arrays)]
    return [np.asarray(value) for value in session.run(None, arrays)]


def agree(model: onnx_ir.Model, feeds: Mapping[str, np.ndarray], tolerance: float = 1e-5) -> Arrays:
    """Run through FX and the oracle: same shapes and types, values within the relative L2 tolerance."""
    found = Interpreter(to_fx(model)).run(feeds)
    wanted = expected(model, feeds)
    for (name, value), reference in zip(found.items(), wanted, strict=True):
        assert value.shape == reference.shape, name
        assert value.dtype == reference.dtype, name
        a, b = (_wide(array) for array in (value, reference))
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        a, b = np.where(same, 0, a), np.where(same, 0, b)
        scale = max(float(np.linalg.norm(np.nan_to_num(_wide(reference), posinf=0, neginf=0))), 1e-12)
        assert float(np.linalg.norm(a - b)) <= tolerance * scale, name
    return found


def _wide(array: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return array.astype(np.float64)


Check = Callable[..., Arrays]


@pytest.fixture
def check() -> Check:
    """`check("y = Op(x)", x="float[2, 3]", opset=13, tolerance=1e-5, constants={...}, feeds={...})`"""

    def run(
        *lines: str,
        opset: int = 23,
        tolerance: float = 1e-5,
        feeds: Mapping[str, np.ndarray] | None = None,
        constants: Mapping[str, object] | None = None,
        **inputs: str,
    ) -> Arrays:
        model = graph(*lines, inputs=inputs, opset=opset, **(constants or {}))
        return agree(model, feeds if feeds is not None else random_feeds(model), tolerance)

    return run
