"""Running a model to check it: forced values, trial feeds, and the runtimes behind the interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir import runner
from tersor.ir.errors import ModelError
from tersor.ir.feeds import Array
from tersor.ir.text import graph

X = np.arange(4, dtype=np.float32)


def chain() -> ir.Model:
    return graph("a = Add(x, 1.0)", "b = Mul(a, 2.0)", "y = Neg(b)", inputs={"x": "float[4]"})


def foreign() -> ir.Model:
    """An op that the interpreter has no lowering for."""
    return graph("n = com.microsoft.NoSuchOp(x)", "y = Neg(n)", inputs={"x": "float[4]"})


def test_a_forced_value_is_what_everything_behind_it_reads() -> None:
    seen: dict[str, Array] = {}

    def see(name: str, array: Array) -> Array | None:
        seen[name] = np.array(array)
        return np.full(4, 10, np.float32) if name == "a" else None

    assert runner.force(chain(), {"x": X}, ["a", "b", "y"], see)
    assert list(seen) == ["a", "b", "y"]
    np.testing.assert_array_equal(seen["a"], X + 1)
    np.testing.assert_array_equal(seen["y"], np.full(4, -20, np.float32))


def test_nothing_is_forced_in_a_model_that_the_interpreter_cannot_run() -> None:
    assert not runner.force(foreign(), {"x": X}, ["n"], lambda name, array: pytest.fail(name))


def test_trial_feeds_grow_until_a_window_fits() -> None:
    # three kernels of 40 without padding need 118 samples
    model = graph(
        "a = Conv(x, w)",
        "b = Conv(a, w)",
        "y = Conv(b, w)",
        inputs={"x": "float[batch, 1, samples]"},
        w=np.ones((1, 1, 40), np.float32),
    )
    assert runner.trial_feeds(model)["x"].shape == (2, 1, 256)


def test_trial_feeds_start_small_and_are_seeded() -> None:
    model = graph("y = Relu(x)", inputs={"x": "float[batch, n]"})
    assert runner.trial_feeds(model)["x"].shape == (2, 16)
    np.testing.assert_array_equal(runner.trial_feeds(model, seed=3)["x"], runner.trial_feeds(model, seed=3)["x"])
    assert not np.array_equal(runner.trial_feeds(model, seed=3)["x"], runner.trial_feeds(model, seed=4)["x"])


def test_trial_feeds_give_the_first_reason_where_no_size_will_do() -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[n, 3]"}, w=np.ones((4, 2), np.float32))
    with pytest.raises(ModelError, match="MatMul at y cannot run"):
        runner.trial_feeds(model)


def test_what_fails_outside_of_the_interpreter_is_an_error_of_the_model() -> None:
    model = graph("y = Gather(t, i)", inputs={"i": "int64[n]"}, t=np.ones((3, 4), np.float32))
    with pytest.raises(ModelError, match=r"does not run on these feeds: .*out of data bounds"):
        runner.outside(model)({"i": np.array([7])})


def test_external_weights_are_run_outside_and_stay_external(tmp_path: Path) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    model = graph("y = MatMul(x, w)", inputs={"x": "float[2, 3]"}, w=weight)
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    stored = ir.load(tmp_path / "m.onnx")
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(runner.outside(stored)({"x": x})["y"], x @ weight)
    assert isinstance(stored.graph.initializers["w"].const_value, ir.ExternalTensor)
