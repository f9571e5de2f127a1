"""The rules of the house: arrows, cycles, sizes, packages, the front door, no machine's paths."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("ir", "passes", "backends", "driver")
FRONT_DOOR = {"load", "run_passes", "compile", "open", "to_fx", "compare", "cost"}
LONGEST = 400
MACHINE_PATH = re.compile(r"(?<![\w.$~}])/(?:work|root|home|Users|tmp)/\w|[A-Z]:\\Users\\")
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".html", ".cfg", ".sh", ""}


class Import(NamedTuple):
    """One imported module, both as parts of the dotted name below `tersor`: () is the front door."""

    importer: tuple[str, ...]
    imported: tuple[str, ...]
    for_types: bool

    def __str__(self) -> str:
        return f"{'.'.join(self.importer)} -> {'.'.join(self.imported) or 'tersor'}"


def files(*folders: str) -> list[Path]:
    """Python files under folders of the root, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> tuple[str, ...]:
    """`ir/fx/__init__.py` -> (ir, fx); `ir/text.py` -> (ir, text)."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def type_only(tree: ast.Module) -> set[ast.AST]:
    """Nodes in the body of `if TYPE_CHECKING:`."""
    return {
        inner
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in branch.body
        for inner in ast.walk(statement)
    }


@cache
def imports() -> tuple[Import, ...]:
    """Every relative import inside the four layers, deferred ones too, each name resolved to a module."""
    modules = {name(path) for path in files(*LAYERS)}

    def resolved(path: Path) -> Iterator[Import]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside_types = type_only(tree)
        package = path.relative_to(ROOT).parts[:-1]
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            below = tuple(node.module.split(".")) if node.module else ()
            base = (*package[: len(package) - node.level + 1], *below)
            for alias in node.names:
                target = (*base, alias.name)
                yield Import(name(path), target if target in modules else base, node in inside_types)

    return tuple(found for path in files(*LAYERS) for found in resolved(path))


def layer(module: tuple[str, ...]) -> int:
    """Position of a module's layer; the front door is above all."""
    return LAYERS.index(module[0]) if module else len(LAYERS)


def family(module: tuple[str, ...]) -> tuple[str, str] | None:
    """(passes, clean) for what lies in passes/clean/; None for what a whole layer shares."""
    return (module[0], module[1]) if len(module) > 1 and (ROOT / module[0] / module[1]).is_dir() else None


def test_no_import_goes_up() -> None:
    assert [str(one) for one in imports() if layer(one.imported) > layer(one.importer)] == []


def test_families_do_not_import_each_other() -> None:
    def strangers(one: Import) -> bool:
        own, other = family(one.importer), family(one.imported)
        apart = bool(own and other) and own != other and own[0] == other[0] and own[0] in ("passes", "backends")
        # structured weights are what every compressing family writes, numerics what it computes with: no families
        return apart and other not in (("passes", "weights"), ("passes", "numerics"))

    assert [str(one) for one in imports() if strangers(one)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for one in imports():
        if not one.for_types:
            graph.setdefault(one.importer, set()).add(one.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(".".join(module) for module in error.args[1]))


def test_imports_inside_the_layers_are_relative() -> None:
    def absolute(path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            from_there = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else from_there
            if {module.split(".")[0] for module in named} & {"tersor", *LAYERS}:
                yield f"{path.relative_to(ROOT)}:{node.lineno}"

    assert [place for path in files(*LAYERS) for place in absolute(path)] == []


def test_pyproject_lists_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {".".join(("tersor", *path.parent.relative_to(ROOT).parts)) for path in files(*LAYERS)}
    assert set(settings["tool"]["setuptools"]["packages"]) == folders | {"tersor"}
    without_init = {path.parent.name for path in files(*LAYERS) if not (path.parent / "__init__.py").exists()}
    assert without_init == set()


def test_no_file_is_over_400_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (*ROOT.glob("*.py"), *files(*LAYERS, "tests", "benchmarks", "examples"))
    }
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


def test_importing_tersor_loads_neither_torch_nor_onnxruntime() -> None:
    heavy = ("torch", "onnxruntime", "openvino", "transformers")
    program = f"import sys, tersor; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import tersor

    assert set(tersor.__all__) >= FRONT_DOOR
    assert [public for public in tersor.__all__ if not hasattr(tersor, public)] == []


def texts() -> Iterator[Path]:
    """The project's text files: no caches, builds, environments or hidden folders other than .ci."""
    for folder, below, found in os.walk(ROOT):
        below[:] = sorted(
            one for one in below if one == ".ci" or not one.startswith((".", "__pycache__", "build", "dist", "tersor."))
        )
        yield from (path for path in (Path(folder, one) for one in sorted(found)) if path.suffix in TEXT)


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []
