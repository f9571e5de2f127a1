"""What the backends that run on torch share: the model's FX form, and the device."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, ClassVar, Literal

import onnx_ir as ir

from ..ir.errors import MissingOp, UnsupportedError, unsupported
from ..passes.fuse.folding import FOLDING
from ..passes.pipeline import Pipeline
from .base import Backend

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TorchBackend(Backend, ABC):
    """A backend over the model's FX form.

    device: where weights and arithmetic live, `cpu` or `cuda`.
    """

    install: ClassVar[str] = "pip install torch"
    device: Literal["cpu", "cuda"] = "cpu"

    @classmethod
    def version(cls) -> str | None:
        try:
            return installed("torch")
        except PackageNotFoundError:
            return None

    def pipeline(self) -> Pipeline:
        """What takes nodes away, and no more: the FX form takes the semantic level op by op."""
        return FOLDING

    def supports(self, model: ir.Model) -> Sequence[MissingOp]:
        from ..ir.fx import missing

        return missing(model)

    def _module(self, model: ir.Model) -> torch.fx.GraphModule:
        """The FX form, on the CPU, its linear layers fused. Raises UnsupportedError with every op that has none."""
        from ..ir.fx import to_fx
        from ..ir.fx.kernels.linear import fuse_linears

        missing = self.supports(model)
        if missing:
            raise unsupported(self.name, missing, "rewrite them with a pass before this target, or choose another")
        module = to_fx(model)
        fuse_linears(module)
        return module

    def _placed(self, program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
        """The program with the tensors that it makes itself on the device; weights alone would leave those behind."""
        from torch.export.passes import move_to_device_pass

        return program if self.device == "cpu" else move_to_device_pass(program, self.device)

    def _check_device(self) -> None:
        """Raise UnsupportedError where the device is not there."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UnsupportedError(f"{self.name}: device=cuda, but torch finds no CUDA device here; use device=cpu")
