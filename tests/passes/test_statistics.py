"""Calibration: what is gathered, on which rows, in how many runs, and how long it stays true."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.text import graph
from tersor.passes.accumulators import AbsMax, Gram, Range, TokenCounts
from tersor.passes.base import Context
from tersor.passes.statistics import Calibration, Want
from tersor.tests.support import inside_if

W = np.eye(4, dtype=np.float32) * 2
TOKENS = "float[batch, sequence, 4]"


def _masked() -> ir.Model:
    """A sentence encoder in small: its mask is one because it decides."""
    return graph(
        "h = MatMul(x, w)",
        "b = Cast{to=9}(mask)",
        "m = Unsqueeze(b, last)",
        "y = Where(m, h, zero)",
        "p = ReduceSum{keepdims=0}(y, first)",
        "q = MatMul(p, w)",
        inputs={"x": TOKENS, "mask": "int64[batch, sequence]"},
        outputs=["q"],
        w=W,
        last=[-1],
        zero=0.0,
        first=[1],
    )


def _value(model: ir.Model, name: str) -> ir.Value:
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return next(value for value in values if value.name == name)


def _batches(count: int = 3, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    made = []
    for width in range(2, 2 + count):
        mask = np.ones((2, width), np.int64)
        mask[1, width - 1 :] = 0
        made.append({"x": rng.standard_normal((2, width, 4)).astype(np.float32), "mask": mask})
    return made


def test_only_real_tokens_count() -> None:
    model, batches = _masked(), _batches()
    for batch in batches:
        batch["x"][batch["mask"] == 0] = 1e6
    h = _value(model, "h")
    found = Calibration(batches).gather(model, [Want(h, Range), Want(h, Gram, 4)])
    rows = np.concatenate([batch["x"][batch["mask"] != 0] for batch in batches]).astype(np.float64) @ W
    seen, gram = found.of(h, Range), found.of(h, Gram)
    assert (seen.low, seen.high) == (rows.min(), rows.max())
    assert gram.count == len(rows)
    np.testing.assert_allclose(gram.matrix, rows.T @ rows, rtol=1e-6)


def test_what_has_no_tokens_counts_whole() -> None:
    model, batches = _masked(), _batches()
    pooled = _value(model, "p")
    assert Calibration(batches).gather(model, [Want(pooled, Gram, 4)]).of(pooled, Gram).count == 2 * len(batches)


def test_an_input_is_read_as_it_is_fed() -> None:
    model, batches = _masked(), _batches()
    x = _value(model, "x")
    found = Calibration(batches).gather(model, [Want(x, AbsMax, 4)]).of(x, AbsMax)
    rows = np.concatenate([batch["x"][batch["mask"] != 0] for batch in batches])
    np.testing.assert_array_equal(found.largest, np.abs(rows).max(0))


def test_ids_are_counted_without_their_padding() -> None:
    model = graph(
        "e = Gather(table, ids)",
        "b = Cast{to=9}(mask)",
        "m = Unsqueeze(b, last)",
        "y = Where(m, e, zero)",
        inputs={"ids": "int64[batch, sequence]", "mask": "int64[batch, sequence]"},
        outputs=["y"],
        table=np.ones((5, 4), np.float32),
        last=[-1],
        zero=0.0,
    )
    ids = _value(model, "ids")
    feeds = {"ids": np.array([[1, 2, 0], [1, 0, 0]]), "mask": np.array([[1, 1, 0], [1, 0, 0]])}
    counts = Calibration([feeds]).gather(model, [Want(ids, TokenCounts, 5)]).of(ids, TokenCounts)
    assert counts.count == 3
    assert counts.counts.tolist() == [0, 2, 1, 0, 0]


def test_one_run_for_all_that_is_wanted_and_none_for_what_is_known() -> None:
    model = _masked()
    h, pooled = _value(model, "h"), _value(model, "p")
    calibration = Calibration(_batches())
    first = calibration.gather(model, [Want(h, Range), Want(h, Gram, 4), Want(pooled, Range)])
    again = calibration.gather(model, [Want(pooled, Range)])
    assert calibration.runs == 1
    assert again.of(pooled, Range) is first.of(pooled, Range)


def test_statistics_of_what_lies_before_a_change_stay_and_those_behind_it_go() -> None:
    model = _masked()
    x, h, pooled = (_value(model, name) for name in "xhp")
    calibration = Calibration(_batches())
    before = calibration.gather(model, [Want(x, Range), Want(h, Range), Want(pooled, Range)])
    model.graph.initializers["w"].const_value = ir.tensor(W * 3)
    after = calibration.gather(model, [Want(x, Range), Want(h, Range), Want(pooled, Range)])
    assert calibration.runs == 2
    assert after.of(x, Range) is before.of(x, Range)
    assert after.of(h, Range).high == pytest.approx(3 * before.of(h, Range).high)


def test_what_has_changed_is_let_go() -> None:
    model = _masked()
    calibration = Calibration(_batches())
    weight = weakref.ref(model.graph.initializers["w"].const_value)
    gram = weakref.ref(calibration.gather(model, [Want(_value(model, "h"), Gram, 4)]).of(_value(model, "h"), Gram))
    assert gram() is not None
    model.graph.initializers["w"].const_value = ir.tensor(W * 3)
    calibration.gather(model, [Want(_value(model, "h"), Range)])
    gc.collect()
    assert gram() is None
    assert weight() is None


def test_a_node_put_before_a_value_makes_it_new() -> None:
    model = _masked()
    h = _value(model, "h")
    calibration = Calibration(_batches())
    calibration.gather(model, [Want(h, Range)])
    node = h.producer()
    assert node is not None
    relu = ir.node("Relu", [node.inputs[0]])
    model.graph.insert_before(node, relu)
    node.replace_input_with(0, relu.outputs[0])
    found = calibration.gather(model, [Want(h, Range)])
    assert calibration.runs == 2
    assert found.of(h, Range).low == 0.0


def test_a_change_inside_a_branch_makes_what_comes_after_it_new() -> None:
    model = inside_if(graph("y = MatMul(x, w)", inputs={"x": "float[2, 4]"}, w=W))
    y = _value(model, "y")
    calibration = Calibration([{"x": np.ones((2, 4), np.float32), "cond": np.array(True)}])
    assert calibration.gather(model, [Want(y, Range)]).of(y, Range).high == 2.0
    model.graph.initializers["w"].const_value = ir.tensor(W * 3)
    assert calibration.gather(model, [Want(y, Range)]).of(y, Range).high == 6.0


def test_nothing_behind_the_last_wanted_value_is_computed() -> None:
    model = graph(
        "h = MatMul(x, w)", "y = Reshape(h, wrong)", inputs={"x": "float[2, 4]"}, outputs=["y"], w=W, wrong=[7]
    )
    h = _value(model, "h")
    assert Calibration([{"x": np.ones((2, 4), np.float32)}]).gather(model, [Want(h, Range)]).of(h, Range).high == 2.0


def test_progress_is_told_by_batch() -> None:
    model, told = _masked(), []
    Calibration(_batches(2), progress=lambda done, of: told.append((done, of))).gather(
        model, [Want(_value(model, "h"), Range)]
    )
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_activations_that_are_not_finite_are_named() -> None:
    model, batches = _masked(), _batches(1)
    batches[0]["x"][0, 0, 0] = np.nan
    with pytest.raises(ModelError, match=r"calibration: h: calibration met nan"):
        Calibration(batches).gather(model, [Want(_value(model, "h"), Gram, 4)])


def test_values_of_subgraphs_are_refused() -> None:
    model = inside_if(graph("y = Relu(x)", inputs={"x": "float[2, 4]"}))
    inner = next(node for node in model.graph.all_nodes() if node.op_type == "Relu").outputs[0]
    with pytest.raises(ValueError, match="values of the main graph"):
        Calibration([{"x": np.ones((2, 4), np.float32)}]).gather(model, [Want(inner, Range)])


def test_no_data_is_an_error_of_its_own() -> None:
    with pytest.raises(OptionError, match="at least one batch"):
        Calibration([])
    with pytest.raises(OptionError, match="calibration data are needed"):
        Context().statistics(_masked(), [])
