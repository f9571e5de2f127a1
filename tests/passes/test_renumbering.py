"""Feeds, answers and the model before, in the terms of a model whose vocabulary was cut."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.level import Level, violations
from tersor.ir.runner import runner
from tersor.passes.base import Context
from tersor.passes.renumbering import Renumbering
from tersor.passes.statistics import Calibration
from tersor.tests.passes.prune.vocabularies import decoder

OLD = np.array([0, 2, 3])
IDS = {"tokens": np.array([[3, 1, -4, 2]])}


def made(*, renumbered: bool, outputs: bool = False) -> Renumbering:
    return Renumbering(("tokens",), 6, OLD, 1, renumbered, {"logits": 2} if outputs else None)


def answer(model: ir.Model, ids: list[int]) -> np.ndarray:
    return dict(runner(model)({"tokens": np.array([ids])}))["logits"]


def test_each_old_number_has_a_new_one() -> None:
    assert made(renumbered=True).new.tolist() == [0, 1, 1, 2, 1, 1]


def test_feeds_take_new_numbers_where_the_model_does() -> None:
    assert made(renumbered=True).feeds(IDS)["tokens"].tolist() == [[2, 1, 1, 1]]
    assert made(renumbered=False).feeds(IDS) is IDS


def test_other_inputs_stay_and_types_too() -> None:
    feeds = {"tokens": np.array([3], np.int32), "mask": np.array([5])}
    found = made(renumbered=True).feeds(feeds)
    assert found["mask"] is feeds["mask"]
    assert found["tokens"].dtype == np.int32


def test_unknown_stands_for_what_is_trimmed() -> None:
    assert made(renumbered=False).known(IDS)["tokens"].tolist() == [[3, 2, 2, 2]]


def test_counts_what_is_trimmed() -> None:
    assert made(renumbered=True).trimmed([IDS, IDS]) == (2, 8)


def test_answers_are_those_for_what_stays() -> None:
    answers = {"logits": np.arange(12).reshape(1, 2, 6), "other": np.arange(6)}
    found = made(renumbered=False, outputs=True).answers(answers)
    assert found["logits"].tolist() == [[[0, 2, 3], [6, 8, 9]]]
    assert found["other"] is answers["other"]


@pytest.mark.parametrize(
    ("renumbered", "ids", "as_before"), [(True, [0, 1, 2], [0, 2, 3]), (False, [3, 5, 0], [3, 2, 0])]
)
def test_the_reference_answers_in_the_terms_of_what_is_left(
    renumbered: bool, ids: list[int], as_before: list[int]
) -> None:
    model = decoder(6)
    reference = made(renumbered=renumbered, outputs=True).reference(model)
    assert violations(reference, Level.SEMANTIC) == []
    assert str(reference.graph.outputs[0].shape).endswith(",3]")
    np.testing.assert_array_equal(answer(reference, ids), answer(model, as_before)[..., OLD])


def test_calibration_is_translated_with_the_feeds() -> None:
    context = Context(feeds=[IDS], calibration=Calibration([IDS])).after([made(renumbered=True)])
    assert context.calibration is not None
    for batch in (context.feeds[0], context.calibration.batches[0]):
        assert batch["tokens"].tolist() == [[2, 1, 1, 1]]


def test_calibration_stays_where_ids_do() -> None:
    context = Context(feeds=[IDS], calibration=Calibration([IDS]))
    assert context.after([made(renumbered=False)]).calibration is context.calibration
