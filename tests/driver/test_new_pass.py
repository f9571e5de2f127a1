"""`tersor new-pass`: what it writes works as written, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import tersor
from tersor.driver.scaffold import Scaffold
from tersor.ir.errors import PassError
from tersor.ir.text import graph
from tersor.passes.base import Context, Pass
from tersor.passes.catalogue import find
from tersor.tests.driver.support import Cli

INPUTS = {"x": "float[batch, 4]"}


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


def test_its_first_edit_is_another_op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = edited(tmp_path, monkeypatch, "fold-other-ops", '("Mul",)', '("Erf", "Clip", "Mul")')
    model = graph("e = Erf(x)", "c = Clip(e, zero, one)", "m = Mul(c, two)", inputs=INPUTS, zero=0.0, one=1.0, two=2.0)
    rules = [finding.miss.rule for finding in made.explain(model, Context()).misses if finding.miss is not None]
    assert rules == ["inputs", "inputs", "factor"]


@pytest.mark.parametrize(
    ("old", "new", "words", "command"),
    [
        ("len(node.inputs) != 2", "node.width != 2", "AttributeError: ", "explain"),
        ("len(node.inputs) != 2", "node.width != 2", "AttributeError: ", "compile"),
        ("replace(Tape(), found", "replace(tape, found", "NameError: name 'tape' is not defined", "compile"),
        (
            "if len(node.inputs) != 2:",
            "if True:\n            return None",
            "match answered None; expected a ",
            "explain",
        ),
    ],
)
def test_a_mistake_in_it_is_named_with_its_node_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str, command: str
) -> None:
    made = edited(tmp_path, monkeypatch, "fold-wrong-scale", old, new)
    model = graph("s = Mul(x, one)", "y = Relu(s)", inputs=INPUTS, one=1.0)
    with pytest.raises(PassError, match=r"^the pass fold-wrong-scale failed on Mul at ") as caught:
        made.explain(model, Context()) if command == "explain" else tersor.run_passes(model, made, verify="off")
    assert words in str(caught.value)
    assert "> s = Mul(x, one)" in caught.value.__notes__[0]
    line = 1 + (tmp_path / "fold_wrong_scale.py").read_text(encoding="utf-8").split(new)[0].count("\n")
    assert "match answered" in words or str(caught.value).endswith(f" (fold_wrong_scale.py, line {line})")


def edited(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> Pass:
    """The pass that the command writes, with one edit."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    scaffold = Scaffold(name, Path())
    written, _ = scaffold.write()
    text = written.read_text(encoding="utf-8")
    assert old in text
    written.write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setitem(sys.modules, scaffold.module, ModuleType(scaffold.module))
    del sys.modules[scaffold.module]  # and no trace of it is left behind
    return find(f"{scaffold.module}:{scaffold.kind}")()


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
        ("test-scale", "pytest would take test_scale.py for tests"),
        ("scale-test", "pytest would take scale_test.py for tests"),
        ("conftest", "pytest would take conftest.py for tests or for its own settings"),
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
