"""MiniLM in int8 on OpenVINO beside NNCF: bytes, Spearman on STS13, fidelity, speed.

Both calibrate on sentences of STS12's training pairs, which no figure is read on: NNCF's quantization with the
preset PERFORMANCE on 40 batches of 16, tersor's passes on the batches that `benchmarks/quantize.py` gives them. All
rows run on OpenVINO at one precision where nothing is rounded: its own default, bfloat16 where the CPU has it, unless
`--precision f32`. They are timed in turns on the same batches of STS13 (32 sentences sorted by length; one by one);
ratios are medians of pairs with a 95 % bootstrap interval.

NNCF comes with the extra `bench`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tersor.benchmarks._common import publish
from tersor.benchmarks._int8_peers import nncf, on_openvino, plain_export
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._sts_rows import NOTE, arguments, sts_rows

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


def main() -> None:
    given = arguments(__doc__ or "", ROWS, precision=("auto", "f32"))
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as name:
        folder = Path(name)
        plain = plain_export(folder)
        contestants = {
            FP32: on_openvino(plain, given.threads, given.precision),
            NNCF: on_openvino(nncf(plain, folder), given.threads, given.precision),
            **_ours(plain.path, given.rows, given.threads, given.precision),
        }
        rows = sts_rows(contestants, {"fp32": FP32, "NNCF": NNCF}, given)
        publish("quantize_openvino", "all-MiniLM-L6-v2 in int8 on OpenVINO, STS13", rows, given, NOTE)


def _ours(plain: Path, rows: list[str], threads: int, precision: str) -> Mapping[str, Quantized]:
    data = "tersor.benchmarks._calibration:sts12"
    return {
        f"tersor {name}": quantized(
            plain,
            ROWS[name],
            plain.with_name(f"row{number}"),
            threads=threads,
            data=data,
            backend="openvino",
            options=f"precision={precision}",
            size_first=name != PAYING,
        )
        for number, name in enumerate(rows)
    }


if __name__ == "__main__":
    main()
