"""Reading `.pt2` files, and only those that hold nothing but a graph and plain arrays.

torch.export.load unpickles objects, loads compiled code and evaluates expressions where an archive asks for it, so the
archive is inspected first and refused when it does. Tried with archives of torch 2.11 to 2.13.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from .errors import ModelError

# Shapes are kept as text that torch evaluates. Its own are sums, products and calls of sympy classes (Max, FloorDiv).
_EXPRESSION = re.compile(r"[\w\s+\-*/%().,<>=!&|~]*")
_UNSAFE = re.compile(r"__|[a-z_]\w*\s*\(|[A-Za-z_)\]]\s*\.|\b(import|lambda)\b")
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
        raise ModelError(f"{path} holds compiled code, not a graph: give the program before aoti_compile_and_package")
    if "models/model.json" not in names:
        raise ModelError(f"{path} holds no exported program named 'model'; {_AGAIN}")
    for folder in ("weights", "constants"):
        config = json.loads(archive.read(names[f"data/{folder}/model_{folder}_config.json"]))
        pickled = [key for key, item in config["config"].items() if _is_pickled(item)]
        if pickled or f"data/{folder}/model.pt" in names:
            what = ", ".join(pickled[:4]) or folder
            raise ModelError(f"{path} holds pickled objects ({what}), and pickles are never loaded; {_AGAIN}")
    _check_samples(archive.read(names["data/sample_inputs/model.pt"]), path)
    for text in _expressions(json.loads(archive.read(names["models/model.json"]))):
        if not _EXPRESSION.fullmatch(text) or _UNSAFE.search(text):
            raise ModelError(f"{path} holds the shape expression {text[:60]!r}, as torch writes none: it is not loaded")


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


def _expressions(tree: object) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, item in tree.items():
            if key == "expr_str" and isinstance(item, str):
                yield item
            else:
                yield from _expressions(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from _expressions(item)
