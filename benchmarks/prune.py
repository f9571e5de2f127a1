"""MiniLM pruned without any training: Spearman on STS13, fidelity, FLOPs, bytes, speed.

    python benchmarks/prune.py --quality                                              no timing
    python benchmarks/prune.py --targets onnxruntime openvino --forms float32 int8    four tables

Units are chosen and weights fitted on 1,280 sentences of STS12's training pairs, which no figure is read on, or with
`--text various` on captions, reviews, questions and articles. FLOPs are those of layers with weights, as a share of the
original's. All rows are timed in turns on the same batches of STS13, 32 sentences sorted by length and one by one;
ratios are medians of pairs with a 95 % bootstrap interval. int8 is `quantize-dynamic` on ONNX Runtime and
`quantize-static` on OpenVINO, of the same pruned models. A latency is that of the middle batch of the data on the first
of the targets, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import onnx_ir as ir
import torch
from tersor.benchmarks._calibration import TEXTS
from tersor.benchmarks._common import publish
from tersor.benchmarks._pruned import flops, prune, raised
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._sts_rows import NOTE, parser_of, sts_rows
from tersor.examples import minilm
from tersor.examples.data import Feeds

ROWS = {
    "FFN -25 %, magnitude": "prune-neurons{ratio=0.25, score=magnitude, repair=false}",
    "FFN -25 %": "prune-neurons{ratio=0.25}",
    "FFN -50 %, magnitude": "prune-neurons{ratio=0.5, score=magnitude, repair=false}",
    "FFN -50 %, magnitude, repaired": "prune-neurons{ratio=0.5, score=magnitude}",
    "FFN -50 %": "prune-neurons{ratio=0.5}",
    "FFN -75 %, not repaired": "prune-neurons{ratio=0.75, repair=false}",
    "FFN -75 %": "prune-neurons{ratio=0.75}",
    "heads -25 %, not repaired": "prune-heads{ratio=0.25, repair=false}",
    "heads -25 %": "prune-heads{ratio=0.25}",
    "layers -1, influence": "drop-layers{count=1, score=influence}",
    "layers -1, not repaired": "drop-layers{count=1, repair=false}",
    "layers -1": "drop-layers{count=1}",
    "layers -2, not repaired": "drop-layers{count=2, repair=false}",
    "layers -2": "drop-layers{count=2}",
    "layers -3": "drop-layers{count=3}",
    "layers -1, FFN -50 %": "drop-layers{count=1}, prune-neurons{ratio=0.5}",
    "layers -3, FFN -50 %": "drop-layers{count=3}, prune-neurons{ratio=0.5}",
    "0.56 FLOPs": 'prune-budget{budget="0.556 flops"}',
    "0.45 FLOPs": 'prune-budget{budget="0.45 flops"}',
    "FFN -55 %, heads -50 %": "prune-neurons{ratio=0.55}, prune-heads{ratio=0.5}",
    "0.33 FLOPs": 'prune-budget{budget="0.333 flops"}',
    "0.5 latency": 'prune-budget{budget="0.5 latency"}',
}
ORIGINAL = "original"
INT8 = {
    "onnxruntime": "quantize-dynamic{embeddings=true}",
    "openvino": "smooth-activations, quantize-static{range=min-max, embeddings=true}",
}
SENTENCES, BATCH = 1280, 32


class Pruned(NamedTuple):
    """A row before a target has its say. flops: the share that is left."""

    model: ir.Model
    seconds: float
    flops: float


def main() -> None:
    parser = parser_of(__doc__ or "", ROWS)
    parser.add_argument("--targets", nargs="+", choices=list(INT8), default=["onnxruntime"])
    parser.add_argument("--forms", nargs="+", choices=("float32", "int8"), default=["float32"])
    parser.add_argument("--sentences", type=int, default=SENTENCES, help="to choose and fit on")
    parser.add_argument("--text", choices=list(TEXTS), default="sts12")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = raised(minilm.source())
    data = list(minilm.batches(TEXTS[given.text](given.sentences), BATCH))
    whole = flops(model)
    made: dict[str, Pruned] = {}
    for name, passes in ({ORIGINAL: ""} | {row: ROWS[row] for row in given.rows}).items():
        pruned, seconds = prune(model, passes, data, backend=given.targets[0], threads=given.threads)
        made[name] = Pruned(pruned, seconds, flops(pruned) / whole)
        print(f"{name}: {seconds:.0f} s, {made[name].flops:.3f} of the FLOPs", flush=True)
    for target in given.targets:
        for form in given.forms:
            with TemporaryDirectory(prefix="tersor-bench-") as folder:
                contestants = _contestants(made, target, form, data, given.threads, Path(folder))
                rows = sts_rows(contestants, {ORIGINAL: ORIGINAL}, given)
            for row in rows:
                row["FLOPs"] = round(made[str(row[""])].flops, 3)
            title = f"all-MiniLM-L6-v2 pruned, {form} on {target}, STS13"
            publish(f"prune_{target}_{form}", title, rows, given, NOTE)


def _contestants(
    made: Mapping[str, Pruned], target: str, form: str, data: list[Feeds], threads: int, folder: Path
) -> dict[str, Quantized]:
    found: dict[str, Quantized] = {}
    for number, (name, pruned) in enumerate(made.items()):
        passes, some = INT8[target] if form == "int8" else "", data[:: max(1, len(data) // 16)]
        place = folder / str(number)
        each = quantized(pruned.model.clone(), passes, place, threads=threads, data=some, backend=target)
        found[name] = Quantized(each.run, each.bytes, pruned.seconds)
    return found


if __name__ == "__main__":
    main()
