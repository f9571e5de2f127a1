"""Rows of states and of windows, against loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.views import State, Steps, Windows

Array = np.ndarray


def numbers(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


class TestStates:
    @pytest.mark.parametrize("late", [False, True])
    @pytest.mark.parametrize(("direction", "backward"), [(0, False), (1, True), (0, True)])
    def test_a_step_reads_the_state_of_the_one_before(self, direction: int, backward: bool, late: bool) -> None:
        states = numbers(5, 2, 3, 4)
        wanted = states[1:, direction] if backward else states[:-1, direction]
        if late:
            states, wanted = states.transpose(2, 0, 1, 3), wanted.transpose(1, 0, 2)
        dims = ["batch", "time", 2, 4] if late else ["time", 2, "batch", 4]
        found, known = Steps(direction, backward, late)(states, dims)
        np.testing.assert_array_equal(found, wanted)
        assert known == (["batch", "time", 4] if late else ["time", "batch", 4])

    def test_one_step_reads_none(self) -> None:
        assert Steps(0)(numbers(1, 1, 3, 4), None)[0].shape == (0, 3, 4)

    @pytest.mark.parametrize("late", [False, True])
    def test_the_first_state(self, late: bool) -> None:
        states = numbers(2, 3, 4)
        found, _ = State(1, late)(states.transpose(1, 0, 2) if late else states, None)
        np.testing.assert_array_equal(found, states[1])


#: Attributes of Conv, sizes of the image, kernel, channels and groups.
CONVOLUTIONS = [
    ("", (9,), (3,), 4, 1),
    ("strides=[2], pads=[1, 2]", (9,), (3,), 4, 2),
    ("dilations=[2], pads=[2, 2]", (9,), (3,), 4, 4),
    ("pads=[1, 0, 2, 1], strides=[2, 3]", (7, 8), (3, 2), 4, 1),
    ("dilations=[2, 1], strides=[1, 2]", (7, 8), (3, 2), 4, 2),
    ("auto_pad=SAME_UPPER, strides=[2, 2]", (7, 8), (3, 2), 2, 1),
    ("auto_pad=SAME_LOWER, strides=[2, 2]", (7, 8), (3, 2), 2, 1),
    ("auto_pad=VALID", (7, 8), (3, 2), 2, 2),
    ("", (4, 4, 4), (2, 2, 2), 2, 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=[f"{case[0]} {len(case[1])}d" for case in CONVOLUTIONS])
def test_windows_times_the_kernel_are_the_convolution(
    case: tuple[str, tuple[int, ...], tuple[int, ...], int, int],
) -> None:
    options, sizes, kernel, channels, groups = case
    weight = np.random.default_rng(0).integers(-3, 4, (2 * groups, channels // groups, *kernel)).astype(np.float32)
    shape = ", ".join(map(str, (2, channels, *sizes)))
    listed = f"{options}, group={groups}" if options else f"group={groups}"
    model = graph(f"y = Conv{{{listed}}}(x, w)", inputs={"x": f"float[{shape}]"}, w=weight)
    x = np.random.default_rng(1).integers(-3, 4, (2, channels, *sizes)).astype(np.float32)
    (wanted,) = runner(model)({"x": x}).values()
    node = model.graph.node(0)
    for index in range(groups):
        rows, dims = Windows.of(node, index, groups, kernel, None)(x, ["batch", channels, *sizes])
        assert rows.shape == (2, *wanted.shape[2:], channels // groups * weight[0, 0].size)
        assert dims == ["batch", *[None] * len(sizes), None]
        found = rows @ weight[2 * index : 2 * index + 2].reshape(2, -1).T
        np.testing.assert_array_equal(np.moveaxis(found, -1, 1), wanted[:, 2 * index : 2 * index + 2])


def test_windows_are_cut_one_by_one() -> None:
    x = numbers(1, 2, 4, 5)
    node = graph(
        "y = Conv{pads=[1, 1, 0, 0]}(x, w)", inputs={"x": "float[1, 2, 4, 5]"}, w=numbers(3, 2, 2, 3)
    ).graph.node(0)
    rows, _ = Windows.of(node, 0, 1, (2, 3), None)(x, None)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0)))
    for i, j in itertools.product(range(4), range(4)):
        np.testing.assert_array_equal(rows[0, i, j], padded[0, :, i : i + 2, j : j + 3].reshape(-1))


def test_places_keep_the_names_that_padding_is_told_by() -> None:
    node = graph("y = Conv{pads=[1, 1]}(x, w)", inputs={"x": "float[batch, 2, time]"}, w=numbers(3, 2, 3)).graph.node(0)
    _, dims = Windows.of(node, 0, 1, (3,), ("time",))(numbers(2, 2, 5), ["batch", 2, "time"])
    assert dims == ["batch", "time", None]
