"""What a user wraps a transformers model in to trace it: tensors by name in and out, caches as lists of tensors.

Weights are random and seeded. Matrices get the spread at which a layer keeps the size of its input, so that attention
is far from uniform; biases and gains get noise, so that none could be left out unseen.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

SEED = 0


Module = TypeVar("Module", bound=nn.Module)


def seeded(module: Module, *, spread: bool = True) -> Module:
    """`module` for inference with seeded weights; without `spread` its matrices stay as its own class made them."""
    generator = torch.Generator().manual_seed(SEED)
    done: set[int] = set()
    with torch.no_grad():
        for parameter in module.parameters():
            if id(parameter) in done:
                continue
            done.add(id(parameter))
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim <= 1:
                parameter += 0.1 * noise
            elif spread:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    return module.eval()


class Encoder(nn.Module):
    """input_ids, attention_mask [batch, sequence] int64 -> {"last_hidden_state": [batch, sequence, hidden]}."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """attention_mask is 1 on tokens and 0 on padding."""
        found = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return {"last_hidden_state": found.last_hidden_state}


class Scorer(nn.Module):
    """input_ids [batch, sequence] int64 -> {"logits": [batch, sequence, vocabulary]}; nothing is cached."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(input_ids=input_ids, use_cache=False).logits}


class Decoder(nn.Module):
    """One call of a decoder with its cache: keys and values of each layer, [batch, heads, past, head width]."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_keys: list[Tensor], past_values: list[Tensor]
    ) -> dict[str, Tensor | list[Tensor]]:
        """input_ids [batch, sequence], attention_mask [batch, past + sequence]."""
        cache = DynamicCache(list(zip(past_keys, past_values, strict=True)))
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        return {"logits": found.logits, **_present(cache)}


class CrossDecoder(nn.Module):
    """One call of the decoder of an encoder-decoder, its own keys and values cached, those of the encoder computed."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        decoder_input_ids: Tensor,
        encoder_hidden_state: Tensor,
        encoder_attention_mask: Tensor,
        past_keys: list[Tensor],
        past_values: list[Tensor],
    ) -> dict[str, Tensor | list[Tensor]]:
        """decoder_input_ids [batch, sequence], encoder_hidden_state [batch, source, hidden], mask [batch, source]."""
        cache = DynamicCache(list(zip(past_keys, past_values, strict=True)))
        found = self.model(
            encoder_outputs=(encoder_hidden_state,),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=decoder_input_ids,
            past_key_values=EncoderDecoderCache(cache, DynamicCache()),
            use_cache=True,
        )
        return {"logits": found.logits, **_present(cache)}


class Stepper(nn.Module):
    """One token through Mamba, with the states of each layer's convolution and recurrence in and out."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, convolved: list[Tensor], recurrent: list[Tensor]
    ) -> dict[str, Tensor | list[Tensor]]:
        """input_ids [batch, 1]; convolved [batch, inner, kernel], recurrent [batch, inner, state] of each layer."""
        cache = DynamicCache(config=self.model.config)
        for layer, (window, state) in enumerate(zip(convolved, recurrent, strict=True)):
            cache.update_conv_state(window, layer)
            cache.update_recurrent_state(state, layer)
        logits = self.model(input_ids=input_ids, cache_params=cache, use_cache=True).logits
        return {
            "logits": logits,
            "next_convolved": [layer.conv_states[0] for layer in cache.layers],
            "next_recurrent": [layer.recurrent_states[0] for layer in cache.layers],
        }


def _present(cache: DynamicCache) -> dict[str, list[Tensor]]:
    return {
        "present_keys": [layer.keys for layer in cache.layers],
        "present_values": [layer.values for layer in cache.layers],
    }
