"""MiniLM in int8 on OpenVINO beside NNCF: bytes, Spearman on STS13, fidelity, speed.

Both calibrate on sentences of STS12's training pairs, which no figure is read on: NNCF's quantization with the
preset PERFORMANCE on 40 batches of 16, tersor's passes on the batches that `benchmarks/quantize.py` gives them. All
rows run on OpenVINO with float32 arithmetic where nothing is rounded, timed in turns on the same batches of STS13 (32
sentences sorted by length; one by one); ratios are medians of pairs with a 95 % bootstrap interval.

NNCF comes with the extra `bench`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openvino
import tersor
import torch
from tersor.benchmarks._calibration import sentences
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._sts import difference, spearman, sts13
from tersor.driver.timing import paired
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
        publish("quantize_openvino", "all-MiniLM-L6-v2 in int8 on OpenVINO, STS13", rows, given, NOTE)


NOTE = "change: of Spearman, 95 % interval; cosine: mean, of sentences to fp32's; x fp32, x NNCF: times as fast"


def _peers(folder: Path, threads: int) -> Mapping[str, Contestant]:
    import nncf

    source = minilm.source()
    plain, quantized = folder / "plain.onnx", folder / "nncf.xml"
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
    openvino.save_model(made, quantized, compress_to_fp16=False)
    seconds = time.perf_counter() - start
    return {
        FP32: Contestant(_session(plain, threads), _bytes(plain)),
        NNCF: Contestant(_session(quantized, threads), _bytes(quantized), seconds),
    }


def _session(path: Path, threads: int) -> Run:
    """OpenVINO as anyone starts it, with as many threads as all have."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def run(feeds: Feeds) -> Feeds:
        request.infer(dict(feeds), share_inputs=True)
        return {"last_hidden_state": np.array(request.get_output_tensor(0).data)}

    return run


def _ours(folder: Path, rows: list[str], threads: int) -> Mapping[str, Contestant]:
    made: dict[str, Contestant] = {}
    for number, name in enumerate(rows):
        start = time.perf_counter()
        artifact = tersor.compile(
            folder / "plain.onnx",
            target=f"openvino{{threads={threads}}}",
            passes=ROWS[name],
            data="tersor.benchmarks._calibration:sts12",
            output=folder / f"row{number}",
            verify="off",
            size_first=name != PAYING,
        )
        seconds = time.perf_counter() - start
        size = sum(file["bytes"] for file in artifact.manifest["files"] if file["role"] == "model")
        made[f"tersor {name}"] = Contestant(artifact.session.run_unchecked, size, seconds)
    return made


def _rows(contestants: Mapping[str, Contestant], batches: int, seconds: float) -> list[dict[str, object]]:
    pairs = sts13()
    texts = pairs.texts
    scores = {name: spearman(each.run, pairs) for name, each in contestants.items()}
    embedded = {name: minilm.encode(each.run, texts[::4]) for name, each in contestants.items()}
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
            "cosine": round(float(np.sum(embedded[FP32] * embedded[name], axis=1).mean()), 4),
        }
        for size, timings in timed.items():
            row[f"x fp32 b{size}"] = str(timings.ratio(FP32, name))
            row[f"x NNCF b{size}"] = str(timings.ratio(NNCF, name))
        made.append(row)
    return made


def _bytes(path: Path) -> int:
    """Of the file and of the weights beside it."""
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")
    return sum(file.stat().st_size for file in (path, beside) if file.exists())


if __name__ == "__main__":
    main()
