"""Weights to zero by what they meet."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.runner import runner
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.placing import matrix
from tersor.passes.prune.methods.patterns import Pattern
from tersor.passes.prune.methods.wanda import wanda
from tersor.passes.prune.prune_wanda import PruneWanda
from tersor.passes.statistics import Calibration
from tersor.tests.passes.prune.branches import branched
from tersor.tests.passes.quantize.holding import HELD, normal

RNG = np.random.default_rng(3)
DATA = [{"x": (RNG.standard_normal((20, 32)) * np.exp(RNG.standard_normal(32))).astype(np.float32)} for _ in range(3)]
ROWS = np.concatenate([feeds["x"] for feeds in DATA]).astype(np.float64)
CONTEXT = Context(calibration=Calibration(DATA))
PATTERNS = ("free", "2:4", "4x4", "bank:8")


def plain() -> ir.Model:
    return graph("y = MatMul(x, w)", inputs={"x": "float[batch, 32]"}, w=normal(32, 48))


def only(model: ir.Model) -> np.ndarray:
    (site,) = sites(model)
    return matrix(site).copy()


def masked(weight: np.ndarray, gram: np.ndarray, pattern: str = "free") -> np.ndarray:
    return np.where(wanda(weight, gram, 0.5, Pattern.of(pattern)), weight, np.zeros((), weight.dtype))


def test_a_weight_becomes_a_mask_and_what_it_keeps() -> None:
    model = plain()
    PruneWanda().apply(model, CONTEXT)
    assert [node.op_type for node in model.graph] == ["UnpackBits", "Unmask", "Reshape", "MatMul"]


def test_without_data_it_says_what_to_give() -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        PruneWanda().apply(plain(), Context())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_methods_mask(pattern: str) -> None:
    model = plain()
    wanted = masked(only(model), ROWS.T @ ROWS, pattern)
    assert PruneWanda(pattern=pattern, storage="dense").apply(model, CONTEXT).matches == 1
    np.testing.assert_array_equal(only(model), wanted)
    assert (wanted != masked(only(plain()), np.eye(32), pattern)).any()


def test_what_no_inputs_are_seen_of_goes_by_magnitude() -> None:
    table, data = HELD["table"].model, Context(calibration=Calibration([{"ids": np.arange(8)}]))
    wanted = masked(only(table), np.eye(32))
    PruneWanda(embeddings=True, storage="dense").apply(table, data)
    np.testing.assert_array_equal(only(table), wanted)


def test_what_is_computed_in_subgraphs_goes_by_magnitude() -> None:
    model = branched(plain())
    wanted = [masked(matrix(site), np.eye(32)) for site in sites(model)]
    assert PruneWanda(storage="dense").apply(model, Context()).matches == 2
    for site, weight in zip(sites(model), wanted, strict=True):
        np.testing.assert_array_equal(matrix(site), weight)


def test_each_group_of_a_convolution_has_inputs_of_its_own() -> None:
    model = graph("y = Conv{group=2}(x, w)", inputs={"x": "float[batch, 8, time]"}, w=normal(16, 4, 1))
    feeds = {"x": (RNG.standard_normal((3, 8, 9)) * np.exp(2 * RNG.standard_normal((8, 1)))).astype(np.float32)}
    weight = only(model)
    rows = feeds["x"].astype(np.float64).transpose(0, 2, 1).reshape(-1, 8)
    parts = [(weight[:, :8], rows[:, :4]), (weight[:, 8:], rows[:, 4:])]
    wanted = np.concatenate([masked(part, x.T @ x) for part, x in parts], 1)
    made = PruneWanda(convolutions=True, smallest=1, storage="dense")
    assert made.apply(model, Context(calibration=Calibration([feeds]))).matches == 1
    np.testing.assert_array_equal(only(model), wanted)


def test_the_answers_are_those_of_the_pruned_weight() -> None:
    model, dense = plain(), plain()
    dense.graph.initializers["w"].const_value = model.graph.initializers["w"].const_value
    for made, target in ((PruneWanda(), model), (PruneWanda(storage="dense"), dense)):
        made.apply(target, CONTEXT)
    np.testing.assert_array_equal(runner(model)(DATA[0])["y"], runner(dense)(DATA[0])["y"])
