"""The page on torch is a program: its blocks run in order."""

from __future__ import annotations

import pytest
from tersor.tests.support import page_code


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(page_code("torch.md"), "docs/torch.md", "exec"), {"__name__": "page"})
    names, shapes, _, exported, fired = capsys.readouterr().out.splitlines()
    assert "words.weight" in names
    assert "(2, 7, 64)" in shapes
    assert exported == "torch.Size([3, 5])"
    assert fired == "4 0 0 0"
