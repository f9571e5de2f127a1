"""OpenVINO on the CPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.errors import MissingOp, ModelError, UnsupportedError, unsupported
from ...passes.clean.inline_functions import InlineFunctions
from ...passes.edit import attribute, is_op
from ...passes.fuse.folding import FOLDING
from ...passes.pipeline import Pipeline
from ..base import Backend, Interface, Session
from .decompose_attention import DecomposeAttention
from .defer_activation_quantization import DEFERRED, DeferActivationQuantization, compressed_weight
from .fold_zero_point import FoldZeroPoint
from .frontend import missing_ops, write_ir
from .round_in_floats import RoundInFloats
from .scatter_kept import ScatterKept
from .session import OpenVinoSession, first_lines
from .split_blocks import SplitBlocks
from .unpack_by_remainders import UnpackByRemainders
from .widen_codes import WidenCodes
from .widen_weights import WidenWeights

MODEL = "openvino.xml"
RUNTIME = "runtime.json"

_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True, kw_only=True)
class OpenVino(Backend):
    """OpenVINO on the CPU.

    precision: what the arithmetic is done in. `f32` keeps the contract of exact passes; `bf16` lets CPUs with bfloat16
        products round to it; `auto` is OpenVINO's own choice, bf16 where the CPU has it.
    performance: `latency` gives one run all threads, `throughput` splits them for runs from several threads at once.
    group: elements that share a scale where activations are quantized at run time; smaller is finer and slower.
    """

    name: ClassVar[str] = "openvino"
    install: ClassVar[str] = 'pip install "tersor[openvino]"'
    precision: Literal["f32", "bf16", "auto"] = "f32"
    performance: Literal["latency", "throughput"] = "latency"
    group: int = 32

    @classmethod
    def version(cls) -> str | None:
        try:
            return installed("openvino")
        except PackageNotFoundError:
            return None

    def pipeline(self) -> Pipeline:
        return Pipeline(
            steps=(
                DeferActivationQuantization(),
                SplitBlocks(),
                WidenWeights(),
                WidenCodes(),
                UnpackByRemainders(),
                ScatterKept(),
                InlineFunctions(own=True),
                FOLDING,
                FoldZeroPoint(),
                RoundInFloats(),
                DecomposeAttention(),
            )
        )

    def supports(self, model: ir.Model) -> Sequence[MissingOp]:
        return missing_ops(model)

    def write(self, model: ir.Model, folder: Path) -> None:
        """Write `openvino.xml`, `openvino.bin` and `runtime.json`.

        The last holds the device and properties to compile with, so that plain OpenVINO gives the same session:
        `openvino.compile_model("openvino.xml", **json.load(open("runtime.json")))`.
        """
        grouped = self._grouped(model)
        try:
            write_ir(model, folder / MODEL, grouped)
        except RuntimeError as error:
            missing = self.supports(model)
            if not missing:
                raise UnsupportedError(f"openvino cannot convert the model: {first_lines(error)}") from error
            hint = "rewrite them with a pass before this target, or choose another target"
            raise unsupported(self.name, missing, f"{hint}; OpenVINO says: {first_lines(error)}") from error
        runtime = {"device_name": "CPU", "config": self._properties() | grouped}
        (folder / RUNTIME).write_text(json.dumps(runtime, indent=2) + "\n", encoding="utf-8")

    def open(self, folder: Path, interface: Interface) -> Session:
        path = folder / MODEL
        if not path.is_file() or not path.with_suffix(".bin").is_file():
            raise ModelError(f"{folder} is no artifact for openvino: expected {MODEL} and {path.stem}.bin in it")
        return OpenVinoSession(path, self._properties(), interface)

    def _properties(self) -> dict[str, str]:
        """What the CPU plugin is told beside what the model itself says."""
        properties = {"PERFORMANCE_HINT": self.performance.upper()}
        if self.precision != "auto":
            properties["INFERENCE_PRECISION_HINT"] = self.precision
        if self.threads:
            properties["INFERENCE_NUM_THREADS"] = str(self.threads)
        return properties

    def _grouped(self, model: ir.Model) -> dict[str, str]:
        """Whether OpenVINO may quantize activations, which it does to all compressed weights or to none.

        It may only where the model asks for it at every such place: what is only stored in few bits stays exact.
        Products on integers that the model itself rounded are not asked.
        """
        products = [node for node in model.graph.all_nodes() if is_op(node, "MatMul", "Gemm")]
        compressed = [node for node in products if _dequantized(node.inputs[1]) and not _on_integers(node)]
        if not compressed:
            return {}
        asked = all(DEFERRED in node.metadata_props for node in compressed)
        return {_GROUP: str(self.group if asked else 0)}


def _rounded(value: ir.Value | None) -> bool:
    """Whether an activation is dequantized from what QuantizeLinear made."""
    producer = None if value is None else value.producer()
    stored = producer.inputs[0] if is_op(producer, "DequantizeLinear") else None
    return stored is not None and is_op(stored.producer(), "QuantizeLinear")


def _on_integers(node: ir.Node) -> bool:
    """Whether a product multiplies an activation that is rounded by a weight of bytes, in one block."""
    weight = compressed_weight(node)
    if weight is None or weight.dtype not in _BYTES or not _rounded(node.inputs[0]):
        return False
    return not any(attribute(reader, "block_size", 0) for reader in weight.consumers())


#: What a weight may go through on the way to its product.
_VIEWS = ("Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


def _dequantized(value: ir.Value | None) -> bool:
    """Whether a weight is dequantized from stored integers, packed ones included."""
    producer = None if value is None else value.producer()
    while is_op(producer, *_VIEWS):
        value = producer.inputs[0]
        producer = None if value is None else value.producer()
    return is_op(producer, "DequantizeLinear") and not _rounded(value)
