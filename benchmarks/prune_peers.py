"""MiniLM pruned without any training and then in int8, beside int8 of other packages: Spearman, fidelity, bytes, speed.

    python benchmarks/prune_peers.py --quality                                          no timing
    python benchmarks/prune_peers.py --passes 'prune-budget{budget="0.556 flops"}'      pruned another way

Everything is chosen, fitted and calibrated on sentences of STS12's training pairs, which no figure is read on: pruning
on 1,280 of them, or with `--text various` on captions, reviews, questions and articles, quantization on 512, NNCF on
640. Floats are of the type that a row names; what is not rounded to int8 is float32 unless it names bfloat16. All rows
are timed in turns on the same batches of STS13, 32 sentences sorted by length and one by one, on either runtime with as
many threads; ratios are medians of pairs with a 95 % bootstrap interval. `peer` is whichever of the others is the
fastest at that size. NNCF comes with the extra `bench`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import onnx_ir as ir
import torch
from tersor.benchmarks import _int8_peers as peers
from tersor.benchmarks._calibration import TEXTS, sts12
from tersor.benchmarks._common import publish
from tersor.benchmarks._pruned import flops, prune, raised
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._sts_rows import NOTE, parser_of, sts_rows
from tersor.examples import minilm


class Row(NamedTuple):
    """What is done behind pruning, and where it runs."""

    target: str
    passes: str
    options: str = ""


_STATIC = "smooth-activations, quantize-static{range=min-max, embeddings=true}"
_WHOLE = "smooth-activations, quantize-static{range=min-max, headroom=none, embeddings=true}"
ROWS = {
    "openvino, static": Row("openvino", _STATIC),
    "openvino, static, no headroom": Row("openvino", _WHOLE),
    "openvino, static, no headroom, bf16": Row("openvino", _WHOLE, "precision=bf16"),
    "onnxruntime, dynamic": Row("onnxruntime", "quantize-dynamic{embeddings=true}"),
    "onnxruntime, dynamic, no headroom": Row("onnxruntime", "quantize-dynamic{headroom=none, embeddings=true}"),
    "onnxruntime, static": Row("onnxruntime", _STATIC),
    "onnxruntime, fp32": Row("onnxruntime", ""),
    "openvino, bf16": Row("openvino", "", "precision=bf16"),
}
ORIGINAL = "ort fp32"
PASSES = "drop-layers{count=2}, prune-neurons{ratio=0.25}"
SENTENCES, BATCH = 1280, 32


def main() -> None:
    parser = parser_of(__doc__ or "", ROWS)
    parser.add_argument("--passes", default=PASSES, help="how ours are pruned")
    parser.add_argument("--text", choices=list(TEXTS), default="sts12", help="that pruning chooses and fits on")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as name:
        folder = Path(name)
        others = _others(folder, given.threads)
        model = raised(minilm.source())
        pruned, seconds = prune(model, given.passes, list(minilm.batches(TEXTS[given.text](SENTENCES), BATCH)))
        share = flops(pruned) / flops(model)
        print(f"pruned in {seconds:.0f} s to {share:.3f} of the FLOPs", flush=True)
        ours = _ours(pruned, seconds, given.rows, folder, given.threads)
        rows = sts_rows({**others, **ours}, {}, given, peers=[*others])
        for row in rows:
            row["FLOPs"] = round(share, 3) if row[""] in ours else 1.0
        title = f"all-MiniLM-L6-v2, {given.passes}, in int8, STS13"
        publish("prune_peers", title, rows, given, f"{NOTE}; peer: the fastest of the others")


def _others(folder: Path, threads: int) -> Mapping[str, Quantized]:
    plain = peers.plain_export(folder)
    rounded = peers.nncf(plain, folder)
    return {
        ORIGINAL: peers.on_onnxruntime(plain, threads),
        "ort quantize_dynamic": peers.on_onnxruntime(peers.dynamic(plain, folder), threads),
        "ort quantize_dynamic, attention": peers.on_onnxruntime(peers.dynamic_attention(folder), threads),
        "openvino fp32": peers.on_openvino(plain, threads, "f32"),
        "openvino bf16": peers.on_openvino(plain, threads, "bf16"),
        "NNCF int8": peers.on_openvino(rounded, threads, "f32"),
        "NNCF int8, bf16": peers.on_openvino(rounded, threads, "bf16"),
    }


def _ours(pruned: ir.Model, seconds: float, rows: Iterable[str], folder: Path, threads: int) -> Mapping[str, Quantized]:
    made: dict[str, Quantized] = {}
    for number, name in enumerate(rows):
        row, place = ROWS[name], folder / f"row{number}"
        each = quantized(
            pruned, row.passes, place, threads=threads, data=sts12(), backend=row.target, options=row.options
        )
        made[f"pruned, {name}"] = Quantized(each.run, each.bytes, seconds + each.seconds)
    return made


if __name__ == "__main__":
    main()
