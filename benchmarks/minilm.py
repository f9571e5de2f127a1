"""MiniLM on STS13 text: speed against ONNX Runtime on the plain export, Spearman, bytes.

Rows are timed in turns on the same batches (32 sentences sorted by length; one by one), two threads each; speed is the
median of paired ratios with a 95 % bootstrap interval. Quality is read on all scored pairs. Nothing was calibrated.
"""

from __future__ import annotations

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
from tersor.examples.source import torch_run
from tersor.ir.save import save
from tersor.ir.trace import trace

PASSES = {
    "exact": "",
    "int8": "quantize-dynamic",
    "int8 rows": "quantize-dynamic{rows=true}",
    "int8 + tables": "quantize-dynamic{embeddings=true}",
}


@dataclass(frozen=True)
class Contestant:
    run: Run
    bytes: int


def main() -> None:
    parser = options(__doc__ or "", seconds=60.0)
    parser.add_argument("--batches", type=int, default=24, help="batches of 32; four times as many of one")
    parser.add_argument("--targets", default="onnxruntime,openvino", help="backends to compile for")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        contestants = {**_peers(Path(folder), given.threads), **_ours(Path(folder), given.threads, given.targets)}
        publish("minilm", "all-MiniLM-L6-v2, STS13", _rows(contestants, given.batches, given.seconds), given, NOTE)


NOTE = "x plain: times as fast as ONNX Runtime on the plain opset-18 export; x q.d.: as its quantize_dynamic"


def _peers(folder: Path, threads: int) -> Mapping[str, Contestant]:
    source = minilm.source()
    plain = {opset: folder / f"plain{opset}.onnx" for opset in (18, 23)}
    for opset, path in plain.items():
        save(trace(source.module, source.args, dynamic=source.dynamic, opset=opset), path)
    quantized = folder / "quantize_dynamic.onnx"
    quantize_dynamic(plain[18], quantized, per_channel=True, weight_type=QuantType.QInt8)
    return {
        "torch eager": Contestant(torch_run(source.module), _parameter_bytes(source.module)),
        "ort, opset 18": Contestant(plain_session(plain[18], threads), _bytes(plain[18])),
        "ort, opset 23": Contestant(plain_session(plain[23], threads), _bytes(plain[23])),
        "ort quantize_dynamic": Contestant(plain_session(quantized, threads), _bytes(quantized)),
    }


def _ours(folder: Path, threads: int, targets: str) -> Mapping[str, Contestant]:
    made: dict[str, Contestant] = {}
    for target in targets.split(","):
        for name, passes in PASSES.items():
            for opset in (18, 23) if target == "onnxruntime" and name in ("exact", "int8") else (23,):
                label = f"tersor {name}, {target}, from {opset}"
                artifact = tersor.compile(
                    folder / f"plain{opset}.onnx",
                    target=f"{target}{{threads={threads}}}",
                    passes=passes,
                    size_first=True,
                    output=folder / label.replace(" ", "-").replace(",", ""),
                )
                size = sum(file["bytes"] for file in artifact.manifest["files"] if file["role"] == "model")
                made[label] = Contestant(artifact.session.run_unchecked, size)
    return made


def _rows(contestants: Mapping[str, Contestant], batches: int, seconds: float) -> list[dict[str, object]]:
    pairs = sts13()
    runs = {name: each.run for name, each in contestants.items()}
    scores = {name: spearman(each.run, pairs) for name, each in contestants.items()}
    texts = pairs.texts
    large = [*minilm.batches(texts, 32)]
    large = large[:: max(1, len(large) // batches)]
    small = [*minilm.batches(texts[:: max(1, len(texts) // (4 * batches))], 1)]
    timed = {size: paired(runs, feeds, rounds=50, budget_seconds=seconds) for size, feeds in ((32, large), (1, small))}
    sizes = {32: [len(feeds["input_ids"]) for feeds in large], 1: [1] * len(small)}
    rows: list[dict[str, object]] = []
    for name, each in contestants.items():
        low, high = difference(scores["torch eager"][1], scores[name][1], pairs.gold)
        row: dict[str, object] = {"": name, "MB": round(each.bytes / 1e6, 1), "Spearman": round(scores[name][0], 2)}
        row["change"] = f"[{low:+.2f}, {high:+.2f}]"
        for size, timings in timed.items():
            row[f"sent/s b{size}"] = round(timings.throughput(name, sizes[size]))
            row[f"x plain b{size}"] = str(timings.ratio("ort, opset 18", name))
            row[f"x q.d. b{size}"] = str(timings.ratio("ort quantize_dynamic", name))
        rows.append(row)
    return rows


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def _parameter_bytes(module: torch.nn.Module) -> int:
    return int(np.sum([tensor.nbytes for tensor in module.state_dict().values()]))


if __name__ == "__main__":
    main()
