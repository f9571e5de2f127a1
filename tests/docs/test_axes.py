"""The page on dependent axes is a program, and its table is what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tersor.driver.cli import main
from tersor.tests.support import page_code

PAGE = Path(__file__).parents[2] / "docs" / "axes.md"


def test_the_page_runs_and_prints_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(page_code("axes.md"), "docs/axes.md", "exec"), {"__name__": "page"})
    assert main(["inspect", "blocks.onnx", "--axes"]) == 0
    (table,) = re.findall(r"```\n(dependent axes\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert table in capsys.readouterr().out
