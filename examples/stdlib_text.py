"""English text that every machine with Python has: the docstrings of the standard library.

Calibration and healing want text that no benchmark is scored on. Source files are parsed, never imported.
"""

from __future__ import annotations

import ast
import os
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

SKIPPED = {
    *("site-packages", "dist-packages", "__pycache__"),
    *("test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data"),
}
NOT_PROSE = (" ", "\t", ">>>", "...", "-", "*", ":", "+", "|", "=")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
WORD = re.compile(r"[A-Za-z']+")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which sentences to take: how many words, and how many of one file, so that none dominates a short sample."""

    min_words: int = 4
    max_words: int = 60
    per_file: int | None = 24


def sentences(count: int | None = None, *, seed: int = 0, wanted: Wanted = Wanted()) -> list[str]:
    """The first `count` distinct sentences, all of them without `count`, files in an order drawn by `seed`.

    The same Python version gives the same list, and a longer list begins with a shorter one. About 4,500 in all,
    9,000 with `per_file=None`.
    """
    files = source_files()
    random.Random(seed).shuffle(files)
    return list(islice(distinct(files, wanted), count))


def source_files() -> list[Path]:
    """The public modules of the standard library, sorted by path."""
    found: list[Path] = []
    for folder, below, files in os.walk(sysconfig.get_path("stdlib")):
        below[:] = [name for name in below if is_public(name)]
        found += [Path(folder, name) for name in files if name.endswith(".py") and is_public(name)]
    return sorted(found)


def is_public(name: str) -> bool:
    """Whether a file or folder of the library belongs to a public module."""
    return name == "__init__.py" or not (name.startswith("_") or name in SKIPPED)


def distinct(files: list[Path], wanted: Wanted) -> Iterator[str]:
    """Sentences of the right length from each file in turn, none twice."""
    seen: set[str] = set()
    for path in files:
        fresh = (
            sentence
            for docstring in docstrings(path)
            for sentence in split(docstring)
            if wanted.min_words <= len(WORD.findall(sentence)) <= wanted.max_words and sentence not in seen
        )
        for sentence in islice(fresh, wanted.per_file):
            seen.add(sentence)
            yield sentence


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of the module and of its public classes and functions, in order of appearance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        tree = ast.parse(path.read_bytes())
    yield from documented(tree)


def documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """The node's docstring and those of the public classes and functions in its body."""
    text = ast.get_docstring(node)
    if text:
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from documented(child)


def split(docstring: str) -> Iterator[str]:
    """Sentences of the paragraphs that are prose: not indented, no doctest, no table, no list of fields.

    >>> list(split("Open it. Then read it.\\n\\n    >>> open(name)\\n\\nClose it."))
    ['Open it.', 'Then read it.', 'Close it.']
    """
    for paragraph in re.split(r"\n\s*\n", docstring):
        if any(line.startswith(NOT_PROSE) for line in paragraph.split("\n")):
            continue
        for sentence in SENTENCE_END.split(" ".join(paragraph.split())):
            if sentence.endswith((".", "!", "?")):
                yield sentence
