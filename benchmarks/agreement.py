"""The recurrent and the decoder models through the exact pipeline: do the artifacts answer as the originals do?

silero-vad (two graphs) on its recording, chunk by chunk with the state handed on; the g2p GRU on 200 words, both parts,
greedily decoded; BabyLlama on 256 tokens. The original is ONNX Runtime on the file as it came, or the torch module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import tersor
from tersor.benchmarks._common import options, plain_session, publish
from tersor.examples import babyllama, g2p, silero, stdlib_text
from tersor.examples.data import Run
from tersor.examples.source import torch_run

TARGETS = ("onnxruntime", "openvino", "torch")


@dataclass(frozen=True)
class Answer:
    """What a model said on its workload: numbers, and decisions made from them."""

    numbers: np.ndarray
    decisions: np.ndarray


def main() -> None:
    given = options(__doc__ or "", seconds=0.0).parse_args()
    rows = [row for rows in (_silero, _g2p, _babyllama) for row in rows(given.threads)]
    note = (
        "relative L2 of the workload's outputs to the original's; decisions that agree; loss as measured by compiling"
    )
    publish("agreement", "Exact pipeline, outputs against the original", rows, given, note)


def _silero(threads: int) -> Iterator[dict[str, object]]:
    audio = silero.sample_audio()
    for name in (silero.OPENVINO, silero.OPSET_15):
        path = silero.model_path(name)
        rated = name == silero.OPSET_15

        def answer(runs: list[Run], rated: bool = rated) -> Answer:
            found = silero.probabilities(runs[0], audio, with_rate=rated)
            return Answer(found, found > 0.5)

        yield from _rows(name, threads, [path], answer, answer([plain_session(path, threads)]))


def _g2p(threads: int) -> Iterator[dict[str, object]]:
    spelled = [g2p.graphemes(words) for words in _words(200)]
    parts = [g2p.encoder_source(), g2p.decoder_source()]

    def answer(runs: list[Run]) -> Answer:
        hidden = [array.reshape(-1) for rows in spelled for array in runs[0]({"graphemes": rows}).values()]
        return Answer(np.concatenate(hidden), np.concatenate([g2p.greedy(runs[0], runs[1], rows) for rows in spelled]))

    original = answer([torch_run(part.module) for part in parts])
    models = [tersor.load(part.module, args=part.args, dynamic=part.dynamic) for part in parts]
    yield from _rows("g2p, 200 words", threads, models, answer, original)


def _words(count: int) -> list[list[str]]:
    """English words of the docstrings, those of one length together: a batch is spelled with one number of letters."""
    text = " ".join(stdlib_text.sentences(400)).lower()
    found = [word for word in dict.fromkeys(text.split()) if word.isalpha() and word.isascii() and len(word) > 2]
    chosen = sorted(found[:count], key=len)
    return [list(words) for _, words in groupby(chosen, key=len)]


def _babyllama(threads: int) -> Iterator[dict[str, object]]:
    source = babyllama.source()
    tokens = np.array([babyllama.Characters().encode(" ".join(babyllama.stories()))[:256]], dtype=np.int64)

    def answer(runs: list[Run]) -> Answer:
        (logits,) = runs[0]({"tokens": tokens}).values()
        return Answer(logits, logits.argmax(axis=-1))

    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    yield from _rows("BabyLlama, 256 tokens", threads, [model], answer, answer([torch_run(source.module)]))


def _rows(
    name: str,
    threads: int,
    sources: list[object],
    answer: Callable[[list[Run]], Answer],
    original: Answer,
) -> Iterator[dict[str, object]]:
    for target in TARGETS:
        try:
            made = [tersor.compile(source, target=f"{target}{{threads={threads}}}", exact=True) for source in sources]
        except tersor.TersorError as error:
            yield {"model": name, "target": target, "note": str(error).split("\n")[0][:80]}
            continue
        found = answer([artifact.session.run for artifact in made])
        error = np.linalg.norm((found.numbers - original.numbers).astype(np.float64))
        yield {
            "model": name,
            "target": target,
            "relative L2": float(error / np.linalg.norm(original.numbers.astype(np.float64))),
            "decisions": f"{(found.decisions == original.decisions).mean():.2%}",
            "nodes": " + ".join(f"{a.report.passes[0].before.nodes} > {a.report.passes[-1].after.nodes}" for a in made),
            "loss": max(a.report.passes[-1].loss or 0.0 for a in made),
        }


if __name__ == "__main__":
    main()
