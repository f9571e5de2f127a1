"""MiniLM's table of words in fewer bytes by each method: Spearman on STS13, bytes of the artifact, time of a lookup.

    python benchmarks/embedding.py --quality          no timing
    python benchmarks/embedding.py --shares 0.125

The share is of the bytes of the table, 46.9 MB in float32; nothing else of the model is touched. Words count as often
as the calibration text has them, 1,280 sentences of STS12's training pairs, which no figure is read on. `x lookup` is
the time of the lookups alone, from ids to vectors, beside that of the table's one Gather; `x original` that of the
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import torch
from tersor.benchmarks._calibration import TEXTS
from tersor.benchmarks._common import publish
from tersor.benchmarks._pruned import prune, raised
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._sts import sts13
from tersor.benchmarks._sts_rows import NOTE, parser_of, sts_rows
from tersor.driver.timing import paired
from tersor.examples import minilm
from tersor.ir.site import Kind, sites
from tersor.passes.trail import cut_out

ALONE = "embeddings=true, only=kind:embedding, smallest=1000000"
METHODS = {
    "low rank": "factorize-embedding{{method=low-rank, weight=none, metric=none, ratio={share}}}",
    "low rank, by frequency": "factorize-embedding{{method=low-rank, metric=none, ratio={share}}}",
    "low rank, products": "factorize-embedding{{method=low-rank, ratio={share}}}",
    "blocks by frequency": "factorize-embedding{{method=blocks, ratio={share}}}",
    "blocks, not refined": "factorize-embedding{{method=blocks, refine=0, ratio={share}}}",
    "product codes": "code-embedding{{method=product, ratio={share}}}",
    "product codes, all words alike": "code-embedding{{method=product, weight=none, ratio={share}}}",
    "residual codes": "code-embedding{{method=residual, ratio={share}}}",
    "sparse codes": "code-embedding{{method=sparse, ratio={share}}}",
    "slim": "share-embedding{{method=slim, ratio={share}}}",
    "LightRNN": "share-embedding{{method=lightrnn, ratio={share}}}",
    "common words": "share-embedding{{method=sparse, ratio={share}}}",
    "reference vectors": "share-embedding{{method=reference, ratio={share}}}",
    "tensor train": f"factorize-tensor{{{{format=tt, {ALONE}, ratio={{share}}}}}}",
}
BITS = {
    "8 bits": f"quantize-weights{{bits=8, {ALONE}}}",
    "4 bits": f"quantize-weights{{bits=4, {ALONE}}}",
}
ORIGINAL = "original"


def main() -> None:
    parser = parser_of(__doc__ or "", [*METHODS, *BITS])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.125, 0.0625])
    parser.add_argument("--target", choices=("onnxruntime", "openvino"), default="onnxruntime")
    parser.add_argument("--sentences", type=int, default=1280, help="of calibration")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = raised(minilm.source())
    data = list(minilm.batches(TEXTS["sts12"](given.sentences), 32))
    asked = {ORIGINAL: ""} | {name: BITS[name] for name in given.rows if name in BITS}
    for share in given.shares:
        asked |= {f"{name}, {share:g}": METHODS[name].format(share=share) for name in given.rows if name in METHODS}
    contestants: dict[str, Quantized] = {}
    lookups: dict[str, Quantized] = {}
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        for number, (name, passes) in enumerate(asked.items()):
            made, seconds = prune(model, passes, data)
            place = Path(folder) / str(number)
            each = quantized(made.clone(), "", place / "model", threads=given.threads, backend=given.target)
            contestants[name] = Quantized(each.run, each.bytes, seconds)
            alone = looking_up(model, made)
            lookups[name] = quantized(alone, "", place / "lookup", threads=given.threads, backend=given.target)
            print(f"{name}: {seconds:.0f} s, {each.bytes / 1e6:.1f} MB", flush=True)
        rows = sts_rows(contestants, {ORIGINAL: ORIGINAL}, given)
        for row in rows:
            row["table MB"] = round(lookups[str(row[""])].bytes / 1e6, 2)
        if not given.quality:
            timed(rows, lookups, given.seconds)
    publish("embedding", f"all-MiniLM-L6-v2's words in fewer bytes, {given.target}, STS13", rows, given, NOTE)


def looking_up(original: ir.Model, model: ir.Model) -> ir.Model:
    """The part of a model from the ids of words to their vectors, whatever stands for the largest table."""
    tables = [site for site in sites(original) if site.kind is Kind.EMBEDDING]
    largest = max(tables, key=lambda site: site.in_features)
    values = {value.name: value for node in model.graph for value in node.outputs}
    ids = next(value for value in model.graph.inputs if value.name == largest.activation.name)
    return cut_out(model, [ids], [values[largest.node.outputs[0].name]])


def timed(rows: list[dict[str, object]], lookups: Mapping[str, Quantized], seconds: float) -> None:
    """The time of each lookup beside the original's, 32 sentences and one by one, into the rows."""
    texts = sts13().texts
    for size in (32, 1):
        batches = list(minilm.batches(texts, size))
        few = [{"input_ids": feeds["input_ids"]} for feeds in batches[:: max(1, len(batches) // 24)]]
        timings = paired({name: each.run for name, each in lookups.items()}, few, rounds=200, budget_seconds=seconds)
        for row in rows:
            row[f"x lookup b{size}"] = str(timings.ratio(ORIGINAL, str(row[""])))


if __name__ == "__main__":
    main()
