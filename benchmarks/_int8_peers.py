"""MiniLM in int8 as other packages make it, each at the settings that it recommends.

NNCF comes with the extra `bench`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tersor.benchmarks._calibration import sentences
from tersor.benchmarks._common import plain_session
from tersor.benchmarks._quantized import Quantized
from tersor.benchmarks._quiet import quiet
from tersor.examples import minilm
from tersor.examples.data import Feeds
from tersor.ir.save import save
from tersor.ir.trace import trace

#: Batches that NNCF calibrates on, and sentences in each.
BATCHES, BATCH = 40, 16


@dataclass(frozen=True)
class Peer:
    """A file, and the seconds that it took to make."""

    path: Path
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """Of the file and of the weights beside it."""
        path = self.path
        beside = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")
        return sum(file.stat().st_size for file in (path, beside) if file.exists())


def plain_export(folder: Path) -> Peer:
    """torch's own export at opset 18."""
    source, path = minilm.source(), folder / "plain.onnx"
    save(trace(source.module, source.args, dynamic=source.dynamic, opset=18), path)
    return Peer(path)


def on_onnxruntime(peer: Peer, threads: int) -> Quantized:
    """As anyone runs it on ONNX Runtime."""
    return Quantized(plain_session(peer.path, threads), peer.bytes, peer.seconds)


def on_openvino(peer: Peer, threads: int, precision: str = "auto") -> Quantized:
    """As anyone runs it on OpenVINO, with as many threads as all have; precision: `f32`, `bf16` or `auto`."""
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
    settings |= {} if precision == "auto" else {"INFERENCE_PRECISION_HINT": precision}
    request = openvino.Core().compile_model(peer.path, "CPU", settings).create_infer_request()

    def run(feeds: Feeds) -> Feeds:
        request.infer(dict(feeds), share_inputs=True)
        return {"last_hidden_state": np.array(request.get_output_tensor(0).data)}

    return Quantized(run, peer.bytes, peer.seconds)


def dynamic(plain: Peer, folder: Path) -> Peer:
    """ONNX Runtime's quantize_dynamic, per channel."""
    path, start = folder / "quantize_dynamic.onnx", time.perf_counter()
    with quiet():
        quantize_dynamic(plain.path, path, per_channel=True, weight_type=QuantType.QInt8)
    return Peer(path, time.perf_counter() - start)


def dynamic_attention(folder: Path) -> Peer:
    """The TorchScript export at opset 14, ONNX Runtime's fusions for BERT, and quantize_dynamic, which then has whole
    attentions to quantize. The seconds are those of the latter two.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    source, exported = minilm.source(), folder / "torchscript.onnx"
    source.module.bert.set_attn_implementation("eager")
    fused, path = folder / "fused.onnx", folder / "quantize_dynamic_attention.onnx"
    with quiet(), torch.no_grad():
        torch.onnx.export(
            source.module, source.args, str(exported), dynamo=False, opset_version=14,
            input_names=list(source.dynamic), output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in source.dynamic},
        )  # fmt: skip
        start = time.perf_counter()
        config = source.module.bert.config
        heads, hidden = config.num_attention_heads, config.hidden_size
        optimize_model(str(exported), "bert", heads, hidden, FusionOptions("bert")).save_model_to_file(str(fused))
        # the type of what ONNX's own inference of shapes does not know behind a fused attention
        types = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(fused, path, per_channel=True, weight_type=QuantType.QInt8, extra_options=types)
    seconds = time.perf_counter() - start
    made = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    assert "QAttention" in made, f"expected attentions to be fused and quantized, found {sorted(made)}"
    return Peer(path, seconds)


def nncf(plain: Peer, folder: Path) -> Peer:
    """NNCF's quantization with the preset PERFORMANCE."""
    import nncf as package
    import openvino

    path, start = folder / "nncf.xml", time.perf_counter()
    calibration = list(minilm.batches(sentences(BATCHES * BATCH), BATCH))[:BATCHES]
    made = package.quantize(
        openvino.Core().read_model(plain.path),
        package.Dataset(calibration),
        model_type=package.ModelType.TRANSFORMER,
        preset=package.QuantizationPreset.PERFORMANCE,
        subset_size=BATCHES,
    )
    openvino.save_model(made, path, compress_to_fp16=False)
    return Peer(path, time.perf_counter() - start)
