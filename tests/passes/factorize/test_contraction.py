"""Orders of contractions: the cheapest there is, and nodes that compute the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from tersor.passes.factorize.contraction import Operand, cheapest
from tersor.passes.factorize.methods.network import Network
from tersor.passes.factorize.methods.tensor_train import tt_matrix
from tersor.passes.factorize.networks import plan

SIZES = {"a": 4, "b": 6, "r": 3, "s": 5, "c": 7, "d": 2}


def every(parts: Sequence[frozenset[int]]) -> Iterator[list[tuple[frozenset[int], frozenset[int]]]]:
    """All orders in which pairs can be contracted."""
    if len(parts) == 1:
        yield []
    for at, first in enumerate(parts):
        for second in parts[at + 1 :]:
            rest = [part for part in parts if part not in (first, second)]
            for others in every([*rest, first | second]):
                yield [(first, second), *others]


def price(order: Sequence[tuple[frozenset[int], frozenset[int]]], operands: list[Operand], kept: str, rows: int) -> int:
    def left(part: frozenset[int]) -> set[str]:
        inside = {label for at in part for label in operands[at].labels}
        outside = {label for at, each in enumerate(operands) if at not in part for label in each.labels}
        return inside & (outside | set(kept))

    total = 0
    for first, second in order:
        rowed = any(operands[at].rows for at in first | second)
        total += (rows if rowed else 1) * int(np.prod([SIZES[label] for label in left(first) | left(second)]))
    return total


@pytest.mark.parametrize("rows", [1, 3, 20, 1000])
@pytest.mark.parametrize(
    ("labels", "kept"), [(["ab", "acr", "rbs", "sd"], "cd"), (["ab", "ar", "br", "cr", "dr"], "cd"), (["ab", "ab"], "")]
)
def test_no_order_by_pairs_is_cheaper(labels: list[str], kept: str, rows: int) -> None:
    operands = [Operand(tuple(each), rows=at == 0) for at, each in enumerate(labels)]
    found = cheapest(operands, tuple(kept), SIZES, rows=rows)
    assert found is not None
    orders = every([frozenset([at]) for at in range(len(operands))])
    assert found.cost == min(price(order, operands, kept, rows) for order in orders)


def network() -> Network:
    rng = np.random.default_rng(0)
    return tt_matrix(rng.standard_normal((24, 20)), ((4, 6, 1, 1), (1, 1, 4, 5)), [4, 6, 5])


def test_many_rows_multiply_constants_first() -> None:
    few, many = plan(network(), 1), plan(network(), 10_000)
    assert few is not None and many is not None
    # x with all cores one after the other; both pairs of cores by themselves, and then x
    assert isinstance(few.tree, tuple) and few.cost == min(4 * 6 * 4 + 4 * 6 * 6, 4 * 6 * 4 * 6) + 6 * 4 * 5 + 5 * 4 * 5
    assert many.cost == 4 * 4 * 6 * 6 + 6 * 4 * 5 * 5 + 10_000 * (24 * 6 + 6 * 20)


def test_the_weight_is_never_made() -> None:
    rng = np.random.default_rng(0)
    made = tt_matrix(rng.standard_normal((24, 20)), ((4, 6), (4, 5)), [16])
    found = plan(made, 10_000)
    assert found is not None and found.cost > 10_000 * 24 * 20
    operands = [Operand(("a", "b")), Operand(("b", "c"))]
    assert cheapest(operands, ("a", "c"), SIZES, rows=1, largest=4 * 7 - 1) is None
