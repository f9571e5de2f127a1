"""Models with several weight sites, for the tests that tell their errors apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from tersor.driver.layers import Subject
from tersor.ir.feeds import Feeds, random_feeds
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.statistics import Calibration

WIDTH = 32
OUTLIER = 20.0


def weight(*shape: int, seed: int) -> np.ndarray:
    """Numbers that keep an activation's size."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return (drawn / np.sqrt(shape[-2])).astype(np.float32)


def layers(broken: int | None = None, count: int = 4) -> ir.Model:
    """h + relu(h @ w) again and again. The weight of one layer may hold an outlier in each column, which spoils a
    coarse grid and meets a feature that is next to nothing.
    """
    quiet = np.ones(WIDTH, np.float32)
    quiet[0] = 1e-3
    model = graph(
        "h0 = Mul(x, quiet)",
        *(
            line
            for index in range(count)
            for line in (
                f"p{index} = MatMul(h{index}, w{index})",
                f"r{index} = Relu(p{index})",
                f"{'y' if index == count - 1 else f'h{index + 1}'} = Add(r{index}, h{index})",
            )
        ),
        inputs={"x": f"float[batch, {WIDTH}]"},
        quiet=quiet,
        **{f"w{index}": _layer(index, index == broken) for index in range(count)},
    )
    for index in range(count):
        model.graph.initializers[f"w{index}"].name = f"layers.{index}.weight"
    return model


def _layer(index: int, broken: bool) -> np.ndarray:
    made = weight(WIDTH, WIDTH, seed=index)
    made[:, 0] = 0.0
    made[0] = OUTLIER if broken else 0.0
    return made


def mixed() -> ir.Model:
    """A table, a convolution, both weights of a recurrence in two directions, and a linear layer with its bias."""
    return graph(
        "e = Gather(t, ids)",
        "n = Transpose{perm=[0, 2, 1]}(e)",
        "k = Conv{pads=[1, 1]}(n, c, cb)",
        "s = Transpose{perm=[2, 0, 1]}(k)",
        "(o, h, _) = LSTM{hidden_size=16, direction=bidirectional}(s, w, r)",
        "q = Transpose{perm=[0, 2, 1, 3]}(o)",
        "f = Reshape(q, [0, 0, 32])",
        "m = MatMul(f, v)",
        "y = Add(m, b)",
        inputs={"ids": "int64[batch, time]"},
        outputs=["y"],
        t=weight(64, 32, seed=1) * 8,
        c=weight(32, 32, 3, seed=2) / 6,
        cb=weight(32, 1, seed=3)[:, 0],
        w=weight(2, 64, 32, seed=4),
        r=weight(2, 64, 16, seed=5),
        v=weight(32, 8, seed=6),
        b=weight(8, 1, seed=7)[:, 0],
    )


def feeds(model: ir.Model, count: int = 2) -> list[Feeds]:
    return [random_feeds(model, seed=index) for index in range(count)]


def subject(model: ir.Model, passes: str, batches: Sequence[Feeds] | None = None) -> Subject:
    """The model before and after the passes, which calibrate on the same batches."""
    steps = tuple(Pipeline.of(passes).flat())
    given = feeds(model) if batches is None else batches
    context = Context(feeds=given, calibration=Calibration(given))
    after = model.clone()
    for step in steps:
        step.apply(after, context)
    return Subject(model, after, steps, context, given, "seeded random feeds")
