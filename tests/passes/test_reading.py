"""Texts and tokenizers from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tersor.ir.errors import ModelError
from tersor.passes.reading import json_lines, lines, read_tokenizer


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_a_line(tmp_path: Path) -> None:
    assert list(lines(written(tmp_path, "a.txt", "one\r\n\n  two\n"))) == ["one", "  two"]


def test_json_lines_by_their_name(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '"one"\n\n{"text": "two", "text_pair": "three"}\n')
    assert list(lines(path)) == ["one", ("two", "three")]
    assert [number for number, _ in json_lines(path)] == [1, 3]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.txt", "\n \n", "a.txt is empty: expected one text a line"),
        ("a.jsonl", "", "a.jsonl is empty: expected one JSON text a line"),
        ("a.jsonl", "one", "line 1 is no JSON"),
        ("a.jsonl", '{"words": 1}', "line 1: expected a text or"),
    ],
)
def test_refuses_other_files(tmp_path: Path, name: str, text: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        list(lines(written(tmp_path, name, text)))


def test_refuses_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a\.json is no tokenizers file"):
        read_tokenizer(written(tmp_path, "a.json", "{}"))
