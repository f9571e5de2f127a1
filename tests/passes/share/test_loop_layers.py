"""Runs of equal blocks as a Loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Signature, violations
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.report import Size
from tersor.passes.share.loop_layers import LoopLayers
from tersor.passes.share.share_identical import ShareIdentical
from tersor.tests.passes.corpus_share import equal_layers, layer, layers
from tersor.tests.support import REORDERED, ROUNDED, apply, distance, holds, installed, misses, on_onnxruntime


def loops(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Loop"]


class TestRewrites:
    def test_three_equal_blocks(self) -> None:
        model = equal_layers()
        before = Size.of(model)
        text = apply(LoopLayers(), model)
        assert [node.op_type for node in model.graph] == ["Loop", "Neg"]
        assert text[0].startswith("t2 = Loop{body=<15 nodes>}(t2/trips, t2/going, x)")
        assert Size.of(model).bytes < before.bytes / 3 + 64

    def test_the_body_has_the_names_of_the_first_block(self) -> None:
        model = equal_layers()
        apply(LoopLayers(), model)
        body = loops(model)[0].attributes["body"].as_graph()
        assert {"n0", "q0", "a0", "d0"} <= {value.name for node in body for value in node.outputs}

    def test_two_runs_one_after_the_other(self) -> None:
        model = layers(*(layer(at // 2, noise=0.1) for at in range(4)))
        before = model.clone()
        apply(LoopLayers(), model)
        first, second = loops(model)
        assert second.inputs[2] is first.outputs[0]
        assert compare(before, model, random_feeds(before)).worst.relative_l2 == 0.0

    def test_what_repeats_between_others(self) -> None:
        model = layers(layer(1, noise=0.1), layer(), layer(), layer(2, noise=0.1))
        outcome = LoopLayers().apply(model, Context())
        assert len(loops(model)) == 1
        assert outcome.matches == 1

    def test_a_value_that_all_blocks_read_beside_the_stream(self) -> None:
        lines, arrays = list[str](), {"w": np.eye(4, dtype=np.float32)}
        for at in range(3):
            lines += [f"h{at} = MatMul(s{at}, w)", f"g{at} = Mul(h{at}, m)", f"s{at + 1} = Add(s{at}, g{at})"]
        inputs = {"s0": "float[n, 4]", "mask": "float[n, 4]"}
        model = graph("m = Neg(mask)", *lines, "y = Neg(s3)", inputs=inputs, **arrays)
        before = model.clone()
        apply(LoopLayers(), model)
        assert len(loops(model)) == 1
        assert compare(before, model, random_feeds(before)).worst.relative_l2 < ROUNDED[np.float32]

    def test_quantized_blocks(self) -> None:
        model = equal_layers()
        QuantizeWeights(smallest=1).apply(model, Context())
        ShareIdentical().apply(model, Context())
        before = model.clone()
        apply(LoopLayers(), model)
        assert len(loops(model)) == 1
        assert compare(before, model, random_feeds(before)).worst.relative_l2 < ROUNDED[np.float32]

    def test_weights_of_a_loop_are_quantized_as_others_are(self) -> None:
        model = equal_layers()
        LoopLayers().apply(model, Context())
        before = Size.of(model).bytes
        assert QuantizeWeights(smallest=1).apply(model, Context()).matches == 6
        assert Size.of(model).bytes < before / 3
        assert compare(equal_layers(), model, random_feeds(equal_layers())).worst.cosine > 0.99

    def test_explaining_changes_nothing(self) -> None:
        model = equal_layers()
        assert LoopLayers().explain(model, Context()).matches == 1
        assert not loops(model)


def with_caches() -> ir.Model:
    """Two equal blocks, each with keys and values of its own past."""
    found = layers(layer(), layer())
    for at, node in enumerate(node for node in found.graph if node.op_type == "Attention"):
        pasts = []
        for name in ("key", "value"):
            value = ir.val(f"past_{name}{at}", ir.DataType.FLOAT, ["batch", 4, "past", 8])
            found.graph.inputs.append(value)
            pasts.append(value)
        node.resize_inputs(6)
        node.replace_input_with(4, pasts[0])
        node.replace_input_with(5, pasts[1])
        node.resize_outputs(3)
        for value, name in zip(node.outputs[1:], ("key", "value"), strict=True):
            value.name = f"present_{name}{at}"
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", 4, "all", 8])
            found.graph.outputs.append(value)
    return found


class TestLeavesAlone:
    @pytest.mark.parametrize(
        ("model", "rule"),
        [
            (lambda: layers(layer(0), layer(1, noise=0.1)), "constants"),
            (lambda: layers(layer(), layer(), beside=["t0"]), "stream"),
            (lambda: layers(layer(), layer(), beside=["q1"]), "inside"),
            (with_caches, "inside"),
            (lambda: graph("y = Relu(x)", inputs={"x": "float[n, 2]"}), "blocks"),
        ],
    )
    def test_why(self, model: Callable[[], ir.Model], rule: str) -> None:
        assert rule in [miss.rule for miss in misses(LoopLayers(), model())]

    def test_blocks_that_read_different_values_beside_the_stream(self) -> None:
        lines = [
            f"h{at} = MatMul(s{at}, w)\ng{at} = Mul(h{at}, m{at})\ns{at + 1} = Add(s{at}, g{at})" for at in range(2)
        ]
        inputs = {"s0": "float[n, 4]", "m0": "float[n, 4]", "m1": "float[n, 4]"}
        text = [line for each in lines for line in each.split("\n")]
        model = graph(*text, "y = Neg(s2)", inputs=inputs, w=np.eye(4, dtype=np.float32))
        assert "beside" in [miss.rule for miss in misses(LoopLayers(), model)]

    def test_fewer_than_the_least(self) -> None:
        assert {miss.rule for miss in misses(LoopLayers(least=4), equal_layers())} == {"least"}

    def test_options(self) -> None:
        with pytest.raises(OptionError, match="at least 2"):
            LoopLayers(least=1)


def test_holds() -> None:
    assert holds(LoopLayers(), equal_layers()) <= ROUNDED[np.float32]


def test_onnxruntime_runs_it_as_it_is() -> None:
    model = equal_layers()
    feeds = random_feeds(model)
    expected = on_onnxruntime(model, feeds)
    signature = Signature.of(model)
    LoopLayers().apply(model, Context())
    assert violations(model, LoopLayers.level, signature=signature) == []
    assert distance(on_onnxruntime(model, feeds), expected) < ROUNDED[np.float32]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_every_backend_runs_it(backend: str, tmp_path: Path) -> None:
    installed(backend)
    model, looped = equal_layers(), equal_layers()
    LoopLayers().apply(looped, Context())
    feeds = random_feeds(model)
    expected = on_onnxruntime(model, feeds)
    made = tersor.compile(looped, target=f"{backend}{{threads=1}}", output=tmp_path / "looped", verify="off")
    found = list(made.session.run(feeds).values())
    assert distance(found, expected) < REORDERED
