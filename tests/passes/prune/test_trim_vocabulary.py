"""trim-vocabulary: rows that no text looks up go, and the tokenizer goes with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.text import graph, lines
from tersor.passes.base import Context, Miss
from tersor.passes.pipeline import Pipeline
from tersor.passes.prune.trim_vocabulary import TrimVocabulary
from tersor.passes.report import Report
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration
from tersor.passes.verify import allowed
from tersor.tests.passes.prune.vocabularies import CORPUS, KINDS, corpus, decoder, encoder, saved, wordpiece
from tersor.tests.support import misses
from tokenizers import Tokenizer

Feeds = dict[str, np.ndarray]
IDS = np.array([[3, 17, 17, 40], [5, 3, 60, 2]])


def of(ids: np.ndarray) -> Feeds:
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}


def calibrated(*batches: Feeds) -> Context:
    return Context(feeds=batches, calibration=Calibration(batches))


def rows(model: ir.Model, name: str = "table") -> int:
    found = model.graph.initializers[name].shape
    assert found is not None
    return int(found.numpy()[0])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return {"corpus": str(corpus(tmp_path)), "tokenizer": str(saved(wordpiece(), tmp_path))}


def size_of(files: dict[str, str]) -> int:
    return int(Tokenizer.from_file(files["tokenizer"]).get_vocab_size())


def run(made: TrimVocabulary, model: ir.Model, context: Context | None = None) -> Report:
    return run_pipeline(Pipeline(steps=(made,)), model, context, verify=Verify.EACH)


# rewrites


def test_old_ids_find_their_rows() -> None:
    model = encoder(64)
    TrimVocabulary(unknown=0).apply(model, calibrated(of(IDS)))
    assert lines(model) == [
        "e/Gather = Gather(e/rows, input_ids)", "e = Gather(table, e/Gather)", "t = Gather(types, token_type_ids)",
        "a = Add(e, t)", "h = Tanh(a)", "y = MatMul(h, w)",
    ]  # fmt: skip
    assert rows(model) == 7


def test_new_ids_are_those_of_the_tokenizer(files: dict[str, str]) -> None:
    model = encoder(size_of(files))
    before = lines(model)
    outcome = TrimVocabulary(ids="new", **files).apply(model, Context())
    assert lines(model) == before
    assert rows(model) == Tokenizer.from_str(outcome.files["tokenizer.json"].decode()).get_vocab_size()


def test_the_vocabulary_says_which_row_was_which(files: dict[str, str]) -> None:
    model = encoder(size_of(files))
    outcome = TrimVocabulary(**files).apply(model, Context())
    (said,) = json.loads(outcome.files["vocabulary.json"])
    assert set(outcome.files) == {"vocabulary.json"}
    assert said["ids"] == "old"
    assert (said["inputs"], said["outputs"], said["rows"]) == (["input_ids"], [], size_of(files))
    assert len(said["old"]) == rows(model)
    assert said["old"][said["unknown"]] == 1


def test_texts_and_data_are_counted_together(files: dict[str, str]) -> None:
    size = size_of(files)
    model, alone = encoder(size + 8), encoder(size + 8)
    TrimVocabulary(**files).apply(alone, Context())
    TrimVocabulary(**files).apply(model, calibrated(of(np.array([[size, size + 5, 0]]))))
    assert rows(model) == rows(alone) + 2


def test_rare_tokens_go_and_are_told_of(files: dict[str, str]) -> None:
    model = encoder(size_of(files))
    outcome = TrimVocabulary(least=2, characters=False, **files).apply(model, Context())
    (lost,) = [finding.miss for finding in outcome.misses]
    assert lost is not None
    assert lost.rule == "trimmed"
    assert lost.near
    assert lost.value.endswith("tokens of the texts")


def test_json_lines_are_read(files: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in CORPUS))
    models = [encoder(size_of(files)) for _ in range(2)]
    for model, name in zip(models, (files["corpus"], str(path)), strict=True):
        TrimVocabulary(corpus=name, tokenizer=files["tokenizer"]).apply(model, Context())
    assert rows(models[0]) == rows(models[1])


def test_tied_outputs_are_shortened_when_asked() -> None:
    model = decoder(64)
    outcome = TrimVocabulary(unknown=0, outputs=True).apply(model, calibrated({"tokens": IDS}))
    assert str(model.graph.outputs[0].shape).endswith(",7]")
    assert outcome.renumbered[0].outputs == {"logits": 2}


def test_an_output_of_its_own_is_shortened_too() -> None:
    rng = np.random.default_rng(0)
    model = graph(
        "e = Gather(table, tokens)", "h = Tanh(e)", "logits = MatMul(h, head)", inputs={"tokens": "int64[batch, n]"},
        table=rng.standard_normal((64, 8)).astype(np.float32), head=rng.standard_normal((8, 64)).astype(np.float32),
    )  # fmt: skip
    whole = model.clone()
    TrimVocabulary(unknown=0).apply(whole, calibrated({"tokens": IDS}))
    assert str(whole.graph.outputs[0].shape).endswith(",64]")
    report = run(TrimVocabulary(unknown=0, outputs=True), model, calibrated({"tokens": IDS}))
    assert str(model.graph.outputs[0].shape).endswith(",7]")
    assert report.passes[0].loss == 0.0


def test_tables_of_several_inputs_share_the_tokenizer(files: dict[str, str]) -> None:
    size = size_of(files)
    tables = {name: np.random.default_rng(at).standard_normal((size, 4)) for at, name in enumerate(("t", "u"))}
    model = graph(
        "e = Gather(t, source)", "d = Gather(u, target)", "y = Add(e, d)",
        inputs=dict.fromkeys(("source", "target"), "int64[batch, n]"),
        **{name: table.astype(np.float32) for name, table in tables.items()},
    )  # fmt: skip
    data = {"source": np.array([[size - 1]]), "target": np.array([[size - 2]])}
    report = run(TrimVocabulary(ids="new", **files), model, calibrated(data))
    assert report.passes[0].matches == 2
    assert rows(model, "t") == rows(model, "u")
    (cut,) = report.renumbered
    assert cut.inputs == ("source", "target")
    assert {size - 1, size - 2} <= set(cut.old.tolist())


def test_tables_without_a_tokenizer_are_vocabularies_by_their_size() -> None:
    rng = np.random.default_rng(0)
    model = graph(
        "e = Gather(t, source)", "d = Gather(u, target)", "y = Add(e, d)",
        inputs=dict.fromkeys(("source", "target"), "int64[batch, n]"),
        t=rng.standard_normal((40, 4)).astype(np.float32), u=rng.standard_normal((50, 4)).astype(np.float32),
    )  # fmt: skip
    report = run(TrimVocabulary(unknown=0), model, calibrated({"source": IDS % 40, "target": IDS % 50}))
    assert (rows(model, "t"), rows(model, "u")) == (6, 7)
    assert [(cut.inputs, cut.size) for cut in report.renumbered] == [(("source",), 40), (("target",), 50)]
    assert report.passes[0].loss == 0.0
    assert len(json.loads(report.files["vocabulary.json"])) == 2


# leaves alone


def positions() -> ir.Model:
    return graph(
        "s = Shape(x)", "n = Gather(s, 1)", "p = Range(0, n, 1)", "e = Gather(t, p)", "y = Add(x, e)",
        inputs={"x": "float[batch, n, 8]"}, t=np.ones((64, 8), np.float32),
    )  # fmt: skip


def compared() -> ir.Model:
    model = encoder(64)
    return graph(
        *lines(model), "m = Equal(input_ids, 3)", "z = Cast{to=1}(m)", inputs=dict.fromkeys(
            ("input_ids", "token_type_ids"), "int64[batch, sequence]"
        ), outputs=["y", "z"],
        **{name: value.const_value.numpy() for name, value in model.graph.initializers.items()},  # type: ignore[union-attr]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "model", "why"),
    [
        (TrimVocabulary(unknown=0), decoder(64), [Miss("outputs", "an output of the model: logits", "", near=True)]),
        (TrimVocabulary(), encoder(64), [Miss("unknown", "no token stands for what is trimmed", "", near=True)]),
        (TrimVocabulary(unknown=64), encoder(64), [Miss("unknown", "the id 64", "", near=True)]),
        (TrimVocabulary(unknown=0, ids="new"), compared(), [Miss("ids", "read by Equal at m", "", near=True)]),
        (TrimVocabulary(unknown=0), positions(), []),
        (TrimVocabulary(unknown=0, smallest=65), encoder(64), []),
        (
            TrimVocabulary(unknown=0),
            graph("e = Gather(t, i)", "f = Softmax{axis=0}(t)", "y = MatMul(e, f)", inputs={"i": "int64[batch, 64]"},
                  t=np.ones((64, 64), np.float32)),
            [Miss("held", "Softmax goes over it at Softmax at f", "", near=True)],
        ),
    ],
    ids=["tied", "no unknown", "unknown", "compared", "positions", "small", "softmax"],
)  # fmt: skip
def test_leaves_alone(made: TrimVocabulary, model: ir.Model, why: list[Miss]) -> None:
    found = misses(made, model)
    assert [(miss.rule, miss.near) for miss in found] == [(miss.rule, miss.near) for miss in why]
    assert all(miss.value.startswith(wanted.value) for miss, wanted in zip(found, why, strict=True))


def test_what_all_texts_use_stays() -> None:
    model = encoder(64)
    outcome = TrimVocabulary(unknown=0).apply(model, calibrated(of(np.arange(64)[None])))
    assert [str(finding.miss) for finding in outcome.misses] == [
        "tokens: all 64 are used; needed some that no text has"
    ]
    assert outcome.files == {}


def test_a_tokenizer_of_another_model_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"has \d+ tokens, and the tables .* have 64 rows: .* of another model"):
        TrimVocabulary(**files).apply(encoder(64), Context())


def test_numbers_that_the_tokenizer_would_not_keep_are_refused(files: dict[str, str]) -> None:
    """An added token that is none of the vocabulary is numbered behind it, whatever the file says."""
    path = Path(files["tokenizer"])
    data = json.loads(path.read_text())
    del data["model"]["vocab"]["[PAD]"]
    path.write_text(json.dumps(data))
    model = encoder(120)
    before = lines(model)
    with pytest.raises(ModelError, match=r"'\[PAD\]' is to be number 0 of what stays.* use ids=old"):
        TrimVocabulary(ids="new", **files).apply(model, Context())
    assert lines(model) == before
    assert rows(model) == 120


def test_a_tokenizer_without_unknown_needs_one_for_old_ids(tmp_path: Path) -> None:
    path = str(saved(KINDS["bytewise"](), tmp_path))
    model = encoder(Tokenizer.from_file(path).get_vocab_size())
    assert [miss.rule for miss in misses(TrimVocabulary(tokenizer=path), model)] == ["unknown"]
    assert misses(TrimVocabulary(tokenizer=path, ids="new"), model) == []


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        (lambda files: files.pop("tokenizer"), OptionError, "the corpus is read by a tokenizer"),
        (lambda files: files.update(corpus="nowhere.txt"), OptionError, "no file nowhere.txt"),
        (lambda files: files.update(tokenizer="nowhere.json"), OptionError, "no file nowhere.json"),
        (lambda files: Path(files["corpus"]).write_text("\n \n"), ModelError, "is empty: expected one text a line"),
        (lambda files: files.update(least=0), OptionError, "expected least of at least 1"),
        (lambda files: files.pop("corpus"), OptionError, "has to know which tokens are used"),
    ],
)
def test_bad_options_are_told(
    files: dict[str, str], change: Callable[[dict[str, str]], object], error: type[Exception], why: str
) -> None:
    model = encoder(size_of(files))
    change(files)
    with pytest.raises(error, match=why):
        TrimVocabulary(**files).apply(model, Context())  # type: ignore[arg-type]


def test_data_beyond_the_table_are_told() -> None:
    with pytest.raises(ModelError, match="input_ids: expected ids below the 64 rows of a table, found 64"):
        TrimVocabulary(unknown=0).apply(encoder(64), calibrated(of(np.array([[64]]))))


# holds numerically


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_kept_tokens_get_the_same_answers(kind: str, tmp_path: Path) -> None:
    source = saved(KINDS[kind](), tmp_path)
    old = Tokenizer.from_file(str(source))
    model = encoder(old.get_vocab_size() + 5)
    before = model.clone()
    made = TrimVocabulary(corpus=str(corpus(tmp_path)), tokenizer=str(source), ids="new")
    report = run(made, model)
    assert rows(model) < rows(before)
    new = Tokenizer.from_str(report.files["tokenizer.json"].decode())
    feeds = [of(np.array([each.encode(CORPUS[0]).ids])) for each in (old, new)]
    answers = iter([compare_answers(before, feeds[0])])
    assert compare(lambda _: next(answers), model, feeds[1]).relative_l2 == 0.0


def compare_answers(model: ir.Model, feeds: Feeds) -> dict[str, np.ndarray]:
    from tersor.ir.runner import runner

    return dict(runner(model)(feeds))


def test_old_ids_and_negative_ones_get_the_same_answers() -> None:
    model = encoder(64)
    before, feeds = model.clone(), of(np.array([[3, -1, 40, -64]]))
    TrimVocabulary(unknown=0).apply(model, calibrated(feeds))
    assert rows(model) == 4
    assert compare(before, model, feeds).relative_l2 == 0.0


def test_what_is_trimmed_is_read_as_unknown() -> None:
    model = encoder(64)
    before = model.clone()
    TrimVocabulary(unknown=5).apply(model, calibrated(of(IDS)))
    expected = compare_answers(before, of(np.array([[3, 5]])))
    np.testing.assert_array_equal(compare_answers(model, of(np.array([[3, 33]])))["y"], expected["y"])


@pytest.mark.parametrize("ids", ["old", "new"])
def test_verified_on_feeds_with_trimmed_tokens(ids: str, files: dict[str, str]) -> None:
    model = encoder(size_of(files))
    report = run(TrimVocabulary(ids=ids, **files), model)  # type: ignore[arg-type]
    assert report.passes[0].matches == 1
    assert report.passes[0].loss is not None
    assert report.passes[0].loss <= allowed(TrimVocabulary.contract)


def test_passes_behind_it_see_new_ids() -> None:
    model = encoder(64)
    context = calibrated(of(IDS), of(IDS[::-1]))
    steps = Pipeline.of(["trim-vocabulary{unknown=0,ids=new}", "quantize-static{smallest=1}"])
    report = run_pipeline(steps, model, context, verify=Verify.FAST)
    assert all(record.matches for record in report.passes)
    (cut,) = report.renumbered
    assert cut.trimmed([of(IDS)]) == (0, IDS.size)
    assert compare_answers(model, dict(cut.feeds(of(IDS))))["y"].shape == (2, 4, 8)


def test_shortened_logits_are_those_of_what_stays() -> None:
    model = decoder(64)
    before = model.clone()
    report = run(TrimVocabulary(unknown=0, outputs=True), model, calibrated({"tokens": IDS}))
    assert report.passes[0].loss == 0.0
    kept = report.renumbered[0].old
    np.testing.assert_allclose(
        compare_answers(model, {"tokens": IDS})["logits"],
        compare_answers(before, {"tokens": IDS})["logits"][..., kept],
        rtol=1e-6,
    )
