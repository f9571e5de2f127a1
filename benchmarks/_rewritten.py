"""Tables of MiniLM rewritten without any training: what passes keep of it, and how fast that runs on each target."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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

ORIGINAL = "original"
INT8 = {
    "onnxruntime": "quantize-dynamic{embeddings=true}",
    "openvino": "smooth-activations, quantize-static{range=min-max, embeddings=true}",
}
SENTENCES, BATCH = 1280, 32


class Rewritten(NamedTuple):
    """A row before a target has its say. flops: the share that is left."""

    model: ir.Model
    seconds: float
    flops: float


def tables(description: str, rows: Mapping[str, str], name: str, done: str, *, paying: Collection[str] = ()) -> None:
    """One for each target and form that is asked for, of the passes by row.

    name: of the files that are written. done: what was done to the model. paying: rows whose passes leave alone what is
    slower on the target, so that each target has models of its own.
    """
    parser = parser_of(description, rows)
    parser.add_argument("--targets", nargs="+", choices=list(INT8), default=["onnxruntime"])
    parser.add_argument("--forms", nargs="+", choices=("float32", "int8"), default=["float32"])
    parser.add_argument("--sentences", type=int, default=SENTENCES, help="to choose and fit on")
    parser.add_argument("--text", choices=list(TEXTS), default="sts12")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = raised(minilm.source())
    data = list(minilm.batches(TEXTS[given.text](given.sentences), BATCH))
    asked = {ORIGINAL: ""} | {row: rows[row] for row in given.rows}
    made: dict[str, Rewritten] = {}
    for target in given.targets:
        again = {row: passes for row, passes in asked.items() if row not in made or row in paying}
        made |= _made(model, again, data, target, given.threads, paying)
        made = {row: made[row] for row in asked}
        for form in given.forms:
            with TemporaryDirectory(prefix="tersor-bench-") as folder:
                contestants = _contestants(made, target, form, data, given.threads, Path(folder))
                found = sts_rows(contestants, {ORIGINAL: ORIGINAL}, given)
            for row in found:
                row["FLOPs"] = round(made[str(row[""])].flops, 3)
            title = f"all-MiniLM-L6-v2 {done}, {form} on {target}, STS13"
            publish(f"{name}_{target}_{form}", title, found, given, NOTE)


def _made(
    model: ir.Model, asked: Mapping[str, str], data: list[Feeds], target: str, threads: int, paying: Collection[str]
) -> dict[str, Rewritten]:
    whole, made = flops(model), dict[str, Rewritten]()
    for name, passes in asked.items():
        rewritten, seconds = prune(model, passes, data, backend=target, threads=threads, paying=name in paying)
        made[name] = Rewritten(rewritten, seconds, flops(rewritten) / whole)
        print(f"{name}: {seconds:.0f} s, {made[name].flops:.3f} of the FLOPs", flush=True)
    return made


def _contestants(
    made: Mapping[str, Rewritten], target: str, form: str, data: list[Feeds], threads: int, folder: Path
) -> dict[str, Quantized]:
    found: dict[str, Quantized] = {}
    for number, (name, rewritten) in enumerate(made.items()):
        passes, some = INT8[target] if form == "int8" else "", data[:: max(1, len(data) // 16)]
        place = folder / str(number)
        each = quantized(rewritten.model.clone(), passes, place, threads=threads, data=some, backend=target)
        found[name] = Quantized(each.run, each.bytes, rewritten.seconds)
    return found
