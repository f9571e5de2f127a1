"""Text to calibrate MiniLM on, which no STS figure is read on: STS12's training pairs, or text of many kinds."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator

from tersor.benchmarks._questions import questions
from tersor.examples import minilm
from tersor.examples.data import Feeds, data_file

#: Sentences taken evenly from all of them, and how many go in a batch.
SENTENCES, BATCH = 512, 16
#: Characters: many reviews are cut to a phrase, and some articles have sentences of hundreds of words.
_PHRASE, _LONG = 30, 400


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
    return _evenly(found, count)


def various(count: int) -> list[str]:
    """So many sentences, shortest first: captions (SNLI), reviews (SST-2), questions (TREC) and articles (WikiText).

    No STS figure is read on any of it; fidelity to the original is read on captions (`sparse_quality`,
    `weight_quality`), and language models on articles (`lstm_lm`).
    """
    captions = [line for name in ("s1", "s2") for line in _lines(f"snli/{name}.dev")]
    reviews = [line.split("\t")[0] for line in _lines("sst2/sentiment-train")]
    articles = [part for line in _lines("text/wikitext2-valid.txt") for part in line.split(" . ") if part[:1] != "="]
    kinds = [
        [text.strip() for text in kind if len(text) > _PHRASE and "<unk>" not in text]
        for kind in (captions, reviews, questions("train_5500").texts, articles)
    ]
    chosen = [text for kind in kinds for text in _evenly(kind, count // len(kinds))]
    return sorted(chosen, key=lambda text: (len(text), text))


def _lines(path: str) -> list[str]:
    return [line for line in data_file(path).read_text(encoding="utf-8").split("\n") if line.strip()]


def _evenly(texts: Iterable[str], count: int) -> list[str]:
    """So many different ones of all lengths, shortest first; none of very many words."""
    every = sorted((text for text in dict.fromkeys(texts) if 0 < len(text) < _LONG), key=lambda text: (len(text), text))
    return every[:: max(1, len(every) // count)][:count]


#: By what `--text` calls them.
TEXTS = {"sts12": sentences, "various": various}
