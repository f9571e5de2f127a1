"""Whole models answer through torch.fx as ONNX Runtime does, as imported and at the semantic level."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.benchmarks._common import distance
from tersor.benchmarks._zoo import zoo
from tersor.benchmarks.models import DEMAND, measure
from tersor.driver.compile import run_passes
from tersor.ir.level import Level, violations
from tersor.passes.presets import RAISING

SMALL = zoo(small=True)
_TRAINED = ("BabyLlama", "g2p encoder", "g2p decoder", "silero 16k", "silero opset 15")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_answers_as_onnx_runtime_does(name: str, request: pytest.FixtureRequest) -> None:
    if name in _TRAINED:
        request.getfixturevalue("data_dir")
    found = measure(SMALL[name])
    assert found.fx <= DEMAND
    assert found.raised <= DEMAND
    assert found.tapped <= DEMAND
    assert found.original is None or found.original <= DEMAND


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name not in _TRAINED])
def test_raises_to_the_semantic_level(name: str) -> None:
    model = SMALL[name].load()
    run_passes(model, RAISING, verify="off")
    assert not violations(model, Level.SEMANTIC)


@pytest.mark.parametrize("name", ["GPT-2, cache", "Qwen2, cache", "T5-small decoder, cache"])
def test_decoders_are_fed_a_prompt_and_steps(name: str) -> None:
    tokens = "decoder_input_ids" if "T5" in name else "input_ids"
    sizes = [(feed[tokens].shape[1], feed["past_keys_0"].shape[2]) for feed in SMALL[name].feeds()]
    assert any(past == 0 and sequence > 1 for sequence, past in sizes)
    assert any(past > 0 and sequence == 1 for sequence, past in sizes)


def test_an_error_counts_type_and_every_integer() -> None:
    counted = np.arange(1_000_000)
    off = counted.copy()
    off[0] = 1
    assert distance([counted], [counted]) == 0.0
    assert distance([counted], [off]) == np.inf
    assert distance([np.ones(2, np.float32)], [np.ones(2)]) == np.inf
    assert distance([np.ones(4)], [np.full(4, 1.5)]) == pytest.approx(0.5)
    assert distance([np.ones(4)], [np.ones(3)]) == np.inf
