"""What a row of the raising benchmark is: a small seeded configuration of transformers, and what it holds.

What a row should come to is known from the configuration, not from a graph: `attention` blocks executed and whether
they are softmax(scale Q K^T + bias) V (`standard`), `rotary` applications (queries and keys count separately).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from tersor.benchmarks._raising_calls import VOCABULARY, Call, Wrapped
from tersor.benchmarks._zoo_modules import seeded
from transformers import PretrainedConfig, PreTrainedModel

LAYERS, HIDDEN, HEADS, INNER, POSITIONS = 2, 64, 4, 128, 64
WIDTH, KV_HEADS = HIDDEN // HEADS, 2


class AttentionMissingError(ValueError):
    """transformers has not the attention asked for."""


@dataclass(frozen=True)
class Architecture:
    """A row of the table: how it is made, how it is called, what it holds."""

    model: type[PreTrainedModel]
    config: Callable[..., PretrainedConfig]
    call: Call
    attention: int = LAYERS
    standard: bool = True
    note: str = ""
    rotary: int = 0
    spread: bool = True
    """Whether matrices get weights that keep the size of what they multiply; else their class's own."""
    peers: tuple[str, ...] = ("bert",)
    """Each model_type of onnxruntime.transformers' optimizer that fits."""

    def build(self, attention: str) -> Wrapped:
        """The model with seeded weights and `eager` or `sdpa` attention.

        Raises AttentionMissingError where transformers has not that one.
        """
        torch.manual_seed(0)
        try:
            model = self.model(self.config(attn_implementation=attention))
        except ValueError as error:
            if "does not support an attention implementation" in str(error):
                raise AttentionMissingError(f"{self.model.__name__} has no {attention} attention") from error
            raise
        return Wrapped(seeded(model, spread=self.spread), self.call).eval()


def bert_like(config: Callable[..., PretrainedConfig], **options: object) -> Callable[..., PretrainedConfig]:
    """A configuration that names its sizes as BERT's does."""
    return partial(
        config,
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": INNER,
            "max_position_embeddings": POSITIONS,
            **options,
        },
    )


def llama_like(config: Callable[..., PretrainedConfig], **options: object) -> Callable[..., PretrainedConfig]:
    """A decoder of today: its special tokens lie inside the small vocabulary."""
    given = {"num_key_value_heads": KV_HEADS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **options}
    return bert_like(config, **given)


def seq2seq_like(config: Callable[..., PretrainedConfig], **options: object) -> Callable[..., PretrainedConfig]:
    """A configuration that names its sizes as BART's does."""
    return partial(
        config,
        **{
            "vocab_size": VOCABULARY,
            "d_model": HIDDEN,
            "encoder_layers": LAYERS,
            "decoder_layers": LAYERS,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": INNER,
            "decoder_ffn_dim": INNER,
            "max_position_embeddings": POSITIONS,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            **options,
        },
    )
