"""What `bench` times: artifacts, and .onnx files on a plain runtime as a user would run them without tersor.

out/                        an artifact, on the target it was compiled for
model.onnx                  ONNX Runtime, its own optimizations on
model.onnx@openvino         OpenVINO, latency hint
model.onnx@torch            torch eager, through the FX form
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir

from ..backends import catalogue
from ..backends.base import Interface, Session
from ..ir.errors import ModelError, OptionError, UnsupportedError, nearest
from ..ir.feeds import Array, Feeds
from ..ir.load import load
from .artifact import open_with
from .manifest import read_manifest

if TYPE_CHECKING:
    import onnxruntime
    import openvino

_DEFAULT = "onnxruntime"


@dataclass(frozen=True)
class Contestant:
    """One thing to time. `runtime` is None for an artifact, which knows its own."""

    label: str
    path: Path
    runtime: str | None

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """Read `out/` or `model.onnx@runtime`. Raises OptionError for another runtime, ModelError for no such file."""
        name, at, runtime = text.rpartition("@")
        if not at or Path(text).exists():
            name, runtime = text, ""
        path = Path(name).expanduser()
        if runtime and runtime not in _PLAIN:
            raise OptionError(f"{text!r}: there is no plain runtime {runtime!r}; {nearest(runtime, _PLAIN)}")
        if not path.exists():
            raise ModelError(f"no file or folder {path}: a contestant is an artifact folder or an .onnx file")
        if path.is_dir():
            if runtime:
                raise OptionError(f"{text!r}: an artifact runs on the target it was compiled for; leave @{runtime} out")
            return cls(text, path, None)
        if path.suffix != ".onnx":
            raise ModelError(f"{path} cannot be timed: compile it first, then name the artifact folder")
        return cls(text, path, runtime or _DEFAULT)

    @property
    def backend(self) -> str:
        """The backend whose runtime it runs on."""
        return self.runtime or read_manifest(self.path)["target"]["backend"]

    def open(self, threads: int = 0) -> Session:
        """A session; `threads` 0 leaves them to the runtime, or to the options that the artifact was compiled with."""
        if self.runtime is not None:
            return _PLAIN[self.runtime](self.path, threads)
        return open_with(self.path, {"threads": threads} if threads else {})

    def model(self) -> onnx_ir.Model | None:
        """The graph, None for artifacts whose files are no ONNX."""
        if self.runtime is not None:
            return load(self.path)
        names = [file["name"] for file in read_manifest(self.path)["files"] if file["role"] == "model"]
        found = next((name for name in names if name.endswith(".onnx")), None)
        return None if found is None else load(self.path / found)

    def bytes(self) -> int:
        """Bytes on disk of what the runtime reads, external data included; recipe, manifest and report are not."""
        if self.runtime is None:
            return sum(file["bytes"] for file in read_manifest(self.path)["files"] if file["role"] == "model")
        # read as it lies there: our own loader takes small external tensors in
        model = onnx_ir.load(self.path)
        tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
        external = {Path(tensor.path).resolve() for tensor in tensors if isinstance(tensor, onnx_ir.ExternalTensor)}
        return sum(path.stat().st_size for path in {self.path.resolve(), *external})


class _OnnxRuntime(Session):
    def __init__(self, interface: Interface, session: onnxruntime.InferenceSession) -> None:
        super().__init__(interface)
        self._session = session
        self._outputs = [port.name for port in session.get_outputs()]

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))


class _OpenVino(Session):
    def __init__(self, interface: Interface, compiled: openvino.CompiledModel) -> None:
        super().__init__(interface)
        self._compiled = compiled
        self._names = [port.name for port in interface.signature.outputs]

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        found = self._compiled(dict(feeds))
        return {name: found[index] for index, name in enumerate(self._names)}


class _Torch(Session):
    def __init__(self, model: onnx_ir.Model) -> None:
        from ..ir.fx import Interpreter, to_fx

        super().__init__(Interface.of(model))
        self._interpreter = Interpreter(to_fx(model))

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        return dict(self._interpreter.run(feeds))


def _open_onnxruntime(path: Path, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # its threads spin during a call as ever, but not on into the next contestant's turn
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base that is public
        raise UnsupportedError(f"ONNX Runtime refuses {path}: {error}") from error
    return _OnnxRuntime(Interface.of(load(path)), session)


def _open_openvino(path: Path, threads: int) -> Session:
    try:
        import openvino
    except ImportError as error:
        install = catalogue.find("openvino").install
        raise UnsupportedError(f"{path}@openvino: OpenVINO is not installed; {install}") from error
    hints: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        hints["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", hints)
    except RuntimeError as error:
        raise UnsupportedError(f"OpenVINO refuses {path}: {error}") from error
    return _OpenVino(Interface.of(load(path)), compiled)


def _open_torch(path: Path, threads: int) -> Session:
    import torch

    if threads:
        torch.set_num_threads(threads)
    return _Torch(load(path))


_PLAIN: Mapping[str, Callable[[Path, int], Session]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "torch": _open_torch,
}
