"""Runs in steps: stop, replace, fork, go on; what is computed, and what is held."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.stepwise import Stepwise
from tersor.ir.text import graph
from tersor.tests.support import parse

X = {"x": np.array([[1.0, -2.0, 3.0]], np.float32)}


def stepwise(*stops: str) -> Stepwise:
    model = graph(
        "a = Mul(x, two)",
        "b = Relu(a)",
        "c = Add(b, x)",
        "d = Neg(a)",
        "y = Add(c, d)",
        inputs={"x": "float[n, 3]"},
        two=2.0,
    )
    return Stepwise(Interpreter(to_fx(model)), stops)


def test_stops_at_values_in_turn_and_ends_in_the_outputs() -> None:
    run = stepwise("a", "c").start(X)
    assert run.next().tolist() == [[2.0, -4.0, 6.0]]
    assert run.next().tolist() == [[3.0, -2.0, 9.0]]
    assert run.finish()["y"].tolist() == [[1.0, 2.0, 3.0]]


def test_what_is_put_is_what_everything_behind_sees() -> None:
    run = stepwise("a", "c").start(X)
    run.put(run.next() * 0)
    assert run.next().tolist() == X["x"].tolist()
    assert run.finish()["y"].tolist() == X["x"].tolist()


def test_a_fork_goes_its_own_way() -> None:
    run = stepwise("a").start(X)
    value = run.next()
    other = run.fork()
    other.put(value * 0)
    assert other.finish()["y"].tolist() == X["x"].tolist()
    assert run.finish()["y"].tolist() == [[1.0, 2.0, 3.0]]


def test_goes_past_the_stops_that_are_left() -> None:
    assert stepwise("a", "b", "c").start(X).finish()["y"].tolist() == [[1.0, 2.0, 3.0]]


def test_takes_the_order_of_the_stops_not_of_the_graph() -> None:
    run = stepwise("d", "b").start(X)
    assert run.next().tolist() == [[-2.0, 4.0, -6.0]]
    run.put(torch.zeros(1, 3))
    assert run.next().tolist() == [[2.0, 0.0, 6.0]]
    assert run.finish()["y"].tolist() == [[3.0, -2.0, 9.0]]


def test_drops_what_nobody_needs_any_more() -> None:
    run = stepwise("c").start(X)
    run.next()
    held = {node.meta["onnx_name"] for node in run._values}
    assert "b" not in held
    assert {"a", "c"} <= held


def test_a_stop_that_nobody_reads() -> None:
    model = graph("a = Neg(x)", "y = Relu(x)", inputs={"x": "float[n, 3]"}, outputs=["y"])
    run = Stepwise(Interpreter(to_fx(model)), ["a"]).start(X)
    assert run.next().tolist() == [[-1.0, 2.0, -3.0]]
    assert run.finish()["y"].tolist() == [[1.0, 0.0, 3.0]]


def test_an_input_is_a_stop_too() -> None:
    run = stepwise("x").start(X)
    run.put(run.next() * 0)
    assert run.finish()["y"].tolist() == [[0.0, 0.0, 0.0]]


def test_branches_run_as_they_are() -> None:
    model = parse(
        """
        g (float[n, 3] x) => (float[n, 3] y) {
            s = ReduceSum <keepdims = 0> (x)
            zero = Constant <value = float {0.0}> ()
            c = Greater (s, zero)
            y = If (c) <then_branch = t () => (float[n, 3] a) { a = Neg (x) },
                        else_branch = e () => (float[n, 3] b) { b = Relu (x) }>
        }"""
    )
    run = Stepwise(Interpreter(to_fx(model)), ["s"]).start(X)
    assert run.next().item() == 2.0
    run.put(torch.tensor(-1.0))
    assert run.finish()["y"].tolist() == [[1.0, 0.0, 3.0]]


def test_refuses_values_that_are_not_there_and_an_order_that_cannot_be() -> None:
    with pytest.raises(OptionError, match="no run can stop at 'z'"):
        stepwise("z")
    with pytest.raises(ModelError, match="needed before"):
        stepwise("c", "b")
    with pytest.raises(ModelError, match="was not fed"):
        stepwise("a").start({})
