"""Two small models to search for lottery tickets in: questions sorted by a Transformer, words foretold by an LSTM.

Both train as `tersor.lottery` asks: from `ticket.start`, with the order of the data by `ticket.seed`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from tersor import Ticket
from tersor.benchmarks import _lstm_lm, _questions
from torch import Tensor, nn
from torch.nn import functional

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Questions:
    """Words by number, 0 where a question has ended, [questions, words]; the class of each."""

    words: Tensor
    kinds: Tensor


@cache
def questions(longest: int = 20) -> tuple[Questions, Questions, int]:
    """TREC's training and test questions in six classes, and the size of the vocabulary.

    Words that the training questions have twice; 1 is any other.
    """
    parts = [_questions.questions(name) for name in ("train_5500", "TREC_10")]
    texts = [[_WORD.findall(text.lower()) for text in part.texts] for part in parts]
    seen = Counter(word for words in texts[0] for word in words)
    number = {word: index for index, word in enumerate((w for w, n in seen.most_common() if n > 1), 2)}
    made = []
    for part, asked in zip(parts, texts, strict=True):
        table = torch.zeros(len(asked), longest, dtype=torch.int64)
        for row, words in zip(table, asked, strict=True):
            numbers = [number.get(word, 1) for word in words[:longest]]
            row[: len(numbers)] = torch.tensor(numbers)
        made.append(Questions(table, torch.from_numpy(part.kinds)))
    return made[0], made[1], len(number) + 2


class Classifier(nn.Module):
    """A Transformer encoder, 2 x 48 with 4 heads, averaged over words: words [batch, words] -> logits [batch, 6]."""

    def __init__(self, width: int = 48, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        train, _, vocabulary = questions()
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = nn.Embedding(train.words.shape[1], width)
        # encoder layers of one stack start as copies of one: here each has weights of its own
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(_questions.CLASSES))

    def forward(self, words: Tensor) -> Tensor:
        hidden, gone = self.words(words) + self.places.weight[: words.shape[1]], words == 0
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=gone)
        kept = (~gone)[..., None]
        return self.head((self.norm(hidden) * kept).sum(1) / kept.sum(1))


def train_classifier(
    model: Classifier, ticket: Ticket, *, epochs: int = 4, batch: int = 64, rate: float = 2e-3
) -> float:
    """Accuracy x 100 on the test questions after training on the others."""
    data, test, _ = questions()
    steps = len(data.kinds) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = _schedule(optimizer, epochs * steps, ticket.start)
    order = torch.empty(0)
    for step in ticket.steps(epochs * steps):
        if step % steps == 0 or not len(order):
            order = _order(len(data.kinds), ticket.seed, step // steps)
        chosen = order[step % steps * batch :][:batch]
        words = data.words[chosen]
        words = words[:, : int((words > 0).sum(1).max())]
        loss = functional.cross_entropy(model(words), data.kinds[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return 100 * float((model(test.words).argmax(-1) == test.kinds).double().mean())


class WordModel(nn.Module):
    """An LSTM language model: words [time, batch] and a state -> logits [time, batch, vocabulary], the next state."""

    def __init__(self, vocabulary: int = 1500, width: int = 128) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width)
        self.dropout = nn.Dropout(0.2)
        self.output = nn.Linear(width, vocabulary)

    def forward(
        self, words: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, state = self.lstm(self.dropout(self.embedding(words)), state)
        return self.output(self.dropout(states)), state


def train_words(
    model: WordModel, ticket: Ticket, *, epochs: int = 3, streams: int = 32, length: int = 32, rate: float = 5e-3
) -> float:
    """Perplexity on the test half of the text after training on the other."""
    first, second = (_lstm_lm.streams(_cut(half, model.vocabulary), streams) for half in _lstm_lm.halves())
    text = torch.from_numpy(first)
    steps = (len(text) - 1) // length
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = _schedule(optimizer, epochs * steps, ticket.start)
    state = None
    for step in ticket.steps(epochs * steps):
        # where an epoch begins differs by seed, so that the batches do too
        shift = int(_order(length, ticket.seed, step // steps)[0])
        at = min(step % steps * length + shift, len(text) - 1 - length)
        part = text[at : at + length + 1]
        if step % steps == 0:
            state = None
        logits, state = model(part[:-1], state)
        state = (state[0].detach(), state[1].detach())
        loss = functional.cross_entropy(logits.flatten(0, 1), part[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
    return _perplexity(model.eval(), torch.from_numpy(second[:1200]))


@torch.no_grad()
def _perplexity(model: WordModel, text: Tensor, length: int = 100) -> float:
    total, seen, state = 0.0, 0, None
    for at in range(0, len(text) - 1, length):
        part = text[at : at + length + 1]
        logits, state = model(part[:-1], state)
        total += float(functional.cross_entropy(logits.flatten(0, 1), part[1:].flatten(), reduction="sum"))
        seen += part[1:].numel()
    return math.exp(total / seen)


def _cut(words: np.ndarray, vocabulary: int) -> np.ndarray:
    """Numbers are by frequency: rarer words are unknown."""
    return np.where(words < vocabulary, words, 0)


def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(1000 * seed + epoch))


def _schedule(optimizer: torch.optim.Optimizer, total: int, start: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A linear rise over a tenth of the steps and a fall to zero, as it stands at step `start`."""
    rise = max(total // 10, 1)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + start + 1) / rise, (total - done - start) / (total - rise))
    )
