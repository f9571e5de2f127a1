"""Text to calibrate MiniLM on, which no benchmark reads a figure on: sentences of STS12's training pairs."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from tersor.examples import minilm
from tersor.examples.data import Feeds, data_file

#: Sentences taken evenly from all of them, and how many go in a batch.
SENTENCES, BATCH = 512, 16


def sts12() -> Iterator[Feeds]:
    """Batches of sentences of like length."""
    yield from minilm.batches(sentences(SENTENCES), BATCH)


def sentences(count: int) -> list[str]:
    """So many sentences from all parts of the training pairs, shortest first."""
    found: dict[str, None] = {}
    with tarfile.open(data_file("sts/sts2012-train.tgz")) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            stored = archive.extractfile(member) if "STS.input" in member.name else None
            if stored is not None:
                lines = stored.read().decode("utf-8").split("\n")
                found |= dict.fromkeys(text for line in lines for text in line.split("\t") if text.strip())
    every = sorted(found, key=lambda text: (len(text), text))
    return every[:: max(1, len(every) // count)][:count]
