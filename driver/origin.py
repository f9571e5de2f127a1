"""Where a model came from: the kind of source and the files it was read from, with their hashes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir

from ..ir import reference
from ..ir.load import Source
from ..ir.save import sha256
from . import manifest
from .manifest import FileData, SourceData

_OF_A_FOLDER = (".json", ".safetensors", ".onnx", ".data", ".pt2")


def describe(source: Source, model: onnx_ir.Model) -> SourceData:
    """What `manifest.json` says of the source that `model` was just loaded from."""
    if not isinstance(source, str | os.PathLike):
        kind = "model" if isinstance(source, onnx_ir.Model | onnx.ModelProto) else "module"
        return {"kind": kind, "name": type(source).__name__, "path": None, "files": []}
    path = Path(source).expanduser()
    if not path.exists():
        return {"kind": "function", "name": str(source), "path": str(source), "files": []}
    files = sorted({file.resolve() for file in _files(path, model)})
    root = path.resolve() if path.is_dir() else path.resolve().parent
    listed = [_file(file, root) for file in files]
    return {"kind": _kind(path), "name": path.resolve().name, "path": str(path.resolve()), "files": listed}


def recorded(source: Source) -> str | None:
    """The source as a recipe can name it again; None for an object in memory."""
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source).expanduser()
    if not path.exists() and reference.is_reference(str(source)):
        return str(source)
    return str(path.resolve())


def _kind(path: Path) -> str:
    if path.is_file():
        return "pt2" if path.suffix == ".pt2" else "onnx"
    if (path / manifest.NAME).is_file():
        return "artifact"
    return "huggingface" if (path / "config.json").is_file() else "onnx"


def _files(path: Path, model: onnx_ir.Model) -> Iterator[Path]:
    if path.is_dir():
        yield from (entry for entry in path.iterdir() if entry.suffix in _OF_A_FOLDER and entry.is_file())
    else:
        yield path
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, onnx_ir.ExternalTensor):
                yield Path(value.const_value.path)


def _file(path: Path, root: Path) -> FileData:
    name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    return {"name": name, "bytes": path.stat().st_size, "sha256": sha256(path)}
