"""MiniLM in fewer bits: bytes, Spearman on STS13, fidelity, speed beside fp32 and ONNX Runtime's quantize_dynamic.

Calibrated on sentences of STS12's training pairs, which no figure is read on. Rows are timed in turns on the same
batches of STS13 (32 sentences sorted by length; one by one); ratios are medians of pairs with a 95 % bootstrap
interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tersor.benchmarks._common import publish
from tersor.benchmarks._int8_peers import dynamic, on_onnxruntime, plain_export
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._sts_rows import NOTE, arguments, sts_rows

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
        plain = plain_export(folder)
        contestants = {
            FP32: on_onnxruntime(plain, given.threads),
            DYNAMIC: on_onnxruntime(dynamic(plain, folder), given.threads),
            **_ours(plain.path, given.rows, given.threads),
        }
        rows = sts_rows(contestants, {"fp32": FP32, "q.d.": DYNAMIC}, given)
        publish("quantize", "all-MiniLM-L6-v2 in fewer bits, STS13", rows, given, f"{NOTE}; q.d.: quantize_dynamic")


def _ours(plain: Path, rows: list[str], threads: int) -> Mapping[str, Quantized]:
    data = "tersor.benchmarks._calibration:sts12"
    return {
        f"tersor {name}": quantized(plain, ROWS[name], plain.with_name(f"row{number}"), threads=threads, data=data)
        for number, name in enumerate(rows)
    }


if __name__ == "__main__":
    main()
