"""g2p and silero-vad in fewer bits: what they still agree on with the original, and bytes.

g2p (a GRU encoder and decoder) pronounces `--words` words of WikiText-2; `phonemes` is 1 - edits / phonemes of the
original, `words` are the same throughout. silero-vad (convolutions and an LSTM) hears the minute of speech that comes
with it; `decisions` are the chunks on the same side of one half, `difference` is the mean of the probabilities'. What
needs calibration data has other words, and the minute's first half; decisions are then counted on the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tersor
import torch
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._quantized import quantized
from tersor.examples import g2p, silero
from tersor.examples.data import Feeds, Run, data_file
from tersor.examples.source import Source, torch_run

#: Every kind of weight but the kernel that is a Fourier transform, which nobody trained.
_ALL = 'embeddings=true, convolutions=true, ignore=["*stft*"]'

#: What each row adds to raising, by what it is called.
ROWS = {
    "fp32": "",
    "int8 stored": "quantize-dynamic{embeddings=true}",
    "int8 computed": "quantize-dynamic{recurrent=computed, embeddings=true}",
    "W8A16": f"quantize-weights{{bits=8, group=0, {_ALL}}}",
    "W4 g32 rtn": f"quantize-weights{{{_ALL}}}",
    "W4 g32 gptq": f"quantize-weights{{algorithm=gptq, clip=true, {_ALL}}}",
    "W3 g32 gptq": f"quantize-weights{{bits=3, algorithm=gptq, clip=true, {_ALL}}}",
    "3 planes": f"quantize-binary{{planes=3, {_ALL}}}",
    "2 planes": f"quantize-binary{{planes=2, {_ALL}}}",
}

#: Words and chunks that calibration sees.
SEEN_WORDS, SEEN_CHUNKS = 256, 400


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--words", type=int, default=2000)
    parser.add_argument("--models", nargs="*", default=["silero", "g2p"], choices=["silero", "g2p"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        made = {
            "silero": _silero(Path(folder), given.rows, given.threads),
            "g2p": _g2p(Path(folder), given.rows, given.words, given.threads),
        }
        rows = []
        for row in chain.from_iterable(made[name] for name in given.models):
            print(*(f"{head} {cell}" for head, cell in row.items()))
            rows.append(row)
    publish("recurrent_quantize", f"g2p, {given.words} words; silero-vad, test.wav", rows, given, NOTE)


NOTE = "MB: of g2p's, both graphs"


def _g2p(folder: Path, rows: Sequence[str], count: int, threads: int) -> Iterator[dict[str, object]]:
    sources = {"encoder": g2p.encoder_source(), "decoder": g2p.decoder_source()}
    words = _words(count + SEEN_WORDS)
    tested, seen = words[:count], words[count:]
    original = [torch_run(part.module) for part in sources.values()]
    wanted = g2p.pronounce(*original, tested)
    data = dict(zip(sources, _recorded(original, seen), strict=True))
    models = {name: _load(part) for name, part in sources.items()}
    for row in rows:
        parts = [
            quantized(model, ROWS[row], folder / f"{name}-{row}".replace(" ", "-"), threads=threads, data=data[name])
            for name, model in models.items()
        ]
        found = g2p.pronounce(parts[0].run, parts[1].run, tested)
        edits = sum(_edits(a, b) for a, b in zip(wanted, found, strict=True))
        yield {
            "": f"g2p {row}",
            "MB": round(sum(part.bytes for part in parts) / 1e6, 3),
            "made in s": round(sum(part.seconds for part in parts), 1),
            "phonemes": f"{1 - edits / sum(map(len, wanted)):.2%}",
            "words": f"{np.mean([a == b for a, b in zip(wanted, found, strict=True)]):.2%}",
        }


def _silero(folder: Path, rows: Sequence[str], threads: int) -> Iterator[dict[str, object]]:
    model, audio = tersor.load(silero.model_path(silero.OPENVINO)), silero.sample_audio()
    half = SEEN_CHUNKS * silero.CHUNK
    data: list[Feeds] = []
    plain = quantized(model, "", folder / "silero", threads=threads)
    silero.probabilities(_recording(plain.run, data), audio[:half])
    wanted = silero.probabilities(plain.run, audio[half:])
    for row in rows:
        made = quantized(model, ROWS[row], folder / f"silero-{row}".replace(" ", "-"), threads=threads, data=data)
        found = silero.probabilities(made.run, audio[half:])
        yield {
            "": f"silero {row}",
            "MB": round(made.bytes / 1e6, 3),
            "made in s": round(made.seconds, 1),
            "decisions": f"{np.mean((found > 0.5) == (wanted > 0.5)):.2%}",
            "difference": f"{np.abs(found - wanted).mean():.4f}",
        }


def _load(source: Source) -> object:
    return tersor.load(source.module, args=source.args, dynamic=source.dynamic)


def _words(count: int) -> list[str]:
    """Distinct English words in the order in which the text has them."""
    text = data_file("text/wikitext2-valid.txt").read_text(encoding="utf-8").lower()
    return list(dict.fromkeys(re.findall(r"(?<=\s)[a-z]{3,}(?=\s)", text)))[:count]


def _recorded(original: Sequence[Run], words: Sequence[str]) -> list[list[Feeds]]:
    """What encoder and decoder are fed while they pronounce words."""
    fed: list[list[Feeds]] = [[], []]
    g2p.pronounce(*(_recording(run, each) for run, each in zip(original, fed, strict=True)), words)
    return fed


def _recording(run: Run, fed: list[Feeds]) -> Run:
    def recorded(feeds: Feeds) -> Feeds:
        fed.append({name: np.array(array) for name, array in feeds.items()})
        return run(feeds)

    return recorded


def _edits(wanted: Sequence[str], found: Sequence[str]) -> int:
    """Insertions, deletions and substitutions from one to the other."""
    last = list(range(len(found) + 1))
    for number, sound in enumerate(wanted, 1):
        row = [number]
        for index, other in enumerate(found):
            row.append(min(last[index] + (sound != other), last[index + 1] + 1, row[index] + 1))
        last = row
    return last[-1]


if __name__ == "__main__":
    main()
