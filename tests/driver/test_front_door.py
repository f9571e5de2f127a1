"""The front door: the public names, and that opening it costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tersor


@pytest.mark.parametrize("name", tersor.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(tersor, name) is not None
    assert name in dir(tersor)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(str(tersor.__file__)).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported | {"__version__"} == set(tersor.__all__)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'tersor' has no attribute 'compil'"):
        _ = tersor.compil  # type: ignore[attr-defined]


def test_importing_loads_no_other_package(tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules); import tersor\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'onnx_ir', 'numpy', 'yaml', 'typer', 'rich', 'importlib.metadata'}\n"
        "print(*sorted(heavy & (set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_defining_a_pass_loads_neither_torch_nor_a_runtime(tmp_path: Path) -> None:
    names = "tersor.Pass, tersor.Pipeline, tersor.Exact"
    code = f"import sys, tersor; {names}; print({{'torch', 'onnxruntime'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
