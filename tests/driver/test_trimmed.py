"""Compiling with a trimmed vocabulary: what lies in the artifact, and what is measured on whose ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tersor
from tersor.driver.artifact import Artifact
from tersor.tests.passes.prune.vocabularies import CORPUS, TEXTS, corpus, decoder, encoder, saved, wordpiece
from tokenizers import Tokenizer

Feeds = dict[str, np.ndarray]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(wordpiece(), tmp_path)


def options(source: Path, **more: str) -> str:
    given = {"corpus": str(corpus(source.parent)), "tokenizer": str(source)} | more
    return f"trim-vocabulary{{{', '.join(f'{name}={json.dumps(value)}' for name, value in given.items())}}}"


def feeds(path: Path, text: str) -> Feeds:
    ids = np.array([Tokenizer.from_file(str(path)).encode(text).ids])
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}


def size(source: Path) -> int:
    return int(Tokenizer.from_file(str(source)).get_vocab_size())


def roles(made: Artifact) -> dict[str, str]:
    return {file["name"]: file["role"] for file in made.manifest["files"]}


@pytest.mark.parametrize("target", ["onnxruntime", "torch"])
def test_the_artifact_holds_the_trimmed_tokenizer(source: Path, tmp_path: Path, target: str) -> None:
    model, out = encoder(size(source)), tmp_path / "out"
    made = tersor.compile(model, target=target, passes=options(source, ids="new"), output=out)
    assert {name for name, role in roles(made).items() if role == "companion"} == {"tokenizer.json", "vocabulary.json"}
    plain = tersor.compile(model, target=target)
    session = tersor.open(out, verify=True)
    found = session.run(feeds(out / "tokenizer.json", CORPUS[0]))
    expected = plain.session.run(feeds(source, CORPUS[0]))
    np.testing.assert_allclose(found["y"], expected["y"], atol=1e-6)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "torch"])
def test_old_ids_stay_and_no_tokenizer_is_written(source: Path, tmp_path: Path, target: str) -> None:
    model, out = encoder(size(source)), tmp_path / "out"
    made = tersor.compile(model, target=target, passes=options(source), output=out)
    assert "tokenizer.json" not in roles(made)
    (said,) = json.loads((out / "vocabulary.json").read_text())
    assert said["rows"] == size(source)
    given = feeds(source, CORPUS[0])
    expected = tersor.compile(model, target=target).session.run(given)
    np.testing.assert_allclose(made.session.run(given)["y"], expected["y"], atol=1e-6)


def test_small_tables_of_8_bits_are_trimmed_and_stay_so(source: Path) -> None:
    passes = f"quantize-dynamic{{embeddings=true, smallest=1}}, {options(source)}"
    model = encoder(size(source))
    made = tersor.compile(model, target="onnxruntime", passes=passes, data=[feeds(source, CORPUS[0])], size_first=True)
    before, after = made.manifest["sizes"]["weights"]
    assert after < before
    assert [record.matches for record in made.report.passes if record.text.startswith("trim")] == [1]


def test_random_feeds_with_trimmed_tokens_are_held_to_the_contract(source: Path) -> None:
    made = tersor.compile(encoder(size(source)), target="onnxruntime", passes=options(source, ids="new"))
    assert made.manifest["contract"]["loss"] is not None
    assert made.manifest["contract"]["loss"] <= made.manifest["contract"]["limit"]
    assert made.manifest["quality"]["fidelity"] == pytest.approx(1.0)


def test_real_feeds_tell_what_is_trimmed(source: Path) -> None:
    data = [feeds(source, text) for text in TEXTS]
    passes = [f"{options(source, ids='new', least='2')[:-1]}, characters=false}}".replace('"2"', "2")]
    made = tersor.compile(encoder(size(source)), target="onnxruntime", passes=passes, data=data)
    assert "tokens are trimmed, and read as unknown" in made.manifest["quality"]["feeds"]["note"]
    assert made.manifest["quality"]["fidelity"] is not None
    assert 0 < made.manifest["quality"]["fidelity"] < 1
    assert made.manifest["contract"]["loss"] == pytest.approx(0.0, abs=1e-6)


def test_a_lossy_pass_behind_it_calibrates_on_new_ids(source: Path) -> None:
    data = [feeds(source, " ".join(CORPUS[0].split()[at:])) for at in range(4)]
    passes = f"{options(source, ids='new')}, quantize-static{{smallest=1}}"
    made = tersor.compile(encoder(size(source)), target="onnxruntime", passes=passes, data=data, size_first=True)
    assert made.manifest["quality"]["fidelity"] == pytest.approx(1.0, abs=1e-2)


def test_shortened_outputs_are_compared_with_what_stays() -> None:
    data = [{"tokens": np.array([[3, 17, 17, 40], [5, 3, 60, 2]])}]
    passes = "trim-vocabulary{unknown=0, outputs=true}"
    made = tersor.compile(decoder(64), target="onnxruntime", passes=passes, data=data)
    assert made.manifest["interface"]["outputs"][0]["shape"][-1] == 7
    assert made.manifest["quality"]["fidelity"] == pytest.approx(1.0)
