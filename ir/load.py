"""Anything a model may come as -> one `onnx_ir.Model` at the imported level.

    model.onnx                 any opset from 7 up, external data, functions, contrib operators
    model.pt2                  an exported program, if it holds no pickled objects
    folder/                    of Hugging Face (safetensors only), an artifact of ours, or one with a single .onnx in it
    package.module:function    called without arguments; returns a model, or (module, example inputs, dynamic)
    objects                    onnx_ir.Model, onnx.ModelProto, nn.Module, GraphModule, ExportedProgram

A string is a file if one is there; `package.module:function` is tried when none is, with the working directory on the
import path while it is imported and called. Pickles are never loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx
import onnx_ir

from . import onnxfile
from .errors import ModelError, TersorError, nearest
from .imported import check, tidy

if TYPE_CHECKING:
    import torch

    from .dynamic import Dynamic

#: What `load` takes.
Source: TypeAlias = (
    "str | os.PathLike[str] | onnx_ir.Model | onnx.ModelProto | torch.nn.Module | torch.export.ExportedProgram"
)

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib"})


def load(
    source: Source,
    *,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    dynamic: Dynamic | None = None,
) -> onnx_ir.Model:
    """Read `source` as a model at the imported level.

    `args` and `kwargs` are the example inputs that a torch module is traced with, `dynamic` names the dimensions that
    may differ from them: `{"input_ids": {0: "batch", 1: ("sequence", 2, 512)}}`. Weights of files stay mapped; those
    of modules stay shared with the module. An `onnx_ir.Model` is returned as it is. A GraphModule that `to_fx` made
    needs no example inputs: its nodes become the ONNX ops that they were made from, its weights are those of now. So
    does a program that `ir/fx/export.py` exported from one, saved or not.

    Raises ModelError for a source that is no usable model, UnsupportedError where an optional package or a
    translation is missing, OptionError for a `dynamic` that does not fit.
    """
    if isinstance(source, onnx_ir.Model):
        _only_for_modules(args, kwargs, dynamic)
        return source
    if isinstance(source, onnx.ModelProto):
        _only_for_modules(args, kwargs, dynamic)
        return _taken_in(onnxfile.from_proto(source, "the ModelProto"), "the ModelProto")
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if isinstance(source, str) and not path.exists() and _FUNCTION.fullmatch(source):
            return _from_function(source)
        _only_for_modules(args, kwargs, None if path.suffix == ".pt2" else dynamic)
        return _from_path(path, dynamic)
    return _from_torch(source, args, kwargs, dynamic)


def _only_for_modules(args: object, kwargs: object, dynamic: object) -> None:
    given = [name for name, value in (("args", args), ("kwargs", kwargs), ("dynamic", dynamic)) if value]
    if given:
        raise ModelError(f"{' and '.join(given)} are for tracing a torch module; this source is a finished graph")


def _taken_in(model: onnx_ir.Model, where: str) -> onnx_ir.Model:
    check(model, where)
    tidy(model)
    return model


def _from_torch(
    source: object, args: Sequence[object], kwargs: Mapping[str, object] | None, dynamic: Dynamic | None
) -> onnx_ir.Model:
    # A torch object can only be given once torch is imported.
    if "torch" in sys.modules:
        from torch.export import ExportedProgram

        from . import trace
        from .fx.inverse.back import from_fx, from_program
        from .fx.inverse.model import is_ours
        from .fx.inverse.retrace import evaluated

        if is_ours(source) and not (args or kwargs or dynamic):
            return _taken_in(from_fx(source), type(source).__name__)
        if isinstance(source, ExportedProgram) and not (args or kwargs):
            return _taken_in(from_program(source, dynamic), type(source).__name__)
        if trace.is_traceable(source):
            with evaluated(source) if is_ours(source) else contextlib.nullcontext():
                model = trace.trace(source, args, kwargs, dynamic)
            return _taken_in(model, type(source).__name__)
    raise ModelError(
        f"a {type(source).__name__} is no model: expected a path, package.module:function, an onnx_ir.Model, "
        "an onnx.ModelProto, a torch nn.Module with example inputs in args, or an ExportedProgram"
    )


def _from_path(path: Path, dynamic: Dynamic | None) -> onnx_ir.Model:
    if not path.exists():
        raise ModelError(f"no file {path}: {_neighbours(path)}")
    if path.is_dir():
        return _from_folder(path)
    if not os.access(path, os.R_OK):
        raise ModelError(f"{path} cannot be read: check its permissions")
    if path.suffix == ".pt2":
        from . import pt2
        from .fx.inverse.back import from_program

        return _taken_in(from_program(pt2.read(path), dynamic), str(path))
    if path.suffix in _PICKLES:
        raise ModelError(
            f"{path} has the ending of a pickle, and pickles are never loaded: a pickle can run any code. Export the "
            "model with torch.export.save (.pt2) or torch.onnx.export (.onnx), or store its weights as safetensors"
        )
    return _taken_in(onnxfile.read(path), str(path))


def _from_folder(folder: Path) -> onnx_ir.Model:
    for artifact in (folder / "model.onnx", folder / "model.pt2"):
        if (folder / "manifest.json").is_file() and artifact.is_file():
            return _from_path(artifact, None)
    from . import hf

    if hf.is_model_folder(folder):
        return _taken_in(hf.read(folder), str(folder))
    found = sorted(entry.name for entry in folder.glob("*.onnx"))
    if len(found) == 1:
        return _from_path(folder / found[0], None)
    if found:
        raise ModelError(f"{folder} holds {len(found)} models ({', '.join(found)}): name one of them")
    held = sorted(entry.name for entry in folder.iterdir())
    listing = ", ".join(held[:8]) + (", ..." if len(held) > 8 else "") if held else "nothing"
    raise ModelError(
        f"{folder} holds no model: expected one .onnx file, a Hugging Face model (config.json and safetensors) "
        f"or an artifact (manifest.json and model.onnx or model.pt2), found {listing}"
    )


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"its folder {path.parent} does not exist either"
    names = [entry.name for entry in path.parent.iterdir()]
    models = [name for name in names if name.endswith((".onnx", ".pt2"))]
    hint = nearest(path.name, names)
    if hint.startswith("did you mean"):
        return hint
    return f"models in {path.parent}: {', '.join(sorted(models))}" if models else f"no model is in {path.parent}"


def _from_function(source: str) -> onnx_ir.Model:
    name, _, attribute = source.partition(":")
    with _working_directory_importable():
        made = _function(source, name, attribute)()
    if isinstance(made, onnx_ir.Model | onnx.ModelProto):
        return load(made)
    module, inputs, dynamic = (*made, None, None)[:3] if isinstance(made, tuple) and made else (made, None, None)
    if isinstance(inputs, Mapping):
        args, kwargs = (), inputs
    else:
        args, kwargs = tuple(inputs) if isinstance(inputs, tuple | list) else () if inputs is None else (inputs,), None
    fits = len(made) in (2, 3) if isinstance(made, tuple) else True
    if not fits or not isinstance(dynamic, Mapping | None):
        raise ModelError(f"{source} returned {_shown(made)}: expected a model, or (module, example inputs, dynamic)")
    return _from_torch(module, args, kwargs, dynamic)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(item).__name__ for item in value)})"
    return f"a {type(value).__name__}"


def _function(source: str, name: str, attribute: str) -> Callable[[], Source | tuple[object, ...]]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise ModelError(
                f"{source}: there is no file of that name and no module {missing!r} to import from {Path.cwd()} or "
                "the installed packages"
            ) from error
        raise ModelError(f"{source}: importing {name} needs the module {missing!r}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"{source}: importing {name} failed with {type(error).__name__}: {error}") from error
    function = getattr(module, attribute, None)
    if function is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = nearest(attribute, public) if public else "it defines no function"
        raise ModelError(f"{source}: module {name} has no {attribute!r}: {hint}")
    if not callable(function):
        raise ModelError(f"{source}: {attribute} is a {type(function).__name__}, expected a function without arguments")

    def call() -> Source | tuple[object, ...]:
        try:
            made: Source | tuple[object, ...] = function()
        except TersorError:
            raise
        except (Exception, SystemExit) as error:
            raise ModelError(f"{source} failed with {type(error).__name__}: {error}") from error
        return made

    return call


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    entry = str(Path.cwd())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)
