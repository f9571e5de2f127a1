"""What is left of stacks keeps the numbers of its first blocks."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.passes.prune.gone import Gone
from tersor.passes.prune.stream import Stack


def stack(*numbers: int) -> Stack:
    """Blocks by their numbers in the model as it is now."""
    return Stack(numbers, "x", tuple(f"end{number}" for number in numbers), (None,) * len(numbers))


def model() -> ir.Model:
    return ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)


def test_of_a_model_that_nobody_pruned_nothing_is_gone() -> None:
    found = Gone.of(model(), [stack(0, 1, 2), stack(3, 4)])
    assert found.first == [(0, 1, 2), (3, 4)]
    assert not found.numbers
    assert found.numbered([stack(0, 1, 2), stack(3, 4)]) == [((0, 1, 2), stack(0, 1, 2)), ((3, 4), stack(3, 4))]


def test_what_is_left_bears_its_first_numbers() -> None:
    cut = model()
    Gone.of(cut, [stack(0, 1, 2, 3), stack(4, 5)]).note(cut, [1, 4])
    now = [stack(0, 1, 2)]
    found = Gone.of(cut, now)
    assert found.first == [(0, 1, 2, 3), (4, 5)]
    # of the second stack one block is left, which repeats no more
    ((first, left),) = found.numbered(now) or [((), stack())]
    assert (first, left.numbers, left.ends) == ((0, 1, 2, 3), (0, 2, 3), now[0].ends)


def test_what_goes_later_is_added_to_what_went_before() -> None:
    cut = model()
    Gone.of(cut, [stack(0, 1, 2, 3)]).note(cut, [2])
    Gone.of(cut, [stack(0, 1, 2)]).note(cut, [0])
    found = Gone.of(cut, [stack(0, 1)])
    assert found.numbers == {0, 2}
    assert found.left([0, 1, 2, 3]) == (1, 3)


@pytest.mark.parametrize("now", [[stack(0, 1, 2, 3)], [stack(0, 1), stack(2, 3)], []])
def test_other_stacks_than_were_left_are_not_numbered(now: list[Stack]) -> None:
    cut = model()
    Gone.of(cut, [stack(0, 1, 2, 3)]).note(cut, [2])
    assert Gone.of(cut, now).numbered(now) is None
