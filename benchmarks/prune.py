"""MiniLM pruned without any training: Spearman on STS13, fidelity, FLOPs, bytes, speed.

    python benchmarks/prune.py --quality                      no timing
    python benchmarks/prune.py --target openvino --form int8  pruned, then quantized, on OpenVINO

Units are chosen and weights fitted on 1,280 sentences of STS12's training pairs, which no figure is read on. FLOPs are
those of layers with weights, as a share of the original's. All rows are timed in turns on the same batches of STS13, 32
sentences sorted by length and one by one; ratios are medians of pairs with a 95 % bootstrap interval. int8 is
`quantize-dynamic` on ONNX Runtime and `quantize-static` on OpenVINO.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import tersor
import torch
from tersor.benchmarks._calibration import sentences
from tersor.benchmarks._common import publish
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._sts_rows import NOTE, arguments, sts_rows
from tersor.examples import minilm
from tersor.examples.data import Feeds
from tersor.ir.cost import cost
from tersor.ir.shapes import dimension_names
from tersor.ir.site import Kind, sites
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.presets import RAISING
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration

ROWS = {
    "FFN -25 %, magnitude": "prune-neurons{ratio=0.25, score=magnitude, repair=false}",
    "FFN -25 %": "prune-neurons{ratio=0.25}",
    "FFN -50 %, magnitude": "prune-neurons{ratio=0.5, score=magnitude, repair=false}",
    "FFN -50 %, magnitude, repaired": "prune-neurons{ratio=0.5, score=magnitude}",
    "FFN -50 %": "prune-neurons{ratio=0.5}",
    "FFN -75 %": "prune-neurons{ratio=0.75}",
    "heads -25 %, not repaired": "prune-heads{ratio=0.25, repair=false}",
    "heads -25 %": "prune-heads{ratio=0.25}",
    "layers -1, influence": "drop-layers{count=1, score=influence}",
    "layers -1, not repaired": "drop-layers{count=1, repair=false}",
    "layers -1": "drop-layers{count=1}",
    "layers -2": "drop-layers{count=2}",
    "layers -3": "drop-layers{count=3}",
    "layers -1, FFN -50 %": "drop-layers{count=1}, prune-neurons{ratio=0.5}",
    "layers -3, FFN -50 %": "drop-layers{count=3}, prune-neurons{ratio=0.5}",
    "0.56 FLOPs": 'prune-budget{budget="0.556 flops"}',
    "0.45 FLOPs": 'prune-budget{budget="0.45 flops"}',
    "0.45 FLOPs, alike": "prune-neurons{ratio=0.55}, prune-heads{ratio=0.5}",
    "0.33 FLOPs": 'prune-budget{budget="0.333 flops"}',
}
ORIGINAL = "original"
INT8 = {
    "onnxruntime": "quantize-dynamic{embeddings=true}",
    "openvino": "smooth-activations, quantize-static{range=min-max, embeddings=true}",
}
SENTENCES, BATCH = 1280, 32


def main() -> None:
    given = arguments(__doc__ or "", ROWS, target=("onnxruntime", "openvino"), form=("float32", "int8"))
    torch.set_num_threads(given.threads)
    source = minilm.source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    run_pipeline(RAISING, model, verify=Verify.OFF)
    data = list(minilm.batches(sentences(SENTENCES), BATCH))
    whole = flops(model)
    contestants: dict[str, Quantized] = {}
    spent: dict[str, float] = {}
    with TemporaryDirectory(prefix="tersor-bench-") as name:
        rows_of = {ORIGINAL: ""} | {row: ROWS[row] for row in given.rows}
        for number, (called, passes) in enumerate(rows_of.items()):
            pruned, seconds = prune(model, passes, data)
            spent[called] = flops(pruned) / whole
            made = quantized(
                pruned,
                INT8[given.target] if given.form == "int8" else "",
                Path(name) / str(number),
                threads=given.threads,
                data=data[:: max(1, len(data) // 16)],
                backend=given.target,
            )
            contestants[called] = Quantized(made.run, made.bytes, seconds)
            print(f"{called}: {seconds:.0f} s, {spent[called]:.3f} of the FLOPs", flush=True)
        rows = sts_rows(contestants, {ORIGINAL: ORIGINAL}, given)
        for row in rows:
            row["FLOPs"] = round(spent[str(row[""])], 3)
        publish("prune", f"all-MiniLM-L6-v2 pruned, {given.form} on {given.target}, STS13", rows, given, NOTE)


def prune(model: ir.Model, passes: str, data: list[Feeds]) -> tuple[ir.Model, float]:
    """A copy pruned by these passes, and the seconds that it took."""
    copied = model.clone()
    start = time.perf_counter()
    if passes:
        context = Context(calibration=Calibration(data))
        for step in Pipeline.of(passes).flat():
            step.apply(copied, context)
    return copied, time.perf_counter() - start


def flops(model: ir.Model) -> int:
    """Of the nodes with weights, for a sentence of 32 tokens."""
    nodes = {site.node for site in sites(model) if site.kind is not Kind.EMBEDDING}
    found = cost(model, dict.fromkeys(dimension_names(model), 32))
    return sum(each.flops.constant or 0 for each in found.nodes if each.node in nodes)


if __name__ == "__main__":
    main()
