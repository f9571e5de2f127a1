"""Bits by sensitivity: under each kind of budget, better than the same bits for all, as predicted, and told of."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context, Outcome
from tersor.passes.drop import Drop
from tersor.passes.pipeline import Pipeline
from tersor.passes.quantize.budget import Budget, Item, Option
from tersor.passes.quantize.curvature import Sensitivity
from tersor.passes.quantize.mix_precision import MixPrecision
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.report import Size
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.support import inside_if

#: What the layers of the model do to its answers: the second almost nothing.
STRENGTHS = (1.0, 0.02, 0.5, 1.0)


@cache
def _source() -> ir.Model:
    """Tokens that go through four layers, each added to what they were."""
    rng = np.random.default_rng(4)
    text, last = ["x0 = Gather(table, ids)"], "x0"
    weights = {"table": rng.standard_normal((64, 32)).astype(np.float32)}
    for index, strength in enumerate(STRENGTHS):
        weights[f"w{index}"] = (rng.standard_normal((32, 48)) / 6).astype(np.float32)
        weights[f"v{index}"] = (strength * rng.standard_normal((48, 32)) / 7).astype(np.float32)
        text += [
            f"h{index} = MatMul({last}, w{index})",
            f"t{index} = Tanh(h{index})",
            f"o{index} = MatMul(t{index}, v{index})",
        ]
        text += [f"x{index + 1} = Add({last}, o{index})"]
        last = f"x{index + 1}"
    return graph(*text, inputs={"ids": "int64[batch, sequence]"}, **weights)


def _weight() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((32, 48)).astype(np.float32) / 6


def _batches(seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"ids": rng.integers(0, 64, (4, 8))} for _ in range(6)]


def _context() -> Context:
    return Context(calibration=Calibration(_batches(0)))


def _measured(model: ir.Model, changed: ir.Model) -> float:
    """The drop on batches that nothing was calibrated on."""
    drop = Drop.of(model)
    found = [drop.measure(runner(model)(feeds), runner(changed)(feeds), feeds) for feeds in _batches(1)]
    return sum(total for total, _ in found) / sum(count for _, count in found)


def _model() -> ir.Model:
    return _source().clone()


MIX = MixPrecision(budget="4 bits", embeddings=True, group=16)
SAME = QuantizeWeights(bits=4, embeddings=True, group=16)


def _bits(found: Outcome) -> dict[str, int]:
    return {item.place.split(" ")[0]: int(item.chosen.split(" ")[0]) for item in found.findings if item.chosen}


def _average(bits: dict[str, int], model: ir.Model) -> float:
    sizes = {name: model.graph.initializers[name].const_value.size for name in bits}
    return sum(bits[name] * sizes[name] for name in bits) / sum(sizes.values())


def _applied(made: MixPrecision) -> tuple[ir.Model, Outcome]:
    model = _model()
    return model, made.apply(model, _context())


@pytest.mark.parametrize("sensitivity", ["output", "alone", "hessian", "fisher"])
def test_mixed_bits_drop_less_than_the_same_for_all_and_as_much_as_predicted(sensitivity: Sensitivity) -> None:
    model, found = _applied(replace(MIX, sensitivity=sensitivity))
    same = _model()
    SAME.apply(same, _context())
    bits, measured = _bits(found), _measured(_model(), model)
    assert set(bits) == {"table", *(f"{name}{index}" for index in range(4) for name in "wv")}
    assert _average(bits, _model()) <= 4
    assert measured < _measured(_model(), same)
    assert found.curve is not None
    assert measured / 2 < found.curve.chosen[1] < measured * 2
    # what hardly reaches the answers takes fewer bits than what does
    assert bits["v1"] < bits["v0"]
    assert bits["w1"] < bits["w0"]


@pytest.mark.parametrize(("algorithm", "clip"), [("gptq", False), ("gptq", True), ("hqq", False), ("awq", False)])
def test_any_algorithm_stores_the_bits_that_were_chosen(algorithm: str, clip: bool) -> None:
    made = replace(MIX, algorithm=algorithm, clip=clip)  # type: ignore[arg-type]
    model, found = _applied(made)
    for name, bits in _bits(found).items():
        stored = next(key for key in model.graph.initializers if key.startswith(f"{name}_quantized"))
        count = _model().graph.initializers[name].const_value.size
        assert model.graph.initializers[stored].const_value.nbytes == count * bits // 8
    measured, curve = _measured(_model(), model), found.curve
    assert curve is not None
    # what is fitted to data drops less than predicted
    assert curve.chosen[1] / 4 < measured < curve.chosen[1] * 2
    assert measured < 0.05


def test_bytes_are_those_of_all_constants() -> None:
    whole = Size.of(_model()).bytes
    model, found = _applied(replace(MIX, budget="11 kB"))
    assert whole > 50_000
    assert found.curve is not None
    assert 9_000 < Size.of(model).bytes <= 11_000
    assert found.curve.chosen[0] == pytest.approx(Size.of(model).bytes / 1e6, abs=9 * 128 / 1e6)


def test_a_drop_is_met_at_the_least_size() -> None:
    model, found = _applied(replace(MIX, budget="0.002 drop"))
    assert found.curve is not None
    assert 0.001 < found.curve.chosen[1] <= 0.002
    assert _measured(_model(), model) < 0.004
    finer, _ = _applied(replace(MIX, budget="0.0005 drop"))
    assert Size.of(model).bytes < Size.of(finer).bytes


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("1.9 bits", "of 1.9 bits cannot be met: from 2 bits to 8 bits is possible"),
        ("1 kB", r"of 0\.001 MB cannot be met: from 0\.00\d+ MB to 0\.0\d+ MB is possible"),
        ("1e-9 drop", r"of 1e-09 drop cannot be met: from \S+ to \S+ is possible"),
    ],
)
def test_what_cannot_be_met_says_what_can(budget: str, told: str) -> None:
    model = _model()
    before = lines(model)
    with pytest.raises(OptionError, match=told):
        replace(MIX, budget=budget).apply(model, _context())
    assert lines(model) == before


@pytest.mark.parametrize("text", ["5", "bits", "5 apples", "-1 bits", "", "5 bits 3"])
def test_budgets_need_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(OptionError, match=r"a budget such as '5\.0 bits'"):
        MixPrecision(budget=text)


@pytest.mark.parametrize(
    "options", [{"bits": ()}, {"bits": (4, 4)}, {"bits": (1, 4)}, {"bits": (4, 9)}, {"probes": 0}, {"group": -1}]
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="mix-precision: expected"):
        MixPrecision(**options)  # type: ignore[arg-type]


def test_weights_may_stay_as_they_are() -> None:
    model, found = _applied(replace(MIX, budget="1e-7 drop", keep=True))
    kept = [item for item in found.findings if item.miss is not None and item.miss.rule == "kept"]
    assert kept
    assert all(item.place.split(" ")[0] in model.graph.initializers for item in kept)
    assert _measured(_model(), model) < 2e-7


def test_what_would_be_no_smaller_stays() -> None:
    """In groups of one every weight has a scale of its own."""
    assert {
        finding.miss.rule for finding in replace(MIX, group=1).explain(_model(), Context()).misses if finding.miss
    } == {"bytes"}


def test_bits_that_make_a_weight_no_smaller_are_not_chosen_for_it() -> None:
    """Factors of rank 16 leave a matrix smaller in at most 4 bits; tables have none."""
    made = replace(MIX, budget="8 bits", group=0, rank=16, bits=(3, 4, 5, 8))
    for scales in (32, 48):
        assert [b for b in made.bits if 1536 * b // 8 + 4 * (scales + 16 * (32 + 48)) < 1536 * 4] == [3, 4]
    model, found = _applied(made)
    bits = _bits(found)
    assert bits.pop("table") == 8
    assert len(bits) == 8
    assert set(bits.values()) == {4}
    assert Size.of(model).bytes < Size.of(_model()).bytes
    rules = {item.miss.rule for item in replace(made, bits=(5, 8)).explain(_model(), Context()).misses if item.miss}
    assert rules == {"bytes"}


def test_without_data_it_says_what_to_give() -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        MIX.apply(_model(), Context())


def test_nothing_to_choose_needs_no_data() -> None:
    assert MIX.apply(graph("y = Relu(x)"), Context()) == Outcome()


def test_explaining_with_data_tells_the_choice_and_changes_nothing() -> None:
    model = _model()
    before = lines(model)
    told = MIX.explain(model, _context())
    assert lines(model) == before
    assert (told.curve, _bits(told)) == (_applied(MIX)[1].curve, _bits(_applied(MIX)[1]))
    assert MIX.explain(model, Context()).curve is None


def test_weights_that_gradients_do_not_reach_are_run_alone() -> None:
    model = inside_if(graph("h = MatMul(x, w)", "y = Tanh(h)", inputs={"x": "float[batch, 32]"}, w=_weight()))
    for index, branch in enumerate(model.graph.subgraphs()):
        own = ir.Value(name=f"w{index}", const_value=ir.tensor(_weight() + index, name=f"w{index}"))
        next(node for node in branch if node.op_type == "MatMul").replace_input_with(1, own)
        branch.register_initializer(own)
    del model.graph.initializers["w"]
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((4, 32)).astype(np.float32) for _ in range(4)]
    # the second branch is never taken: its bits do not matter
    context = Context(calibration=Calibration([{"cond": np.array(True), "x": each} for each in rows]))
    found = MixPrecision(budget="5 bits", group=16, bits=(2, 8)).apply(model, context)
    assert sorted(_bits(found).values()) == [2, 8]
    assert found.curve is not None
    assert 0 < found.curve.chosen[1] < found.curve.others[0][2]


def test_weights_before_a_rounding_are_run_alone() -> None:
    text = ["h = MatMul(x, w)", "q = QuantizeLinear(h, step)", "d = DequantizeLinear(q, step)", "y = Tanh(d)"]
    model = graph(*text, inputs={"x": "float[batch, 32]"}, w=_weight(), step=np.float32(0.02))
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((4, 32)).astype(np.float32)} for _ in range(2)]
    context = Context(calibration=Calibration(feeds))
    found = MixPrecision(budget="0.001 drop", group=16).apply(model, context)
    assert found.curve is not None
    assert 0 < found.curve.chosen[1] <= 0.001
    assert found.curve.others[0][2] > 0.001


def test_kl_is_measured_on_the_outputs_that_are_named() -> None:
    _, found = _applied(replace(MIX, drop="kl", outputs=("x4",)))
    assert found.curve is not None
    assert _average(_bits(found), _model()) <= 4
    with pytest.raises(OptionError, match="no output 'z'"):
        replace(MIX, outputs=("z",)).apply(_model(), _context())


def test_the_report_holds_the_curve_and_the_choice() -> None:
    model, context = _model(), _context()
    (record,) = run_pipeline(Pipeline(steps=(MIX,)), model, context, verify=Verify.OFF).to_dict()
    curve, chosen = record["curve"], record["chosen"]
    assert isinstance(curve, dict)
    assert isinstance(chosen, list)
    assert len(chosen) == record["matches"] == 9
    xs, ys = zip(*curve["points"], strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys, reverse=True)
    assert [name for name, *_ in curve["others"]] == [f"all {bits} bits" for bits in range(2, 9)]
    # the curve is no worse than the same bits for all
    for _, x, y in curve["others"]:
        assert min(best for at, best in curve["points"] if at <= x + 0.2) <= y


def test_a_plan_is_the_best_of_all_there_are() -> None:
    items = [
        Item(10, tuple(Option(bits, 2 * bits, strength / bits) for bits in (2, 4, 8))) for strength in (1.0, 4.0, 16.0)
    ]
    plan = Budget.parse("4.7 bits").plan(items)
    assert [way.bits for way in plan.taken] == [2, 4, 8]
    assert plan.curve.chosen == (pytest.approx(14 / 3), pytest.approx(0.5 + 1 + 2))
    whole = Budget.parse("128 B").plan(items, rest=100)
    assert [way.bits for way in whole.taken] == [2, 4, 8]
    assert Budget.parse("3.5 drop").plan(items).taken == plan.taken
