"""The main job: MiniLM, as torch exports it at two opsets, raised and lowered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.ir.content import dimensions
from tersor.ir.level import Level, Signature, violations
from tersor.ir.load import load
from tersor.ir.provenance import sources
from tersor.ir.runner import runner
from tersor.passes.base import Context
from tersor.passes.presets import RAISING
from tersor.tests.support import distance

LAYERS, TOLERANCE = 6, 2e-6
SHAPES = [
    (1, 16, "full"),
    (3, 40, "padded"),
    (1, 1, "full"),
    (8, 128, "full"),
    pytest.param(3, 512, "padded", marks=pytest.mark.slow),
]

Export = Callable[[int], Path]


@dataclass(frozen=True)
class Stages:
    """The model as loaded, raised, and lowered, with the session of the plain export."""

    loaded: Signature
    raised: ir.Model
    lowered: ir.Model
    plain: onnxruntime.InferenceSession
    fast: onnxruntime.InferenceSession


@cache
def stages(path: Path) -> Stages:
    """One run of both presets for each export, whatever the number of tests."""
    model = load(path)
    signature = Signature.of(model)
    RAISING.apply(model, Context())
    raised = model.clone()
    LOWERING.apply(model, Context())
    return Stages(signature, raised, model, session(path.read_bytes()), session(ir.to_proto(model).SerializeToString()))


@pytest.fixture(params=[18, 23])
def made(request: pytest.FixtureRequest, minilm_onnx: Export) -> Stages:
    return stages(minilm_onnx(request.param))


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)


def ops(model: ir.Model) -> Counter[str]:
    return Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.all_nodes())


def feeds(batch: int, sequence: int, padding: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([batch, sequence])
    lengths = np.maximum(sequence - np.arange(batch) * 7, 1) if padding == "padded" else np.full(batch, sequence)
    return {
        "input_ids": rng.integers(0, 30000, (batch, sequence)),
        "attention_mask": (np.arange(sequence) < lengths[:, None]).astype(np.int64),
        "token_type_ids": np.zeros((batch, sequence), np.int64),
    }


def test_every_block_is_whole_at_the_semantic_level(made: Stages) -> None:
    found = ops(made.raised)
    assert (found["Attention"], found["Gelu"], found["LayerNormalization"]) == (LAYERS, LAYERS, 2 * LAYERS + 1)
    assert not found.keys() & {"Softmax", "Erf", "Reshape", "Transpose", "ReduceMean", "Pow", "GatherND", "IsNaN"}
    assert found.total() <= 120


def test_attention_is_in_its_3_d_form(made: Stages) -> None:
    for node in (node for node in made.raised.graph if node.op_type == "Attention"):
        assert node.attributes["q_num_heads"].as_int() == node.attributes["kv_num_heads"].as_int() == 12
        assert [dimensions(value) for value in node.inputs[:3]] == [["batch", "sequence", 384]] * 3
        mask = dimensions(node.inputs[3])
        assert mask is not None and mask[1:] == [1, 1, "sequence"]


def test_both_levels_hold_and_the_signature_is_kept(made: Stages) -> None:
    assert violations(made.raised, Level.SEMANTIC, signature=made.loaded) == []
    assert violations(made.lowered, Level.LOWERED, signature=made.loaded) == []


def test_onnxruntime_gets_its_own_kernels(made: Stages) -> None:
    found = ops(made.lowered)
    assert (found["com.microsoft.Attention"], found["com.microsoft.BiasGelu"]) == (LAYERS, LAYERS)
    assert not found.keys() & {"Attention", "Gelu"}
    assert made.lowered.opset_imports[""] == 18


def test_each_attention_stands_for_the_nodes_of_its_own_layer(made: Stages) -> None:
    merged = [set(sources(node)) for node in made.lowered.graph if node.op_type == "Attention"]
    assert all(len(names) >= 4 for names in merged)
    for i, names in enumerate(merged):
        for other in merged[i + 1 :]:
            assert len(names & other) <= len(names) // 2


@pytest.mark.parametrize(("batch", "sequence", "padding"), SHAPES)
def test_the_lowered_model_computes_the_same(made: Stages, batch: int, sequence: int, padding: str) -> None:
    given = feeds(batch, sequence, padding)
    assert distance(made.fast.run(None, given), made.plain.run(None, given)) <= TOLERANCE


@pytest.mark.parametrize(("batch", "sequence", "padding"), SHAPES[:2])
def test_the_raised_model_computes_the_same(made: Stages, batch: int, sequence: int, padding: str) -> None:
    """On the FX interpreter: ONNX Runtime refuses the mask that broadcasts."""
    given = feeds(batch, sequence, padding)
    (expected,) = made.plain.run(None, given)
    (found,) = runner(made.raised)(given).values()
    assert distance([found], [expected]) <= TOLERANCE


def test_a_second_application_finds_nothing(made: Stages) -> None:
    model = made.raised.clone()
    before = ops(model)
    assert [step.name for step in RAISING.flat() if step.apply(model, Context()).matches] in ([], ["infer-shapes"])
    assert ops(model) == before
