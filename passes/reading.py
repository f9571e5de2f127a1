"""Texts and `tokenizers` files, as passes and data read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Text = str | tuple[str, str]


def read_tokenizer(path: Path) -> Tokenizer:
    """What a file says. Raises UnsupportedError where `tokenizers` is missing, ModelError for another file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ModelError(f"{path} is no tokenizers file: {error}") from error
    return parse_tokenizer(text, str(path))


def parse_tokenizer(text: str, name: str) -> Tokenizer:
    """The same from its text; name: of the file, for errors."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UnsupportedError("reading texts needs tokenizers; pip install tokenizers") from error
    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        raise ModelError(f"{name} is no tokenizers file: {error}") from error


def json_lines(path: Path) -> Iterator[tuple[int, Text]]:
    """(line number from 1, text) of each line that is not blank: a text in quotes, or {'text': ..., 'text_pair': ...}.

    Raises ModelError for a line that is neither, and where there is none.
    """
    count = 0
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                count += 1
                yield number, _text(f"{path}: line {number}", line)
    if not count:
        raise ModelError(f"{path} is empty: expected one JSON text a line")


def lines(path: Path) -> Iterator[Text]:
    """The texts of a file: JSON lines where its name ends in .jsonl, else one text a line. Raises as `json_lines`."""
    if path.suffix == ".jsonl":
        yield from (text for _, text in json_lines(path))
        return
    count = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.strip():
                count += 1
                yield line.rstrip("\r\n")
    if not count:
        raise ModelError(f"{path} is empty: expected one text a line")


def _text(place: str, line: str) -> Text:
    try:
        read = json.loads(line)
    except ValueError as error:
        raise ModelError(f"{place} is no JSON ({error}): expected a text in quotes or {{'text': ...}}") from error
    text = read.get("text") if isinstance(read, dict) else read
    pair = read.get("text_pair") if isinstance(read, dict) else None
    if not isinstance(text, str) or not isinstance(pair, str | None):
        raise ModelError(f"{place}: expected a text or {{'text': ..., 'text_pair': ...}}, found {line.strip()[:60]!r}")
    return text if pair is None else (text, pair)
