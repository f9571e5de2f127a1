"""Data: each kind of source gives checked feeds, or says what is wrong and where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tersor.backends.base import Interface
from tersor.driver import data
from tersor.driver.data import absolute, batches, load_data, split, take
from tersor.ir.dimensions import set_ranges
from tersor.ir.errors import ModelError, OptionError, TersorError
from tersor.ir.feeds import Feeds
from tersor.ir.text import graph

VECTORS = Interface.of(graph("y = Relu(x)", inputs={"x": "float[batch, 2]"}))


def _text_interface(inputs: str = "int64[batch, sequence]", longest: int = 6) -> Interface:
    model = graph(
        "s = Add(input_ids, attention_mask)",
        "y = Add(s, token_type_ids)",
        inputs=dict.fromkeys(["input_ids", "attention_mask", "token_type_ids"], inputs),
    )
    if "sequence" in inputs:
        set_ranges(model, {"sequence": (1, longest)})
    return Interface.of(model)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """texts.jsonl of three lines beside a word-level tokenizer.json: the n-th word of the vocabulary has the id n."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "a", "b", "c", "d", "[PAD]"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "texts.jsonl"
    path.write_text('"a b c"\n\n{"text": "d"}\n{"text": "a a a a a", "text_pair": "b b b"}\n', encoding="utf-8")
    return path


def _batch(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.zeros(shape, np.float32)}


def test_reads_an_npz_file_as_one_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=np.ones((3, 2), np.float32))
    (feeds,) = load_data(tmp_path / "one.npz", VECTORS)
    assert feeds["x"].tolist() == [[1.0, 1.0]] * 3


def test_reads_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for size in (3, 1, 2):
        np.savez(tmp_path / f"b{size}.npz", x=np.ones((size, 2), np.float32))
    assert [len(feeds["x"]) for feeds in load_data(str(tmp_path), VECTORS)] == [1, 2, 3]


def test_calls_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feeds_of_mine.py").write_text(
        "import numpy as np\ndef batches():\n    for n in (1, 2):\n        yield {'x': np.zeros((n, 2), np.float32)}\n"
        "def wrong():\n    yield {'x': np.zeros((1, 2), np.float32)}\n    yield {'x': np.zeros((1, 3), np.float32)}\n"
        "def broken():\n    raise KeyError('corpus')\ndef single():\n    return {'x': 1}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    assert [len(feeds["x"]) for feeds in load_data("feeds_of_mine:batches", VECTORS)] == [1, 2]
    for function, message in (
        ("wrong", r"feeds_of_mine:wrong: batch 2: .*size 3 on axis 1, not 2"),
        ("broken", r"feeds_of_mine:broken failed with KeyError: 'corpus'"),
        ("single", r"feeds_of_mine:single returned a dict: expected an iterable of feeds"),
    ):
        with pytest.raises(ModelError, match=message):
            list(load_data(f"feeds_of_mine:{function}", VECTORS))


def test_tokenizes_texts(texts: Path) -> None:
    first, second = load_data(f"{texts}+{texts.with_name('tokenizer.json')}", _text_interface(), batch=2)
    assert first["input_ids"].tolist() == [[1, 2, 3], [4, 5, 5]]
    assert first["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert first["input_ids"].dtype == np.int64
    # A pair is cut to the longest sequence that the model takes.
    assert second["input_ids"].shape == (1, 6)
    assert set(second["token_type_ids"][0].tolist()) == {0, 1}


def test_texts_fill_fixed_shapes(texts: Path) -> None:
    (feeds,) = load_data(texts, _text_interface("int32[2, 4]"))
    assert feeds["input_ids"].tolist() == [[1, 2, 3, 5], [4, 5, 5, 5]]
    assert feeds["input_ids"].dtype == np.int32


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 3 is no JSON"),
        ('{"title": "a"}', "line 3: expected a text or"),
        ('{"text": "a", "text_pair": 4}', "line 3: expected a text or"),
    ],
)
def test_refuses_lines_that_are_no_text(texts: Path, line: str, message: str) -> None:
    texts.write_text(f'"a"\n"b"\n{line}\n', encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        list(load_data(texts, _text_interface()))


def test_refuses_texts_for_another_kind_of_model(texts: Path) -> None:
    with pytest.raises(ModelError, match="the model's inputs are x: give its data as"):
        list(load_data(texts, VECTORS))


def test_refuses_texts_without_a_tokenizer(texts: Path) -> None:
    texts.with_name("tokenizer.json").unlink()
    with pytest.raises(OptionError, match=r"texts need a tokenizers file, and there is no .*tokenizer.json"):
        list(load_data(texts, _text_interface()))
    texts.with_name("tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="is no tokenizers file"):
        list(load_data(texts, _text_interface()))


def test_refuses_an_empty_text_file(texts: Path) -> None:
    texts.write_text("\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"texts.jsonl is empty"):
        list(load_data(texts, _text_interface()))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((1, 2), np.float32)}, "'z' is no input"),
        ({"x": np.zeros((1, 2), np.float64)}, r"'x' is float64, not float32"),
        ({"x": np.zeros(2, np.float32)}, "'x' has 1 axes"),
        ({"x": np.zeros((0, 2), np.float32)}, r"input 'x' is empty, its shape is \[0, 2\]"),
        ({"x": np.array([[0, np.nan]], np.float32)}, r"input 'x' holds nan at \[0, 1\]"),
        ({"x": np.array([[0, np.inf]], np.float32)}, r"input 'x' holds inf at \[0, 1\]"),
        ({"x": np.array([[{}, {}]], dtype=object)}, "pickled objects are never loaded"),
    ],
)
def test_refuses_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "batch.npz"
    np.savez(path, **arrays)
    with pytest.raises(ModelError, match=message) as caught:
        list(load_data(path, VECTORS))
    assert str(path) in str(caught.value)


def test_an_empty_cache_is_a_fine_input() -> None:
    interface = Interface.of(graph("y = Relu(past)", inputs={"past": "float[batch, 2, length, 4]"}))
    (feeds,), more = batches([{"past": np.zeros((1, 2, 0, 4), np.float32)}], interface)
    assert feeds["past"].size == 0
    assert not more


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("none.npz", OptionError, "no file none.npz"),
        ("none.jsonl", OptionError, "no file none.jsonl"),
        ("none.csv", OptionError, "and there is no such file"),
        ("no_such_module_here:f", OptionError, "importing no_such_module_here failed"),
        (".", ModelError, "holds no .npz file"),
        ("bad.npz", ModelError, "bad.npz cannot be read as .npz"),
        ("table.csv", OptionError, "found another file"),
    ],
)
def test_refuses_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, error: type[TersorError], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if spec != ".":
        (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 truncated")
        (tmp_path / "table.csv").write_text("1,2", encoding="utf-8")
    with pytest.raises(error, match=message):
        list(load_data(spec, VECTORS))


def test_refuses_iterables_of_something_else() -> None:
    with pytest.raises(OptionError, match="found one mapping"):
        batches({"x": 1}, VECTORS)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"data: batch 2: expected {input name: array}, found list"):
        batches([_batch(1, 2), [1, 2]], VECTORS)
    with pytest.raises(ModelError, match="the data is empty"):
        batches([], VECTORS)


def test_endless_data_is_cut() -> None:
    def endless() -> Iterator[Feeds]:
        while True:
            yield _batch(1, 2)

    kept, more = take(endless())
    assert (len(kept), more) == (data.MAX_BATCHES, True)
    kept, more = take([_batch(1, 2)] * 3)
    assert (len(kept), more) == (3, False)


def test_large_data_is_cut_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_BYTES", 20)
    kept, more = take([_batch(2, 2)] * 5)
    assert (len(kept), more) == (2, True)


@pytest.mark.parametrize(("count", "held_out"), [(2, [1]), (4, [3]), (5, [4]), (12, [4, 9])])
def test_every_fifth_batch_is_held_out(count: int, held_out: list[int]) -> None:
    made = [_batch(index + 1, 2) for index in range(count)]
    parts = split(made)
    assert [len(feeds["x"]) - 1 for feeds in parts.quality] == held_out
    assert len(parts.calibration) == count - len(held_out)
    assert parts.held_out
    assert f"{len(held_out)} held out for quality" in parts.note


def test_one_batch_serves_for_both_and_says_so() -> None:
    parts = split([_batch(1, 2)])
    assert not parts.held_out
    assert parts.calibration == parts.quality
    assert "one batch only" in parts.note


def test_recipes_record_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("batches") == str(tmp_path / "batches")
    assert absolute("t.jsonl+tok.json") == f"{tmp_path / 't.jsonl'}+{tmp_path / 'tok.json'}"
    assert absolute("package.module:function") == "package.module:function"


def test_the_values_survive(tmp_path: Path) -> None:
    made = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    np.savez(tmp_path / "b.npz", x=made)
    (feeds,) = load_data(tmp_path, VECTORS)
    np.testing.assert_array_equal(feeds["x"], made)
