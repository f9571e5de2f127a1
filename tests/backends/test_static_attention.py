"""A trained encoder whose attention multiplies integers: little is lost, and backends compute what the graph says."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.ir.compare import compare
from tersor.ir.runner import runner
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.run import run_pipeline
from tersor.passes.statistics import Calibration
from tersor.passes.verify import allowed, worst_loss
from tersor.tests.backends.test_static_models import Feeds, original
from tersor.tests.support import installed

pytestmark = pytest.mark.slow

#: Attention alone, and beside the layers.
ALONE, WHOLE = "quantize-static{attention=true, only=['kind:attention']}", "quantize-static{attention=true}"


@cache
def quantized(passes: str) -> tuple[ir.Model, ir.Model, list[Feeds]]:
    source, feeds = original("minilm")
    model = source.clone()
    Pipeline.of(passes).apply(model, Context(calibration=Calibration(feeds)))
    return source, model, feeds


@pytest.mark.parametrize("passes", [ALONE, WHOLE])
def test_little_is_lost(data_dir: Path, passes: str) -> None:
    source, model, feeds = quantized(passes)
    assert "Attention" not in {node.op_type for node in model.graph}
    (step,) = Pipeline.of(passes).flat()
    assert 0 < worst_loss(step.contract, compare(runner(source), runner(model), feeds)) < allowed(step.contract)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_backends_agree_with_the_graph(data_dir: Path, backend: str) -> None:
    """A number that falls on the other side of a half moves others: what differs stays below what int8 costs."""
    source, whole, feeds = quantized(WHOLE)
    model, made = whole.clone(), installed(backend)
    run_pipeline(made.pipeline(), model)
    session = made.compile(model)
    cost = compare(runner(source), runner(whole), feeds[:1]).relative_l2
    assert compare(runner(whole), session, feeds[:1]).relative_l2 < cost


def test_every_product_is_one_of_integers(data_dir: Path) -> None:
    model = quantized(WHOLE)[1].clone()
    run_pipeline(LOWERING, model)
    found = Counter(node.op_type for node in model.graph)
    # six layers of six matrices and two products
    assert found["MatMulIntegerToFloat"] == 6 * (6 + 2)
    assert not found.keys() & {"MatMul", "DequantizeLinear", "MultiHeadAttention", "Attention", "QAttention"}
