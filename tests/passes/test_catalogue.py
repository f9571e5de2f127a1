"""The one table of passes: names, plug-ins, clashes, and every pass's page."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.ir.errors import OptionError
from tersor.passes import catalogue
from tersor.passes.base import Context, Lossy, Outcome, Pass, Rewrite
from tersor.passes.catalogue import PASSES, create, find, spell, table
from tersor.passes.presets import RAISING
from tersor.passes.raising.activation.raise_gelu import RaiseGelu
from tersor.passes.syntax import Step


@dataclass(frozen=True, kw_only=True)
class Theirs(Pass):
    """A pass of somebody else."""

    name: ClassVar[str] = "theirs"
    strength: int = 1

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        return Outcome()


class Holder:
    """A namespace."""

    Inner = Theirs


HERE = Theirs.__module__


@pytest.fixture(autouse=True)
def _fresh_table() -> Iterator[None]:
    table.cache_clear()
    yield
    table.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str | None]) -> None:
    """Pretend that packages with these entry points (name, value, package) are installed."""
    found = [
        SimpleNamespace(name=name, value=value, dist=SimpleNamespace(name=package) if package else None)
        for name, value, package in points
    ]
    monkeypatch.setattr(catalogue, "entry_points", lambda *, group: found if group == "tersor.passes" else [])


@pytest.mark.parametrize("name", sorted(PASSES))
def test_each_name_is_that_of_its_class(name: str) -> None:
    kind = find(name)
    assert kind.name == name
    assert spell(kind()) == name
    assert create(Step(name)) == kind()
    assert kind.summary()


def every_pass() -> list[type[Pass]]:
    lowering = {type(step) for step in (*LOWERING.flat(), *RAISING.flat())}
    return sorted({*map(find, PASSES), *lowering}, key=lambda kind: kind.name)


@pytest.mark.parametrize("kind", every_pass(), ids=lambda kind: kind.name)
def test_each_page_draws_before_and_after_and_names_the_contract(kind: type[Pass]) -> None:
    page = inspect.getdoc(importlib.import_module(kind.__module__)) or ""
    assert "before" in page
    assert "after" in page
    assert ("Lossy" if isinstance(kind.contract, Lossy) else "Exact") in page


@pytest.mark.parametrize("kind", every_pass(), ids=lambda kind: kind.name)
def test_each_pass_is_one_file_named_after_it(kind: type[Pass]) -> None:
    short = kind.name.removeprefix("onnxruntime-").replace("-", "_")
    assert kind.__module__.rpartition(".")[2] == short
    assert kind.__name__.lower() == short.replace("_", "")


def test_only_rewrites_have_anchors() -> None:
    assert all(kind.anchors for kind in every_pass() if issubclass(kind, Rewrite))


def test_passes_stand_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(PASSES) == sorted(PASSES)
    install(monkeypatch, ("a-pass-of-theirs", f"{HERE}:Theirs", "plugin"))
    assert list(table()) == ["a-pass-of-theirs", *PASSES]


def test_a_package_adds_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("theirs", f"{HERE}:Theirs", "plugin"))
    assert find("theirs") is Theirs
    assert create(Step("theirs", {"strength": 3})) == Theirs(strength=3)
    assert spell(Theirs()) == "theirs"


@pytest.mark.parametrize(
    ("points", "owners"),
    [
        ([("raise-gelu", f"{HERE}:Theirs", "plugin")], "tersor and plugin"),
        ([("theirs", f"{HERE}:Theirs", "one"), ("theirs", "two:Other", "two")], "one and two"),
        ([("raise-gelu", f"{HERE}:Theirs", None)], f"tersor and {HERE}:Theirs"),
    ],
)
def test_a_clash_names_both_owners(
    monkeypatch: pytest.MonkeyPatch, points: list[tuple[str, str, str | None]], owners: str
) -> None:
    install(monkeypatch, *points)
    with pytest.raises(OptionError, match=f"two packages offer a pass '{points[0][0]}': {owners}; remove one"):
        find("raise-gelu")


def test_the_same_pass_twice_is_no_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("theirs", f"{HERE}:Theirs", "one"), ("theirs", f"{HERE}:Theirs", "one"))
    assert find("theirs") is Theirs


def test_a_class_is_found_where_it_lives() -> None:
    assert find(f"{HERE}:Theirs") is Theirs
    assert find(f"{HERE}:Holder.Inner") is Theirs
    assert spell(Theirs()) == f"{HERE}:Theirs"
    assert create(Step(f"{HERE}:Theirs", {"strength": 2})) == Theirs(strength=2)


def test_a_class_that_took_a_known_name_is_spelled_by_its_place() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Impostor(Theirs):
        name: ClassVar[str] = "raise-gelu"

    assert spell(Impostor()).startswith(f"{HERE}:")
    assert spell(RaiseGelu()) == "raise-gelu"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raise-gelo", "there is no pass 'raise-gelo'; did you mean raise-gelu"),
        ("zzz", "there is no pass 'zzz'; known: cast, cast-arithmetic"),
        ("no.such.module:Class", "the pass 'no.such.module:Class' cannot be imported from .*ModuleNotFoundError"),
        (f"{HERE}:Nothing", f"the pass '{HERE}:Nothing' cannot be imported from .*AttributeError"),
        (":", "the pass ':' cannot be imported from ':': ValueError"),
        (f"{HERE}:Holder", f"'{HERE}:Holder' is no pass: it must be a subclass of tersor.Pass"),
        (f"{HERE}:install", f"'{HERE}:install' is no pass"),
    ],
)
def test_what_is_no_pass_is_refused(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find(name)


def test_a_module_that_raises_is_said_to(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty_pass.py").write_text("1 / 0")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(OptionError, match="cannot be imported from 'faulty_pass:Class': ZeroDivisionError") as caught:
        find("faulty_pass:Class")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
