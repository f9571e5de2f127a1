"""What every rewrite gets from its base: a worklist, findings, and options."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest
from tersor.ir.errors import PassError
from tersor.ir.level import SEMANTIC_OPSET, Level, violations
from tersor.ir.text import graph, lines
from tersor.passes.base import Context, Exact, Finding, Lossy, Match, Miss, Outcome, Pass, Rewrite
from tersor.passes.edit import Tape, replace
from tersor.tests.support import inside_if

ASKED: list[ir.Node] = []


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    ASKED.clear()


@dataclass(frozen=True, kw_only=True)
class HalveNegations(Rewrite):
    """-(-x) -> x"""

    name: ClassVar[str] = "halve-negations"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = ("Neg",)

    def match(self, node: ir.Node) -> Match | Miss:
        ASKED.append(node)
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is None or before.op_type != "Neg":
            return Miss("operand", node.inputs[0].name or "" if node.inputs[0] else "", "another Neg")
        return Match(node=node)

    def rewrite(self, found: Match) -> None:
        tape, inner = Tape(), found.node.inputs[0]
        assert inner is not None
        producer = inner.producer()
        assert producer is not None
        x = producer.inputs[0]
        assert x is not None
        replace(tape, found.node.outputs, [tape("Identity", x) if found.node.outputs[0].is_graph_output() else x])


@dataclass(frozen=True, kw_only=True)
class DoubleDown(Rewrite):
    """Add(x, x) -> Sin(Add'(x)): each new node is a place of its own."""

    name: ClassVar[str] = "double-down"
    anchors: ClassVar[tuple[str, ...]] = ("Add", "com.test.Add")

    def match(self, node: ir.Node) -> Match | Miss:
        return Match(node=node)

    def rewrite(self, found: Match) -> None:
        tape = Tape()
        if found.node.domain:
            replace(tape, found.node.outputs, [tape("Sin", found.node.inputs[0])])
        else:
            replace(tape, found.node.outputs, [tape("Add", found.node.inputs[0], domain="com.test")])


def chain(length: int) -> ir.Model:
    return graph("v0 = Relu(x)", *(f"v{i + 1} = Neg(v{i})" for i in range(length)), f"y = Abs(v{length})")


@pytest.mark.parametrize(("length", "left"), [(1, 1), (2, 0), (7, 1), (8, 0)])
def test_a_chain_collapses_in_one_application(length: int, left: int) -> None:
    model = chain(length)
    outcome = HalveNegations().apply(model, Context())
    assert sum("Neg" in line for line in lines(model)) == left
    assert outcome.matches == length // 2
    assert violations(model, Level.IMPORTED) == []
    assert HalveNegations().apply(model, Context()).matches == 0


def test_the_work_is_linear_in_the_nodes() -> None:
    HalveNegations().apply(chain(2000), Context())
    assert len(ASKED) <= 2 * 2000


def test_every_candidate_is_asked_in_branches_too() -> None:
    model = inside_if(graph("a = Neg(x)", "b = Neg(a)", "y = Abs(b)", inputs={"x": "float[2]"}))
    assert HalveNegations().apply(model, Context()).matches == 2
    assert [line.strip() for line in lines(model) if "Abs" in line] == ["y_else = Abs(x)", "y_then = Abs(x)"]
    assert violations(model, Level.IMPORTED) == []


def test_what_a_rewrite_places_is_asked_again_even_at_an_output() -> None:
    model = graph("y = Add(x, x)")
    outcome = DoubleDown().apply(model, Context())
    assert lines(model) == ["y = Sin(x)"]
    assert outcome.matches == 2


def test_the_domains_of_new_nodes_are_imported() -> None:
    model = graph("y = Tanh(x)")

    @dataclass(frozen=True, kw_only=True)
    class Foreign(Rewrite):
        name: ClassVar[str] = "foreign"
        level: ClassVar[Level] = Level.LOWERED
        anchors: ClassVar[tuple[str, ...]] = ("Tanh",)

        def match(self, node: ir.Node) -> Match | Miss:
            return Match(node=node)

        def rewrite(self, found: Match) -> None:
            tape = Tape()
            replace(tape, found.node.outputs, [tape("FastTanh", found.node.inputs[0], domain="com.test")])

    Foreign().apply(model, Context())
    assert model.opset_imports["com.test"] == 1
    assert violations(model, Level.LOWERED) == []


def test_standard_ops_come_at_the_semantic_opset_into_a_model_that_had_none() -> None:
    model = graph("y = com.test.Add(x)")
    del model.opset_imports[""]
    DoubleDown().apply(model, Context())
    assert lines(model) == ["y = Sin(x)"]
    assert model.opset_imports[""] == SEMANTIC_OPSET


def test_an_op_of_another_domain_is_another_op() -> None:
    model = graph("a = com.test.Neg(x)", "y = com.test.Neg(a)")
    assert HalveNegations().apply(model, Context()).findings == ()
    model = graph("y = com.test.Add(x)")
    assert DoubleDown().apply(model, Context()).matches == 1


def test_a_miss_says_where_and_why_and_goes_when_the_place_is_rewritten() -> None:
    model = chain(3)
    (fired, missed) = HalveNegations().apply(model, Context()).findings
    assert fired.miss is None
    assert missed.place.startswith("Neg at v")
    assert str(missed.miss).endswith("needed another Neg")


@dataclass(frozen=True, kw_only=True)
class DownAndAway(DoubleDown):
    """A Neg of a new node is a place that is missed; any other shares its op with such a place and no more."""

    anchors: ClassVar[tuple[str, ...]] = (*DoubleDown.anchors, "Neg")

    def match(self, node: ir.Node) -> Match | Miss:
        if node.op_type != "Neg":
            return Match(node=node)
        ASKED.append(node)
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        return Miss("operand", node.name or "", "a Sin", far=before is None or not before.domain)


def test_a_place_that_shares_only_its_op_is_told_of_when_asked_and_not_reported() -> None:
    model = graph("a = Neg(x)", "b = com.other.Exp(a)", "y = Neg(b)")
    assert [finding.place for finding in DownAndAway().explain(model, Context()).misses] == ["Neg at a", "Neg at y"]
    assert [finding.place for finding in DownAndAway().apply(model, Context()).misses] == ["Neg at y"]


def test_a_miss_goes_when_nothing_is_left_of_the_place_but_its_op() -> None:
    model = graph("a = Add(x, x)", "y = Neg(a)")
    outcome = DownAndAway().apply(model, Context())
    assert lines(model) == ["a = Sin(x)", "y = Neg(a)"]
    assert len(ASKED) == 2
    assert outcome.misses == ()


def test_explaining_leaves_the_model_alone() -> None:
    model = chain(2)
    before = lines(model)
    findings = HalveNegations().explain(model, Context()).findings
    assert [(finding.place, finding.sources, finding.miss is None) for finding in findings] == [
        ("Neg at v1", ("v1",), False),
        ("Neg at v2", ("v2",), True),
    ]
    assert lines(model) == before


def test_explaining_a_pass_that_is_no_rewrite_applies_it_to_a_clone() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Renamer(Pass):
        name: ClassVar[str] = "renamer"

        def apply(self, model: ir.Model, context: Context) -> Outcome:
            next(iter(model.graph)).outputs[0].name = "changed"
            return Outcome((Finding("the first node"),))

    model = chain(1)
    before = lines(model)
    assert Renamer().explain(model, Context()).matches == 1
    assert lines(model) == before


def test_an_outcome_counts() -> None:
    miss = Miss("rule", "3", "4")
    outcome = Outcome((Finding("a"), Finding("b", (), miss), Finding("c")))
    assert outcome.matches == 2
    assert [finding.place for finding in outcome.misses] == ["b"]
    assert str(miss) == "rule: 3; needed 4"


def test_contracts_print_what_they_promise() -> None:
    assert str(Exact()) == "exact (relative L2 <= 1e-05)"
    assert str(Lossy(metric="relative-l2", budget=0.25)) == "lossy (relative-l2 <= 0.25)"


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, kw_only=True)
class Optional(HalveNegations):
    """First line.

    The rest.
    """

    name: ClassVar[str] = "optional"
    size: Size = Size.SMALL
    count: int = 3
    only: tuple[str, ...] = ()


def test_options_are_those_that_differ_from_their_defaults() -> None:
    assert Optional().options() == {}
    assert Optional(count=3, size=Size.LARGE, only=("a",)).options() == {"size": Size.LARGE, "only": ("a",)}
    assert Optional.summary() == "First line."


@dataclass(frozen=True, kw_only=True)
class Restless(Rewrite):
    """Neg(x) -> Neg'(x), for ever"""

    name: ClassVar[str] = "restless"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = ("Neg",)

    def match(self, node: ir.Node) -> Match | Miss:
        return Match(node=node)

    def rewrite(self, found: Match) -> None:
        tape = Tape()
        replace(tape, found.node.outputs, [tape("Neg", found.node.inputs[0])])


def test_a_rewrite_that_answers_itself_is_stopped_and_named() -> None:
    with pytest.raises(PassError, match=r"restless does not settle.*Neg at"):
        Restless().apply(graph("y = Neg(x)"), Context())
