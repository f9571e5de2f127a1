"""Models of one weight that every tensor format holds in few numbers, in every spelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, violations
from tersor.ir.text import graph
from tersor.passes.base import Context, Outcome
from tersor.passes.factorize.factorize_tensor import FactorizeTensor
from tersor.passes.statistics import Calibration
from tersor.tests.support import ROUNDED, distance, on_onnxruntime

RNG = np.random.default_rng(7)
X = {"x": "float[batch, sequence, 24]"}
IMAGE = {"x": "float[batch, 12, 9, wide]"}
FORMATS = ["tt", "tucker", "cp", "block-term", "kronecker"]
#: Of sums of products of factors in float32, relative.
CLOSE = ROUNDED[np.float32]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def products(*shape: int, rank: int = 2) -> np.ndarray:
    """A tensor that is a sum of so few products of vectors, which every format holds."""
    letters = "abcdef"[: len(shape)]
    given = ",".join(f"{letter}z" for letter in letters)
    return np.einsum(f"{given}->{letters}", *(normal(size, rank) for size in shape)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A model of one weight that has few numbers."""

    lines: tuple[str, ...]
    inputs: Mapping[str, str]
    weights: Mapping[str, np.ndarray]

    @property
    def model(self) -> ir.Model:
        return graph(*self.lines, inputs=self.inputs, **self.weights)


LINEAR: dict[str, Case] = {
    "matmul": Case(("y = MatMul(x, w)",), X, {"w": products(24, 36)}),
    "with a bias": Case(("p = MatMul(x, w)", "y = Add(p, b)"), X, {"w": products(24, 36), "b": normal(36)}),
    "of a vector": Case(("y = MatMul(x, w)",), {"x": "float[24]"}, {"w": products(24, 36)}),
    "from the left": Case(("y = MatMul(w, x)",), {"x": "float[batch, 24, time]"}, {"w": products(36, 24)}),
    "of a vector, from the left": Case(("y = MatMul(w, x)",), {"x": "float[24]"}, {"w": products(36, 24)}),
    "turned": Case(("t = Transpose{perm=[1, 0]}(w)", "y = MatMul(x, t)"), X, {"w": products(36, 24)}),
    "leading ones": Case(("y = MatMul(x, w)",), {"x": "float[batch, 24]"}, {"w": products(24, 36)[None, None]}),
    "leading ones of a vector": Case(("y = MatMul(x, w)",), {"x": "float[24]"}, {"w": products(24, 36)[None]}),
    "gemm": Case(
        ("y = Gemm{alpha=0.5, beta=2.0, transB=1}(x, w, b)",), {"x": "float[batch, 24]"},
        {"w": products(36, 24), "b": normal(36)},
    ),
    "gemm, input turned": Case(
        ("y = Gemm{alpha=0.5, beta=2.0, transA=1}(x, w, b)",), {"x": "float[24, batch]"},
        {"w": products(24, 36), "b": normal(36)},
    ),
    "gemm, what is added is fed": Case(
        ("y = Gemm{beta=0.5}(x, w, c)",), {"x": "float[batch, 24]", "c": "float[batch, 36]"}, {"w": products(24, 36)}
    ),
    "one tap": Case(
        ("y = Conv{strides=[2, 1]}(x, w, b)",), {"x": "float[batch, 24, high, wide]"},
        {"w": products(36, 24)[:, :, None, None], "b": normal(36)},
    ),
    "primes": Case(("y = MatMul(x, w)",), {"x": "float[batch, 23]"}, {"w": products(23, 31)}),
}  # fmt: skip

CONVOLUTIONS: dict[str, Case] = {
    "two axes": Case(
        ("y = Conv{pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]}(x, w, b)",), IMAGE,
        {"w": products(16, 12, 3, 3), "b": normal(16)},
    ),
    "one axis": Case(
        ("y = Conv{auto_pad=SAME_UPPER, strides=[2]}(x, w)",), {"x": "float[batch, 12, time]"},
        {"w": products(16, 12, 5)},
    ),
    "three axes, one of one tap": Case(
        ("y = Conv{strides=[1, 2, 1]}(x, w)",), {"x": "float[batch, 8, 5, 6, 7]"}, {"w": products(12, 8, 3, 1, 3)}
    ),
    "groups": Case(
        ("y = Conv{group=2, pads=[1, 1]}(x, w)",), {"x": "float[batch, 16, time]"},
        {"w": np.concatenate([products(12, 8, 3), products(12, 8, 3)])},
    ),
    "transposed": Case(
        ("y = ConvTranspose{strides=[1, 2], pads=[1, 0, 1, 1], output_padding=[0, 1]}(x, w, b)",),
        {"x": "float[batch, 12, 5, 6]"}, {"w": products(12, 10, 3, 3), "b": normal(10)},
    ),
    "transposed, groups": Case(
        ("y = ConvTranspose{group=2}(x, w)",), {"x": "float[batch, 16, 5]"},
        {"w": np.concatenate([products(8, 10, 3), products(8, 10, 3)])},
    ),
}  # fmt: skip

WORDS = {"ids": "int64[batch, sequence]"}
TABLES: dict[str, Case] = {
    "table": Case(("y = Gather(w, ids)",), WORDS, {"w": products(60, 36)}),
    "primes": Case(("y = Gather(w, ids)",), {"ids": "int32[batch]"}, {"w": products(61, 37)}),
    "one id": Case(("y = Gather(w, ids)",), {"ids": "int64[]"}, {"w": products(60, 36)}),
    "a head": Case(
        ("e = Gather(w, ids)", "m = Tanh(e)", "t = Transpose{perm=[1, 0]}(w)", "l = MatMul(m, t)", "y = Add(l, b)"),
        WORDS, {"w": products(60, 36), "b": normal(60)},
    ),
    "a head from the left": Case(
        ("e = Gather(w, ids)", "v = Transpose{perm=[0, 2, 1]}(e)", "y = MatMul(w, v)"), WORDS, {"w": products(60, 36)}
    ),
    "a gemm, turned": Case(
        (
            "e = Gather(w, ids)", "v = Transpose{perm=[1, 0]}(e)",
            "y = Gemm{transA=1, transB=1, alpha=0.5, beta=2.0}(v, w, b)",
        ),
        {"ids": "int64[n]"}, {"w": products(60, 36), "b": normal(60)},
    ),
    "a convolution": Case(
        ("e = Gather(w, ids)", "k = Unsqueeze(w, [-1])", "v = Transpose{perm=[0, 2, 1]}(e)", "y = Conv(v, k, b)"),
        WORDS, {"w": products(60, 36), "b": normal(60)},
    ),
}  # fmt: skip


def fed(model: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds, with ids that count from the end too."""
    feeds = random_feeds(model, seed=seed)
    shift = {name: 30 * (array.dtype.kind == "i") for name, array in feeds.items()}
    return {name: np.asarray(array - shift[name], array.dtype) for name, array in feeds.items()}


def factorised(model: ir.Model, made: FactorizeTensor, *, data: bool = False) -> tuple[ir.Model, Outcome]:
    after, batches = model.clone(), [fed(model, seed) for seed in range(8)]
    context = Context(feeds=batches[:1], calibration=Calibration(batches) if data else None)
    outcome = made.apply(after, context)
    assert violations(after, Level.SEMANTIC) == []
    return after, outcome


def held(case: Case, made: FactorizeTensor, *, data: bool) -> Outcome:
    """The outcome, where weights of few numbers answer as before, with fewer of them."""
    model = case.model
    after, outcome = factorised(model, made, data=data)
    feeds = fed(model)
    assert outcome.matches == 1, [str(finding.miss) for finding in outcome.misses]
    assert "w" not in after.graph.initializers
    assert compare(model, after, feeds).within(CLOSE)
    assert distance(on_onnxruntime(after, feeds), on_onnxruntime(model, feeds)) < CLOSE
    stored = [value for name, value in after.graph.initializers.items() if name.startswith("w_")]
    assert sum(value.const_value.size for value in stored) <= 0.65 * case.weights["w"].size
    return outcome
