"""torch, eagerly."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from ...ir.errors import ModelError
from ...ir.save import save
from ..base import Interface, Session
from ..torch_base import TorchBackend

if TYPE_CHECKING:
    import torch

PROGRAM = "model.pt2"
GRAPH = "model.onnx"
RUNTIME = "runtime.json"


@dataclass(frozen=True, kw_only=True)
class Torch(TorchBackend):
    """torch without a compiler: every op as torch's own eager kernel.

    unpack: compute weights of few bits once, when a session opens, and keep them as floats; without, they stay as they
        are stored, and are computed at every run.
    """

    name: ClassVar[str] = "torch"
    unpack: bool = True

    def compile(self, model: ir.Model) -> Session:
        """A session for a lowered model over its FX form: the same calls of torch as in the program that `write` makes,
        without writing it."""
        return self._session(self._packed(model), Interface.of(model))

    def write(self, model: ir.Model, folder: Path) -> None:
        """Write `model.pt2`, which `torch.export.load(path).module()` runs.

        Where torch.export cannot express the model (control flow that depends on data, a dimension it would fix),
        `model.onnx` is written instead, which ONNX Runtime runs and `open` reads. `runtime.json` says which, and why.
        """
        import torch

        from ...ir.fx.export import ExportError, export
        from ...ir.fx.inverse.note import draft
        from ...ir.fx.kernels.packed import pack_weights

        module = self._module(model)
        before = draft(module)
        pack_weights(module)
        runtime = {"program": PROGRAM}
        try:
            program = export(model, module, before=before)
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
        import torch

        from ...ir import onnxfile, pt2

        program, graph = folder / PROGRAM, folder / GRAPH
        if program.is_file():
            made = self._placed(pt2.read(program)).module()
            assert isinstance(made, torch.fx.GraphModule)
            return self._session(made, interface)
        if graph.is_file():
            return self._session(self._packed(onnxfile.read(graph)), interface)
        raise ModelError(f"{folder} is no artifact for torch: expected {PROGRAM} or {GRAPH} in it")

    def _packed(self, model: ir.Model) -> torch.fx.GraphModule:
        """The FX form, weights of few bits packed."""
        from ...ir.fx.kernels.packed import pack_weights

        module = self._module(model)
        pack_weights(module)
        return module

    def _session(self, module: torch.fx.GraphModule, interface: Interface) -> Session:
        from ...ir.fx.kernels.constants import fold, fold_masks
        from ...ir.fx.kernels.linear import fuse_linears
        from ...ir.fx.kernels.weights import quicken
        from ..torch_session import TorchSession

        self._check_device()
        if self.unpack and fold_masks(module) + fold(module):
            fuse_linears(module)
        module = module.to(self.device)
        weights = (*module.parameters(), *module.buffers())
        quicken(module)
        return TorchSession(module, interface, device=self.device, threads=self.threads, weights=weights)
