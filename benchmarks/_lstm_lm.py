"""An LSTM language model of words, 2 x 650, trained on half of WikiText-2's validation text, tested on the other.

Zaremba et al., Recurrent Neural Network Regularization, 2014: the medium model (two layers of 650, dropout between),
with a vocabulary and a number of epochs that two cores take minutes for. The seed is fixed. The checkpoint is kept in
the user's cache folder (`XDG_CACHE_HOME`), under a name that its settings and text decide.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tersor.benchmarks._common import SEED
from tersor.examples.data import Feeds, Run, data_file
from tersor.examples.source import Source
from torch import Tensor, nn
from torch.export import Dim

LAYERS, WIDTH, WORDS = 2, 650, 4000


@dataclass(frozen=True)
class Training:
    """Text is cut into `streams` that run side by side, `steps` words at a time; `clip` bounds the gradient's norm."""

    epochs: int = 4
    streams: int = 20
    steps: int = 35
    rate: float = 2e-3
    clip: float = 0.5
    dropout: float = 0.4


class LanguageModel(nn.Module):
    """words [time, batch] int64, states [2, batch, 650] -> logits [time, batch, 4000] and the next states, by name."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, LAYERS, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(WIDTH, WORDS)

    def forward(self, words: Tensor, hidden: Tensor, cell: Tensor) -> dict[str, Tensor]:
        states, (last, kept) = self.lstm(self.dropout(self.embedding(words)), (hidden, cell))
        return {"logits": self.output(self.dropout(states)), "next_hidden": last, "next_cell": kept}


def source(module: LanguageModel) -> Source:
    """The model with any number of words and of streams."""
    state = torch.zeros(LAYERS, 2, WIDTH)
    words, batch = torch.zeros(3, 2, dtype=torch.int64), Dim("batch")
    sizes = {"words": {0: Dim("time"), 1: batch}, "hidden": {1: batch}, "cell": {1: batch}}
    return Source(module, (words, state, state.clone()), sizes)


@cache
def halves() -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the words of both halves, int64; the vocabulary is the first half's most frequent words.

    An unknown word, and one beyond the vocabulary, is `<unk>`, number 0; a line ends with `<eos>`.
    """
    lines = data_file("text/wikitext2-valid.txt").read_text(encoding="utf-8").split("\n")
    words = [word for line in lines if line.strip() for word in (*line.split(), "<eos>")]
    first, second = words[: len(words) // 2], words[len(words) // 2 :]
    often = [word for word, _ in Counter(first).most_common() if word != "<unk>"]
    number = {word: index for index, word in enumerate(["<unk>", *often[: WORDS - 1]])}
    made = [np.array([number.get(word, 0) for word in half], np.int64) for half in (first, second)]
    return made[0], made[1]


def trained(settings: Training | None = None, *, threads: int = 2, verbose: bool = True) -> LanguageModel:
    """The trained model in evaluation mode, from the cache where it was trained before."""
    settings = settings or Training()
    model = LanguageModel()
    path = _checkpoint(settings)
    if not path.exists():
        torch.set_num_threads(threads)
        state = _train(settings, verbose).state_dict()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        torch.save(state, partial)
        partial.replace(path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def _checkpoint(settings: Training) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tersor"
    spelled = repr((asdict(settings), SEED, LAYERS, WIDTH, WORDS)).encode() + halves()[0].tobytes()
    return folder / f"lstm_lm-{hashlib.sha256(spelled).hexdigest()[:16]}.pt"


def _train(settings: Training, verbose: bool) -> LanguageModel:
    torch.manual_seed(SEED)
    model = LanguageModel(settings.dropout).train()
    for weight in model.parameters():
        nn.init.uniform_(weight, -0.05, 0.05)
    text = torch.from_numpy(streams(halves()[0], settings.streams))
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)
    total = settings.epochs * (len(text) // settings.steps + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=total, pct_start=0.1)
    for epoch in range(settings.epochs):
        start, losses = time.perf_counter(), []
        hidden = cell = torch.zeros(LAYERS, settings.streams, WIDTH)
        for at in range(0, len(text) - 1, settings.steps):
            part = text[at : at + settings.steps + 1]
            made = model(part[:-1], hidden.detach(), cell.detach())
            hidden, cell = made["next_hidden"], made["next_cell"]
            loss = nn.functional.cross_entropy(made["logits"].flatten(0, 1), part[1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if verbose:
            found, seconds = np.exp(np.mean(losses)), time.perf_counter() - start
            print(f"epoch {epoch + 1} of {settings.epochs}: perplexity {found:.1f} in training, {seconds:.0f} s")
    return model


def streams(words: np.ndarray, count: int) -> np.ndarray:
    """Words in a line as streams side by side, [time, count]."""
    return np.ascontiguousarray(words[: len(words) // count * count].reshape(count, -1).T)


def batches(words: np.ndarray, count: int, steps: int) -> Iterator[Feeds]:
    """Feeds for each stretch of the streams, from states of zeros."""
    state = np.zeros((LAYERS, count, WIDTH), np.float32)
    text = streams(words, count)
    for at in range(0, len(text) - steps + 1, steps):
        yield {"words": text[at : at + steps], "hidden": state, "cell": state}


def perplexity(run: Run, words: np.ndarray, *, count: int = 20, steps: int = 70) -> float:
    """exp of the mean negative log-likelihood of each word after the first of its stream, states handed on."""
    text = streams(words, count)
    states: Mapping[str, np.ndarray] = dict.fromkeys(("hidden", "cell"), np.zeros((LAYERS, count, WIDTH), np.float32))
    total, seen = 0.0, 0
    for at in range(0, len(text) - 1, steps):
        part = text[at : at + steps + 1]
        logits, hidden, cell = run({"words": part[:-1], **states}).values()
        states = {"hidden": hidden, "cell": cell}
        wide = logits.astype(np.float64)
        wide -= wide.max(-1, keepdims=True)
        likelihood = np.take_along_axis(wide, part[1:, :, None], -1)[..., 0] - np.log(np.exp(wide).sum(-1))
        total, seen = total - float(likelihood.sum()), seen + likelihood.size
    return float(np.exp(total / seen))
