"""Rules of onnxscript and passes of onnx-ir are passes of ours in one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest
from onnx_ir.passes import common
from onnxscript.rewriter import RewriteRule, pattern
from tersor.ir.level import Level
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.interop import IrPass, RuleSet
from tersor.passes.pipeline import Pipeline
from tersor.passes.run import run_pipeline
from tersor.tests.support import apply, holds


def _twice(op: pattern.OpsetPatternBuilder, x: object) -> object:
    return op.Neg(op.Neg(x))


def _once(op: pattern.OpsetPatternBuilder, x: object) -> object:
    return op.Identity(x)


@dataclass(frozen=True, kw_only=True)
class DropDoubleNegation(RuleSet):
    """-(-x) -> x"""

    name: ClassVar[str] = "drop-double-negation"
    rules: ClassVar[Sequence[RewriteRule]] = (RewriteRule(_twice, _once),)


@dataclass(frozen=True, kw_only=True)
class MergeTwins(IrPass):
    """Compute once what is computed alike."""

    name: ClassVar[str] = "merge-twins"
    level: ClassVar[Level] = Level.IMPORTED

    def passes(self) -> Sequence[ir.passes.PassBase]:
        return (common.CommonSubexpressionEliminationPass(),)


@dataclass(frozen=True, kw_only=True)
class Nameless(IrPass):
    """Names no passes."""

    name: ClassVar[str] = "nameless"


def negations(count: int = 2) -> ir.Model:
    return graph(
        *(f"v{i + 1} = Neg(v{i})" for i in range(count)), f"y = Abs(v{count})", inputs={"v0": "float[3]"}, outputs=["y"]
    )


def test_a_rule_of_onnxscript_rewrites() -> None:
    assert apply(DropDoubleNegation(), negations()) == ["v2 = Identity(v0)", "y = Abs(v2)"]


@pytest.mark.parametrize(("count", "fired"), [(1, 0), (2, 1), (5, 2)])
def test_it_counts_how_often(count: int, fired: int) -> None:
    assert DropDoubleNegation().apply(negations(count), Context()).matches == fired


def test_it_holds_and_runs_in_a_pipeline_with_ours() -> None:
    assert holds(DropDoubleNegation(), negations()) == 0.0
    model = negations()
    report = run_pipeline(Pipeline.of([DropDoubleNegation(), "drop-identities"]), model)
    assert lines(model) == ["y = Abs(v0)"]
    assert [record.matches for record in report.passes] == [1, 1]


def test_it_is_spelled_by_its_place() -> None:
    pipeline = Pipeline.of(DropDoubleNegation())
    assert pipeline.text() == f"{__name__}:DropDoubleNegation"


def test_a_pass_of_onnx_ir_runs() -> None:
    model = graph("a = Relu(x)", "b = Relu(x)", "y = Add(a, b)", inputs={"x": "float[3]"})
    assert apply(MergeTwins(), model) == ["a = Relu(x)", "y = Add(a, a)"]
    assert MergeTwins().apply(model, Context()).matches == 0


def test_a_class_that_names_none_says_so() -> None:
    with pytest.raises(TypeError, match="Nameless names no onnx_ir passes"):
        Nameless().apply(negations(), Context())
