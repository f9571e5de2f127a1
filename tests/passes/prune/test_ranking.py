"""How units are ranked where several weights read them: each on its own inputs, each at its own energy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.feeds import random_feeds
from tersor.ir.shapes import dimension_names
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.prune import ranking
from tersor.passes.prune.carving import Carver
from tersor.passes.prune.methods.eliminate import Elimination
from tersor.passes.prune.prune_neurons import PruneNeurons
from tersor.passes.prune.ranking import Masks, elimination
from tersor.passes.prune.units import Units, units
from tersor.passes.statistics import Calibration

X = {"x": "float[batch, sequence, 16]"}
SIZES = {"batch": 6, "sequence": 20}


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def calibrated(model: ir.Model, batches: int = 4) -> Context:
    sizes = {name: SIZES[name] for name in dimension_names(model)}
    return Context(calibration=Calibration([random_feeds(model, sizes, seed=seed) for seed in range(batches)]))


def free(model: ir.Model) -> list[Units]:
    return [each for each in units(model) if PruneNeurons().verdict(each) is None]


def eliminated(model: ir.Model) -> Elimination:
    (each,) = free(model)
    return elimination(each, Carver(model, model, calibrated(model).calibration).see(each))


def fire() -> ir.Model:
    """A squeeze that kernels of two sizes read."""
    return graph(
        "a = Conv(x, w, b)", "h = Relu(a)", "c = Conv(h, u, d)", "e = Conv{pads=[1, 1, 1, 1]}(h, v, d)",
        "y = Concat{axis=1}(c, e)", inputs={"x": "float[batch, 3, 9, 9]"},
        w=weight(24, 3, 1, 1), b=weight(24), u=weight(8, 24, 1, 1), v=weight(8, 24, 3, 3), d=weight(8),
    )  # fmt: skip


def two_activations(by: float = 1.0, **more: np.ndarray) -> ir.Model:
    weights = {"w": weight(16, 16), "b": np.zeros(16, np.float32), "v": weight(16, 5), "u": weight(16, 6)} | more
    weights["u"] = weights["u"] * np.float32(by)
    return graph(
        "a = MatMul(x, w)", "p = Add(a, b)", "h = Relu(p)", "n = Neg(p)", "k = Relu(n)", "y = MatMul(h, v)",
        "z = MatMul(k, u)", inputs=X, outputs=["y", "z"], **weights,
    )  # fmt: skip


@pytest.mark.parametrize("model", [fire(), two_activations()], ids=["fire", "activations"])
def test_readers_of_other_inputs_count_each_on_its_own(model: ir.Model) -> None:
    found = eliminated(model)
    # without any unit each reader loses all that it gave, and a little by damping
    assert found.errors[-1] == pytest.approx(2, rel=0.05)
    assert PruneNeurons(ratio=0.5).apply(model, calibrated(model)).matches == 1


def test_a_unit_that_one_reader_never_sees_on_may_matter_to_another() -> None:
    bias = np.zeros(16, np.float32)
    bias[:4] = -100
    # of the second activation no others are read
    model = two_activations(b=bias, w=np.eye(16, dtype=np.float32), u=np.eye(16, 4, dtype=np.float32))
    assert set(eliminated(model).order[-4:]) == {0, 1, 2, 3}


def test_readers_count_by_their_own_energy() -> None:
    one, other = eliminated(two_activations()), eliminated(two_activations(1000.0))
    np.testing.assert_array_equal(one.order, other.order)
    np.testing.assert_allclose(one.errors, other.errors, rtol=1e-4)


def test_a_mean_costs_nothing() -> None:
    """A unit that is always nearly the same is made up for by a bias, however large it is."""
    w, b = weight(16, 16), np.zeros(16, np.float32)
    w[:, 3] *= 1e-3
    b[3] = 50
    model = graph(
        "a = MatMul(x, w)", "p = Add(a, b)", "h = Relu(p)", "o = MatMul(h, v)", "y = Add(o, c)",
        inputs=X, w=w, b=b, v=weight(16, 5), c=weight(5),
    )  # fmt: skip
    assert eliminated(model).order[0] == 3


# masks


def masked(model: ir.Model) -> tuple[list[Units], Masks]:
    found = free(model)
    return found, Masks.of(model, found, calibrated(model))


def test_groups_that_one_weight_reads_have_masks_of_their_own() -> None:
    model = graph(
        "a = MatMul(x, w)", "h = Relu(a)", "b = MatMul(x, u)", "k = Relu(b)", "c = Concat{axis=-1}(h, k)",
        "y = MatMul(c, v)", inputs=X, w=weight(16, 24), u=weight(16, 32), v=weight(56, 5),
    )  # fmt: skip
    found, masks = masked(model)
    sizes = [masks.score(each, "taylor") for each in found]
    assert sorted(len(one) for one in sizes if one is not None) == [24, 32]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("y = ConvTranspose(h, v)", (24, 3, 2, 2)),
        ("y = Conv(h, v)", (3, 24, 2, 2)),
        ("y = Conv(h, v)", (3, 24, 1, 1)),
    ],
)
def test_a_mask_scales_what_a_unit_is_read_with(text: str, shape: tuple[int, ...]) -> None:
    v = weight(*shape)
    v[(slice(None),) * shape.index(24) + (slice(4, 8),)] = 0
    model = graph("a = Conv(x, w)", "h = Relu(a)", text, inputs={"x": "float[batch, 3, 7, 7]"}, w=weight(24, 3, 3, 3),
                  v=v)  # fmt: skip
    (each,), masks = masked(model)
    score = masks.score(each, "fisher")
    assert score is not None
    assert np.flatnonzero(score == 0).tolist() == [4, 5, 6, 7]


def test_few_batches_are_probed_more_than_once() -> None:
    model = two_activations()
    (each,) = free(model)
    draws = [len(Masks.of(model, [each], calibrated(model, count)).products[each.key]) for count in (1, 4)]
    assert draws == [64, 64]


def test_without_gradients_magnitudes_choose_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "reached", lambda model, weights: set())
    model, plain = two_activations(), two_activations()
    (finding,) = (
        each
        for each in PruneNeurons(score="taylor", ratio=0.5, repair=False).apply(model, calibrated(model)).findings
        if each.miss is None
    )
    assert "by magnitude: no gradient" in finding.chosen
    PruneNeurons(score="magnitude", ratio=0.5, repair=False).apply(plain, Context())
    for one, other in zip(model.graph.initializers.values(), plain.graph.initializers.values(), strict=True):
        np.testing.assert_array_equal(one.const_value, other.const_value)
