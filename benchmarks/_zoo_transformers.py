"""Models of transformers by shape: configurations with seeded weights, nothing fetched, attention as it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from tersor.benchmarks._zoo_entry import BATCH_SEQUENCE, Entry, Traced
from tersor.benchmarks._zoo_modules import CrossDecoder, Decoder, Encoder, Scorer, Stepper, seeded
from tersor.examples.data import Feeds
from tersor.ir.dynamic import Dimension
from torch import Tensor, nn

SIZES = ((1, 7), (3, 16), (2, 33), (2, 1))
"""[batch, sequence] of what encoders are fed; the rows of a batch after the first are padded at their ends."""

STEPS = ((2, 6, 0), (1, 1, 9), (3, 1, 1), (2, 4, 5))
"""[batch, sequence, past] of what decoders are fed: a prompt, steps of one token, a few tokens on top of a past."""


@dataclass(frozen=True)
class Shape:
    """The size of a transformer."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    inner: int
    kv_heads: int = 0

    @property
    def width(self) -> int:
        """Of one head."""
        return self.hidden // self.heads


SMALL = Shape(layers=2, hidden=64, heads=4, vocabulary=97, inner=128, kv_heads=2)
"""What every shape is in tests."""


def bert(shape: Shape, attention: str) -> Entry:
    """BERT without its pooler; `attention` is `sdpa` or `eager`."""

    def module() -> nn.Module:
        config = transformers.BertConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            attn_implementation=attention,
        )
        return seeded(Encoder(transformers.BertModel(config, add_pooling_layer=False)))

    return _encoder(module, shape)


def modern_bert(shape: Shape) -> Entry:
    """Every third layer sees everything, the others a window of 16 tokens."""

    def module() -> nn.Module:
        config = transformers.ModernBertConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            local_attention=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        )
        return seeded(Encoder(transformers.ModernBertModel(config)))

    return _encoder(module, shape)


def gpt2(shape: Shape) -> Entry:
    """With the keys and values of the past in and out."""

    def module() -> nn.Module:
        config = transformers.GPT2Config(
            vocab_size=shape.vocabulary,
            n_embd=shape.hidden,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_inner=shape.inner,
            bos_token_id=0,
            eos_token_id=0,
        )
        return seeded(Decoder(transformers.GPT2LMHeadModel(config)))

    return _decoder(module, shape, shape.heads)


def qwen2(shape: Shape) -> Entry:
    """Grouped queries, rotary positions, RMS normalisation; with the keys and values of the past in and out."""

    def module() -> nn.Module:
        config = transformers.Qwen2Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            intermediate_size=shape.inner,
        )
        return seeded(Decoder(transformers.Qwen2ForCausalLM(config)))

    return _decoder(module, shape, shape.kv_heads)


def t5_encoder(shape: Shape) -> Entry:
    """Relative positions, and attention without a scale."""
    return _encoder(lambda: Encoder(_t5(shape).encoder).eval(), shape)


def t5_decoder(shape: Shape) -> Entry:
    """On top of an encoder's states, with its own keys and values of the past in and out."""

    def source() -> Traced:
        keys, values, dynamic = _past(shape, shape.heads)
        ids, mask, state = torch.arange(6).reshape(2, 3), torch.ones(2, 7, dtype=torch.long), _state(2, 7, shape)
        dynamic["decoder_input_ids"] = BATCH_SEQUENCE
        dynamic["encoder_hidden_state"] = dynamic["encoder_attention_mask"] = {0: "batch", 1: "source"}
        return CrossDecoder(_t5(shape)).eval(), (ids, state, mask, keys, values), dynamic

    def feeds() -> list[Feeds]:
        rng = np.random.default_rng(0)
        made: list[Feeds] = []
        for number, (batch, sequence, past) in enumerate(STEPS):
            mask = np.ones((batch, 5 + 3 * number), dtype=np.int64)
            for row in range(1, batch):
                mask[row, -row:] = 0
            ids = rng.integers(0, shape.vocabulary, (batch, sequence))
            state = rng.standard_normal((*mask.shape, shape.hidden)).astype(np.float32)
            own = {"decoder_input_ids": ids, "encoder_hidden_state": state, "encoder_attention_mask": mask}
            made.append({**own, **_past_feeds(shape, shape.heads, batch, past, rng)})
        return made

    return Entry.of(source, feeds)


def mamba(shape: Shape) -> Entry:
    """A whole sequence at once, nothing cached."""

    def source() -> Traced:
        return Scorer(_mamba(shape)).eval(), (torch.arange(2 * 16).reshape(2, 16),), {"input_ids": BATCH_SEQUENCE}

    def feeds() -> list[Feeds]:
        rng = np.random.default_rng(0)
        return [{"input_ids": rng.integers(0, shape.vocabulary, size)} for size in SIZES]

    return Entry.of(source, feeds)


def mamba_step(shape: Shape) -> Entry:
    """One token on top of the states that the tokens before it left."""
    kernel, states = 4, 8

    def source() -> Traced:
        convolved = [torch.randn(2, shape.inner, kernel) for _ in range(shape.layers)]
        recurrent = [torch.randn(2, shape.inner, states) for _ in range(shape.layers)]
        names = [f"{kind}_{layer}" for kind in ("convolved", "recurrent") for layer in range(shape.layers)]
        dynamic = {name: {0: "batch"} for name in ("input_ids", *names)}
        return Stepper(_mamba(shape)).eval(), (torch.tensor([[1], [2]]), convolved, recurrent), dynamic

    def feeds() -> list[Feeds]:
        rng = np.random.default_rng(0)
        made: list[Feeds] = []
        for batch in (1, 3):
            feed = {"input_ids": rng.integers(0, shape.vocabulary, (batch, 1))}
            for kind, width in (("convolved", kernel), ("recurrent", states)):
                for layer in range(shape.layers):
                    made_of = rng.standard_normal((batch, shape.inner, width))
                    feed[f"{kind}_{layer}"] = made_of.astype(np.float32)
            made.append(feed)
        return made

    return Entry.of(source, feeds)


def encoder_feeds(vocabulary: int) -> list[Feeds]:
    """Token ids and masks of all SIZES; ids below 3, special ones, are left out."""
    rng = np.random.default_rng(0)
    made: list[Feeds] = []
    for batch, sequence in SIZES:
        mask = np.ones((batch, sequence), dtype=np.int64)
        for row in range(1, batch):
            mask[row, max(1, sequence - 2 * row) :] = 0
        made.append({"input_ids": rng.integers(3, vocabulary, (batch, sequence)), "attention_mask": mask})
    return made


def _encoder(module: Callable[[], nn.Module], shape: Shape) -> Entry:
    def source() -> Traced:
        ids = torch.arange(2 * 16).reshape(2, 16)
        return module(), (ids, torch.ones_like(ids)), dict.fromkeys(("input_ids", "attention_mask"), BATCH_SEQUENCE)

    return Entry.of(source, lambda: encoder_feeds(shape.vocabulary))


def _decoder(module: Callable[[], nn.Module], shape: Shape, heads: int) -> Entry:
    def source() -> Traced:
        keys, values, dynamic = _past(shape, heads)
        ids, mask = torch.arange(6).reshape(2, 3), torch.ones(2, 3 + keys[0].shape[2], dtype=torch.long)
        dynamic |= {"input_ids": BATCH_SEQUENCE, "attention_mask": {0: "batch", 1: "past + sequence"}}
        return module(), (ids, mask, keys, values), dynamic

    def feeds() -> list[Feeds]:
        rng = np.random.default_rng(0)
        made: list[Feeds] = []
        for batch, sequence, past in STEPS:
            mask = np.ones((batch, past + sequence), dtype=np.int64)
            # padded at the left, as generation wants it
            for row in range(1, batch):
                mask[row, : min(row, past)] = 0
            ids = rng.integers(0, shape.vocabulary, (batch, sequence))
            made.append({"input_ids": ids, "attention_mask": mask, **_past_feeds(shape, heads, batch, past, rng)})
        return made

    return Entry.of(source, feeds)


def _past(shape: Shape, heads: int) -> tuple[list[Tensor], list[Tensor], dict[str, dict[int, Dimension]]]:
    """Example keys and values, a batch of 2 with 5 tokens in the past, and their dynamic axes."""

    def example() -> list[Tensor]:
        return [torch.randn(2, heads, 5, shape.width) for _ in range(shape.layers)]

    return example(), example(), {name: {0: "batch", 2: ("past", 0, None)} for name in _past_names(shape)}


def _past_feeds(shape: Shape, heads: int, batch: int, past: int, rng: np.random.Generator) -> Feeds:
    size = (batch, heads, past, shape.width)
    return {name: rng.standard_normal(size).astype(np.float32) for name in _past_names(shape)}


def _past_names(shape: Shape) -> list[str]:
    return [f"past_{kind}_{layer}" for kind in ("keys", "values") for layer in range(shape.layers)]


def _state(batch: int, source: int, shape: Shape) -> Tensor:
    return torch.randn(batch, source, shape.hidden)


def _t5(shape: Shape) -> transformers.T5ForConditionalGeneration:
    config = transformers.T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.hidden,
        d_kv=shape.width,
        d_ff=shape.inner,
        num_layers=shape.layers,
        num_heads=shape.heads,
    )
    torch.manual_seed(0)
    # T5 does not divide scores by the root of the head width; its initial weights make up for that
    return seeded(transformers.T5ForConditionalGeneration(config), spread=False)


def _mamba(shape: Shape) -> transformers.MambaForCausalLM:
    config = transformers.MambaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        state_size=8,
    )
    torch.manual_seed(0)
    # its initial weights are the decays and the time steps of the paper
    return seeded(transformers.MambaForCausalLM(config), spread=False)
