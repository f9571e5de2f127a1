"""Outputs that nobody reads in deployment."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.drop_outputs import DropOutputs
from tersor.passes.pipeline import Pipeline
from tersor.passes.run import run_pipeline
from tersor.tests.support import apply, parse

W = np.ones((4, 4), np.float32)


def model() -> ir.Model:
    text = ("h = MatMul(x, w)", "a = Neg(h)", "p = MatMul(h, v)", "b = Abs(p)")
    return graph(*text, inputs={"x": "float[n, 4]"}, w=W, v=W + 1)


class TestRewrites:
    def test_an_output_goes_with_all_that_only_it_needed(self) -> None:
        made = model()
        assert apply(DropOutputs(keep=("a",)), made) == ["h = MatMul(x, w)", "a = Neg(h)"]
        assert list(made.graph.initializers) == ["w"]

    def test_the_rest_keeps_its_order(self) -> None:
        made = graph("a = Neg(x)", "b = Abs(x)", "c = Relu(x)", outputs=["c", "a", "b"])
        apply(DropOutputs(keep=("b", "c")), made)
        assert [value.name for value in made.graph.outputs] == ["c", "b"]

    def test_an_output_that_is_a_weight(self) -> None:
        made = model()
        spare = ir.Value(name="spare", const_value=ir.tensor(W, name="spare"))
        made.graph.register_initializer(spare)
        made.graph.outputs.append(spare)
        apply(DropOutputs(keep=("a", "b")), made)
        assert "spare" not in made.graph.initializers

    def test_a_branching_output(self) -> None:
        made = parse(
            """g (bool c, float[2] x) => (float[2] y, float[2] z) <float[2] w = {1.0, 2.0}> {
                a = Mul (x, w)
                y = If (c) <then_branch = t () => (float[2] p) { p = Neg (a) },
                            else_branch = e () => (float[2] q) { q = Abs (a) }>
                z = Relu (x)
            }"""
        )
        assert apply(DropOutputs(keep=("z",)), made) == ["z = Relu(x)"]
        assert not made.graph.initializers

    def test_it_says_which_ones_went(self) -> None:
        outcome = DropOutputs(keep=("a",)).apply(model(), Context())
        assert [finding.place for finding in outcome.findings] == ["output b"]


class TestLeavesAlone:
    @pytest.mark.parametrize("keep", [(), ("a", "b"), ("b", "a")])
    def test_without_names_and_with_all_names(self, keep: tuple[str, ...]) -> None:
        made = model()
        before = lines(made)
        assert apply(DropOutputs(keep=keep), made) == before
        assert DropOutputs(keep=keep).apply(made, Context()).matches == 0

    def test_what_another_output_reads(self) -> None:
        made = graph("h = Neg(x)", "a = Abs(h)", outputs=["h", "a"])
        assert apply(DropOutputs(keep=("a",)), made) == ["h = Neg(x)", "a = Abs(h)"]

    def test_inputs(self) -> None:
        made = graph("a = Neg(x)", "b = Neg(z)")
        apply(DropOutputs(keep=("a",)), made)
        assert [value.name for value in made.graph.inputs] == ["x", "z"]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="drop-outputs: the model has no output 'hidden'; did you mean hiden"):
        DropOutputs(keep=("hidden",)).apply(graph("hiden = Neg(x)"), Context())


def test_holds_on_what_is_kept() -> None:
    report = run_pipeline(Pipeline.of("drop-outputs{keep=b}"), model())
    assert report.passes[0].loss == 0.0
