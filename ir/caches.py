"""The caches of transformers while tracing: their tensors are inputs and outputs like any other.

    past_key_values=DynamicCache(...)     inputs past_key_values_0_key, past_key_values_0_value, ..., a pair per layer
    what comes back as past_key_values    outputs present_0_key, present_0_value, ...
    an EncoderDecoderCache                past_key_values_self_0_key, past_key_values_cross_0_key, ...
    the states of Mamba                   cache_params_0_conv, cache_params_0_recurrent

Without one given, what comes back is the cache that the model begins by itself, unless use_cache=False is given. Tried
with transformers 5.23.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from .errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import Cache, EncoderDecoderCache
    from typing_extensions import TypeIs

    AnyCache: TypeAlias = Cache | EncoderDecoderCache
    # keys and values, or states, or both: no class of theirs says which
    Layer: TypeAlias = Any

#: Of a layer by name, of a cache by the layer's number, of an encoder-decoder's by which half it is.
Tensors: TypeAlias = "dict[str, torch.Tensor | Tensors]"

_RETURNED = {"past_key_values": "present", "cache_params": "present"}


@contextlib.contextmanager
def as_tensors(
    module: torch.nn.Module, args: Sequence[object], kwargs: Mapping[str, object]
) -> Iterator[tuple[tuple[object, ...], dict[str, object]]]:
    """The arguments with dicts of tensors for caches, which is what `module` takes and returns within this context.

    Raises UnsupportedError for a cache whose length is a Python number, such as a sliding window's.
    """
    library = sys.modules.get("transformers")
    given = {} if library is None else _given(library, args, kwargs)
    theirs = library is not None and any(isinstance(part, library.PreTrainedModel) for part in module.modules())
    if library is None or not (given or theirs):
        yield tuple(args), dict(kwargs)
        return
    forward, before = module.forward, module.__dict__.get("forward")

    @functools.wraps(forward)
    def plain(*args: object, **kwargs: object) -> object:
        row = [_filled(given[place], value) if place in given else value for place, value in enumerate(args)]
        named = {key: _filled(given[key], value) if key in given else value for key, value in kwargs.items()}
        return _plain(forward(*row, **named), library)

    module.__dict__["forward"] = plain
    try:
        yield (
            tuple(_tensors(given[place]) if place in given else value for place, value in enumerate(args)),
            {key: _tensors(given[key]) if key in given else value for key, value in kwargs.items()},
        )
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def _given(library: ModuleType, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[int | str, AnyCache]:
    """The caches among the arguments, by place or name."""
    found: dict[int | str, AnyCache] = {}
    named: list[tuple[int | str, object]] = [*enumerate(args), *kwargs.items()]
    for key, value in named:
        if isinstance(value, library.Cache | library.EncoderDecoderCache):
            found[key] = value
            for layer in _layers(value):
                plain = getattr(layer, "keys", None) is None or type(layer) is library.cache_utils.DynamicLayer
                if not plain or getattr(layer, "is_sliding", False) or hasattr(layer, "max_cache_len"):
                    raise UnsupportedError(
                        f"{key} holds a {type(layer).__name__}, whose length is a number in Python and would be fixed "
                        "in the graph: give a DynamicCache made without a config"
                    )
    return found


def _layers(cache: AnyCache) -> list[Layer]:
    if _is_paired(cache):
        return [*_layers(cache.self_attention_cache), *_layers(cache.cross_attention_cache)]
    return list(cache.layers)


def _is_paired(cache: AnyCache) -> TypeIs[EncoderDecoderCache]:
    return hasattr(cache, "cross_attention_cache")


def _tensors(cache: AnyCache) -> Tensors:
    """What a cache holds; a layer that holds nothing yet is left out."""
    if _is_paired(cache):
        return {"self": _tensors(cache.self_attention_cache), "cross": _tensors(cache.cross_attention_cache)}
    held = {str(number): _of_layer(layer) for number, layer in enumerate(cache.layers)}
    return {number: tensors for number, tensors in held.items() if tensors}


def _of_layer(layer: Layer) -> Tensors:
    found = {"key": getattr(layer, "keys", None), "value": getattr(layer, "values", None)}
    for kind in ("conv", "recurrent"):
        states = getattr(layer, f"{kind}_states", {})
        found |= {f"{kind}_{number}" if number else kind: state for number, state in states.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _filled(cache: AnyCache, tensors: object) -> AnyCache:
    """A cache like this one that holds `tensors`, which it does not change."""
    assert isinstance(tensors, Mapping)
    if _is_paired(cache):
        halves = (cache.self_attention_cache, "self"), (cache.cross_attention_cache, "cross")
        paired: AnyCache = type(cache)(*(_filled(half, tensors[name]) for half, name in halves))
        return paired
    made = copy.copy(cache)
    made.layers = [_layer(layer, tensors.get(str(number), {})) for number, layer in enumerate(cache.layers)]
    return made


def _layer(layer: Layer, tensors: Mapping[str, torch.Tensor]) -> Layer:
    made = copy.copy(layer)
    if "key" in tensors:
        made.keys, made.values = tensors["key"], tensors["value"]
    for kind in ("conv", "recurrent"):
        states = getattr(layer, f"{kind}_states", None)
        if states is not None:
            names = {number: f"{kind}_{number}" if number else kind for number in states}
            # states are written in place
            copies = {number: tensors[name].clone() if name in tensors else None for number, name in names.items()}
            setattr(made, f"{kind}_states", copies)
            for flags in (f"is_{kind}_states_initialized", "has_previous_state"):
                setattr(made, flags, dict(getattr(layer, flags)))
    return made


def _plain(returned: object, library: ModuleType) -> object:
    """What forward returned with tensors for caches; without one it stays as it is."""
    kinds = library.Cache | library.EncoderDecoderCache
    if isinstance(returned, kinds):
        return _tensors(returned)
    if isinstance(returned, Mapping) and any(isinstance(item, kinds) for item in returned.values()):
        items = [(_RETURNED.get(key, key), _plain(item, library)) for key, item in returned.items()]
        return dict(items)
    if type(returned) is tuple:
        return tuple(_plain(item, library) for item in returned)
    return returned
