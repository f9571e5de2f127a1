"""What activations are now beside what they were: the accumulator, and the run over two models that feeds it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from tersor.ir.errors import ModelError
from tersor.ir.text import graph
from tersor.passes.accumulators import Joint
from tersor.passes.statistics import Calibration

RNG = np.random.default_rng(0)
SINGLE, DOUBLE = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
FEATURES = 3
#: Now and before side by side; more rows than are summed at a time.
PIECES = [RNG.standard_normal((count, 2 * FEATURES)).astype(np.float32) * 5 + 1 for count in (4, 0, 1, 1500)]


def holds(seen: Joint, now: NDArray[np.floating], before: NDArray[np.floating]) -> None:
    """The moments are those of the rows, but for the rounding of sums in float32 of `now`, in float64 of `before`."""
    now, before = np.float64(now), np.float64(before)
    rows, sizes = len(now), (np.abs(now), np.abs(before))
    assert seen.count == rows
    assert np.all(np.abs(seen.matrix - now.T @ now) <= 1024 * SINGLE * (sizes[0].T @ sizes[0]))
    assert np.all(np.abs(seen.cross - now.T @ before) <= rows * DOUBLE * (sizes[0].T @ sizes[1]))
    assert np.all(np.abs(seen.mean_now - now.mean(0)) <= rows * DOUBLE * sizes[0].mean(0))
    assert np.all(np.abs(seen.mean_before - before.mean(0)) <= rows * DOUBLE * sizes[1].mean(0))


def gathered(*pieces: NDArray[np.floating]) -> Joint:
    seen = Joint(FEATURES)
    for piece in pieces:
        seen.add(piece)
    return seen


def test_the_moments_are_those_of_all_rows() -> None:
    rows = np.concatenate(PIECES)
    seen = gathered(*PIECES)
    holds(seen, rows[:, :FEATURES], rows[:, FEATURES:])
    assert seen.bytes == 8 * (2 * FEATURES * FEATURES + 2 * FEATURES)


def test_nothing_was_seen_of_nothing() -> None:
    seen = gathered(np.zeros((0, 2 * FEATURES), np.float32))
    assert seen.count == 0
    assert not any(each.any() for each in (seen.matrix, seen.cross, seen.mean_now, seen.mean_before))


def test_what_was_merged_is_what_was_seen_together() -> None:
    left, rows = gathered(*PIECES[:3]), np.concatenate(PIECES)
    left.merge(gathered(PIECES[3]))
    holds(left, rows[:, :FEATURES], rows[:, FEATURES:])
    with pytest.raises(ValueError, match="expected 3 features, found 2"):
        left.merge(Joint(2))


def test_gathering_goes_on_from_a_state() -> None:
    whole, part, other = gathered(*PIECES), gathered(*PIECES[:3]), Joint(FEATURES)
    other.restore({name: array.copy() for name, array in part.state().items()})
    other.add(PIECES[3])
    assert whole.state().keys() == other.state().keys()
    for name, array in whole.state().items():
        np.testing.assert_array_equal(other.state()[name], array)


@pytest.mark.parametrize("column", [1, FEATURES + 1], ids=["now", "before"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_and_nothing_changes(column: int, bad: float) -> None:
    seen, spoiled = gathered(*PIECES), PIECES[3].copy()
    spoiled[2, column] = bad
    with pytest.raises(ModelError, match=rf"met {bad} in an activation, at \[2, 1\]"):
        seen.add(spoiled)
    for name, array in gathered(*PIECES).state().items():
        np.testing.assert_array_equal(seen.state()[name], array)


@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 2, 6)])
def test_arrays_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected an array \[tokens, 6\], found"):
        Joint(FEATURES).add(np.zeros(shape, np.float32))


def whole(*shape: int) -> NDArray[np.float32]:
    """Small integers, whose products are exact in any order."""
    return RNG.integers(-8, 9, shape).astype(np.float32)


V, W = whole(FEATURES, FEATURES), whole(FEATURES, FEATURES)


def encoder(weight: np.ndarray) -> ir.Model:
    """Its mask is one because it decides."""
    return graph(
        "h = MatMul(x, w)", "b = Cast{to=9}(mask)", "m = Unsqueeze(b, last)", "y = Where(m, h, zero)",
        inputs={"x": f"float[batch, sequence, {FEATURES}]", "mask": "int64[batch, sequence]"}, outputs=["y"],
        w=weight, last=[-1], zero=0.0,
    )  # fmt: skip


def value(model: ir.Model, name: str) -> ir.Value:
    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    return next(each for each in values if each.name == name)


def sentences(count: int = 3) -> list[dict[str, np.ndarray]]:
    """Batches of two sentences, the second one a token shorter; its padding is far off."""
    made = []
    for width in range(2, 2 + count):
        mask = np.ones((2, width), np.int64)
        mask[1, -1] = 0
        x = whole(2, width, FEATURES)
        x[mask == 0] = 1e6
        made.append({"x": x, "mask": mask})
    return made


def real(batches: list[dict[str, np.ndarray]]) -> NDArray[np.float32]:
    return np.concatenate([batch["x"][batch["mask"] != 0] for batch in batches])


def test_a_value_is_read_in_both_models_and_padding_in_neither() -> None:
    before, now, batches, seen = encoder(V), encoder(W), sentences(), Joint(FEATURES)
    told: list[tuple[int, int]] = []
    calibration = Calibration(batches, lambda *far: told.append(far))
    calibration.beside(before, "h", now, value(now, "h"), seen)
    rows = real(batches)
    holds(seen, rows @ W, rows @ V)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert calibration.runs == 1


def test_a_value_may_be_an_input_in_one_model() -> None:
    before, now, batches, seen = encoder(V), encoder(W), sentences(), Joint(FEATURES)
    Calibration(batches).beside(before, "x", now, value(now, "h"), seen)
    rows = real(batches)
    holds(seen, rows @ W, rows)


def test_features_may_lie_along_another_axis() -> None:
    def image(weight: np.ndarray) -> ir.Model:
        return graph("y = Conv(x, w)", inputs={"x": f"float[batch, {FEATURES}, time]"}, w=weight[..., None])

    batches = [{"x": whole(2, FEATURES, 5)} for _ in range(2)]
    before, now, seen = image(V), image(W), Joint(FEATURES)
    Calibration(batches).beside(before, "y", now, value(now, "y"), seen, axis=1)
    rows = np.concatenate([batch["x"].transpose(0, 2, 1).reshape(-1, FEATURES) for batch in batches])
    holds(seen, rows @ W.T, rows @ V.T)


@pytest.mark.parametrize("spoiled", ["now", "before"])
def test_activations_that_are_not_finite_are_named(spoiled: str) -> None:
    weights = {"now": W, "before": V} | {spoiled: np.full((FEATURES, FEATURES), 3e38, np.float32)}
    before, now = encoder(weights["before"]), encoder(weights["now"])
    batches = [{"x": np.full((1, 1, FEATURES), 9, np.float32), "mask": np.ones((1, 1), np.int64)}]
    with pytest.raises(ModelError, match=r"calibration: h: calibration met inf in an activation, at \[0, 0\]"):
        Calibration(batches).beside(before, "h", now, value(now, "h"), Joint(FEATURES))
