"""The page on writing passes is a program: its first commands and its blocks run in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tersor.driver.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "writing-passes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
QUIET = ["-q", "-p", "no:cacheprovider"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the page's first command was run."""
    monkeypatch.chdir(tmp_path)
    first = shlex.split(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0].splitlines()[0])
    assert first[:2] == ["tersor", "new-pass"]
    assert main(first[1:]) == 0
    return tmp_path


def test_the_page_shows_what_the_command_writes(folder: Path) -> None:
    for name in ("fold_unit_scale.py", "test_fold_unit_scale.py"):
        assert (folder / name).read_text(encoding="utf-8") in BLOCKS


def test_the_page_runs_and_its_test_passes(folder: Path) -> None:
    written = {path.read_text(encoding="utf-8") for path in folder.iterdir()}
    program = "\n\n".join(block for block in BLOCKS if block not in written)
    (folder / "page.py").write_text(program, encoding="utf-8")
    for command in (["page.py"], ["-m", "pytest", *QUIET, "test_fold_unit_scale.py"]):
        ran = subprocess.run(
            [sys.executable, "-B", *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_it_shows_the_three_parts_of_a_pass_test() -> None:
    assert re.findall(r"^class (Test\w+)", PAGE, re.MULTILINE) == ["TestRewrites", "TestLeavesAlone", "TestHolds"]
