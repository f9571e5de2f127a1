"""The page on writing passes is a program: its blocks run in order, and then the tests that it shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tersor.tests.support import page_code

PROGRAM = page_code("writing-passes.md")


def test_the_page_runs_and_its_tests_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_page.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", str(tmp_path)])
    assert code == pytest.ExitCode.OK


def test_it_shows_the_three_parts_of_a_pass_test() -> None:
    names = re.findall(r"^def (test_\w+)", PROGRAM, re.MULTILINE)
    assert names == ["test_removes_the_multiplication", "test_leaves_alone", "test_holds_numerically"]
