"""What errors of weights cost, against the curvature written out in float64."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.drop import Drop
from tersor.passes.importance import DAMPING, columns, rows
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_attention import X, normal

PROBES = 2000


def layer(*, alpha: bool) -> ir.Model:
    """x W + b, all of whose outputs are answers; as a Gemm the weight is stored turned, and what it gives halved."""
    lines = ["s = Mul(x, g)", "f = Reshape(s, [-1, 8])"]
    lines += ["y = Gemm{transB=1, alpha=0.5}(f, w, b)"] if alpha else ["p = MatMul(f, w)", "y = Add(p, b)"]
    sizes = (6, 8) if alpha else (8, 6)
    return graph(
        *lines, inputs={"x": "float[batch, 8]"}, g=np.geomspace(0.2, 2, 8).astype(np.float32), w=normal(*sizes),
        b=normal(6),
    )  # fmt: skip


def curvature(model: ir.Model, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """The inputs, [rows, in], and B B.T of the cosine of each row, [rows, out, out]."""
    assert context.calibration is not None
    inputs, squares = [], []
    (site,) = sites(model)
    scales = np.asarray(model.graph.initializers["g"].const_value.numpy(), np.float64)
    for feeds in context.calibration.batches:
        found = runner(model)(feeds)["y"].astype(np.float64)
        for x, y in zip(feeds["x"] * scales, found, strict=True):
            unit = y / np.linalg.norm(y)
            inputs.append(x)
            squares.append((np.eye(len(y)) - np.outer(unit, unit)) / (y @ y))
    assert site.in_features == len(inputs[0])
    return np.array(inputs), np.array(squares)


def calibrated(model: ir.Model) -> Context:
    return Context(calibration=Calibration([random_feeds(model, {"batch": 5}, seed=seed) for seed in range(3)]))


@pytest.mark.parametrize("alpha", [False, True])
def test_rows_are_the_diagonal_of_the_curvature(alpha: bool) -> None:
    model = layer(alpha=alpha)
    context = calibrated(model)
    (site,) = sites(model)
    found = rows(model, [site], context, Drop.of(model), PROBES)[site.weight]
    inputs, squares = curvature(model, context)
    wanted = np.einsum("ri,rjj->i", inputs**2, squares) / len(inputs)
    np.testing.assert_allclose(found**2, wanted, rtol=0.1)


@pytest.mark.parametrize("alpha", [False, True])
def test_columns_are_the_other_factor_of_the_curvature(alpha: bool) -> None:
    model = layer(alpha=alpha)
    context = calibrated(model)
    (site,) = sites(model)
    inputs, squares = curvature(model, context)
    gram = inputs.T @ inputs
    (found,) = columns(model, [[site]], {site.weight: gram}, context, Drop.of(model), PROBES)
    whitening = np.linalg.inv(gram + DAMPING * np.trace(gram) / 8 * np.eye(8))
    weights = np.einsum("ri,ik,rk->r", inputs, whitening, inputs)
    wanted = np.einsum("r,rjk->jk", weights, squares) / (len(inputs) * 8)
    np.testing.assert_allclose(found, wanted, atol=0.1 * np.abs(wanted).max())


def test_what_the_answers_do_not_hang_on_costs_nothing() -> None:
    model = graph("y = MatMul(x, w)", "z = MatMul(x, v)", inputs=X, w=normal(32, 4), v=normal(32, 4))
    context = Context(calibration=Calibration([random_feeds(model, {"batch": 2, "sequence": 3})]))
    one, other = sites(model)
    found = rows(model, [one, other], context, Drop.of(model, names=["y"]), 2)
    assert np.all(found[one.weight] > 0)
    assert not np.any(found[other.weight])
