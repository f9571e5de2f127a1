"""What the tests of this backend compile."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from tersor.backends.inductor import aoti
from tersor.ir.text import graph

RNG = np.random.default_rng(0)
#: float32 sums of a few hundred products, in another order than ONNX Runtime's.
TOLERANCE = 1e-5

needs_compiler = pytest.mark.skipif(aoti.compiler() is None, reason="there is no C++ compiler")


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def linear() -> ir.Model:
    """A layer with a bias, and outputs that are an input, a weight, and a view of one."""
    return graph(
        "e = Gather(table, i)",
        "s = Add(x, e)",
        "p = MatMul(s, w)",
        "a = Add(p, b)",
        "y = Relu(a)",
        "same = Identity(x)",
        "turned = Transpose{perm=[1, 0]}(w)",
        inputs={"x": "float[batch, 64]", "i": "int64[batch]"},
        outputs=["y", "same", "turned"],
        table=normal(9, 64),
        w=normal(64, 32),
        b=normal(32),
    )


def reference(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name or "" for value in model.graph.outputs]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_close(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        tolerance = 1e-3 if array.dtype == np.float16 else TOLERANCE
        np.testing.assert_allclose(got[name].astype(float), array.astype(float), rtol=tolerance, atol=tolerance)
