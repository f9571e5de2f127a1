"""MiniLM in int8 on OpenVINO beside NNCF: bytes, Spearman on STS13, fidelity, speed.

Both calibrate on sentences of STS12's training pairs, which no figure is read on: NNCF's quantization with the
preset PERFORMANCE on 40 batches of 16, tersor's passes on the batches that `benchmarks/quantize.py` gives them. All
rows run on OpenVINO at one precision where nothing is rounded: its own default, bfloat16 where the CPU has it, unless
`--precision f32`. They are timed in turns on the same batches of STS13 (32 sentences sorted by length; one by one);
ratios are medians of pairs with a 95 % bootstrap interval.

NNCF comes with the extra `bench`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openvino
import torch
from tersor.benchmarks._calibration import sentences
from tersor.benchmarks._common import publish
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._sts_rows import NOTE, arguments, sts_rows
from tersor.examples import minilm
from tersor.examples.data import Feeds, Run
from tersor.ir.save import save
from tersor.ir.trace import trace

_STATIC = "smooth-activations, quantize-static{range=min-max, embeddings=true}"
#: What each row adds to raising, by what it is called. All but the first quantize what they can, slower or not.
PAYING = "W8A8 static, what pays"
ROWS = {
    PAYING: _STATIC,
    "exact": "",
    "W8A8 static": _STATIC,
    "W8A8 static, int8": (
        "smooth-activations, quantize-static{range=min-max, type=int8, symmetric=true, embeddings=true}"
    ),
    "W8A8 static, no headroom": "smooth-activations, quantize-static{range=min-max, headroom=none, embeddings=true}",
    "W8A8 dynamic": "quantize-dynamic{embeddings=true}",
    "W8A16": "quantize-weights{bits=8, group=0, embeddings=true}",
    "W4A16 g64": "quantize-weights{group=64, embeddings=true}",
}
FP32, NNCF = "openvino fp32", "NNCF int8"
#: Batches that NNCF calibrates on, and sentences in each.
BATCHES, BATCH = 40, 16


def main() -> None:
    given = arguments(__doc__ or "", ROWS, precision=("auto", "f32"))
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as name:
        folder = Path(name)
        contestants = {
            **_peers(folder, given.threads, given.precision),
            **_ours(folder, given.rows, given.threads, given.precision),
        }
        rows = sts_rows(contestants, {"fp32": FP32, "NNCF": NNCF}, given)
        publish("quantize_openvino", "all-MiniLM-L6-v2 in int8 on OpenVINO, STS13", rows, given, NOTE)


def _peers(folder: Path, threads: int, precision: str) -> Mapping[str, Quantized]:
    import nncf

    source = minilm.source()
    plain, smaller = folder / "plain.onnx", folder / "nncf.xml"
    save(trace(source.module, source.args, dynamic=source.dynamic, opset=18), plain)
    calibration = list(minilm.batches(sentences(BATCHES * BATCH), BATCH))[:BATCHES]
    start = time.perf_counter()
    made = nncf.quantize(
        openvino.Core().read_model(plain),
        nncf.Dataset(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=BATCHES,
    )
    openvino.save_model(made, smaller, compress_to_fp16=False)
    seconds = time.perf_counter() - start
    return {
        FP32: Quantized(_session(plain, threads, precision), _bytes(plain)),
        NNCF: Quantized(_session(smaller, threads, precision), _bytes(smaller), seconds),
    }


def _session(path: Path, threads: int, precision: str) -> Run:
    """OpenVINO as anyone starts it, with as many threads as all have."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(threads)}
    settings |= {} if precision == "auto" else {"INFERENCE_PRECISION_HINT": precision}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def run(feeds: Feeds) -> Feeds:
        request.infer(dict(feeds), share_inputs=True)
        return {"last_hidden_state": np.array(request.get_output_tensor(0).data)}

    return run


def _ours(folder: Path, rows: list[str], threads: int, precision: str) -> Mapping[str, Quantized]:
    data = "tersor.benchmarks._calibration:sts12"
    return {
        f"tersor {name}": quantized(
            folder / "plain.onnx",
            ROWS[name],
            folder / f"row{number}",
            threads=threads,
            data=data,
            backend="openvino",
            options=f"precision={precision}",
            size_first=name != PAYING,
        )
        for number, name in enumerate(rows)
    }


def _bytes(path: Path) -> int:
    """Of the file and of the weights beside it."""
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")
    return sum(file.stat().st_size for file in (path, beside) if file.exists())


if __name__ == "__main__":
    main()
