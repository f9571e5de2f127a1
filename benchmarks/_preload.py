"""What the process that others are forked from has in memory: libraries, every case of ONNX, every architecture.

A process has one such server for all that it asks, so that there is one list.
"""

from __future__ import annotations

import gc

import onnxruntime  # noqa: F401
import tersor.backends.onnxruntime.backend
import tersor.benchmarks._raising_architectures
import tersor.benchmarks.conformance
import tersor.driver.compile
import tersor.ir.fx
import tersor.ir.load
import tersor.passes.presets  # noqa: F401
import torch  # noqa: F401
from tersor.benchmarks._isolation import index
from tersor.benchmarks._onnx_cases import KINDS

for kind in KINDS:
    index(kind)

# what lives here lives for ever: the collector of a forked process need not look at it, nor copy its pages
gc.freeze()
