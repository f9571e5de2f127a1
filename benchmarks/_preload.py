"""What the process that others are forked from has in memory: the libraries and every case."""

from __future__ import annotations

import gc

import onnxruntime  # noqa: F401
import tersor.benchmarks.conformance
import tersor.ir.fx
import tersor.ir.load  # noqa: F401
import torch  # noqa: F401
from tersor.benchmarks._isolation import index
from tersor.benchmarks._onnx_cases import KINDS

for kind in KINDS:
    index(kind)

# what lives here lives for ever: the collector of a forked process need not look at it, nor copy its pages
gc.freeze()
