"""The page on lottery tickets runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from tersor.tests.support import page_code


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(page_code("lottery.md"), "docs/lottery.md", "exec"), names)
    assert "sparsest matching ticket" in capsys.readouterr().out
    assert names["report"].changed  # type: ignore[attr-defined]
