"""What the benchmarks of smaller models ask of passes can be said, and what they are trained on is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tersor

pytest.importorskip("transformers")

from tersor.benchmarks import (
    _calibration,
    _questions,
    _rewritten,
    compositions,
    embedding,
    factorize,
    lstm_lm,
    prune,
    prune_peers,
    prune_trec,
    share,
    share_albert,
)
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.presets import RAISING
from tersor.passes.report import Size

TEXTS = {
    **{f"prune, {name}": text for name, text in prune.ROWS.items()},
    **{f"int8 on {name}": text for name, text in _rewritten.INT8.items()},
    **{f"factorize, {name}": text for name, text in factorize.ROWS.items()},
    **{f"embedding, {name}": text.format(share=0.125) for name, text in embedding.METHODS.items()},
    **{f"embedding, {name}": text for name, text in embedding.BITS.items()},
    **{f"compositions, {name}": text for name, text in compositions.ROWS.items()},
    **{f"share, {name}": text for name, text in share.ROWS.items()},
    **{f"share_albert, {name}": text for name, text in share_albert.ROWS.items() if text},
    **{f"lstm_lm, {name}": text for name, text in lstm_lm.FACTORED.items()},
    **{f"prune_trec, {name}": text for name, text in prune_trec.ROWS.items()},
    **{f"prune_peers, {name}": row.passes for name, row in prune_peers.ROWS.items() if row.passes},
    "prune_peers": prune_peers.PASSES,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_row_is_passes(text: str) -> None:
    assert list(Pipeline.of(text).flat())


def test_probabilities_are_what_fisher_is_of() -> None:
    of_cosine = [name for name, text in prune_trec.ROWS.items() if "fisher" in text and "drop=kl" not in text]
    assert of_cosine == ["Fisher, cosine"]


@pytest.mark.parametrize(("name", "count"), [("train_5500", 5452), ("TREC_10", 500)])
def test_questions_are_read_with_their_classes(name: str, count: int, data_dir: Path) -> None:
    found = _questions.questions(name)
    assert len(found.texts) == len(found.kinds) == count
    assert np.bincount(found.kinds).shape == (len(_questions.CLASSES),)
    assert all(text.strip() and text.partition(" ")[0].partition(":")[0] not in _questions.CLASSES
               for text in found.texts)  # fmt: skip


@pytest.mark.parametrize("text", _calibration.TEXTS)
def test_texts_are_as_many_as_asked_for(text: str, data_dir: Path) -> None:
    found = _calibration.TEXTS[text](64)
    assert len(found) == 64
    assert [*map(len, found)] == sorted(map(len, found))


def test_an_unshared_albert_has_every_layer_stored_once(tmp_path: Path) -> None:
    module = share_albert.unshared(3, 64)
    whole = sum(each.numel() * each.element_size() for each in module.parameters())
    layer = sum(each.numel() * 4 for each in module.encoder.albert_layer_groups[0].parameters())  # type: ignore[union-attr]
    share_albert.exported(module, tmp_path / "albert.onnx")
    model = tersor.load(tmp_path / "albert.onnx")
    assert Size.of(model).bytes > 0.95 * whole
    RAISING.apply(model, Context())
    assert Size.of(model).bytes < whole - 1.95 * layer
