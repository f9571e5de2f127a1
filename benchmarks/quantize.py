"""MiniLM in fewer bits: bytes, Spearman on STS13, fidelity, speed beside fp32 and ONNX Runtime's quantize_dynamic.

Calibrated on sentences of STS12's training pairs, which no figure is read on. Rows are timed in turns on the same
batches of STS13 (32 sentences sorted by length; one by one); ratios are medians of pairs with a 95 % bootstrap
interval.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tersor
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tersor.benchmarks._common import options, plain_session, publish
from tersor.benchmarks._sts import difference, spearman, sts13
from tersor.driver.timing import paired
from tersor.examples import minilm
from tersor.examples.data import Run
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
    "W4 g64 hqq": "quantize-weights{group=64, algorithm=hqq, embeddings=true}",
    "W4 g64 gptq": "quantize-weights{group=64, algorithm=gptq, clip=true, embeddings=true}",
    "W3 g64 gptq": "quantize-weights{bits=3, group=64, algorithm=gptq, clip=true, embeddings=true}",
}


@dataclass(frozen=True)
class Contestant:
    """What answers, its bytes on disk, and the seconds that it took to make."""

    run: Run
    bytes: int
    seconds: float = 0.0


def main() -> None:
    parser = options(__doc__ or "", seconds=60.0)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--batches", type=int, default=24, help="batches of 32; four times as many of one")
    parser.add_argument("--quality", action="store_true", help="leave the timing out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        contestants = {**_peers(Path(folder), given.threads), **_ours(Path(folder), given.rows, given.threads)}
        rows = _rows(contestants, given.batches, 0.0 if given.quality else given.seconds)
        publish("quantize", "all-MiniLM-L6-v2 in fewer bits, STS13", rows, given, NOTE)


NOTE = "change: of Spearman, 95 % interval; cosine: mean, of sentences to fp32's; x fp32, x q.d.: times as fast"


def _peers(folder: Path, threads: int) -> Mapping[str, Contestant]:
    source = minilm.source()
    plain, quantized = folder / "plain.onnx", folder / "quantize_dynamic.onnx"
    save(trace(source.module, source.args, dynamic=source.dynamic, opset=18), plain)
    start = time.perf_counter()
    quantize_dynamic(plain, quantized, per_channel=True, weight_type=QuantType.QInt8)
    seconds = time.perf_counter() - start
    return {
        FP32: Contestant(plain_session(plain, threads), _bytes(plain)),
        DYNAMIC: Contestant(plain_session(quantized, threads), _bytes(quantized), seconds),
    }


FP32, DYNAMIC = "ort fp32", "ort quantize_dynamic"


def _ours(folder: Path, rows: list[str], threads: int) -> Mapping[str, Contestant]:
    made: dict[str, Contestant] = {}
    for name in rows:
        start = time.perf_counter()
        artifact = tersor.compile(
            folder / "plain.onnx",
            target=f"onnxruntime{{threads={threads}}}",
            passes=ROWS[name],
            data="tersor.benchmarks._calibration:sts12",
            output=folder / name.replace(" ", "-"),
            verify="off",
            size_first=True,
        )
        seconds = time.perf_counter() - start
        size = sum(file["bytes"] for file in artifact.manifest["files"] if file["role"] == "model")
        made[f"tersor {name}"] = Contestant(artifact.session.run_unchecked, size, seconds)
    return made


def _rows(contestants: Mapping[str, Contestant], batches: int, seconds: float) -> list[dict[str, object]]:
    pairs = sts13()
    texts = pairs.texts
    scores = {name: spearman(each.run, pairs) for name, each in contestants.items()}
    rows = {name: minilm.encode(each.run, texts[::4]) for name, each in contestants.items()}
    large = [*minilm.batches(texts, 32)]
    large = large[:: max(1, len(large) // batches)]
    small = [*minilm.batches(texts[:: max(1, len(texts) // (4 * batches))], 1)]
    runs = {name: each.run for name, each in contestants.items()}
    timed = {
        size: paired(runs, feeds, rounds=50, budget_seconds=seconds)
        for size, feeds in ((32, large), (1, small))
        if seconds
    }
    made: list[dict[str, object]] = []
    for name, each in contestants.items():
        low, high = difference(scores[FP32][1], scores[name][1], pairs.gold)
        row: dict[str, object] = {
            "": name,
            "MB": round(each.bytes / 1e6, 2),
            "made in s": round(each.seconds, 1),
            "Spearman": round(scores[name][0], 2),
            "change": f"[{low:+.2f}, {high:+.2f}]",
            "cosine": round(float(np.sum(rows[FP32] * rows[name], axis=1).mean()), 4),
        }
        for size, timings in timed.items():
            row[f"x fp32 b{size}"] = str(timings.ratio(FP32, name))
            row[f"x q.d. b{size}"] = str(timings.ratio(DYNAMIC, name))
        made.append(row)
    return made


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


if __name__ == "__main__":
    main()
