"""MiniLM by several compressing passes in each order: what each lost against its contract, bytes, Spearman, speed.

    python benchmarks/compositions.py --targets onnxruntime openvino      two tables

`lost` is what each pass of the row changed the answers by on held-out batches of the data, in its contract's metric;
`over` names those that went beyond their contract, `nothing` those that found nothing to do. Passes choose and fit on
1,280 sentences of STS12's training pairs. All rows are timed in turns on the same batches of STS13.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import torch
from tersor.benchmarks._calibration import TEXTS
from tersor.benchmarks._common import publish
from tersor.benchmarks._pruned import raised
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._sts_rows import NOTE, parser_of, sts_rows
from tersor.examples import minilm
from tersor.passes.base import Context, Lossy
from tersor.passes.pipeline import Pipeline
from tersor.passes.report import PassReport, Report
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration

INT8, WEIGHTS = "quantize-dynamic{embeddings=true}", "quantize-weights{bits=8, embeddings=true}"
CODED = "code-embedding{ratio=0.125}"
THIN, SHARED, FEWER = "factorize-linear{ratio=0.6}", "share-basis{ratio=0.7, alone=false}", "prune-neurons{ratio=0.25}"
ROWS = {
    "int8": INT8,
    "factorise": THIN,
    "factorise, int8": f"{THIN}, {INT8}",
    "int8, factorise": f"{INT8}, {THIN}",
    "factorise, W8": f"{THIN}, {WEIGHTS}",
    "W8, factorise": f"{WEIGHTS}, {THIN}",
    "share": SHARED,
    "share, int8": f"{SHARED}, {INT8}",
    "int8, share": f"{INT8}, {SHARED}",
    "prune": FEWER,
    "prune, factorise": f"{FEWER}, {THIN}",
    "factorise, prune": f"{THIN}, {FEWER}",
    "prune, factorise, int8": f"{FEWER}, {THIN}, {INT8}",
    "codes": CODED,
    "codes, int8": f"{CODED}, {INT8}",
    "int8, codes": f"{INT8}, {CODED}",
    "factorise, codes, int8": f"{THIN}, {CODED}, {INT8}",
}
ORIGINAL = "original"
SENTENCES, BATCH, HELD = 1280, 32, 4


def main() -> None:
    parser = parser_of(__doc__ or "", ROWS)
    parser.add_argument("--targets", nargs="+", choices=("onnxruntime", "openvino"), default=["onnxruntime"])
    parser.add_argument("--sentences", type=int, default=SENTENCES, help="to choose and fit on")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = raised(minilm.source())
    batches = list(minilm.batches(TEXTS["sts12"](given.sentences + HELD * BATCH), BATCH))
    data, held = batches[:-HELD], batches[-HELD:]
    made: dict[str, tuple[ir.Model, float, Report]] = {}
    for name, passes in ({ORIGINAL: ""} | {row: ROWS[row] for row in given.rows}).items():
        copied, start = model.clone(), time.perf_counter()
        context = Context(calibration=Calibration(data), feeds=held)
        report = run_pipeline(Pipeline.of(passes), copied, context, verify=Verify.EACH, force=True)
        made[name] = copied, time.perf_counter() - start, report
        print(f"{name}: {made[name][1]:.0f} s", flush=True)
    for target in given.targets:
        with TemporaryDirectory(prefix="tersor-bench-") as folder:
            contestants: dict[str, Quantized] = {}
            for number, (name, (copied, seconds, _)) in enumerate(made.items()):
                place = Path(folder) / str(number)
                each = quantized(copied.clone(), "", place, threads=given.threads, backend=target)
                contestants[name] = Quantized(each.run, each.bytes, seconds)
            rows = sts_rows(contestants, {ORIGINAL: ORIGINAL}, given)
        for row in rows:
            passes = made[str(row[""])][2].passes
            row["lost"] = ", ".join(map(_lost, passes))
            row["over"] = _named(step for step in passes if step.over)
            row["nothing"] = _named(step for step in passes if not step.changed)
        publish(f"compositions_{target}", f"all-MiniLM-L6-v2 compressed twice, {target}, STS13", rows, given, NOTE)


def _lost(step: PassReport) -> str:
    limit = step.contract.budget if isinstance(step.contract, Lossy) else 0
    return "not measured" if step.loss is None else f"{step.loss:.3f} of {limit:g}"


def _named(steps: Iterable[PassReport]) -> str:
    return ", ".join(step.text.split("{")[0] for step in steps)


if __name__ == "__main__":
    main()
