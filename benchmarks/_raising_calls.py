"""How the architectures of the raising benchmark are called: inputs by name, dynamic axes, sizes, what comes out.

A model of transformers is wrapped as a user of torch's exporters wraps it (`Wrapped`): tensors in, a tuple of tensors
out. Rows of a batch after the first are padded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from tersor.examples.data import Feeds
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

Sizes: TypeAlias = "Mapping[str, int]"
Tensors: TypeAlias = "dict[str, Tensor]"

TRACED: Sizes = {"batch": 2, "sequence": 12, "past": 5, "source": 10, "images": 2}
"""The sizes that a model is exported with."""

UNSEEN: tuple[Sizes, ...] = (
    {"batch": 3, "sequence": 7, "past": 9, "source": 6, "images": 1},
    {"batch": 4, "sequence": 21, "past": 2, "source": 17, "images": 3},
)
"""The sizes that it is compared at."""

VOCABULARY = 97
FIRST_ORDINARY = 3
"""Ids below are special tokens."""


@dataclass(frozen=True)
class Port:
    """An input: its dimensions, sizes or names of dynamic ones (`past+sequence` is their sum), and what it holds."""

    dims: tuple[int | str, ...]
    kind: str = "float"
    """`ids`, `mask` (1 on tokens, padded at the right), `past mask` (padded at the left) or `float`."""

    def axes(self) -> dict[int, str]:
        """The dynamic ones."""
        return {axis: dim for axis, dim in enumerate(self.dims) if isinstance(dim, str)}

    def sample(self, sizes: Sizes, rng: np.random.Generator) -> np.ndarray:
        """Seeded values, of `sizes` where dimensions are dynamic."""
        shape = [_size(dim, sizes) for dim in self.dims]
        if self.kind == "ids":
            return rng.integers(FIRST_ORDINARY, VOCABULARY, shape)
        if self.kind == "float":
            return rng.standard_normal(shape).astype(np.float32)
        mask = np.ones(shape, dtype=np.int64)
        for row in range(1, shape[0]):
            if self.kind == "mask":
                # less than half a window: a query with no key to look at has no defined answer
                mask[row, max(1, shape[1] - row) :] = 0
            else:
                mask[row, : min(row, sizes["past"])] = 0
        return mask


Run: TypeAlias = "Callable[[PreTrainedModel, Tensors], dict[str, Tensor]]"


@dataclass(frozen=True)
class Call:
    """Inputs in their order, and how a model is called with them."""

    ports: Mapping[str, Port]
    run: Run
    fixed: Mapping[str, int] = field(default_factory=dict)
    """Dynamic dimensions that the model's code fixes, and at what size."""

    def sized(self, **fixed: int) -> Call:
        """The same call with these dimensions fixed."""
        return Call(self.ports, self.run, {**self.fixed, **fixed})

    def axes(self) -> dict[str, dict[int, str]]:
        """The dynamic axes of each input, by name."""
        return {
            name: {axis: dim for axis, dim in port.axes().items() if dim not in self.fixed}
            for name, port in self.ports.items()
        }

    def feeds(self, sizes: Sizes, seed: int = 0) -> Feeds:
        """Inputs of these sizes."""
        rng = np.random.default_rng(seed)
        return {name: port.sample({**sizes, **self.fixed}, rng) for name, port in self.ports.items()}


class Wrapped(nn.Module):
    """A model called with the tensors of a `Call` in their order; answers with a tuple."""

    def __init__(self, model: PreTrainedModel, call: Call) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What comes out is named by `outputs`."""
        return tuple(self.named(*tensors).values())

    def named(self, *tensors: Tensor) -> dict[str, Tensor]:
        """What comes out, by name."""
        return self.call.run(self.model, dict(zip(self.call.ports, tensors, strict=True)))

    @torch.inference_mode()
    def answers(self, feeds: Feeds) -> Feeds:
        """What torch says to arrays."""
        found = self.named(*(torch.from_numpy(array) for array in feeds.values()))
        return {name: value.numpy() for name, value in found.items()}


IDS, MASK = Port(("batch", "sequence"), "ids"), Port(("batch", "sequence"), "mask")


def encoder(*, floating: bool = False) -> Call:
    """input_ids, attention_mask [batch, sequence] -> last_hidden_state [batch, sequence, hidden].

    floating: the mask is made one of float32 first, where torch's exporter fails on `1.0 - mask` of integers.
    """

    def run(model: PreTrainedModel, given: Tensors) -> dict[str, Tensor]:
        if floating:
            given = {**given, "attention_mask": given["attention_mask"].float()}
        return {"last_hidden_state": model(**given).last_hidden_state}

    return Call({"input_ids": IDS, "attention_mask": MASK}, run)


def decoder(*, mask: bool = True) -> Call:
    """input_ids, attention_mask [batch, sequence] -> logits [batch, sequence, vocabulary]; nothing is cached."""

    def run(model: PreTrainedModel, given: Tensors) -> dict[str, Tensor]:
        return {"logits": model(**given, use_cache=False).logits}

    return Call({"input_ids": IDS, **({"attention_mask": MASK} if mask else {})}, run)


def cached_decoder(layers: int, heads: int, width: int) -> Call:
    """With keys and values of the past in and out, [batch, heads, past, head width] of each layer."""

    def run(model: PreTrainedModel, given: Tensors) -> dict[str, Tensor]:
        cache = _cache(given, layers)
        found = model(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            past_key_values=cache,
            use_cache=True,
        )
        return {"logits": found.logits, **_present(cache)}

    mask = Port(("batch", "past+sequence"), "past mask")
    return Call({"input_ids": IDS, "attention_mask": mask, **_past(layers, heads, width)}, run)


def cross_decoder(hidden: int) -> Call:
    """The decoder of an encoder-decoder on top of an encoder's states; nothing is cached."""

    def run(model: PreTrainedModel, given: Tensors) -> dict[str, Tensor]:
        found = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=given["encoder_hidden_state"]),
            attention_mask=given["encoder_attention_mask"],
            decoder_input_ids=given["decoder_input_ids"],
            use_cache=False,
        )
        return {"logits": found.logits}

    return Call(_cross(hidden), run)


def cached_cross_decoder(hidden: int, layers: int, heads: int, width: int) -> Call:
    """The same with its own keys and values in and out, those of the encoder computed."""

    def run(model: PreTrainedModel, given: Tensors) -> dict[str, Tensor]:
        cache = _cache(given, layers)
        found = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=given["encoder_hidden_state"]),
            attention_mask=given["encoder_attention_mask"],
            decoder_input_ids=given["decoder_input_ids"],
            past_key_values=EncoderDecoderCache(cache, DynamicCache()),
            use_cache=True,
        )
        return {"logits": found.logits, **_present(cache)}

    return Call({**_cross(hidden), **_past(layers, heads, width)}, run)


def encoder_decoder() -> Call:
    """input_ids, attention_mask [batch, source], decoder_input_ids [batch, sequence] -> logits; nothing is cached."""

    def run(model: PreTrainedModel, given: Tensors) -> dict[str, Tensor]:
        return {"logits": model(**given, use_cache=False).logits}

    source = ("batch", "source")
    return Call(
        {"input_ids": Port(source, "ids"), "attention_mask": Port(source, "mask"), "decoder_input_ids": IDS}, run
    )


def audio_encoder(bins: int, frames: int) -> Call:
    """input_features [batch, bins, frames] -> last_hidden_state [batch, frames / 2, hidden]."""

    def run(model: PreTrainedModel, given: Tensors) -> dict[str, Tensor]:
        return {"last_hidden_state": model(**given).last_hidden_state}

    return Call({"input_features": Port(("batch", bins, frames))}, run)


def image_encoder(pixels: int) -> Call:
    """pixel_values [batch, 3, pixels, pixels] -> last_hidden_state [batch, patches + 1, hidden]."""

    def run(model: PreTrainedModel, given: Tensors) -> dict[str, Tensor]:
        return {"last_hidden_state": model(**given).last_hidden_state}

    return Call({"pixel_values": Port(("batch", 3, pixels, pixels))}, run)


def text_and_image(pixels: int) -> Call:
    """input_ids, attention_mask, pixel_values [images, 3, pixels, pixels] -> embeddings of texts and of images."""

    def run(model: PreTrainedModel, given: Tensors) -> dict[str, Tensor]:
        found = model(**given)
        return {"text_embeds": found.text_embeds, "image_embeds": found.image_embeds}

    image = Port(("images", 3, pixels, pixels))
    return Call({"input_ids": IDS, "pixel_values": image, "attention_mask": MASK}, run)


def _cross(hidden: int) -> dict[str, Port]:
    return {
        "decoder_input_ids": IDS,
        "encoder_hidden_state": Port(("batch", "source", hidden)),
        "encoder_attention_mask": Port(("batch", "source"), "mask"),
    }


def _past(layers: int, heads: int, width: int) -> dict[str, Port]:
    port = Port(("batch", heads, "past", width))
    return {f"past_{kind}_{layer}": port for layer in range(layers) for kind in ("key", "value")}


def _cache(given: Tensors, layers: int) -> DynamicCache:
    return DynamicCache([(given[f"past_key_{layer}"], given[f"past_value_{layer}"]) for layer in range(layers)])


def _present(cache: DynamicCache) -> dict[str, Tensor]:
    pairs = (
        (f"present_{kind}_{number}", getattr(layer, f"{kind}s"))
        for number, layer in enumerate(cache.layers)
        for kind in ("key", "value")
    )
    return dict(pairs)


def _size(dim: int | str, sizes: Sizes) -> int:
    return dim if isinstance(dim, int) else sum(sizes[part] for part in dim.split("+"))
