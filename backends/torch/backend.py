"""torch, eagerly."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import onnx_ir as ir

from ...ir.errors import MissingOp, ModelError, UnsupportedError, unsupported
from ...ir.save import save
from ...passes.pipeline import Pipeline
from ..base import Backend, Interface, Session

if TYPE_CHECKING:
    import torch

PROGRAM = "model.pt2"
GRAPH = "model.onnx"
RUNTIME = "runtime.json"


@dataclass(frozen=True, kw_only=True)
class Torch(Backend):
    """torch without a compiler: every op as torch's own eager kernel.

    device: where weights and arithmetic live, `cpu` or `cuda`.
    """

    name: ClassVar[str] = "torch"
    install: ClassVar[str] = "pip install torch"
    device: Literal["cpu", "cuda"] = "cpu"

    @classmethod
    def version(cls) -> str | None:
        try:
            return installed("torch")
        except PackageNotFoundError:
            return None

    def pipeline(self) -> Pipeline:
        """Nothing: eager torch runs what the semantic level says, op by op."""
        return Pipeline()

    def supports(self, model: ir.Model) -> Sequence[MissingOp]:
        from ...ir.fx import missing

        return missing(model)

    def compile(self, model: ir.Model) -> Session:
        """A session for a lowered model over its FX form: the same calls of torch as in the program that `write` makes,
        without writing it."""
        return self._session(self._module(model), Interface.of(model))

    def write(self, model: ir.Model, folder: Path) -> None:
        """Write `model.pt2`, which `torch.export.load(path).module()` runs.

        Where torch.export cannot express the model (control flow that depends on data, a dimension it would fix),
        `model.onnx` is written instead, which ONNX Runtime runs and `open` reads. `runtime.json` says which, and why.
        """
        import torch

        from .export import ExportError, export

        module = self._module(model)
        runtime = {"program": PROGRAM}
        try:
            program = export(model, module)
        except ExportError as reason:
            save(model, folder / GRAPH)
            runtime = {"program": GRAPH, "reason": str(reason)}
        else:
            with warnings.catch_warnings():
                # for weights that share storage torch warns of a case, weights off the CPU, that is none here
                warnings.filterwarnings("ignore", message="No complete tensor found", category=UserWarning)
                torch.export.save(program, folder / PROGRAM)
        (folder / RUNTIME).write_text(json.dumps(runtime, indent=2) + "\n", encoding="utf-8")

    def open(self, folder: Path, interface: Interface) -> Session:
        from ...ir import onnxfile, pt2

        program, graph = folder / PROGRAM, folder / GRAPH
        if program.is_file():
            return self._session(self._placed(pt2.read(program)).module(), interface)
        if graph.is_file():
            return self._session(self._module(onnxfile.read(graph)), interface)
        raise ModelError(f"{folder} is no artifact for torch: expected {PROGRAM} or {GRAPH} in it")

    def _module(self, model: ir.Model) -> torch.fx.GraphModule:
        from ...ir.fx import to_fx

        missing = self.supports(model)
        if missing:
            raise unsupported(self.name, missing, "rewrite them with a pass before this target, or choose another")
        return to_fx(model)

    def _placed(self, program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
        """The program with the tensors that it makes itself on the device; weights alone would leave those behind."""
        from torch.export.passes import move_to_device_pass

        return program if self.device == "cpu" else move_to_device_pass(program, self.device)

    def _session(self, module: torch.nn.Module, interface: Interface) -> Session:
        import torch

        from .session import TorchSession

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UnsupportedError("torch: device=cuda, but torch finds no CUDA device here; use device=cpu")
        return TorchSession(module.to(self.device), interface, device=self.device, threads=self.threads)
