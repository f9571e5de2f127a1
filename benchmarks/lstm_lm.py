"""An LSTM language model in fewer bits and in smaller factors: perplexity, bytes, speed beside fp32 on ONNX Runtime.

2 x 650, trained here on half of WikiText-2's validation text (`_lstm_lm`) and tested on the other. Perplexity is on the
first `--words` of that; `ratio` is to fp32's. What needs calibration data has the half that the model was trained on.
Rows are timed in turns: one stream word by word, and 20 streams 35 words at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tersor
import torch
from tersor.benchmarks import _lstm_lm as lm
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.driver.timing import paired
from tersor.examples.data import Feeds

_TRAIN = "factorize-tensor{format=tt, ratio=0.25, embeddings=true, only=kind:embedding}"
#: Rows of products of smaller weights.
FACTORED = {
    "recurrent x 0.5": "factorize-recurrent{ratio=0.5}",
    "recurrent x 0.5, loop": "factorize-recurrent{ratio=0.5, recurrent=loop}",
    "recurrent x 0.5, svd": "factorize-recurrent{ratio=0.5, algorithm=svd, shared=always}",
    "words x 0.25, blocks": "factorize-embedding{ratio=0.25, heads=all}",
    "words x 0.25, low rank": "factorize-embedding{method=low-rank, ratio=0.25, heads=all}",
    "words x 0.125, codes": "code-embedding{ratio=0.125, heads=all}",
    "table x 0.25, tensor train": _TRAIN,
    "recurrent x 0.5, words x 0.25": "factorize-recurrent{ratio=0.5}, factorize-embedding{ratio=0.25, heads=all}",
    "recurrent x 0.5, words x 0.25, int8": (
        "factorize-recurrent{ratio=0.5}, factorize-embedding{ratio=0.25, heads=all}, quantize-dynamic{embeddings=true}"
    ),
}
#: What each row adds to raising, by what it is called.
ROWS = {
    "fp32": "",
    "int8 stored": "quantize-dynamic{embeddings=true}",
    "int8 computed": "quantize-dynamic{recurrent=computed, embeddings=true}",
    "W8A16": "quantize-weights{bits=8, group=0, embeddings=true}",
    "W4 g32 rtn": "quantize-weights{embeddings=true}",
    "W4 g32 gptq": "quantize-weights{algorithm=gptq, clip=true, embeddings=true}",
    "W3 g32 rtn": "quantize-weights{bits=3, embeddings=true}",
    "W3 g32 gptq": "quantize-weights{bits=3, algorithm=gptq, clip=true, embeddings=true}",
    **{
        f"{planes} planes {algorithm}": f"quantize-binary{{planes={planes}, algorithm={algorithm}, embeddings=true}}"
        for planes in (3, 2)
        for algorithm in ("greedy", "refined", "alternating")
    },
    "ternary": "quantize-binary{algorithm=ternary, embeddings=true}",
    **FACTORED,
}


def main() -> None:
    parser = options(__doc__ or "", seconds=20.0)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--words", type=int, default=30_000, help="of the test text")
    parser.add_argument(
        "--epochs", type=int, default=lm.Training.epochs, help="of training, where there is no checkpoint"
    )
    parser.add_argument("--quality", action="store_true", help="leave the timing out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    source = lm.source(lm.trained(lm.Training(epochs=given.epochs), threads=given.threads))
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        made: dict[str, Quantized] = {}
        found: dict[str, float] = {}
        for name in dict.fromkeys(["fp32", *given.rows]):
            path = Path(folder) / name.replace(" ", "-")
            data = (
                list(islice(lm.batches(lm.halves()[0], 20, 35), 0, None, 10))
                if "gptq" in name or name in FACTORED
                else None
            )
            made[name] = quantized(model, ROWS[name], path, threads=given.threads, data=data)
            found[name] = lm.perplexity(made[name].run, lm.halves()[1][: given.words])
            print(f"{name}: perplexity {found[name]:.2f}, {made[name].bytes / 1e6:.2f} MB")
        timed = {} if given.quality else _timed(made, given.seconds)
        rows = [_row(name, made[name], found, timed) for name in made]
        publish("lstm_lm", f"LSTM language model, 2 x 650, {given.words} words of WikiText-2", rows, given, NOTE)


NOTE = "ratio: of perplexity to fp32's; x fp32: times as fast, one word of one stream, and 35 words of 20"

Timed = Mapping[str, Mapping[str, str]]


def _timed(made: Mapping[str, Quantized], seconds: float) -> Timed:
    """Speed by shape and name."""
    runs = {name: each.run for name, each in made.items()}
    text, shapes = lm.halves()[1], {"x fp32 1 word": (1, 1), "x fp32 20 x 35": (20, 35)}
    feeds: dict[str, list[Feeds]] = {
        name: list(islice(lm.batches(text, streams, steps), 8)) for name, (streams, steps) in shapes.items()
    }
    timings = {name: paired(runs, each, rounds=200, budget_seconds=seconds) for name, each in feeds.items()}
    return {shape: {name: str(each.ratio("fp32", name)) for name in runs} for shape, each in timings.items()}


def _row(name: str, made: Quantized, found: Mapping[str, float], timed: Timed) -> dict[str, object]:
    row: dict[str, object] = {
        "": name,
        "MB": round(made.bytes / 1e6, 2),
        "made in s": round(made.seconds, 1),
        "perplexity": round(found[name], 2),
        "ratio": round(float(np.divide(found[name], found["fp32"])), 4),
    }
    return row | {shape: speeds[name] for shape, speeds in timed.items()}


if __name__ == "__main__":
    main()
