"""The mutation check: which conditions it corrupts, and that it tells a held one from one that nothing holds."""

from __future__ import annotations

from pathlib import Path

from tersor.benchmarks.mutations import _noticed, chosen, conditions

SOURCE = """
class Miss:
    pass


def match(value):
    if value is None:
        return Miss()
    if value > 2 and (
        value < 4
    ):
        return Miss()
    if value == 9:
        return 9
    return value
"""
TEST = """
from tersor.passes.raising.some import Miss, match


def test_nothing_is_missed():
    assert isinstance(match(None), Miss) and match(1) == 1
"""


def test_conditions_are_those_that_refuse() -> None:
    assert [(one.line, one.text) for one in conditions(SOURCE)] == [
        (7, "value is None"),
        (9, "value > 2 and ( value < 4 )"),
    ]


def test_a_condition_that_no_test_holds_survives(tmp_path: Path) -> None:
    copy = tmp_path / "tersor"
    path = copy / "passes" / "raising" / "some.py"
    held = copy / "tests" / "passes" / "raising" / "test_some.py"
    for file, text in ((path, SOURCE), (held, TEST), (copy / "__init__.py", "")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert chosen(copy, "passes/raising", "some") == [path]
    assert [_noticed(copy, path, SOURCE, one) for one in conditions(SOURCE)] == [True, False]
    assert path.read_text(encoding="utf-8") == SOURCE
