"""MiniLM at 5 bits on average: bits by sensitivity against the same bits for all weights.

Calibrated on sentences of STS12's training pairs. The predicted drop is what the pass said on those, the drop that was
measured is on other sentences of STS12: 1 - cosine of each token's hidden state, which the pass predicts, and of the
sentences' embeddings. Spearman is on STS13, which nothing was chosen by. Tables count in the average.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import tersor
import torch
from tersor.benchmarks._calibration import SENTENCES, sentences
from tersor.benchmarks._common import options, plain_session, publish
from tersor.benchmarks._sts import difference, spearman, sts13
from tersor.examples import minilm
from tersor.examples.data import Feeds, Run
from tersor.ir.save import save
from tersor.ir.trace import trace
from tersor.passes.drop import Drop

#: How weights are stored in every row.
STORED = "group=64, embeddings=true"
FORMS = {"rtn": "algorithm=rtn", "gptq": "algorithm=gptq, clip=true"}
UNIFORM = (4, 5, 6)
SENSITIVITIES = ("output", "hessian", "fisher", "alone")
#: Held-out sentences that the drop is measured on.
HELD_OUT = 512


@dataclass(frozen=True)
class Made:
    """A compiled model: what answers, its bytes, average bits, and the drop that was predicted, where it was."""

    run: Run
    bytes: int
    seconds: float
    bits: float
    predicted: float | None = None


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--uniform", nargs="*", type=int, default=list(UNIFORM))
    parser.add_argument("--sensitivities", nargs="*", default=list(SENSITIVITIES), choices=list(SENSITIVITIES))
    parser.add_argument("--budget", type=float, default=5.0, help="bits on average")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        source, plain = minilm.source(), Path(folder) / "plain.onnx"
        model = trace(source.module, source.args, dynamic=source.dynamic, opset=18)
        save(model, plain)
        original = plain_session(plain, given.threads)
        passes = _passes(given.forms, given.uniform, given.sensitivities, given.budget)
        made = {name: _made(plain, name, text, given.threads) for name, text in passes.items()}
        rows = _rows(original, made, Drop.of(model))
        publish("mix_precision", f"all-MiniLM-L6-v2 at {given.budget:g} bits on average", rows, given, NOTE)


NOTE = (
    "drop: 1 - cosine of tokens on held-out text of STS12; sentence: of embeddings; change, to: of Spearman on STS13 "
    "against fp32 and against the same bits for all, 95 % intervals"
)


def _passes(
    forms: Sequence[str], uniform: Sequence[int], sensitivities: Sequence[str], budget: float
) -> Mapping[str, str]:
    made: dict[str, str] = {}
    for form in forms:
        stored = f"{STORED}, {FORMS[form]}"
        made |= {f"{form} all {bits}": f"quantize-weights{{bits={bits}, {stored}}}" for bits in uniform}
        made |= {
            f"{form} {budget:g} by {how}": f"mix-precision{{budget={budget:g} bits, sensitivity={how}, {stored}}}"
            for how in sensitivities
        }
    return made


def _made(plain: Path, name: str, passes: str, threads: int) -> Made:
    start = time.perf_counter()
    artifact = tersor.compile(
        plain,
        target=f"onnxruntime{{threads={threads}}}",
        passes=passes,
        data="tersor.benchmarks._calibration:sts12",
        output=plain.parent / name.replace(" ", "-"),
        size_first=True,
        verify="off",
    )
    seconds = time.perf_counter() - start
    size = sum(file["bytes"] for file in artifact.manifest["files"] if file["role"] == "model")
    records = [record for stage in artifact.manifest["stages"] for record in stage["passes"]]
    curve = next((cast(Mapping[str, list[float]], record["curve"]) for record in records if "curve" in record), None)
    if curve is None:
        bits = float(passes.partition("bits=")[2].partition(",")[0])
        return Made(artifact.session.run_unchecked, size, seconds, bits)
    return Made(artifact.session.run_unchecked, size, seconds, *curve["chosen"])


def _rows(original: Run, made: Mapping[str, Made], drop: Drop) -> list[dict[str, object]]:
    pairs = sts13()
    seen = set(sentences(SENTENCES))
    unseen = [text for text in sentences(1 << 30) if text not in seen]
    held_out = list(minilm.batches(unseen[:: max(1, len(unseen) // HELD_OUT)], 32))
    answers = [original(feeds) for feeds in held_out]
    base = spearman(original, pairs)
    rows: list[dict[str, object]] = [{"": "fp32", "Spearman": round(base[0], 2)}]
    same: dict[str, np.ndarray] = {}
    for name, each in made.items():
        tokens, texts = _dropped(answers, each.run, held_out, drop)
        score, similar = spearman(each.run, pairs)
        if each.predicted is None:
            same[name] = similar
        rows.append(
            {
                "": name,
                "bits": round(each.bits, 3),
                "MB": round(each.bytes / 1e6, 2),
                "made in s": round(each.seconds, 1),
                "predicted": "" if each.predicted is None else f"{each.predicted:.5f}",
                "drop": f"{tokens:.5f}",
                "sentence": f"{texts:.5f}",
                "Spearman": round(score, 2),
                "change": _interval(base[1], similar, pairs.gold),
            }
            | {
                f"to {other.partition(' ')[2]}": _interval(before, similar, pairs.gold)
                for other, before in same.items()
                if each.predicted is not None and other.split(" ")[0] == name.split(" ")[0]
            }
        )
    return rows


def _interval(before: np.ndarray, after: np.ndarray, gold: np.ndarray) -> str:
    low, high = difference(before, after, gold)
    return f"[{low:+.2f}, {high:+.2f}]"


def _dropped(answers: Sequence[Feeds], run: Run, held_out: Sequence[Feeds], drop: Drop) -> tuple[float, float]:
    """The mean drop of tokens and of sentences."""
    total, count, lost = 0.0, 0, []
    for expected, feeds in zip(answers, held_out, strict=True):
        found = run(feeds)
        here, rows = drop.measure(expected, found, feeds)
        total, count = total + here, count + rows
        before, after = (minilm.embed(lambda _, kept=kept: kept, feeds) for kept in (expected, found))
        lost.append(1 - np.sum(before * after, axis=1))
    return total / count, float(np.concatenate(lost).mean())


if __name__ == "__main__":
    main()
