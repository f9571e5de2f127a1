"""What the process that the cells of the raising benchmark are forked from has in memory."""

from __future__ import annotations

import gc

import onnxruntime  # noqa: F401
import tersor.backends.onnxruntime.backend
import tersor.benchmarks._raising_architectures
import tersor.driver.compile
import tersor.ir.fx
import tersor.ir.load
import tersor.passes.presets  # noqa: F401
import torch  # noqa: F401

# what lives here lives for ever: the collector of a forked process need not look at it, nor copy its pages
gc.freeze()
