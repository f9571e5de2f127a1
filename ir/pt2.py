"""Reading `.pt2` files, and only those that hold nothing but a graph and plain arrays.

torch.export.load unpickles objects, loads compiled code and evaluates expressions where an archive asks for it, so the
archive is inspected first and refused when it does. Tried with archives of torch 2.11 to 2.13.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from .errors import ModelError

# What a node of an exported program calls: operators, and Python's and torch's arithmetic on sizes.
_TARGET = re.compile(r"torch\.ops\.\w+\.\w+(\.\w+)?|_operator\.\w+|math\.\w+|torch\._?sym_\w+")
_ARITHMETIC = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
_AGAIN = "save the program again with torch.export.save of torch 2.11 or newer"


def read(path: Path) -> torch.export.ExportedProgram:
    """The exported program in a `.pt2` file. Raises ModelError when it is none, or would run code when loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            _inspect(archive, path)
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, KeyError, EOFError) as error:
        raise ModelError(
            f"{path} is no complete .pt2 archive ({error}): it is truncated, damaged or of another format; {_AGAIN}"
        ) from error
    try:
        with warnings.catch_warnings():
            # for weights that share storage torch warns of a case, weights off the CPU, that is none here
            warnings.filterwarnings("ignore", message="No complete tensor found", category=UserWarning)
            return torch.export.load(path)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{path}: torch {torch.__version__} cannot load this program ({reason}); {_AGAIN}") from error


def _inspect(archive: zipfile.ZipFile, path: Path) -> None:
    listed = archive.namelist()
    twice = [name for name, count in Counter(listed).items() if count > 1]
    if twice:
        raise ModelError(f"{path} holds {twice[0]} twice, as no archive of torch does: it is not loaded")
    names = {name.partition("/")[2]: name for name in listed}
    if "data.pkl" in names:
        raise ModelError(f"{path} is a file of torch.save, a pickle, and pickles are never loaded; {_AGAIN}")
    if any(name.startswith("data/aotinductor/") for name in names):
        raise ModelError(
            f"{path} holds compiled code, not a graph: give what it was compiled from, the source of an artifact or "
            "the program before aoti_compile_and_package"
        )
    programs = [name for name in listed if "models/" in name]
    if "models/model.json" not in names or len(programs) > 1 or len({name.partition("/")[0] for name in listed}) > 1:
        raise ModelError(f"{path} holds {programs or 'no program'}, expected one named 'model'; {_AGAIN}")
    for folder in ("weights", "constants"):
        config = json.loads(archive.read(names[f"data/{folder}/model_{folder}_config.json"]))
        pickled = [key for key, item in config["config"].items() if _is_pickled(item)]
        if pickled or f"data/{folder}/model.pt" in names:
            what = ", ".join(pickled[:4]) or folder
            raise ModelError(f"{path} holds pickled objects ({what}), and pickles are never loaded; {_AGAIN}")
    _check_samples(archive.read(names["data/sample_inputs/model.pt"]), path)
    for kind, text in _evaluated(json.loads(archive.read(names["models/model.json"]))):
        harmless = _TARGET.fullmatch(text) is not None if kind == "target" else _is_arithmetic(text)
        if not harmless:
            raise ModelError(f"{path} holds the {kind} {text[:60]!r}, as torch writes none: it is not loaded")


def _is_pickled(item: dict[str, object]) -> bool:
    name = str(item.get("path_name", ""))
    return bool(item.get("use_pickle", True)) or not name.startswith(("weight_", "tensor_"))


def _check_samples(data: bytes, path: Path) -> None:
    """torch falls back to full unpickling of the example inputs where loading them as mere tensors fails."""
    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{path} holds example inputs that are pickled objects, not plain tensors; {_AGAIN}"
        ) from error


def _evaluated(tree: object) -> Iterator[tuple[str, str]]:
    """The texts that torch looks up or evaluates: what each node calls, and the expressions of shapes."""
    if isinstance(tree, dict):
        if isinstance(tree.get("target"), str) and "inputs" in tree:
            yield "target", tree["target"]
        if isinstance(tree.get("expr_str"), str):
            yield "shape expression", tree["expr_str"]
        for item in tree.values():
            yield from _evaluated(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from _evaluated(item)


def _is_arithmetic(text: str) -> bool:
    """Whether evaluating `text` as torch does makes numbers, symbols and functions of these, and does nothing else."""
    try:
        return _is_harmless(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return False


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        # Some functions evaluate the text that they are given.
        return isinstance(node.value, int | float)
    if isinstance(node, ast.Name):
        return not node.id.startswith("_")
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or not re.fullmatch(r"[A-Z][A-Za-z]+", node.func.id):
            return False
        given = list(node.args)
        if node.func.id in ("Symbol", "Float") and given and isinstance(given[0], ast.Constant):
            label = given.pop(0)
            if not isinstance(label, ast.Constant) or not re.fullmatch(r"[\w.+-]+", str(label.value)):
                return False
        return all(map(_is_harmless, (*given, *(keyword.value for keyword in node.keywords))))
    return isinstance(node, _ARITHMETIC) and all(map(_is_harmless, ast.iter_child_nodes(node)))
