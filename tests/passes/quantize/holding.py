"""Models of one weight site each, of every kind and spelling, and the same models holding another weight."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from tersor.ir.compare import Comparison, compare
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph


@dataclass(frozen=True)
class Held:
    """A model and its weights.

    lines, inputs: the model's text. weights: initializers by name, as stored. flat: for each weight the matrix that is
    stored, and whether that is [out, in]. option: what a pass must be told to take it on. reads: the dtype in which the
    node reads them, where it is not the stored one.
    """

    lines: Sequence[str]
    inputs: Mapping[str, str]
    weights: Mapping[str, np.ndarray]
    flat: Mapping[str, tuple[tuple[int, int], bool]]
    option: str = ""
    reads: type[np.generic] | None = None

    @property
    def model(self) -> ir.Model:
        """The model as it is."""
        return graph(*self.lines, inputs=self.inputs, **self.weights)

    @property
    def matrices(self) -> dict[str, np.ndarray]:
        """The weights as the node reads them, [in, out]."""
        flat = {
            name: self.weights[name].reshape(shape).astype(self.reads or self.weights[name].dtype)
            for name, (shape, _) in self.flat.items()
        }
        return {name: matrix.T if self.flat[name][1] else matrix for name, matrix in flat.items()}

    def holding(self, matrices: Mapping[str, np.ndarray]) -> ir.Model:
        """The model with these matrices [in, out] in the place of its own."""
        stored = {
            name: (matrix.T if self.flat[name][1] else matrix)
            .reshape(self.weights[name].shape)
            .astype(self.reads or self.weights[name].dtype)
            for name, matrix in matrices.items()
        }
        return graph(*self.lines, inputs=self.inputs, **(dict(self.weights) | stored))

    def compared(self, model: ir.Model, matrices: Mapping[str, np.ndarray]) -> Comparison:
        """How `model`, which holds the old weights no more, answers beside one that holds these matrices."""
        assert violations(model, Level.SEMANTIC) == []
        assert not set(self.flat) & set(model.graph.initializers)
        wanted = self.holding(matrices)
        return compare(runner(wanted), runner(model), [random_feeds(wanted, seed=1)])


_DRAWN: dict[tuple[str, str], np.random.Generator] = {}


def normal(*shape: int) -> np.ndarray:
    """Numbers of a normal distribution, others at each call of a module and of a test, whatever ran before."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    place = sys._getframe(1).f_globals["__name__"], test
    return _DRAWN.setdefault(place, np.random.default_rng(5)).standard_normal(shape).astype(np.float32)


_X = {"x": "float[batch, 32]"}
_IMAGE = {"x": "float[batch, 8, time]"}
_W = normal(32, 48)

HELD: dict[str, Held] = {
    "matmul": Held(["y = MatMul(x, w)"], _X, {"w": _W}, {"w": ((32, 48), False)}),
    "matmul, one matrix of many axes": Held(
        ["y = MatMul(x, w)"], _X, {"w": normal(1, 32, 48)}, {"w": ((32, 48), False)}
    ),
    "matmul, weight left": Held(
        ["y = MatMul(w, x)"], {"x": "float[32, batch]"}, {"w": normal(48, 32)}, {"w": ((48, 32), True)}
    ),
    "matmul, turned": Held(
        ["t = Transpose{perm=[1, 0]}(w)", "y = MatMul(x, t)"], _X, {"w": normal(48, 32)}, {"w": ((48, 32), True)}
    ),
    "matmul, cast and turned": Held(
        ["c = Cast{to=1}(w)", "t = Transpose{perm=[1, 0]}(c)", "y = MatMul(x, t)"],
        _X,
        {"w": normal(48, 32).astype(np.float16)},
        {"w": ((48, 32), True)},
        reads=np.float32,
    ),
    "matmul, reshaped": Held(
        ["t = Reshape(w, [32, 48])", "y = MatMul(x, t)"], _X, {"w": normal(32, 4, 12)}, {"w": ((32, 48), False)}
    ),
    "matmul, half": Held(
        ["y = MatMul(x, w)"],
        {"x": "float16[batch, 32]"},
        {"w": normal(32, 48).astype(np.float16)},
        {"w": ((32, 48), False)},
    ),
    "matmul, bfloat16": Held(
        ["y = MatMul(x, w)"],
        {"x": "bfloat16[batch, 32]"},
        {"w": normal(32, 48).astype(ml_dtypes.bfloat16)},
        {"w": ((32, 48), False)},
    ),
    "gemm": Held(
        ["y = Gemm{alpha=0.5}(x, w, b)"], _X, {"w": normal(32, 48), "b": normal(48)}, {"w": ((32, 48), False)}
    ),
    "gemm, transB": Held(
        ["y = Gemm{transB=1, alpha=0.5}(x, w, b)"],
        _X,
        {"w": normal(48, 32), "b": normal(48)},
        {"w": ((48, 32), True)},
    ),
    "gemm, transA": Held(
        ["y = Gemm{transA=1, beta=2.0}(x, w, b)"],
        {"x": "float[32, batch]"},
        {"w": normal(32, 48), "b": normal(48)},
        {"w": ((32, 48), False)},
    ),
    "pointwise": Held(["y = Conv(x, w)"], _IMAGE, {"w": normal(24, 8, 1)}, {"w": ((24, 8), True)}),
    "conv": Held(["y = Conv(x, w)"], _IMAGE, {"w": normal(16, 8, 3)}, {"w": ((16, 24), True)}, "convolutions"),
    "conv, groups": Held(
        ["y = Conv{group=4}(x, w)"], _IMAGE, {"w": normal(16, 2, 3)}, {"w": ((16, 6), True)}, "convolutions"
    ),
    "conv-transpose": Held(
        ["y = ConvTranspose(x, w)"], _IMAGE, {"w": normal(8, 16, 3)}, {"w": ((8, 48), False)}, "convolutions"
    ),
    "conv-transpose, groups": Held(
        ["y = ConvTranspose{group=2}(x, w)"], _IMAGE, {"w": normal(8, 6, 3)}, {"w": ((8, 18), False)}, "convolutions"
    ),
    "table": Held(
        ["y = Gather(w, ids)"], {"ids": "int64[batch]"}, {"w": normal(64, 32)}, {"w": ((64, 32), True)}, "embeddings"
    ),
    "lstm": Held(
        ["(y, h, c) = LSTM{hidden_size=16, direction=bidirectional}(x, w, r)"],
        {"x": "float[time, 2, 32]"},
        {"w": normal(2, 64, 32), "r": normal(2, 64, 16)},
        {"w": ((128, 32), True), "r": ((128, 16), True)},
    ),
    "gru": Held(
        ["(y, h) = GRU{hidden_size=16}(x, w, r)"],
        {"x": "float[time, 2, 32]"},
        {"w": normal(1, 48, 32), "r": normal(1, 48, 16)},
        {"w": ((48, 32), True), "r": ((48, 16), True)},
    ),
    "rnn": Held(
        ["(y, h) = RNN{hidden_size=16}(x, w, r)"],
        {"x": "float[time, 2, 32]"},
        {"w": normal(1, 16, 32), "r": normal(1, 16, 16)},
        {"w": ((16, 32), True), "r": ((16, 16), True)},
    ),
    "two layers of one weight": Held(
        ["a = MatMul(x, w)", "h = Add(a, b)", "y = MatMul(h, w)"],
        _X,
        {"w": normal(32, 32), "b": normal(32)},
        {"w": ((32, 32), False)},
    ),
    "two layers of one weight, turned": Held(
        ["t = Transpose{perm=[1, 0]}(w)", "a = MatMul(x, t)", "h = Sigmoid(a)", "y = MatMul(h, t)"],
        _X,
        {"w": normal(32, 32)},
        {"w": ((32, 32), True)},
    ),
    "two convolutions of one weight": Held(
        ["a = Conv(x, w)", "h = Relu(x)", "b = Conv(h, w)", "y = Add(a, b)"],
        _IMAGE,
        {"w": normal(16, 8, 3)},
        {"w": ((16, 24), True)},
        "convolutions",
    ),
    "two readers of one table": Held(
        ["a = Gather(w, ids)", "b = Gather(w, others)", "y = Add(a, b)"],
        {"ids": "int64[batch]", "others": "int64[batch]"},
        {"w": normal(64, 32)},
        {"w": ((64, 32), True)},
        "embeddings",
    ),
    "two cells of one weight": Held(
        [
            "(a, _, _) = LSTM{hidden_size=16}(x, w, r)",
            "(b, _, _) = LSTM{hidden_size=16, direction=reverse}(x, w, r)",
            "y = Add(a, b)",
        ],
        {"x": "float[time, 2, 32]"},
        {"w": normal(1, 64, 32), "r": normal(1, 64, 16)},
        {"w": ((64, 32), True), "r": ((64, 16), True)},
    ),
}

_PLAIN = HELD["matmul"].model

#: What every pass that stores weights in fewer bits leaves: models, options of the pass, the rule of its misses.
LEFT: dict[str, tuple[ir.Model, Mapping[str, object], str]] = {
    "not asked for": (_PLAIN, {"only": ("other*",)}, "only"),
    "ignored": (_PLAIN, {"ignore": ("w",)}, "ignore"),
    "a kind that is ignored": (_PLAIN, {"ignore": ("kind:linear",)}, "ignore"),
    "small": (_PLAIN, {"smallest": 5000}, "size"),
    "an embedding": (HELD["table"].model, {}, "kind"),
    "a convolution": (graph("y = Conv(x, w)", inputs=_IMAGE, w=normal(64, 8, 3)), {}, "kind"),
    "a recurrent layer": (HELD["lstm"].model, {"recurrent": False}, "kind"),
    "no number": (graph("y = MatMul(x, w)", inputs=_X, w=np.where(_W > 2, np.nan, _W)), {}, "finite"),
    "infinity": (graph("y = MatMul(x, w)", inputs=_X, w=np.where(_W > 2, np.inf, _W)), {}, "finite"),
    "double precision": (
        graph("y = MatMul(x, w)", inputs={"x": "double[batch, 32]"}, w=_W.astype(np.float64)),
        {},
        "dtype",
    ),
    "one weight read in two ways": (
        graph("a = MatMul(x, w)", "y = Gemm{transB=1}(a, w)", inputs=_X, w=_W),
        {},
        "tied",
    ),
    "one weight of two layers, turned for each": (
        graph(
            "s = Transpose{perm=[1, 0]}(w)",
            "t = Transpose{perm=[1, 0]}(w)",
            "a = MatMul(x, s)",
            "b = MatMul(x, t)",
            inputs=_X,
            outputs=["a", "b"],
            w=normal(48, 32),
        ),
        {},
        "tied",
    ),
}
