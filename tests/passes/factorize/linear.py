"""Linear layers in every spelling, and what tests of their factors ask."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.base import Context, Outcome
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_attention import X, normal
from tersor.tests.support import ROUNDED, distance

SIZES = {"batch": 4, "sequence": 12}
SINGLE = ROUNDED[np.float32]


def calibrated(model: ir.Model, **context: object) -> Context:
    return Context(calibration=Calibration([random_feeds(model, SIZES, seed=seed) for seed in range(8)]), **context)


def error(one: ir.Model, other: ir.Model) -> float:
    """Of the outputs on numbers that nothing was fitted to, relative."""
    feeds = random_feeds(one, SIZES, seed=99)
    return distance(list(runner(other)(feeds).values()), list(runner(one)(feeds).values()))


def numbers(model: ir.Model) -> int:
    return sum(site.view.array().size for site in sites(model))


def told(outcome: Outcome) -> dict[str, str]:
    return {finding.place.split(" ")[0]: finding.chosen or str(finding.miss) for finding in outcome.findings}


SPELLINGS: Mapping[str, tuple[list[str], Mapping[str, np.ndarray]]] = {
    "matmul": (["y = MatMul(x, w)"], {"w": normal(32, 20)}),
    "bias": (["p = MatMul(x, w)", "y = Add(p, b)"], {"w": normal(32, 20), "b": normal(20)}),
    "gemm": (
        ["f = Reshape(x, [-1, 32])", "y = Gemm{transB=1, alpha=0.5, beta=2.0}(f, w, b)"],
        {"w": normal(20, 32), "b": normal(20)},
    ),
    "gemm, turned input": (
        ["f = Reshape(x, [-1, 32])", "t = Transpose{perm=[1, 0]}(f)", "y = Gemm{transA=1, alpha=2.0}(t, w, b)"],
        {"w": normal(32, 20), "b": normal(20)},
    ),
    "from the left": (["t = Transpose{perm=[0, 2, 1]}(x)", "y = MatMul(w, t)"], {"w": normal(20, 32)}),
    "one tap": (
        ["t = Transpose{perm=[0, 2, 1]}(x)", "y = Conv(t, w, b)"], {"w": normal(20, 32, 1), "b": normal(20)}
    ),
    "one tap in steps": (
        ["t = Transpose{perm=[0, 2, 1]}(x)", "y = Conv{strides=[2], pads=[1, 0]}(t, w, b)"],
        {"w": normal(20, 32, 1), "b": normal(20)},
    ),
    "turned weight": (["t = Transpose{perm=[1, 0]}(w)", "y = MatMul(x, t)"], {"w": normal(20, 32)}),
    "deeper weight": (["y = MatMul(x, w)"], {"w": normal(32, 20).reshape(1, 1, 32, 20)}),
}  # fmt: skip


def spelled(name: str) -> ir.Model:
    text, weights = SPELLINGS[name]
    return graph(*text, inputs=X, **weights)
