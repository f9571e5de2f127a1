"""How much a model amplifies rounding."""

from __future__ import annotations

import numpy as np
from tersor.ir.conditioning import LAST_BITS, amplification
from tersor.ir.feeds import Feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph


def feeds(*values: float) -> Feeds:
    return {"x": np.array(values, np.float32)}


def test_a_linear_model_passes_the_perturbation_on() -> None:
    run = runner(graph("y = Mul(x, c)", inputs={"x": "float[4]"}, c=3.0))
    assert 0.0 < amplification(run, feeds(1.0, 2.0, -3.0, 4.0)).relative_l2 <= 1.1 * LAST_BITS


def test_a_difference_of_large_sums_amplifies() -> None:
    run = runner(graph("a = Add(x, big)", "y = Sub(a, big)", inputs={"x": "float[1]"}, big=0.0))
    gentle = amplification(run, feeds(1.0)).relative_l2
    steep = runner(graph("y = Sub(x, near)", inputs={"x": "float[1]"}, near=0.999))
    # (x - c) / x is the condition number's inverse: here one in a thousand
    assert amplification(steep, feeds(1.0)).relative_l2 > 100 * gentle


def test_a_sigmoid_in_its_tail_amplifies_by_its_argument() -> None:
    run = runner(graph("y = Sigmoid(x)", inputs={"x": "float[3]"}))
    assert 2.0 * LAST_BITS < amplification(run, feeds(-20.0, -20.0, -20.0)).relative_l2 < 25.0 * LAST_BITS


def test_integer_inputs_are_left_alone() -> None:
    run = runner(graph("y = Cast{to=float}(ids)", inputs={"ids": "int64[3]"}))
    assert amplification(run, {"ids": np.arange(3)}).relative_l2 == 0.0


def test_it_is_seeded() -> None:
    run = runner(graph("y = Sigmoid(x)", inputs={"x": "float[3]"}))
    first, second = (amplification(run, feeds(-3.0, 1.0, 7.0)).relative_l2 for _ in range(2))
    assert first == second
