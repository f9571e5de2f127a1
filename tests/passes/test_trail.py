"""Runs that start where the last one was: what is computed again, and that it is the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.constants import constant_of
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph
from tersor.passes.statistics import Calibration, Part
from tersor.passes.trail import Trail

RNG = np.random.default_rng(3)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def chain() -> ir.Model:
    return graph(
        "a = MatMul(x, u)", "b = Relu(a)", "c = MatMul(b, v)", "d = Add(b, c)", "e = Mul(d, s)", "y = MatMul(e, w)",
        inputs={"x": "float[batch, 4]", "s": "float[batch, 4]"}, u=weight(4, 4), v=weight(4, 4), w=weight(4, 4),
    )  # fmt: skip


def data(model: ir.Model) -> Calibration:
    return Calibration([random_feeds(model, {"batch": 3}, seed=seed) for seed in range(2)])


def part(model: ir.Model, name: str, *, keep: bool = True) -> Part:
    return Part(model, name, model.graph.outputs[0], keep=keep)


def seen(calibration: Calibration, parts: Sequence[Part], trail: Trail | None = None) -> list[list[np.ndarray]]:
    return [[array.copy() for array in rows] for rows in calibration.together(parts, trail)]


def left(trail: Trail, model: ir.Model, *names: str) -> list[str]:
    """What would run."""
    return [node.outputs[0].name or "" for node in trail.tail(model, names).model.graph]


def change(model: ir.Model, name: str) -> None:
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(2 * np.asarray(constant_of(value)), name=name)


def test_only_what_lies_behind_runs() -> None:
    model, trail = chain(), Trail()
    calibration = data(model)
    assert left(trail, model, "d") == ["a", "b", "c", "d", "e", "y"]
    seen(calibration, [part(model, "b")], trail)
    assert left(trail, model, "d") == ["c", "d"]
    assert left(trail, model, "b", "e") == ["c", "d", "e"]


def test_what_nothing_reads_any_more_is_kept_only_where_that_is_told() -> None:
    model, calibration = chain(), data(chain())
    for keep, again in ((False, list("abcdey")), (True, list("cd"))):
        trail = Trail()
        # of both, d alone is read by what has not run
        seen(calibration, [part(model, "b", keep=keep), part(model, "d", keep=False)], trail)
        assert left(trail, model, "e") == ["e"]
        change(model, "v")
        assert left(trail, model, "d") == again


def test_one_run_after_another_computes_every_value_once() -> None:
    model, trail = chain(), Trail()
    calibration = data(model)
    ran = []
    for name in "bcdey":
        ran += left(trail, model, name) if name != "b" else ["a", "b"]
        seen(calibration, [part(model, name, keep=False)], trail)
    assert ran == list("abcdey")


def test_what_follows_from_weights_alone_is_not_kept() -> None:
    model = graph(
        "t = Transpose(u)", "a = MatMul(x, t)", "y = MatMul(a, t)", inputs={"x": "float[batch, 4]"}, u=weight(4, 4)
    )
    trail = Trail()
    seen(data(model), [part(model, "a", keep=False)], trail)
    assert trail.tail(model, ["y"]).known.keys() == {"a"}


@pytest.mark.parametrize("names", [["d"], ["b", "y"], ["b"], ["x", "e"]])
def test_the_values_are_the_same(names: list[str]) -> None:
    model, trail = chain(), Trail()
    calibration = data(model)
    seen(calibration, [part(model, "b")], trail)
    asked = [part(model, name) for name in names]
    for found, wanted in zip(seen(calibration, asked, trail), seen(calibration, asked), strict=True):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_changed_behind_is_seen() -> None:
    model, trail = chain(), Trail()
    calibration = data(model)
    seen(calibration, [part(model, "b")], trail)
    change(model, "v")
    assert left(trail, model, "d") == ["c", "d"]
    for (found,), (wanted,) in zip(
        seen(calibration, [part(model, "d")], trail), seen(calibration, [part(model, "d")]), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_what_changed_before_makes_it_run_again() -> None:
    model, trail = chain(), Trail()
    calibration = data(model)
    seen(calibration, [part(model, "b")], trail)
    change(model, "u")
    assert left(trail, model, "d") == ["a", "b", "c", "d", "e", "y"]
    (found,), _ = seen(calibration, [part(model, "d")], trail)
    np.testing.assert_array_equal(found, seen(calibration, [part(model, "d")])[0][0])


def test_models_do_not_disturb_each_other() -> None:
    model, trail = chain(), Trail()
    other, calibration = model.clone(), data(model)
    change(other, "u")
    seen(calibration, [part(model, "b"), part(other, "b")], trail)
    asked = [part(other, "e"), part(model, "e")]
    for found, wanted in zip(seen(calibration, asked, trail), seen(calibration, asked), strict=True):
        assert not np.array_equal(*found)
        np.testing.assert_array_equal(found, wanted)


def test_what_no_node_ahead_reads_is_forgotten() -> None:
    model, trail = chain(), Trail()
    calibration = data(model)
    seen(calibration, [part(model, "c", keep=False)], trail)
    # d is the sum of b, which is known too, and c
    assert trail.tail(model, ["d"]).known.keys() == {"b", "c"}
    seen(calibration, [part(model, "d", keep=False)], trail)
    assert trail.tail(model, ["e"]).known.keys() == {"d"}
    assert left(trail, model, "c") == ["a", "b", "c"]


def test_graphs_that_nodes_hold_run_whole() -> None:
    model, trail = graph("a = Relu(x)", "b = Neg(a)", "y = Abs(b)", inputs={"x": "float[batch, 4]"}), Trail()
    seen(data(model), [part(model, "a")], trail)
    assert left(trail, model, "y") == ["b", "y"]
    inner = graph("i = Identity(k)", inputs={"k": "float[4]"}).graph
    node = next(node for node in model.graph if node.op_type == "Neg")
    node.op_type = "If"
    node.attributes["then_branch"] = ir.AttrGraph("then_branch", inner)
    assert left(trail, model, "y") == ["a", "b", "y"]


def test_inputs_are_not_kept() -> None:
    model, trail = chain(), Trail()
    calibration = data(model)
    for _ in range(2):
        found = seen(calibration, [part(model, "x"), part(model, "b")], trail)
        for rows, feeds in zip(found, calibration.batches, strict=True):
            np.testing.assert_array_equal(rows[0], feeds["x"])
    assert trail.tail(model, ["d"]).known.keys() == {"b"}


def test_what_a_shape_is_read_of_is_kept_and_not_the_shape() -> None:
    model = graph(
        "a = MatMul(x, u)", "n = Shape(a)", "b = Relu(a)", "c = Reshape(b, n)", "d = MatMul(c, v)", "e = Reshape(d, n)",
        "y = Neg(e)", inputs={"x": "float[batch, 4]"}, u=weight(4, 4), v=weight(4, 4),
    )  # fmt: skip
    trail, calibration = Trail(), data(model)
    seen(calibration, [part(model, "c", keep=False)], trail)
    assert left(trail, model, "e") == ["n", "d", "e"]
    found, wanted = (seen(calibration, [part(model, "e")], each) for each in (trail, None))
    np.testing.assert_array_equal(found, wanted)


def test_what_a_held_graph_reads_is_kept_until_it_ran() -> None:
    inner = graph("i = Add(a, a)", inputs={"a": "float[batch, 4]"}).graph
    model = graph(
        "a = Relu(x)", "b = Neg(a)", "k = ReduceMax{keepdims=0}(b)", "z = Abs(b)", "y = Sqrt(z)",
        inputs={"x": "float[batch, 4]"},
    )  # fmt: skip
    body = next(iter(inner))
    node = next(node for node in model.graph if node.op_type == "Abs")
    captured = next(value for value in model.graph if value.op_type == "Relu").outputs[0]
    for at in (0, 1):
        body.replace_input_with(at, captured)
    inner.outputs.clear()
    inner.remove(body)
    held = ir.Graph([], [body.outputs[0]], nodes=[], name="then")
    held.append(body)
    node.attributes["then_branch"] = ir.AttrGraph("then_branch", held)
    node.op_type = "If"
    trail = Trail()
    assert trail.ahead(model, ["b"]) == {"a", "b"}
    assert trail.ahead(model, ["z"]) == {"b", "z"}


def test_kept_arrays_are_not_those_that_were_seen() -> None:
    model, trail = chain(), Trail()
    calibration = data(model)
    for (rows,) in calibration.together([part(model, "b")], trail):
        rows[:] = np.nan
    found, wanted = (seen(calibration, [part(model, "d")], each) for each in (trail, None))
    np.testing.assert_array_equal(found, wanted)
