"""ONNX Runtime: the default target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import MissingOp, ModelError, OptionError, nearest, unsupported
from ...ir.feeds import Array, Feeds
from ...ir.onnxfile import read
from ...ir.save import save
from ...passes.pipeline import Pipeline
from ..base import Backend, Interface, Session
from .lowering import LOWERING
from .probe import missing_ops
from .rules.round_activations import RoundActivations

if TYPE_CHECKING:
    import onnxruntime

FILE = "model.onnx"


class OnnxRuntimeSession(Session):
    """An `onnxruntime.InferenceSession` with its feeds checked."""

    def __init__(self, inner: onnxruntime.InferenceSession, interface: Interface, keep: object = None) -> None:
        super().__init__(interface, keep)
        self.inner = inner
        self._outputs = [output.name for output in inner.get_outputs()]

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        values = self.inner.run(self._outputs, feeds)
        return dict(zip(self._outputs, map(np.asarray, values), strict=True))


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime(Backend):
    """ONNX Runtime.

    provider: `cpu`, or another execution provider that this build of ONNX Runtime has, such as `cuda` or `tensorrt`.
    activations: `int8` lets products with weights of 4 or 8 bits round what they read to 8 bits (W4A8, W8A8), which
        is faster on CPUs with products of such integers. The loss is measured like that of any pass.
    spin: let idle threads spin between runs, as a plain session does: a little quicker to start, at the price of the
        cores that whatever else runs would have used.
    """

    name: ClassVar[str] = "onnxruntime"
    install: ClassVar[str] = "pip install onnxruntime"
    provider: str = "cpu"
    activations: Literal["float", "int8"] = "float"
    spin: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activations not in ("float", "int8"):
            raise OptionError(f"{self.name}: expected activations float or int8, found {self.activations!r}")

    @classmethod
    def version(cls) -> str | None:
        for package in ("onnxruntime", "onnxruntime-gpu"):
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        return None

    def pipeline(self) -> Pipeline:
        return (
            LOWERING if self.activations == "float" else replace(LOWERING, steps=(*LOWERING.steps, RoundActivations()))
        )

    def supports(self, model: ir.Model) -> Sequence[MissingOp]:
        return missing_ops(model, self._provider())

    def write(self, model: ir.Model, folder: Path) -> None:
        save(model, folder / FILE)

    def open(self, folder: Path, interface: Interface) -> Session:
        path = folder / FILE
        if not path.is_file():
            raise ModelError(f"{folder} is no artifact for onnxruntime: expected {FILE} in it")
        try:
            return OnnxRuntimeSession(self._session(path), interface)
        except _errors() as error:
            missing = missing_ops(read(path), self._provider())
            if missing:
                raise unsupported(self.name, missing, "rewrite these ops by a pass, or try another --target") from error
            raise ModelError(f"ONNX Runtime cannot load {path.name}: {error}") from error

    def _session(self, path: Path) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # What goes wrong is raised, in the same words.
        options.log_severity_level = 4
        options.add_session_config_entry("session.force_spinning_stop", "0" if self.spin else "1")
        return onnxruntime.InferenceSession(str(path), options, providers=[self._provider()])

    def _provider(self) -> str:
        """The provider's full name. Raises OptionError when this build does not have it."""
        import onnxruntime

        available: Mapping[str, str] = {
            name.removesuffix("ExecutionProvider").lower(): name for name in onnxruntime.get_available_providers()
        }
        if self.provider.lower() not in available:
            hint = nearest(self.provider, available)
            raise OptionError(f"onnxruntime has no provider {self.provider!r} here; {hint}")
        return available[self.provider.lower()]


def _errors() -> tuple[type[Exception], ...]:
    """The exceptions that a session raises while it loads: the binding gives each status code a class of its own."""
    import onnxruntime.capi.onnxruntime_pybind11_state as binding

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return tuple(getattr(binding, name) for name in names)
