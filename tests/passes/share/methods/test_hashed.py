"""Numbers that weights share by a hash: where each lies, what is lost, and that no other numbers lose less."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.passes.edit import Tape
from tersor.passes.share.hashing import MOST, PRIME, Hashed, keys, places
from tersor.passes.share.methods.hashed import Part, hashed

RNG = np.random.default_rng(0)
SHAPE = (96, 128)
WEIGHT = RNG.standard_normal(SHAPE)
#: Of sums of squares in float64.
CLOSE = 1e-9


def lost(weight: np.ndarray, found: np.ndarray, gram: np.ndarray | None = None) -> float:
    error = weight - found
    return float(np.trace(error @ (np.eye(error.shape[1]) if gram is None else gram) @ error.T))


def test_places_are_dealt_out_evenly() -> None:
    count = 1000
    found = places(384, 1536, count, keys(0, 0))
    assert found.min() >= 0 and found.max() < 2 * count
    often = np.bincount(found.reshape(-1), minlength=2 * count)
    # of n balls in K bins the variance of a bin's is n / K (1 - 1 / K)
    assert often.var() / often.mean() == pytest.approx(1, abs=0.15)


def test_neighbours_have_nothing_in_common() -> None:
    signs = np.where(places(300, 400, 500, keys(3, 1)) < 500, 1.0, -1.0)
    for other in (signs[1:, :], signs[:, 1:]):
        same = (other * signs[: other.shape[0], : other.shape[1]]).mean()
        # the mean of n independent signs is within four standard deviations, 4 / sqrt(n)
        assert abs(same) < 4 / np.sqrt(other.size)


def test_the_hash_itself_is_one_to_one() -> None:
    found = places(700, 900, MOST, keys(0, 5))
    assert len(np.unique(found)) == found.size


def test_rows_beyond_the_prime_count_too() -> None:
    found = places(PRIME + 50, 3, MOST, keys(0, 2))
    assert len(np.unique(found)) == found.size


def test_another_seed_or_number_is_another_hash() -> None:
    first = places(*SHAPE, 500, keys(0, 0))
    assert np.array_equal(first, places(*SHAPE, 500, keys(0, 0)))
    assert (first != places(*SHAPE, 500, keys(1, 0))).mean() > 0.9
    assert (first != places(*SHAPE, 500, keys(0, 1))).mean() > 0.9


@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.1])
def test_of_independent_weights_all_but_one_of_each_number_is_lost(ratio: float) -> None:
    weight = RNG.standard_normal((384, 512))
    count = int(ratio * weight.size)
    at = places(*weight.shape, count, keys(0, 0))
    found = Hashed(hashed([Part(weight, at)], count), weight.shape, keys(0, 0))
    used = len(np.unique(at % count))
    # m weights of variance 1 about their mean have m - 1 of it, within four deviations
    left = 1 - used / weight.size
    assert lost(weight, found.dense()) / weight.size == pytest.approx(left, abs=4 * np.sqrt(2 * left / weight.size))
    # of K bins n balls leave K exp(-n / K) empty
    assert used / count == pytest.approx(1 - np.exp(-1 / ratio), abs=0.01)


def test_no_other_numbers_lose_less() -> None:
    count, inputs = 700, RNG.standard_normal((500, SHAPE[1])) @ RNG.standard_normal((SHAPE[1], SHAPE[1]))
    gram, at, scale = inputs.T @ inputs, places(*SHAPE, count, keys(0, 0)), np.exp(RNG.standard_normal((SHAPE[0], 1)))
    for given in (None, gram):
        values = hashed([Part(WEIGHT, at, scale, given)], count, iterations=200)
        least = lost(WEIGHT, Hashed(values, SHAPE, keys(0, 0), scale).dense(), given)
        for _ in range(20):
            other = values + 0.01 * RNG.standard_normal(count)
            assert lost(WEIGHT, Hashed(other, SHAPE, keys(0, 0), scale).dense(), given) > least * (1 - CLOSE)


def test_weights_that_share_numbers_find_them_together() -> None:
    count, both = 900, (WEIGHT, RNG.standard_normal((40, 50)))
    drawn = [keys(0, 0), keys(0, 1)]
    parts = [Part(each, places(*each.shape, count, key)) for each, key in zip(both, drawn, strict=True)]
    values = hashed(parts, count)
    least = sum(lost(each, Hashed(values, each.shape, key).dense()) for each, key in zip(both, drawn, strict=True))
    alone = hashed(parts[:1], count)
    assert least < sum(
        lost(each, Hashed(alone, each.shape, key).dense()) for each, key in zip(both, drawn, strict=True)
    )


def test_as_many_numbers_as_are_told_apart_are_the_weight() -> None:
    weight = RNG.standard_normal((8, 9))
    at = places(8, 9, MOST, keys(0, 0))
    assert len(np.unique(at % MOST)) == weight.size
    small = np.unique(at % MOST, return_inverse=True)[1].reshape(weight.shape) + np.where(at < MOST, 0, weight.size)
    values = hashed([Part(weight, small.astype(np.int32))], weight.size)
    table = np.concatenate([values, -values])
    np.testing.assert_allclose(table[small], weight, rtol=0, atol=CLOSE)


def test_what_nodes_compute_is_the_weight() -> None:
    values = RNG.standard_normal(300).astype(np.float32)
    found = Hashed(values, (50, 60), keys(7, 3), np.exp(RNG.standard_normal((50, 1))).astype(np.float32))
    tape = Tape()
    made = found.emit(tape, "w")
    assert made.shape == ir.Shape([50, 60])
    assert {value.name: value.const_value.nbytes for value in tape.weights} == {"w_values": 1200, "w_scale": 200}
    assert found.bytes == 1200 + 200 + 32 + 8


@pytest.mark.parametrize(
    ("count", "part", "message"),
    [
        (0, Part(WEIGHT, places(*SHAPE, 5, keys(0, 0))), "1 to"),
        (MOST + 1, Part(WEIGHT, places(*SHAPE, 5, keys(0, 0))), "1 to"),
        (3, Part(WEIGHT, places(*SHAPE, 5, keys(0, 0))), "expected places below 6"),
        (5, Part(WEIGHT[1:], places(*SHAPE, 5, keys(0, 0))), "expected places below 10"),
        (5, Part(np.where(WEIGHT > 2, np.nan, WEIGHT), places(*SHAPE, 5, keys(0, 0))), "NaN"),
        (5, Part(WEIGHT, places(*SHAPE, 5, keys(0, 0)), gram=np.eye(3)), "expected a Gram matrix"),
    ],
)
def test_bad_input_is_refused(count: int, part: Part, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hashed([part], count)


def test_no_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="expected weights"):
        hashed([], 5)
