"""The executable form: `onnx_ir.Model` to `torch.fx.GraphModule`, one table per op family, and its interpreter."""

from __future__ import annotations

from .coverage import missing
from .emit import to_fx
from .interpreter import Interpreter, Tap

__all__ = ["Interpreter", "Tap", "missing", "to_fx"]
