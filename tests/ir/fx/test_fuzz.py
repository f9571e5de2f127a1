"""Random graphs agree with ONNX Runtime or the reference evaluator; broken ones are refused, never crash."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from tersor.benchmarks._fuzz_check import Judge
from tersor.benchmarks._fuzz_graph import Example
from tersor.benchmarks._fuzz_known import explained
from tersor.benchmarks._fuzz_run import Report, batch
from tersor.benchmarks.fuzz import STRATEGIES

_KINDS = ("any", "shapes", "layers", "broken")


def found(kind: str, number: int, count: int) -> Report:
    return batch(STRATEGIES[_KINDS.index(kind)], number, count)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_few_graphs(kind: str) -> None:
    report = found(kind, 1, 30)
    assert report.findings == []
    assert report.counts["examples"] >= 30


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10, 16))
@pytest.mark.parametrize("kind", _KINDS)
def test_many_graphs(kind: str, number: int) -> None:
    assert found(kind, number, 150).findings == []


def _example(*nodes: object, **feeds: np.ndarray) -> Example:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    body = helper.make_graph(list(nodes), "g", inputs, [helper.make_empty_tensor_value_info("y")])
    return Example(helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), feeds)


def test_a_difference_is_seen_and_laid_at_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"y": np.array([1.0, 5.0], np.float32)}
    monkeypatch.setattr("tersor.benchmarks._fuzz_engines.runtime", lambda example: wrong)
    example = _example(helper.make_node("Abs", ["x"], ["y"]), x=np.array([1, -2], np.float32))
    (difference,) = Judge().judged(example).differences
    assert (difference.op, difference.kind) == ("Abs", "value")
    assert explained(difference, Judge()) is None


def test_what_onnx_leaves_open_is_explained() -> None:
    nan = np.array([[np.nan, 1]], np.float32)
    example = _example(helper.make_node("Relu", ["x"], ["y"]), x=nan)
    assert Judge().judged(example).differences == []
    node = helper.make_node("ArgMax", ["x"], ["y"])
    differences = Judge().judged(_example(node, x=nan)).differences
    assert all(explained(difference, Judge()) for difference in differences)
