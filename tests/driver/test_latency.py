"""How long parts take on the target: on one runtime all of them, and what a budget makes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.driver import latency
from tersor.driver.latency import Latency
from tersor.ir.errors import OptionError, UnsupportedError
from tersor.ir.feeds import Feeds, random_feeds
from tersor.ir.text import graph

FEEDS = {"x": np.zeros((2, 3), np.float32)}


@dataclass(frozen=True)
class Delayed:
    """A runtime that takes so many seconds by the name of a model's output; None: it cannot run it."""

    name: str
    seconds: dict[str, float | None]
    quick: bool = True


@dataclass(frozen=True)
class Waiting:
    seconds: float

    def run(self, feeds: Feeds) -> None:
        self.run_unchecked(feeds)

    def run_unchecked(self, feeds: Feeds) -> None:
        time.sleep(self.seconds)


def part(name: str) -> ir.Model:
    return graph(f"{name} = Relu(x)", inputs={"x": "float[2, 3]"})


def timed(monkeypatch: pytest.MonkeyPatch, *backends: Delayed) -> Latency:
    def opened(backend: Delayed, model: ir.Model) -> Waiting:
        seconds = backend.seconds[model.graph.outputs[0].name or ""]
        if seconds is None:
            raise UnsupportedError("no such op")
        return Waiting(seconds)

    monkeypatch.setattr(latency, "opened", opened)
    return Latency(backends)  # type: ignore[arg-type]


def test_all_parts_are_timed_on_the_runtime_that_is_fastest_on_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Delayed("one", {"a": 0.004, "b": 0.012})
    other = Delayed("other", {"a": 0.008, "b": 0.004})
    asked = timed(monkeypatch, other, one)
    assert 0.004 <= asked(part("a"), FEEDS) < 0.008
    assert asked(part("b"), FEEDS) >= 0.012


def test_what_cannot_run_the_model_or_compiles_long_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Delayed("slow to compile", {"a": 0.0}, quick=False)
    asked = timed(monkeypatch, slow, Delayed("none", {"a": None}), Delayed("one", {"a": 0.003}))
    assert asked(part("a"), FEEDS) >= 0.003


def test_where_none_can_be_asked_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="no target could be timed: none: no such op"):
        timed(monkeypatch, Delayed("none", {"a": None}))(part("a"), FEEDS)
    with pytest.raises(OptionError, match="long to compile"):
        timed(monkeypatch, Delayed("slow", {"a": 0.0}, quick=False))(part("a"), FEEDS)


def test_a_budget_of_latency_compiles() -> None:
    rng = np.random.default_rng(0)
    weights = {name: 0.1 * rng.standard_normal((32, 256), np.float32) for name in ("w0", "w1", "v0", "v1")}
    model = graph(
        "a = MatMul(x, w0)", "f = Relu(a)", "b = MatMul(f, v0)", "s = Add(x, b)",
        "c = MatMul(s, w1)", "g = Relu(c)", "d = MatMul(g, v1)", "y = Add(s, d)",
        inputs={"x": "float[batch, sequence, 32]"},
        **{name: weight.T if name[0] == "v" else weight for name, weight in weights.items()},
    )  # fmt: skip
    data = [random_feeds(model, {"batch": 4, "sequence": 16}, seed=seed) for seed in range(4)]
    passes = 'prune-budget{budget="0.5 latency", levels=3, multiple=16}'
    made = tersor.compile(model, target="onnxruntime", passes=passes, data=data, verify="off")
    assert list(made.session.run(data[0])) == ["y"]
    assert made.model is not None
    held = (value.const_value for value in made.model.graph.initializers.values())
    assert 0 < sum(tensor.nbytes for tensor in held if tensor is not None) < 0.9 * 4 * 4 * 32 * 256
