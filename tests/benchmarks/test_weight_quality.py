"""What weights of few bits cost answers: blocks by relative L2 over real tokens, sentences by cosine."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.benchmarks.weight_quality import Reference, _answers, _compared, _with
from tersor.ir.block import blocks
from tersor.ir.runner import runner
from tersor.ir.site import Kind, sites
from tersor.ir.text import graph


def _model() -> ir.Model:
    """Tokens that go through three layers, each added to what they were."""
    rng = np.random.default_rng(4)
    text = ["seen = Cast{to=1}(attention_mask)", "places = Unsqueeze(seen, last)", "rows = Gather(table, input_ids)"]
    text += ["x0 = Mul(rows, places)"]
    weights = {"table": rng.standard_normal((64, 32)).astype(np.float32), "last": np.array([2])}
    for index in range(3):
        weights[f"w{index}"] = (rng.standard_normal((32, 48)) / 6).astype(np.float32)
        weights[f"v{index}"] = (rng.standard_normal((48, 32)) / 7).astype(np.float32)
        text += [f"h{index} = MatMul(x{index}, w{index})", f"t{index} = Tanh(h{index})"]
        text += [f"o{index} = MatMul(t{index}, v{index})", f"x{index + 1} = Add(x{index}, o{index})"]
    ports = {"input_ids": "int64[batch, sequence]", "attention_mask": "int64[batch, sequence]"}
    return graph(*text, inputs=ports, **weights)


def _feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    mask = (np.arange(8) < rng.integers(3, 9, (4, 1))).astype(np.int64)
    return {"input_ids": rng.integers(0, 64, (4, 8)), "attention_mask": mask}


def _reference(model: ir.Model) -> Reference:
    return Reference([_feeds()], *_answers(model, [_feeds()]))


def test_the_same_weights_cost_nothing() -> None:
    assert _compared(_model(), _reference(_model())) == {"blocks": 0.0, "end x 1000": pytest.approx(0.0, abs=1e-3)}


def test_errors_are_those_of_real_tokens_and_sentences() -> None:
    original = _model()
    linear = {site.name: site.view.array() for site in sites(original) if site.kind is Kind.LINEAR}
    changed = _with(original, {name: np.round(weight * 8) / 8 for name, weight in linear.items()})
    feeds, names = _feeds(), [block.output.name for block in blocks(original)]
    real = feeds["attention_mask"] != 0
    before, after = (
        {name: found[name] for name in names} for found in (_every(original, names), _every(changed, names))
    )
    errors = [
        np.linalg.norm(after[name][real].astype(np.float64) - before[name][real])
        / np.linalg.norm(before[name][real].astype(np.float64))
        for name in names
    ]
    found = _compared(changed, _reference(original))
    assert found["blocks"] == pytest.approx(np.mean(errors), abs=1e-5)
    assert np.mean(errors) > 0.01

    def embedded(hidden: np.ndarray) -> np.ndarray:
        rows = np.stack([each[kept].astype(np.float64).mean(0) for each, kept in zip(hidden, real, strict=True)])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    last = original.graph.outputs[0].name
    ends = [embedded(_every(model, [last])[last]) for model in (original, changed)]
    assert found["end x 1000"] == pytest.approx(1000 * (1 - (ends[0] * ends[1]).sum(1).mean()), abs=2e-3)


def _every(model: ir.Model, names: list[str | None]) -> dict[str | None, np.ndarray]:
    """The values of these names, as outputs of the model."""
    watched = model.clone()
    known = {value.name: value for node in watched.graph for value in node.outputs}
    watched.graph.outputs.extend(known[name] for name in names if known[name] not in watched.graph.outputs)
    return dict(runner(watched)(_feeds()))
