"""Choosing among backends, with doubles that are slow, wrong, broken or unable on purpose."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir
import pytest
import tersor
from tersor.backends import catalogue
from tersor.backends.base import Backend, Interface, Session
from tersor.driver.artifact import Artifact
from tersor.driver.original import combined
from tersor.driver.select import PAIRS, Candidate, ranked
from tersor.ir.errors import ContractError, MissingOp, OptionError, UnsupportedError
from tersor.ir.feeds import Array, Feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Contract, Exact, Lossy
from tersor.passes.pipeline import Pipeline


class Scaled(Session):
    """The model's outputs times a factor, after a pause."""

    def __init__(self, interface: Interface, model: onnx_ir.Model, factor: float, pause: float) -> None:
        super().__init__(interface)
        self._run, self._factor, self._pause = runner(model), factor, pause

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        time.sleep(self._pause)
        return {name: array * np.float32(self._factor) for name, array in self._run(feeds).items()}


@dataclass(frozen=True, kw_only=True)
class Double(Backend):
    """A backend that interprets, `factor` off and `pause` seconds late."""

    name: ClassVar[str] = "double"
    factor: float = 1.0
    pause: float = 0.0

    @classmethod
    def version(cls) -> str | None:
        return "1"

    def pipeline(self) -> Pipeline:
        return Pipeline()

    def supports(self, model: onnx_ir.Model) -> Sequence[MissingOp]:
        return []

    def write(self, model: onnx_ir.Model, folder: Path) -> None:
        tersor.save(model, folder / f"{self.name}.onnx")

    def open(self, folder: Path, interface: Interface) -> Session:
        return Scaled(interface, tersor.load(folder / f"{self.name}.onnx"), self.factor, self.pause)


@dataclass(frozen=True, kw_only=True)
class Quick(Double):
    name: ClassVar[str] = "quick"


@dataclass(frozen=True, kw_only=True)
class Slow(Double):
    name: ClassVar[str] = "slow"
    pause: float = 0.02


@dataclass(frozen=True, kw_only=True)
class Wrong(Double):
    name: ClassVar[str] = "wrong"
    factor: float = 1.01


@dataclass(frozen=True, kw_only=True)
class Rotten(Double):
    name: ClassVar[str] = "rotten"
    factor: float = float("inf")


@dataclass(frozen=True, kw_only=True)
class Unable(Double):
    name: ClassVar[str] = "unable"

    def supports(self, model: onnx_ir.Model) -> Sequence[MissingOp]:
        return [MissingOp("Relu", 23, "y", ())]


@dataclass(frozen=True, kw_only=True)
class Broken(Double):
    name: ClassVar[str] = "broken"

    def open(self, folder: Path, interface: Interface) -> Session:
        raise RuntimeError("segmentation\nfault, nearly")


@dataclass(frozen=True, kw_only=True)
class Absent(Double):
    name: ClassVar[str] = "absent"
    install: ClassVar[str] = "pip install absent"

    @classmethod
    def version(cls) -> str | None:
        return None


DOUBLES = (Quick, Slow, Wrong, Rotten, Unable, Broken, Absent)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in DOUBLES:
        monkeypatch.setitem(catalogue.table(), kind.name, f"{__name__}:{kind.__qualname__}")


def _compile(monkeypatch: pytest.MonkeyPatch, *names: str, output: Path | None = None, **options: object) -> Artifact:
    monkeypatch.setitem(catalogue.GROUPS, "cpu", names)  # type: ignore[index]
    model = graph("h = Mul(x, 2.0)", "y = Relu(h)", inputs={"x": "float[batch, 4]"})
    return tersor.compile(model, output=output, **options)  # type: ignore[arg-type]


def _status(artifact: Artifact) -> dict[str, str]:
    return {entry["target"]: entry["status"] for entry in artifact.manifest["candidates"]}


def test_the_fastest_within_contract_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("slow", "wrong", "quick", "unable", "broken", "absent", "rotten")
    artifact = _compile(monkeypatch, *names, output=tmp_path / "out")
    assert _status(artifact) == {
        "slow": "slower",
        "wrong": "over-contract",
        "quick": "kept",
        "unable": "unsupported",
        "broken": "failed",
        "rotten": "over-contract",
    }
    assert artifact.manifest["target"]["backend"] == "quick"
    assert sorted(entry.name for entry in artifact.path.iterdir()) == [
        "manifest.json",
        "quick.onnx",
        "recipe.yaml",
        "report.html",
    ]
    assert artifact.session.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[2.0] * 4]


class Sleeper(Session):
    """Takes its time and counts its runs."""

    def __init__(self, pause: float) -> None:
        super().__init__(Interface.of(graph("y = Relu(x)", inputs={"x": "float[batch, 4]"})))
        self.pause, self.runs = pause, 0

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        self.runs += 1
        time.sleep(self.pause)
        return {}


def test_a_hopeless_candidate_does_not_eat_the_time_of_the_others(tmp_path: Path) -> None:
    sessions = {Slow: Sleeper(0.2), Quick: Sleeper(0.01), Wrong: Sleeper(0.02)}
    entries = [Candidate(kind(), tmp_path, session=session) for kind, session in sessions.items()]
    order, heats = ranked(entries, [{"x": np.zeros((1, 4), np.float32)}], 0.1)
    assert [entry.backend.name for entry in order] == ["quick", "wrong", "slow"]
    assert sessions[Slow].runs == 3, "warmed up once, then one turn of an untimed and a timed call"
    close, far = heats.of("quick", "wrong"), heats.of("quick", "slow")
    assert close is not None
    assert close.pairs >= PAIRS
    assert far is not None
    assert far.pairs == 1


def test_the_manifest_says_what_the_others_did(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = _compile(monkeypatch, "slow", "wrong", "quick", "unable", "broken")
    entries = {entry["target"]: entry for entry in artifact.manifest["candidates"]}
    quick, slow, wrong = (entries[name] for name in ("quick", "slow", "wrong"))
    assert quick["speed"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert slow["speed"] is not None
    assert slow["speed"]["median"] < 1.0
    assert slow["latency"] is not None
    assert slow["latency"]["p50"] >= 20.0
    assert str(slow["reason"]).startswith("runs at 0.")
    assert wrong["loss"] == pytest.approx(0.01, rel=1e-3)
    assert "compiled as exact (relative L2 <= 1e-05), measured 0.01 on output y" in str(wrong["reason"])
    assert "Relu (opset 23) at y" in str(entries["unable"]["reason"])
    assert entries["broken"]["reason"] == "RuntimeError: segmentation fault, nearly"


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("wrong",), ContractError, "^wrong was compiled as exact"),
        (("unable",), UnsupportedError, "^unable: 1 op has no lowering"),
        (("wrong", "unable", "broken"), ContractError, r"no candidate is left:\n  wrong: .*\n  unable: .*\n  broken: "),
        (("unable", "broken"), UnsupportedError, "no candidate is left"),
        (("absent",), UnsupportedError, "no backend of the target 'cpu' is installed"),
    ],
)
def test_when_none_is_left_each_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _compile(monkeypatch, *names, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_named_target_fails_with_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="nearly"):
        _compile(monkeypatch, target="broken")
    with pytest.raises(UnsupportedError, match="the target 'absent' is not installed; pip install absent"):
        _compile(monkeypatch, target="absent")
    with pytest.raises(OptionError, match="quick has no option 'speed'"):
        _compile(monkeypatch, target="quick{speed=2}")


def test_over_max_drop_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def metric(session: Session) -> float:
        return float(session.run({"x": np.ones((1, 4), np.float32)})["y"].mean() != 2.0) * -1.0 + 2.0

    artifact = _compile(monkeypatch, "wrong", "slow", verify="off", metric=metric, max_drop="10%")
    assert _status(artifact) == {"wrong": "over-max-drop", "slow": "kept"}
    reason = next(entry["reason"] for entry in artifact.manifest["candidates"] if entry["target"] == "wrong")
    assert "fell from 2 to 1, a drop of 50.00%; max_drop allows 10%" in str(reason)
    with pytest.raises(ContractError, match=r"^wrong: .* fell from 2 to 1"):
        _compile(monkeypatch, "wrong", verify="off", metric=metric, max_drop="10%")


def test_force_keeps_what_is_over_only_where_nothing_else_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = _compile(monkeypatch, "wrong", "slow", force=True)
    assert _status(artifact) == {"wrong": "over-contract", "slow": "kept"}
    assert artifact.manifest["contract"]["over"] == []
    alone = _compile(monkeypatch, "wrong", "unable", force=True)
    assert _status(alone) == {"wrong": "kept", "unable": "unsupported"}
    (sentence,) = alone.manifest["contract"]["over"]
    assert "was compiled as exact" in sentence


def test_forced_over_max_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    def metric(session: Session) -> float:
        return float(session.run({"x": np.ones((1, 4), np.float32)})["y"].mean() != 2.0) * -1.0 + 2.0

    made = _compile(monkeypatch, "wrong", verify="off", metric=metric, max_drop="10%", force=True)
    assert _status(made) == {"wrong": "kept"}
    assert "a drop of 50.00%; max_drop allows 10%" in made.manifest["contract"]["over"][0]


def test_options_go_to_each_and_into_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = _compile(monkeypatch, "quick", "slow", target="cpu{threads=2}")
    assert list(_status(artifact)) == ["quick{threads=2}", "slow{threads=2}"]
    assert artifact.manifest["target"]["requested"] == "cpu{threads=2}"
    assert artifact.manifest["target"]["options"] == {"threads": 2}


@pytest.mark.parametrize(
    ("contracts", "together"),
    [
        ([], Exact()),
        ([Exact(), Exact(tolerance=1e-3)], Exact(tolerance=1e-3)),
        ([Exact(), Lossy(budget=0.01), Lossy(budget=0.02)], Lossy(budget=0.03)),
        ([Lossy(metric="relative-l2", budget=0.1)] * 2, Lossy(metric="relative-l2", budget=0.2)),
        ([Lossy(metric="relative-l2", budget=1.0), Lossy(budget=0.5)], Lossy(budget=1.5)),
    ],
)
def test_contracts_add_up(contracts: list[Contract], together: Contract) -> None:
    assert combined(contracts) == together


def test_relative_error_bounds_the_cosine() -> None:
    # The worst vector at relative distance e from a is tangent to its circle: cosine sqrt(1 - e^2).
    (found,) = [combined([Lossy(metric="relative-l2", budget=0.6), Lossy(budget=0.0)])]
    assert isinstance(found, Lossy)
    a, b = np.array([1.0, 0.0]), np.array([1.0 - 0.6**2, 0.6 * np.sqrt(1.0 - 0.6**2)])
    assert np.linalg.norm(a - b) == pytest.approx(0.6)
    assert found.budget == pytest.approx(1.0 - a @ b / np.linalg.norm(b))
