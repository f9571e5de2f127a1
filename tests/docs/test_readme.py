"""The pages name passes that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.passes.catalogue import find, table

ROOT = Path(__file__).parents[2]

#: A line of a compile report: a pass, how often it fired and missed.
_ROW = re.compile(r"^([a-z][a-z0-9-]+)(?:\{\S*\})? +[\d,-]+ +[\d,-]+ ", re.MULTILINE)
_ASKED = re.compile(r"tersor (?:explain \S+|passes) ([a-z][a-z0-9-]+)")


@pytest.mark.parametrize("page", ["README.md", "docs/raising.md", "docs/cli.md"])
def test_passes_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = [*_ROW.findall(text), *_ASKED.findall(text)]
    assert len(named) >= 1
    rules = {step.name for step in LOWERING.flat()}
    for name in named:
        assert name in rules or find(name).name == name


def test_every_pass_that_the_page_on_raising_lists_exists() -> None:
    rows = [
        line for line in (ROOT / "docs/raising.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    listed = {name for row in rows for name in re.findall(r"`((?:raise|fold)-[a-z-]+)`", row)}
    assert len(listed) > 20
    assert listed <= set(table())
