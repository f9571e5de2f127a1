"""TREC's questions and the six classes that they are sorted in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from tersor.examples.data import data_file

CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")


@dataclass(frozen=True)
class Questions:
    """Questions in the order of the file, and the number of the class of each."""

    texts: tuple[str, ...]
    kinds: np.ndarray

    def by_length(self) -> tuple[str, ...]:
        """Each question once, shortest first."""
        return tuple(sorted({*self.texts}, key=lambda text: (len(text), text)))


@cache
def questions(name: str) -> Questions:
    """`train_5500` or `TREC_10`."""
    lines = data_file(f"trec/{name}.label").read_text(encoding="latin-1").split("\n")
    pairs = [line.split(" ", 1) for line in lines if line.strip()]
    kinds = [CLASSES.index(label.partition(":")[0]) for label, _ in pairs]
    return Questions(tuple(text for _, text in pairs), np.array(kinds))
