"""Answers of the original that changes are held against: on which batches, and what is lost."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.drop import Form, cosine, kl
from tersor.passes.prune.answers import Answers
from tersor.passes.statistics import Calibration


def layer(scale: float = 1.0) -> ir.Model:
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((6, 4)) + (scale - 1) * rng.standard_normal((6, 4))
    return graph("y = MatMul(x, w)", inputs={"x": "float[batch, 6]"}, w=weight.astype(np.float32))


def data(count: int) -> Calibration:
    return Calibration([random_feeds(layer(), {"batch": 3}, seed=seed) for seed in range(count)])


@pytest.mark.parametrize(
    ("count", "most", "held"),
    [(8, 2, [2, 6]), (8, 4, [1, 3, 5, 7]), (8, 100, [1, 3, 5, 7]), (5, 100, [1, 3]), (3, 1, [1]), (2, 4, [1])],
)
def test_some_batches_are_held_out_and_the_rest_are_the_others(count: int, most: int, held: list[int]) -> None:
    calibration = data(count)
    answers = Answers.of(layer(), calibration, batches=most)
    assert [feeds is calibration.batches[at] for feeds, at in zip(answers.batches, held, strict=True)] == [True] * len(
        held
    )
    others = [feeds for at, feeds in enumerate(calibration.batches) if at not in held]
    assert [one is other for one, other in zip(answers.rest.batches, others, strict=True)] == [True] * len(others)


def test_a_single_batch_is_both() -> None:
    calibration = data(1)
    answers = Answers.of(layer(), calibration, batches=4)
    assert answers.batches[0] is answers.rest.batches[0] is calibration.batches[0]


@pytest.mark.parametrize("form", ["cosine", "kl"])
def test_the_loss_is_the_mean_over_rows(form: Form) -> None:
    answers, changed = Answers.of(layer(), data(4), batches=2, form=form), layer(1.3)
    rows = [
        [np.asarray(runner(model)(feeds)["y"], np.float64) for feeds in answers.batches] for model in (layer(), changed)
    ]
    drops = {"cosine": cosine, "kl": kl}[form](*(np.concatenate(each) for each in rows))
    assert answers.loss(changed) == pytest.approx(drops.mean()) != 0
    assert answers.loss(layer()) == 0
