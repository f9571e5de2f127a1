"""MiniLM in fewer bits: bytes, Spearman on STS13, fidelity, speed beside fp32 and ONNX Runtime's quantize_dynamic.

Calibrated on sentences of STS12's training pairs, which no figure is read on. Rows are timed in turns on the same
batches of STS13 (32 sentences sorted by length; one by one); ratios are medians of pairs with a 95 % bootstrap
interval.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tersor.benchmarks._common import plain_session, publish
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._sts_rows import NOTE, arguments, sts_rows
from tersor.examples import minilm
from tersor.ir.save import save
from tersor.ir.trace import trace

#: What each row adds to raising, by what it is called; all go to ONNX Runtime.
ROWS = {
    "exact": "",
    "W8A8 dynamic": "quantize-dynamic{embeddings=true}",
    "W8A8 static min-max": "quantize-static{range=min-max, embeddings=true}",
    "W8A8 static percentile": "quantize-static{range=percentile, embeddings=true}",
    "W8A8 static entropy": "quantize-static{range=entropy, embeddings=true}",
    "W8A8 static mse": "quantize-static{embeddings=true}",
    "W8A8 static mse smooth": "smooth-activations{alpha=null}, quantize-static{embeddings=true}",
    "W8A8 static mse bias": "quantize-static{correct=bias, embeddings=true}",
    "W8A8 static 2 groups": "quantize-static{range=min-max, groups=2, embeddings=true}",
    "W8A8 static 4 groups": "quantize-static{range=min-max, groups=4, embeddings=true}",
    "W8A16 static": "quantize-static{type=uint16, embeddings=true}",
    "W4A8 static g32": "quantize-static{bits=4, group=32, embeddings=true}",
    "W8A16": "quantize-weights{bits=8, group=0, embeddings=true}",
    "W4 g32 rtn": "quantize-weights{embeddings=true}",
    "W4 g64 rtn": "quantize-weights{group=64, embeddings=true}",
    "W4 g128 rtn": "quantize-weights{group=128, embeddings=true}",
    "W4 g64 hqq": "quantize-weights{group=64, algorithm=hqq, embeddings=true}",
    "W4 g64 gptq": "quantize-weights{group=64, algorithm=gptq, clip=true, embeddings=true}",
    "W3 g64 gptq": "quantize-weights{bits=3, group=64, algorithm=gptq, clip=true, embeddings=true}",
}

FP32, DYNAMIC = "ort fp32", "ort quantize_dynamic"


def main() -> None:
    given = arguments(__doc__ or "", ROWS)
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as name:
        folder = Path(name)
        contestants = {**_peers(folder, given.threads), **_ours(folder, given.rows, given.threads)}
        rows = sts_rows(contestants, {"fp32": FP32, "q.d.": DYNAMIC}, given)
        publish("quantize", "all-MiniLM-L6-v2 in fewer bits, STS13", rows, given, f"{NOTE}; q.d.: quantize_dynamic")


def _peers(folder: Path, threads: int) -> Mapping[str, Quantized]:
    source = minilm.source()
    plain, smaller = folder / "plain.onnx", folder / "quantize_dynamic.onnx"
    save(trace(source.module, source.args, dynamic=source.dynamic, opset=18), plain)
    start = time.perf_counter()
    quantize_dynamic(plain, smaller, per_channel=True, weight_type=QuantType.QInt8)
    seconds = time.perf_counter() - start
    return {
        FP32: Quantized(plain_session(plain, threads), _bytes(plain)),
        DYNAMIC: Quantized(plain_session(smaller, threads), _bytes(smaller), seconds),
    }


def _ours(folder: Path, rows: list[str], threads: int) -> Mapping[str, Quantized]:
    data = "tersor.benchmarks._calibration:sts12"
    return {
        f"tersor {name}": quantized(
            folder / "plain.onnx", ROWS[name], folder / f"row{number}", threads=threads, data=data
        )
        for number, name in enumerate(rows)
    }


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


if __name__ == "__main__":
    main()
