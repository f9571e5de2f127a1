"""Fixtures of the tests of the command line: run one in this process, and a small model on disk."""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import pytest
from tersor.driver.cli import main
from tersor.tests.driver.support import Cli, Ran, dense


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """`cli("inspect", path, "--json")`, run in the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def dense_onnx(tmp_path: Path) -> Path:
    """`dense()` as model.onnx."""
    path = tmp_path / "model.onnx"
    onnx_ir.save(dense(), path)
    return path
