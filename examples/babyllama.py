"""BabyLlama: a Llama-style decoder of 936,448 parameters that writes TinyStories, character by character.

Grouped-query attention (8 query heads on 4 key heads), interleaved rotary positions, RMS normalisation, SwiGLU,
output tied to the embedding. Weights: `models/babyllama_tok105` of the data folder (MIT, EN10/BabyLlama).

    tersor compile examples.babyllama:source -o babyllama.artifact
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from .data import Run, data_file
from .source import Source

UNKNOWN, START, END = 0, 1, 2
"""The tokens <unk>, <s> and </s>; every text begins with <s>."""

EPSILON = 1e-5


class Config(NamedTuple):
    """The seven int32 at the head of the checkpoint."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on (even, odd) pairs.

    x [batch, heads, sequence, width]; cos, sin [sequence, width / 2].
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Attention(nn.Module):
    """Causal grouped-query attention, [batch, sequence, dim] to the same."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = config.heads, config.kv_heads, config.dim // config.heads
        self.wq = nn.Linear(config.dim, config.heads * self.width, bias=False)
        self.wk = nn.Linear(config.dim, config.kv_heads * self.width, bias=False)
        self.wv = nn.Linear(config.dim, config.kv_heads * self.width, bias=False)
        self.wo = nn.Linear(config.heads * self.width, config.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """cos, sin: [sequence, width / 2]."""
        query, key, value = self.project(x, cos, sin)
        return self.join(functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True))

    def step(self, x: Tensor, cos: Tensor, sin: Tensor, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Behind keys and values [batch, heads, past, width] of the tokens before; gives those of all tokens too."""
        query, key, value = self.project(x, cos, sin)
        key, value = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
        seen = torch.arange(key.shape[2]) <= torch.arange(past[0].shape[2], key.shape[2])[:, None]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, enable_gqa=True)
        return self.join(mixed), key, value

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [batch, heads, sequence, width]."""
        query = rotate(self.wq(x).unflatten(-1, (self.heads, self.width)).transpose(1, 2), cos, sin)
        key = rotate(self.wk(x).unflatten(-1, (self.kv_heads, self.width)).transpose(1, 2), cos, sin)
        value = self.wv(x).unflatten(-1, (self.kv_heads, self.width)).transpose(1, 2)
        return query, key, value

    def join(self, mixed: Tensor) -> Tensor:
        """[batch, heads, sequence, width] to [batch, sequence, dim]."""
        out: Tensor = self.wo(mixed.transpose(1, 2).flatten(-2))
        return out


class Block(nn.Module):
    """x + attention(norm x), then x + w2(silu(w1 n) * w3 n) of the norm n."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=EPSILON)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=EPSILON)
        self.w1 = nn.Linear(config.dim, config.hidden, bias=False)
        self.w2 = nn.Linear(config.hidden, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch, sequence, dim]; cos, sin [sequence, width / 2]."""
        return self.feed_forward(x + self.attention(self.attention_norm(x), cos, sin))

    def step(self, x: Tensor, cos: Tensor, sin: Tensor, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, behind the keys and values of the past; gives those of all tokens too."""
        mixed, key, value = self.attention.step(self.attention_norm(x), cos, sin, past)
        return self.feed_forward(x + mixed), key, value

    def feed_forward(self, x: Tensor) -> Tensor:
        """x + w2(silu(w1 n) * w3 n) of the norm n of x."""
        normed = self.ffn_norm(x)
        out: Tensor = x + self.w2(functional.silu(self.w1(normed)) * self.w3(normed))
        return out


class BabyLlama(nn.Module):
    """Tokens [batch, sequence] int64, at most `config.context`, to {"logits": [batch, sequence, vocabulary]}."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=EPSILON)
        half = config.dim // config.heads // 2
        self.register_buffer("cos", torch.empty(config.context, half))
        self.register_buffer("sin", torch.empty(config.context, half))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        sequence = tokens.shape[1]
        cos, sin = self.cos[:sequence], self.sin[:sequence]
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return {"logits": functional.linear(self.norm(x), self.embedding.weight)}


class Cached(nn.Module):
    """One call of a BabyLlama with a cache: keys and values of each layer, [batch, heads, past, width]."""

    def __init__(self, model: BabyLlama) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, past_keys: list[Tensor], past_values: list[Tensor]
    ) -> dict[str, Tensor | list[Tensor]]:
        """tokens [batch, sequence] int64, which follow those of the past."""
        start = past_keys[0].shape[2]
        cos, sin = (table[start : start + tokens.shape[1]] for table in (self.model.cos, self.model.sin))
        x = self.model.embedding(tokens)
        keys, values = [], []
        for block, *past in zip(self.model.blocks, past_keys, past_values, strict=True):
            x, key, value = block.step(x, cos, sin, (past[0], past[1]))
            keys.append(key)
            values.append(value)
        logits = functional.linear(self.model.norm(x), self.model.embedding.weight)
        return {"logits": logits, "present_key": keys, "present_value": values}


def module(path: Path | None = None) -> BabyLlama:
    """The trained decoder in evaluation mode.

    The file is seven int32, then float32 arrays, each for all layers in turn. Raises ValueError where its length
    does not fit its head.
    """
    path = path or data_file("models/babyllama_tok105/model5000.bin")
    config = Config(*(int(size) for size in np.fromfile(path, dtype="<i4", count=len(Config._fields))))
    numbers = np.fromfile(path, dtype="<f4", offset=4 * len(config))
    model = BabyLlama(config).eval()
    arrays = list(stored_order(model))
    expected = sum(array.numel() for array in arrays)
    if len(numbers) != expected:
        raise ValueError(f"{path.name}: {config} needs {expected} float32, the file has {len(numbers)}")
    start = 0
    with torch.no_grad():
        for array in arrays:
            array.copy_(torch.from_numpy(numbers[start : start + array.numel()]).view_as(array))
            start += array.numel()
    return model


def stored_order(model: BabyLlama) -> Iterator[Tensor]:
    """The model's arrays in the order in which the file holds them."""
    yield model.embedding.weight
    for name in ("attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo"):
        yield from (block.get_submodule(name).get_parameter("weight") for block in model.blocks)
    for name in ("ffn_norm", "w1", "w2", "w3"):
        yield from (block.get_submodule(name).get_parameter("weight") for block in model.blocks)
    yield model.norm.weight
    yield model.cos
    yield model.sin


def source() -> Source:
    """BabyLlama with any batch and any sequence up to its context of 256 tokens."""
    model = module()
    tokens = torch.arange(2 * 32).reshape(2, 32)
    dynamic = {"tokens": {0: Dim("batch"), 1: Dim("sequence", max=model.config.context)}}
    return Source(model, (tokens,), dynamic)


class Characters:
    """The tok105 vocabulary. Every piece is one character, so that no merges are needed.

    As SentencePiece: runs of blanks are one blank, a blank is put in front, `▁` stands for it, and what is
    not in the vocabulary (a new line, too) is <unk>, one for a run of unknown characters.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or data_file("models/babyllama_tok105/tok105.vocab")
        lines = path.read_text(encoding="utf-8").split("\n")
        self.pieces = [line.split("\t")[0] for line in lines if line]
        self.numbers = {piece: number for number, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        """Token numbers, without <s>."""
        blanked = " " + re.sub(" +", " ", text).strip(" ")
        numbers = [self.numbers.get(character, UNKNOWN) for character in blanked.replace(" ", "▁")]
        return [this for before, this in pairwise([START, *numbers]) if (before, this) != (UNKNOWN, UNKNOWN)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of token numbers; a new line for <unk>, which in stories is one."""
        said = [number for number in numbers if number not in (START, END)]
        text = "".join("\n" if number == UNKNOWN else self.pieces[number] for number in said)
        return text.replace("▁", " ").removeprefix(" ")


def stories() -> list[str]:
    """The two stories of the sample text."""
    text = data_file("models/babyllama_tok105/tinystories_sample.txt").read_text(encoding="utf-8")
    return [story.strip() for story in text.split("<|endoftext|>")]


def nats_per_token(run: Run, texts: Iterable[str], context: int = 256) -> float:
    """Mean cross-entropy of each text's first `context` tokens, given those before them."""
    losses: list[np.ndarray] = []
    characters = Characters()
    for text in texts:
        tokens = np.array([START, *characters.encode(text)][: context + 1], dtype=np.int64)
        (batch,) = run({"tokens": tokens[None, :-1]}).values()
        logits = batch[0].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        log_sum = np.log(np.exp(logits).sum(axis=-1))
        losses.append(log_sum - logits[np.arange(len(logits)), tokens[1:]])
    return float(np.concatenate(losses).mean())
