"""Metrics: finding them, what they may return, and how a drop is read."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from tersor.backends.base import Interface, Session
from tersor.driver import metric as metrics
from tersor.driver.metric import MaxDrop, drop, evaluate, find
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.feeds import Array, Feeds
from tersor.ir.text import graph


class Doubling(Session):
    """y = 2 x"""

    def __init__(self) -> None:
        model: onnx_ir.Model = graph("y = Mul(x, 2.0)", inputs={"x": "float[batch]"})
        super().__init__(Interface.of(model))

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        return {"y": feeds["x"] * 2}


def mean(session: Session) -> float:
    return float(session.run({"x": np.ones(3, np.float32)})["y"].mean())


def test_finds_functions_by_name_and_as_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks_of_mine.py").write_text("def score(session):\n    return 0.5\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    name, function = find("tasks_of_mine:score")
    assert (name, function(Doubling())) == ("tasks_of_mine:score", 0.5)
    assert find(mean) == (f"{__name__}:mean", mean)
    assert metrics.is_found_by_name(find(mean))
    assert not metrics.is_found_by_name(find(lambda session: 1.0))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no colon", "expected package.module:function"),
        ("no_such_module_here:f", "importing no_such_module_here failed: ModuleNotFoundError"),
        ("statistics:meen", r"statistics has no 'meen'; did you mean .*mean"),
        ("math:pi", "math:pi.: expected a function, found float"),
        ("leaves:score", "importing leaves failed: SystemExit: 2"),
        (3, "found int"),
    ],
)
def test_refuses_what_is_no_function(spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(2)\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=message):
        find(spec)


def test_evaluates() -> None:
    assert evaluate("mean", mean, Doubling(), "it") == 2.0
    assert evaluate("numpy", lambda session: np.float32(0.25), Doubling(), "it") == 0.25


def _raising(session: Session) -> float:
    raise KeyError("labels")


def _leaving(session: Session) -> float:
    sys.exit("no labels")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (_leaving, "the metric m failed on the original model with SystemExit: no labels"),
        (_raising, "the metric m failed on the original model with KeyError: 'labels'"),
        (lambda session: math.nan, "is nan: expected one finite number"),
        (lambda session: math.inf, "is inf: expected one finite number"),
        (lambda session: "0.5", "is '0.5': expected one finite number"),
        (lambda session: None, "is None: expected one finite number"),
        (lambda session: np.ones(3), "expected one finite number"),
        (lambda session: True, "is True: expected one finite number"),
    ],
)
def test_refuses_what_is_no_number(metric: Callable[[Session], float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        evaluate("m", metric, Doubling(), "the original model")


def test_a_metric_that_feeds_the_wrong_name_hears_of_it() -> None:
    with pytest.raises(ModelError, match="'z' is no input") as caught:
        evaluate("m", lambda session: float(len(session.run({"z": np.ones(3, np.float32)}))), Doubling(), "it")
    assert caught.value.__notes__ == ["in the metric m of it"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1%", MaxDrop(0.01)),
        (0.01, MaxDrop(0.01)),
        ("0.5 abs", MaxDrop(0.5, True)),
        ("2abs", MaxDrop(2.0, True)),
        (0, MaxDrop(0.0)),
    ],
)
def test_reads_limits(given: str | float, expected: MaxDrop) -> None:
    assert MaxDrop.of(given) == expected
    assert MaxDrop.of(str(expected)) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("much", "expected a share of the metric like 1%"),
        ("-1%", "expected a share"),
        ("nan", "expected a share"),
        (1, "accepts any loss: write 1% for a share, or 1 abs"),
        ("150%", "accepts any loss"),
    ],
)
def test_refuses_limits(given: str | float, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MaxDrop.of(given)


@pytest.mark.parametrize(
    ("original", "compiled", "absolute", "lost"),
    [
        (80.0, 79.2, False, 0.01),
        (80.0, 79.2, True, 80.0 - 79.2),
        (-2.0, -2.1, False, 0.05),
        (0.5, 0.6, False, -0.2),
        (0.0, 0.0, False, 0.0),
        (0.0, -1.0, False, math.inf),
    ],
)
def test_a_drop_is_relative_to_the_original(original: float, compiled: float, absolute: bool, lost: float) -> None:
    assert drop(original, compiled, absolute=absolute) == pytest.approx(lost)
