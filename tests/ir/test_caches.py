"""Caches of transformers are inputs and outputs like any other, and stay as they were."""

from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
import torch
from tersor.ir.dynamic import Dynamic
from tersor.ir.errors import ModelError, UnsupportedError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.load import load
from torch import nn

transformers = pytest.importorskip("transformers")

TOKENS: Dynamic = {"input_ids": {0: "batch", 1: "sequence"}}


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.arange(batch * length).reshape(batch, length) % 11


@pytest.fixture(scope="module")
def gpt() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()  # type: ignore[no-any-return]


def ports(model: onnx_ir.Model) -> list[str]:
    return [f"{value.name}{value.shape}" for value in (*model.graph.inputs, *model.graph.outputs)]


def filled(module: nn.Module, batch: int, length: int) -> object:
    cache = transformers.DynamicCache()
    with torch.no_grad():
        module(ids(batch, length), past_key_values=cache)
    return cache


def test_a_cache_that_is_given_is_inputs_and_comes_back_longer(gpt: nn.Module) -> None:
    cache = transformers.DynamicCache()
    with torch.no_grad():
        gpt(ids(2, 5), past_key_values=cache)
    before = [layer.keys.clone() for layer in cache.layers]
    model = load(
        gpt,
        kwargs={
            "input_ids": ids(2, 3),
            "past_key_values": cache,
            "attention_mask": torch.ones(2, 8, dtype=torch.int64),
        },
        dynamic={
            **TOKENS,
            "past_key_values": {0: "batch", 2: "past"},
            "attention_mask": {0: "batch", 1: "past + sequence"},
        },
    )
    past, present = "[batch,2,past,4]", "[batch,2,past + sequence,4]"
    assert ports(model)[:3] == [
        "input_ids[batch,sequence]",
        f"past_key_values_0_key{past}",
        f"past_key_values_0_value{past}",
    ]
    assert ports(model)[-2:] == [f"present_0_{part}{present}" for part in ("key", "value")]
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, before, strict=True))
    assert "forward" not in vars(gpt)
    other = transformers.DynamicCache()
    with torch.no_grad():
        gpt(ids(1, 7), past_key_values=other)
        feeds = {"input_ids": ids(1, 1).numpy(), "attention_mask": np.ones((1, 8), np.int64)}
        for index, layer in enumerate(other.layers):
            feeds[f"past_key_values_{index}_key"] = layer.keys.numpy().copy()
            feeds[f"past_key_values_{index}_value"] = layer.values.numpy().copy()
        wanted = gpt(ids(1, 1), past_key_values=other)
    found = Interpreter(to_fx(model)).run(feeds)
    np.testing.assert_allclose(found["logits"], wanted.logits, atol=1e-6)
    np.testing.assert_allclose(found["present_0_key"], other.layers[0].keys, atol=1e-6)


@pytest.mark.slow
def test_a_cache_that_the_model_begins_is_outputs_unless_told_otherwise(gpt: nn.Module) -> None:
    begun = ports(load(gpt, kwargs={"input_ids": ids(2, 3)}, dynamic=TOKENS))
    assert begun[:3] == ["input_ids[batch,sequence]", "logits[batch,sequence,11]", "present_0_key[batch,2,sequence,4]"]
    empty = {"input_ids": ids(2, 3), "past_key_values": transformers.DynamicCache()}
    assert ports(load(gpt, kwargs=empty, dynamic=TOKENS)) == begun
    without = load(gpt, kwargs={"input_ids": ids(2, 3), "use_cache": False}, dynamic=TOKENS)
    assert ports(without) == begun[:2]


class Wrapped(nn.Module):
    """Takes what it is given to a model inside of it, and hands on what that returns."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor, cache: object = None) -> object:
        return self.inner(input_ids=input_ids, past_key_values=cache)


@pytest.mark.slow
def test_a_model_inside_of_a_module_is_no_different(gpt: nn.Module) -> None:
    wrapped = Wrapped(gpt).eval()
    begun = load(wrapped, args=(ids(2, 3),), dynamic=TOKENS)
    assert [value.name for value in begun.graph.outputs][:2] == ["logits", "present_0_key"]
    given = load(wrapped, args=(ids(2, 3), filled(gpt, 2, 4)), dynamic={**TOKENS, "cache": {0: "batch", 2: "past"}})
    assert ports(given)[1] == "cache_0_key[batch,2,past,4]"


@pytest.mark.slow
def test_an_encoder_decoder_cache_has_two_halves() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=11, decoder_start_token_id=0
    )
    module = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        cache = module(input_ids=ids(2, 3), decoder_input_ids=ids(2, 2), use_cache=True).past_key_values
    given = {"encoder_outputs": (torch.ones(2, 3, 8),), "decoder_input_ids": ids(2, 1), "past_key_values": cache}
    names = [name.partition("[")[0] for name in ports(load(module, kwargs=given))]
    for end in ("self_0_key", "self_0_value", "cross_0_key", "cross_0_value"):
        assert f"past_key_values_{end}" in names
        assert f"present_{end}" in names


@pytest.mark.slow
def test_states_of_mamba_are_inputs_and_outputs() -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(hidden_size=8, state_size=4, num_hidden_layers=1, vocab_size=11)
    module = transformers.MambaForCausalLM(config).eval()
    with torch.no_grad():
        cache = module(ids(2, 5), use_cache=True).cache_params
        before = cache.layers[0].conv_states[0].clone()
        model = load(module, kwargs={"input_ids": ids(2, 1), "cache_params": cache})
        states = {
            "cache_params_0_conv": cache.layers[0].conv_states[0].numpy().copy(),
            "cache_params_0_recurrent": cache.layers[0].recurrent_states[0].numpy().copy(),
        }
        assert torch.equal(cache.layers[0].conv_states[0], before)
        found = Interpreter(to_fx(model)).run({"input_ids": ids(2, 1).numpy(), **states})
        wanted = module(ids(2, 1), cache_params=cache)
    np.testing.assert_allclose(found["logits"], wanted.logits, atol=1e-6)
    np.testing.assert_allclose(
        found["present_0_recurrent"], wanted.cache_params.layers[0].recurrent_states[0], atol=1e-6
    )


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("kind", ["StaticLayer", "DynamicSlidingWindowLayer"])
def test_a_cache_of_fixed_length_is_refused(gpt: nn.Module, kind: str, begun: bool) -> None:
    if kind == "StaticLayer":
        cache = transformers.StaticCache(config=gpt.config, max_cache_len=16)
    else:
        config = transformers.MistralConfig(num_hidden_layers=1, sliding_window=4)
        cache = transformers.DynamicCache(config=config)
    if begun:
        with torch.no_grad():
            gpt(ids(2, 3), past_key_values=cache)
    with pytest.raises(UnsupportedError, match=f"past_key_values holds a {kind}, whose length is a number in Python"):
        load(gpt, kwargs={"input_ids": ids(2, 1), "past_key_values": cache})


def test_a_failed_trace_leaves_the_module_as_it_was(gpt: nn.Module) -> None:
    with pytest.raises(ModelError, match="cannot be traced"):
        load(gpt, kwargs={"input_ids": ids(2, 3).float()})
    assert "forward" not in vars(gpt)
