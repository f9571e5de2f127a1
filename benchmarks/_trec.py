"""MiniLM trained to sort TREC's questions in six classes, for benchmarks that read accuracy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tersor.benchmarks._questions import CLASSES, questions
from tersor.examples import minilm
from tersor.examples.data import Run
from tersor.examples.source import Source
from torch import Tensor, nn
from torch.nn import functional
from transformers import get_linear_schedule_with_warmup


class Classifier(nn.Module):
    """The three token arrays, all [batch, sequence] int64, to {"logits": [batch, 6]}: a head on the tokens' mean."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = minilm.module()
        self.head = nn.Linear(self.encoder.bert.config.hidden_size, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        """attention_mask is 1 on tokens and 0 on padding."""
        hidden = self.encoder(input_ids, attention_mask, token_type_ids)["last_hidden_state"]
        mask = attention_mask[:, :, None].to(hidden.dtype)
        return {"logits": self.head((hidden * mask).sum(1) / mask.sum(1))}


@dataclass(frozen=True)
class Training:
    """AdamW with a linear rise over a tenth of the steps and a fall to zero."""

    epochs: int = 5
    batch: int = 32
    rate: float = 1e-4
    decay: float = 0.01
    seed: int = 0


def source(training: Training, folder: Path) -> Source:
    """The trained classifier, for any batch and any sequence up to 512 tokens.

    Trained once: weights are kept in `folder`, by the settings.
    """
    settings = json.dumps(asdict(training), sort_keys=True)
    path = folder / f"minilm-trec-{sha256(settings.encode()).hexdigest()[:12]}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        model = Classifier()
        if not path.exists():
            _train(model, training)
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            save_file(model.state_dict(), part, metadata={"training": settings})
            part.rename(path)
    model.load_state_dict(load_file(path))
    _, args, dynamic = minilm.source()
    return Source(model.eval(), args, dynamic)


def _train(model: Classifier, training: Training) -> None:
    data = questions("train_5500")
    steps = len(data.texts) // training.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.rate, weight_decay=training.decay)
    total = training.epochs * steps
    schedule = get_linear_schedule_with_warmup(optimizer, total // 10, total)
    model.train()
    for _ in range(training.epochs):
        order = torch.randperm(len(data.texts)).numpy()
        for step in range(steps):
            chosen = order[step * training.batch :][: training.batch]
            (feeds,) = minilm.batches([data.texts[row] for row in chosen], training.batch)
            logits = model(**{name: torch.from_numpy(array) for name, array in feeds.items()})["logits"]
            loss = functional.cross_entropy(logits, torch.from_numpy(data.kinds[chosen]))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def logits(run: Run, texts: tuple[str, ...], batch: int = 32) -> np.ndarray:
    """[texts, 6] in the order given; run sorted by length."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = np.empty((len(texts), len(CLASSES)), np.float32)
    for start, feeds in enumerate(minilm.batches([texts[row] for row in order], batch)):
        (found[order[start * batch :][:batch]],) = run(feeds).values()
    return found
