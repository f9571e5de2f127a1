"""Groups of features against sorting and dividing them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tersor.passes.accumulators import FeatureRange
from tersor.passes.quantize.methods.embedding_groups import Groups, embedding_groups
from tersor.passes.quantize.methods.ranges import activation_grid

RNG = np.random.default_rng(0)
Floats = NDArray[np.float64]
LARGE = [7, 31]


def residual(features: int = 48) -> Floats:
    """Activations like those of section 3 of the paper: a few features are far larger than the others."""
    x = RNG.standard_normal((500, features)) * np.exp(0.3 * RNG.standard_normal(features))
    x[:, LARGE] *= 40
    return x


def grouped(x: Floats, groups: int, *, permute: bool = True) -> Groups:
    seen = FeatureRange(x.shape[1])
    seen.add(x)
    return embedding_groups(seen.low, seen.high, groups, permute=permute)


def errors_of(x: Floats, found: Groups, bits: int = 8, symmetric: bool = False) -> Floats:
    """Mean squared error of each feature of x, rounded by the grids of the groups."""
    scale, zero = (found.spread(each).astype(np.float64) for each in found.grid(bits=bits, symmetric=symmetric))
    bottom = -(2 ** (bits - 1)) if symmetric else 0
    values = np.clip(np.rint(x / scale) + zero, bottom, bottom + 2**bits - 1)
    squared: Floats = np.mean(((values - zero) * scale - x) ** 2, 0)
    return squared


def error(x: Floats, found: Groups, bits: int = 8, symmetric: bool = False) -> float:
    return float(errors_of(x, found, bits, symmetric).mean())


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 1e3)), min_size=1, max_size=20), st.data())
def test_features_are_sorted_by_range_and_divided(seen: list[tuple[float, float]], data: st.DataObject) -> None:
    low = np.array([start for start, _ in seen])
    high = np.array([start + span for start, span in seen])
    groups = data.draw(st.integers(1, len(seen)))
    found = embedding_groups(low, high, groups)
    order = sorted(range(len(seen)), key=lambda feature: high[feature] / 2 - low[feature] / 2)
    parts = np.array_split(order, groups)
    assert found.order.tolist() == order
    assert found.sizes.tolist() == [len(part) for part in parts]
    assert found.low.tolist() == [min(low[feature] for feature in part) for part in parts]
    assert found.high.tolist() == [max(high[feature] for feature in part) for part in parts]
    for number, part in enumerate(parts):
        assert set(found.members[part]) == {number}
        assert set(found.spread(found.high)[part]) == {found.high[number]}


def test_the_permutation_is_undone_by_its_inverse() -> None:
    x = residual()
    found = grouped(x, 6)
    assert sorted(found.order) == list(range(48))
    assert np.array_equal(x[:, found.order][:, found.inverse], x)


def test_without_permutation_features_keep_their_places() -> None:
    found = grouped(residual(), 6, permute=False)
    assert found.order.tolist() == found.inverse.tolist() == list(range(48))
    assert found.members.tolist() == [feature // 8 for feature in range(48)]


def test_the_ends_are_one_grid_for_the_tensor_and_one_for_each_feature() -> None:
    x = residual()
    whole, each = grouped(x, 1), grouped(x, 48)
    assert whole.grid()[0].tolist() == [float(activation_grid(x.min(), x.max())[0])]
    assert each.spread(each.grid()[0]).tolist() == activation_grid(x.min(0), x.max(0))[0].tolist()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_groups_err_less_the_more_they_are(bits: int, symmetric: bool) -> None:
    """Table 5 of the paper: a few groups do most of what a grid for each feature does, where features are permuted."""
    x = residual()
    errors = [error(x, grouped(x, groups), bits, symmetric) for groups in (1, 3, 6, 12, 48)]
    assert errors == sorted(errors, reverse=True)
    # all but the large features' own group have small steps
    one, six = grouped(x, 1), grouped(x, 6)
    small = six.members < 5
    assert errors_of(x, six, bits, symmetric)[small].mean() < errors_of(x, one, bits, symmetric)[small].mean() / 10
    # in their own places the two large features cost the bits of two groups; each feature's error by its own size
    places = errors_of(x, grouped(x, 6, permute=False), bits, symmetric)
    assert np.mean(errors_of(x, six, bits, symmetric) / x.var(0)) < np.mean(places / x.var(0))


def test_large_features_share_the_last_group() -> None:
    members = grouped(residual(), 6).members
    assert members[7] == members[31] == 5


def test_constant_and_zero_features_are_allowed() -> None:
    x = np.stack([np.zeros(4), np.full(4, 3.0), np.arange(4.0)], 1)
    found = grouped(x, 3)
    assert found.order.tolist() == [0, 1, 2]
    assert found.grid()[0].tolist() == [1.0, np.float32(3 / 255), np.float32(3 / 255)]
    # a float32 scale, 255 times
    assert error(x, found) <= (3 * np.finfo(np.float32).eps) ** 2 + (0.5 * 3 / 255) ** 2


@pytest.mark.parametrize(
    ("low", "high", "groups", "why"),
    [
        ([0.0], [1.0], 0, "expected 1 to 1 groups, as there are features, found 0"),
        ([0.0], [1.0], 2, "expected 1 to 1 groups, as there are features, found 2"),
        ([], [], 1, "expected 1 to 0 groups"),
        ([np.inf], [-np.inf], 1, "expected finite ranges in order: was each feature seen"),
        ([1.0], [0.0], 1, "expected finite ranges in order"),
        ([0.0, 1.0], [1.0], 1, r"expected ranges \[features\] each, found \[2\] and \[1\]"),
    ],
)
def test_bad_ranges_are_refused(low: list[float], high: list[float], groups: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        embedding_groups(np.array(low), np.array(high), groups)
