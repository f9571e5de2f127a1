"""trim-vocabulary on real models: MiniLM with its own tokenizer, and BabyLlama, with its logits and without."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.benchmarks._calibration import sentences
from tersor.examples import babyllama, minilm
from tersor.ir.load import load
from tersor.ir.runner import runner
from tersor.passes.base import Context
from tersor.passes.presets import RAISING
from tersor.passes.prune.trim_vocabulary import TrimVocabulary
from tersor.passes.report import Size
from tersor.passes.statistics import Calibration
from tokenizers import Tokenizer

Feeds = dict[str, np.ndarray]


@cache
def raised(path: Path) -> ir.Model:
    model = load(path)
    RAISING.apply(model, Context())
    return model


def encoded(tokenizer: Tokenizer, texts: list[str]) -> Feeds:
    tokenizer.no_truncation()
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    read = tokenizer.encode_batch(texts)
    ids = np.array([each.ids for each in read])
    return {
        "input_ids": ids,
        "attention_mask": np.array([each.attention_mask for each in read]),
        "token_type_ids": np.zeros_like(ids),
    }


@pytest.mark.slow
@pytest.mark.parametrize("ids", ["old", "new"])
def test_minilm_answers_alike_on_texts_of_kept_tokens(
    ids: str, minilm_onnx: Callable[[int], Path], data_dir: Path, tmp_path: Path
) -> None:
    texts = sentences(1280)
    (tmp_path / "corpus.txt").write_text("\n".join(texts))
    source = minilm.folder() / "tokenizer.json"
    before, model = raised(minilm_onnx(23)), raised(minilm_onnx(23)).clone()
    made = TrimVocabulary(corpus=str(tmp_path / "corpus.txt"), tokenizer=str(source), ids=ids)  # type: ignore[arg-type]
    outcome = made.apply(model, Context())
    assert outcome.matches == 1
    # tables are half of the model, and most words are in no text of these
    assert Size.of(model).bytes < 0.65 * Size.of(before).bytes
    old = Tokenizer.from_file(str(source))
    new = old if ids == "old" else Tokenizer.from_str(outcome.files["tokenizer.json"].decode())
    for start in range(0, 128, 32):
        feeds = [encoded(tokenizer, texts[start : start + 32]) for tokenizer in (old, new)]
        (expected,), (found,) = (runner(each)(fed).values() for each, fed in zip((before, model), feeds, strict=True))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("outputs", [False, True])
def test_babyllama_keeps_its_logits_unless_asked(outputs: bool, data_dir: Path) -> None:
    """The exporter stores the tied table a second time, turned around, for the logits."""
    source = babyllama.source()
    model = load(source.module, args=source.args, dynamic=source.dynamic)
    RAISING.apply(model, Context())
    characters = babyllama.Characters()
    tokens = np.array([[babyllama.START, *characters.encode(babyllama.stories()[0])[:99]]])
    context = Context(calibration=Calibration([{"tokens": tokens}]))
    after = model.clone()
    outcome = TrimVocabulary(unknown=babyllama.UNKNOWN, outputs=outputs).apply(after, context)
    (cut,) = outcome.renumbered
    assert set(np.unique(tokens)) <= set(cut.old.tolist())
    assert len(cut.old) < 60
    (expected,), (found,) = (runner(each)({"tokens": tokens}).values() for each in (model, after))
    assert found.shape == (1, 100, len(cut.old) if outputs else 105)
    np.testing.assert_allclose(found, expected[..., cut.old] if outputs else expected, rtol=1e-5, atol=1e-5)
