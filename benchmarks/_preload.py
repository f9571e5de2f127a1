"""What the process that others are forked from has in memory: the libraries and every case."""

from __future__ import annotations

import onnxruntime  # noqa: F401
import tersor.ir.fx  # noqa: F401
import torch  # noqa: F401
from tersor.benchmarks._isolation import index
from tersor.benchmarks._onnx_cases import KINDS

for kind in KINDS:
    index(kind)
