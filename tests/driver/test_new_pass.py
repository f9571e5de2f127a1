"""`tersor new-pass`: what it writes works as written, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tersor.driver.scaffold import Scaffold
from tersor.passes.catalogue import find
from tersor.tests.driver.support import Cli


def test_it_writes_a_pass_and_its_test(cli: Cli, tmp_path: Path) -> None:
    ran = cli("new-pass", "fold-my-scale", "--folder", str(tmp_path / "made"))
    assert ran.code == 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["fold_my_scale.py", "test_fold_my_scale.py"]
    assert "python -m pytest" in ran.out
    assert "tersor explain model.onnx fold_my_scale:FoldMyScale" in ran.out


def test_its_test_passes_as_written(tmp_path: Path) -> None:
    Scaffold("fold-my-scale", tmp_path).write()
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "7 passed" in ran.stdout


def test_its_test_fails_when_the_pass_is_wrong(tmp_path: Path) -> None:
    written, _ = Scaffold("fold-my-scale", tmp_path).write()
    text = written.read_text(encoding="utf-8")
    assert "number - 1.0" in text
    written.write_text(text.replace("number - 1.0", "number - 2.0"), encoding="utf-8")
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 1, ran.stdout


def test_the_pass_is_found_where_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Scaffold("fold-found-scale", Path()).write()
    assert find("fold_found_scale:FoldFoundScale").name == "fold-found-scale"
    assert str(tmp_path) not in sys.path
    del sys.modules["fold_found_scale"]


def test_json_names_the_files(cli: Cli, tmp_path: Path) -> None:
    document = cli("new-pass", "swap-sums", "--folder", str(tmp_path), "--json").document
    assert document == {
        "name": "swap-sums",
        "class": "swap_sums:SwapSums",
        "pass": str(tmp_path / "swap_sums.py"),
        "test": str(tmp_path / "test_swap_sums.py"),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FoldScale", "expected lower case words joined by hyphens, as in fold-unit-scale; did you mean fold-scale?"),
        ("fold_scale", "did you mean fold-scale?"),
        ("fold--scale", "did you mean fold-scale?"),
        ("3d-pool", "is no name of a pass"),
        ("../escape", "did you mean escape?"),
        ("", "is no name of a pass"),
        ("raise-gelu", "there is a pass 'raise-gelu' already"),
        ("json", "'json' is a module that can be imported already"),
        ("lambda", "'lambda' is a word of Python"),
    ],
)
def test_names_that_it_refuses(cli: Cli, tmp_path: Path, name: str, words: str) -> None:
    ran = cli("new-pass", name, "--folder", str(tmp_path))
    assert ran.code == 2
    assert words in " ".join(ran.err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["fold_my_scale.py", "test_fold_my_scale.py"])
def test_files_that_exist_stay_as_they_are(cli: Cli, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine", encoding="utf-8")
    ran = cli("new-pass", "fold-my-scale", "--folder", str(tmp_path))
    assert ran.code == 2
    assert "exists already; choose another name" in " ".join(ran.err.split())
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {there: "mine"}


def test_a_folder_that_is_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    ran = cli("new-pass", "fold-my-scale", "--folder", str(tmp_path / "file"))
    assert ran.code == 2
    assert "cannot write into" in ran.err
