"""Recurrent layers through fewer features: what every kind answers, which weights share, what is left."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Candidate, Context, Miss, Pass
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.factorize.factorize_recurrent import FactorizeRecurrent
from tersor.passes.factorize.timing import Thin
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_factorize import stacked_recurrence
from tersor.tests.passes.factorize.recurrent import (
    GATES,
    HIDDEN,
    IN,
    RANK,
    RNG,
    SIZES,
    calibrated,
    factored,
    noise,
    numbers,
    stacked,
)
from tersor.tests.support import ROUNDED, apply, distance, holds, inside_if, installed, misses

#: Every kind of layer, with what the steps written out do not take.
KINDS: Mapping[str, tuple[Mapping[str, object], str]] = {
    **{f"{op}, {way}": ({"op": op, "direction": way}, "") for op in GATES for way in ("forward", "reverse")},
    **{f"{op}, both": ({"op": op, "direction": "bidirectional"}, "") for op in GATES},
    "LSTM, states": ({"op": "LSTM", "extra": ", _, s, e"}, ""),
    "GRU, states, both": ({"op": "GRU", "direction": "bidirectional", "extra": ", _, s"}, ""),
    "GRU, before the reset": ({"op": "GRU", "options": ", linear_before_reset=1"}, ""),
    "GRU, before the reset, both": (
        {"op": "GRU", "direction": "bidirectional", "options": ", linear_before_reset=1"},
        "",
    ),
    "LSTM, lengths": ({"op": "LSTM", "extra": ", lens"}, "lengths"),
    "LSTM, batch first": ({"op": "LSTM", "batch": True}, "layout"),
    "GRU, batch first, both": ({"op": "GRU", "direction": "bidirectional", "batch": True}, "layout"),
    "LSTM, clip": ({"op": "LSTM", "options": ", clip=0.5"}, "clip"),
    "LSTM, coupled": ({"op": "LSTM", "options": ", input_forget=1"}, "input_forget"),
    "RNN, Relu": ({"op": "RNN", "options": ", activations=['Relu']"}, "activations"),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("recurrent", ["weight", "loop"])
def test_weights_of_few_directions_lose_nothing(name: str, recurrent: str) -> None:
    options, refused = KINDS[name]
    model = stacked(**options)  # type: ignore[arg-type]
    made = model.clone()
    rank = 2 * RANK if refused and recurrent == "loop" and "both" in name else RANK
    found = factored(FactorizeRecurrent(rank=rank, recurrent=recurrent, shared="always", smallest=1), made)  # type: ignore[arg-type]
    left = {finding.miss.rule for finding in found.misses if finding.miss is not None}
    assert left == ({refused} if refused and recurrent == "loop" else set())
    feeds = random_feeds(model, SIZES, seed=1)
    feeds |= {"lens": np.array([5, 2, 3], np.int32)} if "lens" in feeds else {}
    assert compare(runner(model), runner(made), [feeds]).relative_l2 <= ROUNDED[np.float32]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("recurrent", ["weight", "loop"])
@pytest.mark.parametrize("name", ["LSTM, both", "GRU, reverse", "GRU, before the reset", "RNN, forward"])
def test_every_runtime_computes_what_the_graph_says(name: str, recurrent: str, backend: str) -> None:
    model = stacked(**KINDS[name][0])  # type: ignore[arg-type]
    factored(FactorizeRecurrent(rank=4, recurrent=recurrent), model)  # type: ignore[arg-type]
    feeds = random_feeds(model, SIZES, seed=1)
    expected = runner(model)(feeds)
    target = installed(backend)
    run_pipeline(target.pipeline(), model, verify=Verify.OFF)
    found = target.compile(model).run(feeds)
    assert distance([found[each] for each in expected], list(expected.values())) <= ROUNDED[np.float32]


def test_the_graph_reads_as_the_docstring_draws_it() -> None:
    model = stacked("LSTM")
    assert apply(FactorizeRecurrent(rank=RANK, shared="always"), model) == [
        "y0/MatMul = MatMul(x, w0_projection)",
        "y0/Transpose = Transpose{perm=[1, 0]}(r0_projection)",
        "y0/MatMul_1 = MatMul(r0_factor, y0/Transpose)",
        f"(y0, _, _) = LSTM{{direction=forward, hidden_size={HIDDEN}}}(y0/MatMul, w0_factor, y0/MatMul_1, b0)",
        "m = Squeeze(y0, const_6)",
        "y/MatMul = MatMul(m, r0_projection)",
        "y/Transpose = Transpose{perm=[1, 0]}(r1_projection)",
        "y/MatMul_1 = MatMul(r1_factor, y/Transpose)",
        f"(y, h, _) = LSTM{{direction=forward, hidden_size={HIDDEN}}}(y/MatMul, w1_factor, y/MatMul_1, b1)",
    ]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("batch", [False, True])
def test_the_layer_above_reads_the_projection_of_the_states(direction: str, batch: bool) -> None:
    model = stacked("LSTM", direction, batch=batch)
    found = factored(FactorizeRecurrent(rank=RANK, shared="always"), model)
    ways = 2 if direction == "bidirectional" else 1
    assert [finding.chosen for finding in found.findings].count("rank 6, that of the states below") == ways
    assert "w1_projection" not in model.graph.initializers
    held = model.graph.initializers["r0_projection"]
    assert len(held.uses()) == 1 + ways


def test_what_is_no_state_of_a_layer_is_projected_by_itself() -> None:
    model = stacked("LSTM")
    squeeze = next(node for node in model.graph if node.op_type == "Squeeze")
    relu = ir.Node("", "Relu", [squeeze.outputs[0]])
    relu.outputs[0].name, relu.outputs[0].type = "k", squeeze.outputs[0].type
    relu.outputs[0].shape = squeeze.outputs[0].shape
    model.graph.insert_after(squeeze, relu)
    next(node for node in model.graph if "h" in {v.name for v in node.outputs}).replace_input_with(0, relu.outputs[0])
    factored(FactorizeRecurrent(rank=RANK, shared="always"), model)
    assert "w1_projection" in model.graph.initializers


def test_sharing_is_taken_where_less_is_lost() -> None:
    shared = stacked("LSTM")
    # 6 (24 + 128) + 6 (32 + 256) + 6 (32 + 128) numbers of 15360; with a projection for each weight it is 192 more
    found = factored(FactorizeRecurrent(ratio=0.24, multiple=1), shared)
    assert any("that of the states below" in finding.chosen for finding in found.findings)
    apart = stacked("LSTM")
    held = apart.graph.initializers["w1"]
    # other directions than those of R
    held.const_value = ir.tensor((noise(HIDDEN, 2) @ noise(2, 4 * HIDDEN)).T[None].astype(np.float32))
    found = factored(FactorizeRecurrent(ratio=0.21, multiple=1), apart)
    assert not any("that of the states below" in finding.chosen for finding in found.findings)


@pytest.mark.parametrize("algorithm", ["svd", "joint", "whitened"])
@pytest.mark.parametrize("shared", ["always", "never", "auto"])
@pytest.mark.parametrize("ratio", [0.8, 0.4])
def test_the_ratio_is_kept_and_nearly_used(ratio: float, shared: str, algorithm: str) -> None:
    model = stacked("GRU")
    for name in ("w0", "r0", "w1", "r1"):
        held = model.graph.initializers[name]
        held.const_value = ir.tensor(noise(*held.const_value.shape).astype(np.float32))
    whole = numbers(model)
    made = FactorizeRecurrent(ratio=ratio, shared=shared, algorithm=algorithm, multiple=1)  # type: ignore[arg-type]
    found = factored(made, model, calibrated(model))
    assert ratio * whole * 0.93 <= numbers(model) <= ratio * whole
    assert found.curve is not None and found.curve.chosen[0] == pytest.approx(numbers(model) / whole)


def test_on_the_data_whitened_loses_less_than_the_papers_way() -> None:
    model = stacked("LSTM")
    for name in ("w0", "r0", "w1", "r1"):
        held = model.graph.initializers[name]
        held.const_value = ir.tensor(noise(*held.const_value.shape).astype(np.float32))
    scales = np.exp(RNG.standard_normal(IN)).astype(np.float32)
    batches = [{"x": (scales * noise(40, 8, IN)).astype(np.float32)} for _ in range(3)]
    lost = {}
    for algorithm in ("svd", "whitened"):
        made = model.clone()
        options = FactorizeRecurrent(rank=8, shared="always", algorithm=algorithm)  # type: ignore[arg-type]
        factored(options, made, Context(calibration=Calibration(batches)))
        lost[algorithm] = compare(runner(model), runner(made), batches).relative_l2
    assert lost["whitened"] < lost["svd"]


@pytest.mark.parametrize(("energy", "rank"), [(0.999999, 6), (1e-6, 2)])
def test_energy_decides_the_rank_of_each(energy: float, rank: int) -> None:
    model = stacked("LSTM")
    found = factored(FactorizeRecurrent(energy=energy, multiple=2, shared="always"), model)
    assert {finding.chosen.split(";")[0].split(",")[0] for finding in found.findings} == {f"rank {rank}"}


def test_constant_folding_leaves_the_factors() -> None:
    for direction in ("forward", "bidirectional"):
        model = stacked("LSTM", direction)
        factored(FactorizeRecurrent(rank=RANK, shared="always"), model)
        before = numbers(model)
        FoldConstants().apply(model, Context())
        assert numbers(model) == before


def test_half_floats_stay_so() -> None:
    model = graph(
        "(y, h, _) = LSTM{hidden_size=32}(x, w, r)", inputs={"x": "float16[time, batch, 24]"}, outputs=["y", "h"],
        w=noise(1, 128, 24).astype(np.float16), r=noise(1, 128, 32).astype(np.float16),
    )  # fmt: skip
    stepped = {miss.rule for miss in misses(FactorizeRecurrent(recurrent="loop"), model)}
    assert stepped == {"dtype"}
    factored(FactorizeRecurrent(rank=4), model)
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.FLOAT16}


_LSTM = ("(y, h, _) = LSTM{hidden_size=32}(x, w, r)",)
_X = {"x": f"float[time, batch, {IN}]"}
_WEIGHTS = {"w": noise(1, 128, IN).astype(np.float32), "r": noise(1, 128, HIDDEN).astype(np.float32)}


def lstm(**more: np.ndarray) -> ir.Model:
    return graph(*_LSTM, inputs=_X, outputs=["y", "h"], **(_WEIGHTS | more))


#: Graphs, options, and the rules of the misses.
LEFT: Mapping[str, tuple[ir.Model, Mapping[str, object], set[str]]] = {
    "a linear layer": (graph("y = MatMul(x, w)", inputs=_X, w=noise(IN, 64).astype(np.float32)), {}, {"kind"}),
    "small": (lstm(), {"smallest": 10_000}, {"size"}),
    "ignored": (lstm(), {"ignore": ("*",)}, {"ignore"}),
    "no number": (lstm(w=_WEIGHTS["w"] * np.nan, r=_WEIGHTS["r"] * np.inf), {}, {"finite"}),
    "one weight of two layers": (
        graph(*_LSTM, "(z, _, _) = LSTM{hidden_size=32}(x, w, r)", inputs=_X, outputs=["y", "h", "z"], **_WEIGHTS),
        {},
        {"tied"},
    ),
    "peepholes, written out": (
        graph(
            '(y, h, _) = LSTM{hidden_size=32}(x, w, r, b, _, _, _, p)', inputs=_X, outputs=["y", "h"], **_WEIGHTS,
            b=np.zeros((1, 256), np.float32), p=noise(1, 96).astype(np.float32),
        ),
        {"recurrent": "loop", "ignore": ("kind:recurrent-input",)},
        {"peepholes", "ignore"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "options", "rules"), LEFT.values(), ids=LEFT)
def test_leaves_alone(model: ir.Model, options: Mapping[str, object], rules: set[str]) -> None:
    found = misses(FactorizeRecurrent(**options), model)  # type: ignore[arg-type]
    assert found and {miss.rule for miss in found} == rules


@pytest.mark.parametrize("rank", [16, 32, 100])
def test_a_rank_that_saves_nothing_is_a_miss(rank: int) -> None:
    square = noise(1, HIDDEN, HIDDEN).astype(np.float32)
    model = graph("(y, h) = RNN{hidden_size=32}(x, w, r)", inputs={"x": "float[t, b, 32]"}, outputs=["y", "h"],
                  w=square, r=square + 1)  # fmt: skip
    before = lines(model)
    found = factored(FactorizeRecurrent(rank=rank, smallest=1), model)
    need = "a rank at which the factors have fewer numbers"
    assert {finding.miss for finding in found.findings} == {Miss("rank", str(rank), need)}
    assert lines(model) == before


def test_what_calibration_does_not_see_is_a_miss() -> None:
    model = inside_if(stacked("LSTM"))
    found = factored(FactorizeRecurrent(smallest=1, algorithm="whitened"), model, calibrated(model))
    assert not found.matches


@pytest.mark.parametrize("recurrent", ["weight", "loop"])
@pytest.mark.parametrize("ratio", [0.7, 0.4])
def test_a_second_application_takes_nothing_more(ratio: float, recurrent: str) -> None:
    model = stacked("LSTM", "bidirectional")
    made = FactorizeRecurrent(ratio=ratio, recurrent=recurrent)  # type: ignore[arg-type]
    assert factored(made, model).matches
    before = lines(model)
    assert not factored(made, model).matches
    assert lines(model) == before


@pytest.mark.parametrize(("slow", "stepped"), [(None, 2), (Miss("speed", "half", "more"), 0)])
def test_steps_are_written_out_where_that_pays(slow: Miss | None, stepped: int) -> None:
    asked: list[bool] = []

    def pays(made: Pass, model: ir.Model, site: Candidate) -> Miss | None:
        assert isinstance(made, Thin) and made.rank == RANK
        asked.append(made.hidden)
        return slow if made.hidden else None

    model = stacked("LSTM")
    factored(FactorizeRecurrent(rank=RANK), model, Context(pays=pays))
    assert sum(node.op_type == "ProjectedLSTM" for node in model.graph) == stepped
    assert asked.count(True) == 2
    plain = stacked("LSTM")
    factored(FactorizeRecurrent(rank=RANK), plain)
    assert not any(node.op_type == "ProjectedLSTM" for node in plain.graph)


def test_holds_its_contract() -> None:
    holds(FactorizeRecurrent(ratio=0.5), stacked_recurrence(), SIZES)


@pytest.mark.parametrize(
    "options",
    [{"ratio": 0}, {"ratio": 1.5}, {"rank": 0}, {"energy": 0.0}, {"energy": 2.0}, {"rank": 3, "energy": 0.5},
     {"multiple": 0}, {"ratio": 0.5, "rank": 3}, {"ratio": 0.5, "budget": "0.5 bytes"}],
    ids=str,
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="factorize-recurrent: expected"):
        FactorizeRecurrent(**options)  # type: ignore[arg-type]


def test_a_ratio_that_cannot_be_kept_says_what_can() -> None:
    with pytest.raises(OptionError, match=r"a budget of 0\.01 weights cannot be kept"):
        FactorizeRecurrent(ratio=0.01).apply(lstm(), Context())


def test_data_are_asked_for_where_they_are_needed() -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        FactorizeRecurrent(algorithm="whitened").apply(lstm(), Context())
