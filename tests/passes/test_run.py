"""A pipeline is held to its promises: verified, blamed, rolled back, reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import ContractError, ModelError, OptionError, PassError
from tersor.ir.level import SEMANTIC_OPSET, Level
from tersor.ir.text import format_model, graph, lines
from tersor.passes.base import Context, Contract, Exact, Finding, Lossy, Match, Miss, Outcome, Pass, Rewrite
from tersor.passes.edit import Tape, replace
from tersor.passes.pipeline import Pipeline
from tersor.passes.run import Verify, run_pipeline

RNG = np.random.default_rng(0)
MEASURED = [Verify.FAST, Verify.EACH]


@dataclass(frozen=True, kw_only=True)
class DropBiases(Rewrite):
    """x + b -> x, which nobody may do."""

    name: ClassVar[str] = "drop-biases"
    anchors: ClassVar[tuple[str, ...]] = ("Add",)

    def match(self, node: ir.Node) -> Match | Miss:
        bias = node.inputs[1]
        known = bias is not None and bias.const_value is not None
        return Match(node=node) if known else Miss("bias", node.name or "", "a constant")

    def rewrite(self, found: Match) -> None:
        tape = Tape()
        replace(tape, found.node.outputs, [tape("Identity", found.node.inputs[0])])


@dataclass(frozen=True, kw_only=True)
class Does(Pass):
    """Whatever a test needs a pass to do."""

    name: ClassVar[str] = "does"
    level: ClassVar[Level] = Level.IMPORTED
    what: Callable[[ir.Model], object] = field(default=lambda model: None)

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        self.what(model)
        return Outcome((Finding("the model"),))

    def options(self) -> dict[str, object]:
        return {}


def promised(what: Contract, does: Callable[[ir.Model], object], called: str = "does") -> Does:
    """A pass with a contract of its own."""

    @dataclass(frozen=True, kw_only=True)
    class Promised(Does):
        name: ClassVar[str] = called
        contract: ClassVar[Contract] = what

    return Promised(what=does)


def perceptron(opset: int = SEMANTIC_OPSET) -> ir.Model:
    weights = {name: RNG.standard_normal((8, 8)).astype(np.float32) for name in ("w", "v")}
    return graph(
        "h = MatMul(x, w)", "s = Add(h, b)", "r = Relu(s)", "o = MatMul(r, v)", "y = Add(o, c)",
        inputs={"x": "float[batch, 8]"}, opset=opset, **weights,
        b=RNG.standard_normal(8).astype(np.float32), c=RNG.standard_normal(8).astype(np.float32),
    )  # fmt: skip


def scale_of(name: str, factor: float) -> Callable[[ir.Model], None]:
    """Multiplies an initializer."""

    def act(model: ir.Model) -> None:
        value = model.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor((value.const_value.numpy() * factor).astype(np.float32), name=name)

    return act


def is_untouched(model: ir.Model, before: str, weights: dict[str, np.ndarray]) -> None:
    assert format_model(model) == before
    for name, array in weights.items():
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), array)


def weights_of(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("verify", MEASURED)
def test_a_pass_that_drops_a_bias_is_stopped_named_and_rolled_back(verify: Verify) -> None:
    model = perceptron()
    before, weights = format_model(model), weights_of(model)
    with pytest.raises(ContractError) as caught:
        run_pipeline(Pipeline.of(["drop-identities", DropBiases(), "drop-dead-code"]), model, verify=verify)
    text = str(caught.value)
    assert text.startswith("the pass drop-biases promised exact (relative L2 <= 1e-05), measured 0.")
    assert "first diverging value: 's' of Identity at" in text
    assert any("> s = Identity(h)" in note for note in caught.value.__notes__)
    is_untouched(model, before, weights)


def test_unverified_the_same_pass_goes_through() -> None:
    model = perceptron()
    report = run_pipeline(Pipeline.of(DropBiases()), model, verify=Verify.OFF)
    assert "s = Identity(h)" in lines(model)
    assert report.passes[0].loss is None


def test_a_wrong_pass_is_found_among_right_ones_in_any_place() -> None:
    for place in range(3):
        steps: list[Pass | str] = ["drop-identities", "fold-constants", "infer-shapes"]
        steps.insert(place, DropBiases())
        with pytest.raises(ContractError, match="the pass drop-biases promised"):
            run_pipeline(Pipeline.of(steps), perceptron())


def test_passes_that_only_together_go_too_far_are_named_together() -> None:
    nudge = promised(Exact(), scale_of("w", 1 + 6e-6), "nudge")
    with pytest.raises(ContractError, match=r"the passes nudge, nudge, nudge promised exact"):
        run_pipeline(Pipeline(steps=(nudge, nudge, nudge)), perceptron(), verify=Verify.FAST)
    run_pipeline(Pipeline(steps=(nudge, nudge, nudge)), perceptron(), verify=Verify.EACH)


def test_a_tighter_promise_than_the_default_is_kept() -> None:
    strict = promised(Exact(tolerance=0.0), scale_of("w", 1 + 1e-6), "strict")
    with pytest.raises(ContractError, match=r"strict promised exact \(relative L2 <= 0\).*first diverging value: 'h'"):
        run_pipeline(Pipeline.of(strict), perceptron())


@pytest.mark.parametrize("metric", ["cosine", "relative-l2"])
def test_a_lossy_pass_over_its_budget_is_stopped(metric: str) -> None:
    loud = promised(Lossy(metric=metric, budget=0.01), scale_of("c", -3.0), "loud")
    model = perceptron()
    before, weights = format_model(model), weights_of(model)
    with pytest.raises(ContractError, match=rf"the pass loud promised lossy \({metric} <= 0.01\), measured"):
        run_pipeline(Pipeline.of(loud), model)
    is_untouched(model, before, weights)


def test_a_lossy_pass_within_its_budget_is_measured_on_its_own() -> None:
    quiet = promised(Lossy(metric="relative-l2", budget=0.5), scale_of("w", 1.01), "quiet")
    report = run_pipeline(Pipeline.of(["drop-identities", quiet, "infer-shapes", "drop-dead-code"]), perceptron())
    first, lossy, third, last = (record.loss for record in report.passes)
    assert first is not None and first == 0.0
    assert lossy is not None and 0.001 < lossy < 0.02
    assert third is None
    assert last == 0.0


def test_a_result_that_is_not_a_number_is_over_every_budget() -> None:
    poison = promised(Lossy(budget=1.5), scale_of("c", np.nan), "poison")
    with pytest.raises(ContractError, match="the pass poison promised"):
        run_pipeline(Pipeline.of(poison), perceptron(), verify=Verify.FAST)


@pytest.mark.parametrize("verify", list(Verify))
def test_a_pass_that_raises_is_named_and_rolled_back(verify: Verify) -> None:
    def fail(model: ir.Model) -> None:
        scale_of("w", 2.0)(model)
        model.graph.outputs[0].name = "gone"
        raise ZeroDivisionError("no luck")

    model = perceptron()
    before, weights = format_model(model), weights_of(model)
    with pytest.raises(PassError, match="the pass does failed: ZeroDivisionError: no luck") as caught:
        run_pipeline(Pipeline.of(Does(what=fail)), model, verify=verify)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    is_untouched(model, before, weights)


@pytest.mark.parametrize("undo", [True, False])
def test_an_interrupt_rolls_back_too(undo: bool) -> None:
    def interrupt(model: ir.Model) -> None:
        model.graph.outputs[0].name = "gone"
        raise KeyboardInterrupt

    model = perceptron()
    before = format_model(model)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(Pipeline.of(Does(what=interrupt)), model, undo=undo)
    assert (format_model(model) == before) is undo


def test_an_error_on_purpose_keeps_its_class_and_says_in_which_pass() -> None:
    with pytest.raises(OptionError, match="the model has no output 'z'") as caught:
        run_pipeline(Pipeline.of("drop-outputs{keep=z}"), perceptron())
    assert caught.value.__notes__ == ["in the pass drop-outputs{keep=[z]}"]


def rename_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "renamed"


def reverse(model: ir.Model) -> None:
    first, *_ = nodes = list(model.graph)
    model.graph.remove(first)
    model.graph.insert_after(nodes[-1], first)


def leave_a_weight(model: ir.Model) -> None:
    model.graph.register_initializer(ir.Value(name="spare", const_value=ir.tensor([1.0], name="spare")))


def duplicate_a_name(model: ir.Model) -> None:
    next(iter(model.graph)).outputs[0].name = "x"


def narrow_the_input(model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape([1, 8])


def use_a_strange_op(model: ir.Model) -> None:
    next(iter(model.graph)).domain = "strange"


BREAKAGES = pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (rename_output, r"outputs were \['y'\], are \['renamed'\]"),
        (reverse, "Add at s: its input 'h' is not computed before it"),
        (leave_a_weight, "nobody reads the initializer 'spare'"),
        (duplicate_a_name, "two values are named 'x'"),
        (narrow_the_input, r"input was x: float\[batch, 8\], is x: float\[1, 8\]"),
        (use_a_strange_op, "MatMul at h: domain 'strange' is not imported"),
    ],
)


@BREAKAGES
@pytest.mark.parametrize("verify", MEASURED)
def test_a_pass_that_breaks_the_graph_is_named(
    breaks: Callable[[ir.Model], None], message: str, verify: Verify
) -> None:
    model = perceptron()
    before = format_model(model)
    steps = (Does(), promised(Exact(), breaks, "breaks"), Does())
    with pytest.raises(PassError, match=f"the pass breaks broke the graph: {message}") as caught:
        run_pipeline(Pipeline(steps=steps), model, verify=verify)
    assert not isinstance(caught.value, ContractError)
    assert format_model(model) == before


def test_what_was_broken_before_is_not_the_pass_s_fault() -> None:
    model = perceptron()
    leave_a_weight(model)
    run_pipeline(Pipeline.of(Does()), model)


def test_a_graph_that_cannot_run_is_the_pass_s_fault() -> None:
    def transpose(model: ir.Model) -> None:
        value = model.graph.initializers["v"]
        value.const_value = ir.tensor(np.ones((5, 8), np.float32), name="v")
        value.shape = ir.Shape([5, 8])

    model = perceptron()
    before = format_model(model)
    with pytest.raises(PassError, match="the pass does left a graph that does not run: ") as caught:
        run_pipeline(Pipeline.of(Does(what=transpose)), model)
    assert caught.value.__cause__ is not None
    assert format_model(model) == before


def test_feeds_that_do_not_fit_are_not_the_pass_s_fault() -> None:
    feeds = [{"x": np.ones((2, 5), np.float32)}]
    with pytest.raises(Exception) as caught:  # the runtime's own
        run_pipeline(Pipeline.of(Does()), perceptron(), Context(feeds=feeds))
    assert not isinstance(caught.value, PassError)


def test_calibration_feeds_are_what_is_measured_on() -> None:
    """With x = 0 and no bias, dropping a weight's sign changes nothing."""
    flip = promised(Exact(), scale_of("w", -1.0), "flip")
    zeros = [{"x": np.zeros((1, 8), np.float32)}]
    report = run_pipeline(Pipeline.of(flip), perceptron(), Context(feeds=zeros))
    assert report.passes[0].loss == 0.0
    with pytest.raises(ContractError):
        run_pipeline(Pipeline.of(flip), perceptron(), Context(feeds=[*zeros, {"x": np.ones((1, 8), np.float32)}]))


class TestUpgrade:
    def test_it_comes_before_the_first_pass_that_needs_it(self) -> None:
        model = perceptron(opset=18)
        report = run_pipeline(Pipeline.of("drop-identities,raise-gelu,raise-attention"), model)
        assert [record.text for record in report.passes] == [
            "drop-identities",
            "upgrade-opset",
            "raise-gelu",
            "raise-attention",
        ]
        assert model.opset_imports[""] == SEMANTIC_OPSET

    @pytest.mark.parametrize(
        ("text", "opset", "ran"),
        [
            ("drop-identities", 18, ["drop-identities"]),
            ("raise-gelu", SEMANTIC_OPSET, ["raise-gelu"]),
            ("upgrade-opset,raise-gelu", 18, ["upgrade-opset", "raise-gelu"]),
        ],
    )
    def test_it_comes_only_where_it_is_needed(self, text: str, opset: int, ran: list[str]) -> None:
        report = run_pipeline(Pipeline.of(text), perceptron(opset=opset))
        assert [record.text for record in report.passes] == ran

    def test_a_model_that_stays_behind_is_the_model_s_fault(self) -> None:
        model = graph("y = NoSuchOp(x)", opset=15)
        with pytest.raises(ModelError, match="the pass raise-gelu reads opset 23; no converter"):
            run_pipeline(Pipeline.of("raise-gelu"), model, verify=Verify.OFF)


class TestSignature:
    def model(self) -> ir.Model:
        return graph(
            "h = MatMul(x, w)", "a = Relu(h)", "b = Neg(h)", inputs={"x": "float[n, 4]"}, w=np.eye(4, dtype="f")
        )

    def test_a_pass_that_may_change_it_is_measured_on_what_is_left(self) -> None:
        model = self.model()
        report = run_pipeline(Pipeline.of("drop-identities,drop-outputs{keep=b},infer-shapes"), model)
        assert lines(model) == ["h = MatMul(x, w)", "b = Neg(h)"]
        assert report.passes[1].loss == 0.0

    def test_the_passes_around_it_may_not(self) -> None:
        steps = Pipeline.of(["drop-outputs{keep=b}", promised(Exact(), rename_output, "renames")])
        with pytest.raises(PassError, match="the pass renames broke the graph: outputs were"):
            run_pipeline(steps, self.model())


class TestReport:
    def test_each_pass_has_a_record(self) -> None:
        model = graph("a = Identity(x)", "k = Add(p, q)", "y = Mul(a, k)", inputs={"x": "float[4]"}, p=1.0, q=2.0)
        report = run_pipeline(Pipeline.of("drop-identities,(fold-constants{limit=9}),raise-gelu"), model)
        first, second, third = report.passes
        assert (first.matches, first.misses, first.text) == (1, (), "drop-identities")
        assert (first.before.nodes, first.after.nodes) == (3, 2)
        assert (second.text, second.before.bytes, second.after.bytes) == ("fold-constants{limit=9}", 8, 4)
        assert third.matches == 0
        assert report.changed
        assert report.seconds == sum(record.seconds for record in report.passes) > 0

    def test_misses_carry_their_reasons(self) -> None:
        model = graph("e = Erf(x)", "y = Exp(e)", inputs={"x": "float[4]"})
        (record,) = run_pipeline(Pipeline.of("raise-gelu"), model).passes
        (miss,) = record.to_dict()["misses"]  # type: ignore[misc]
        assert miss == {
            "place": "Erf at e",
            "sources": ["e"],
            "rule": "function",
            "value": "e",
            "need": "0.5 x (1 + erf(x / sqrt 2)) or its tanh approximation",
            "near": False,
            "scope": "",
        }

    def test_as_data_it_says_everything(self) -> None:
        (data,) = run_pipeline(Pipeline.of("drop-identities"), perceptron()).to_dict()
        assert data["pass"] == "drop-identities"
        assert data["contract"] == "exact (relative L2 <= 1e-05)"
        assert (data["lossy"], data["matches"], data["misses"], data["loss"]) == (False, 0, [], 0.0)
        assert data["nodes"] == [5, 5]
        assert data["bytes"] == [2 * 4 * (64 + 8)] * 2

    def test_nothing_done_is_no_change(self) -> None:
        report = run_pipeline(Pipeline.of("drop-identities"), perceptron())
        assert not report.changed
        assert not run_pipeline(Pipeline(), perceptron()).passes

    def test_reports_add_up(self) -> None:
        one = run_pipeline(Pipeline.of("drop-identities"), perceptron())
        two = run_pipeline(Pipeline.of("fold-constants"), perceptron())
        assert [record.text for record in (one + two).passes] == ["drop-identities", "fold-constants"]

    def test_in_print_it_is_a_table(self) -> None:
        rows = str(run_pipeline(Pipeline.of("drop-identities,fold-constants"), perceptron())).splitlines()
        assert rows[0].split() == ["pass", "fired", "missed", "nodes", "MB", "ms", "loss"]
        assert [row.split()[0] for row in rows[1:]] == ["drop-identities", "fold-constants"]

    def test_a_tensor_that_two_names_share_counts_once(self) -> None:
        shared = ir.tensor(np.ones(4, np.float32), name="w")
        model = graph("a = Mul(x, w)", "y = Mul(a, v)", w=np.ones(4, np.float32), v=np.ones(4, np.float32))
        for name in ("w", "v"):
            model.graph.initializers[name].const_value = shared
        (record,) = run_pipeline(Pipeline.of("drop-identities"), model, verify=Verify.OFF).passes
        assert record.before.bytes == 16

    def test_an_observer_is_told_each_pass_before_it_starts(self) -> None:
        told: list[str] = []
        run_pipeline(Pipeline.of("drop-identities,(fold-constants)"), perceptron(), observe=told.append)
        assert told == ["drop-identities", "fold-constants"]
