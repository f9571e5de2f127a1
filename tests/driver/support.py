"""What the tests of the command line share: what a run gives, and small models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir
from tersor.ir.text import graph


@dataclass(frozen=True)
class Ran:
    """What a command line did: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, object]:
        """stdout, which has to be one JSON document."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Cli = Callable[..., Ran]


def dense(slope: float | None = None, shift: float = 0.0) -> onnx_ir.Model:
    """y = relu(x @ w + b), [batch, 8] -> [batch, 4]; a leaky relu where a slope is given, a weight moved by `shift`."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    weight[0, 0] += shift
    last = "y = Relu(s)" if slope is None else f"y = LeakyRelu{{alpha={slope}}}(s)"
    return graph(
        "h = MatMul(x, w)",
        "s = Add(h, b)",
        last,
        inputs={"x": "float[batch, 8]"},
        w=weight,
        b=np.linspace(-1.0, 1.0, 4, dtype=np.float32),
    )
