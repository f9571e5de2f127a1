"""How much faster a runtime runs the exact artifact than the plain export, the same runtime and threads, in turns.

Exports are torch's own, saved as they come; artifacts are `tersor compile --exact --target RUNTIME`. Speed is the
median of paired ratios over the workload's items with a 95 % bootstrap interval: above 1 the artifact is faster. Error
is the largest relative L2 error of an output to the plain export's. Decoding is timed step by step, on the caches that
the prompt and the model's own choices leave. OpenVINO runs the plain export at its default precision, which is lower
than float32 where the CPU has bfloat16, and the artifact in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tersor
import torch
from tersor.benchmarks import _zoo_transformers as transformers
from tersor.benchmarks._common import SEED, distance, options, plain_session, publish
from tersor.benchmarks._sts import sts13
from tersor.benchmarks._zoo_entry import Entry, Traced
from tersor.benchmarks._zoo_transformers import Shape
from tersor.driver.contestant import Contestant
from tersor.driver.timing import paired
from tersor.examples import babyllama, g2p, minilm, stdlib_text
from tersor.examples.data import Feeds, Run, data_file
from tersor.examples.source import Source
from tersor.ir.dynamic import Dynamic
from tersor.ir.save import save
from tersor.ir.trace import trace

BERT = Shape(layers=12, hidden=768, heads=12, vocabulary=30522, inner=3072)
GPT2 = Shape(layers=12, hidden=768, heads=12, vocabulary=50257, inner=3072)

#: Of the steps of a decoder, how many there are to one that is timed.
EVERY = 8


@dataclass(frozen=True)
class Workload:
    """A model to trace, and the items that it is timed on, made with the plain export where they depend on it."""

    source: Callable[[], Traced]
    items: Callable[[Run], Sequence[Feeds]]
    input: str


def main() -> None:
    parser = options(__doc__ or "", seconds=40.0)
    parser.add_argument("--only", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--opsets", nargs="*", type=int, default=[18, 23])
    parser.add_argument("--runtimes", nargs="*", default=["onnxruntime", "openvino"])
    given = parser.parse_args()
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        rows = [row for name in given.only for row in _rows(name, Path(folder), given)]
    publish("speedup", "exact artifacts against the plain export on the same runtime", rows, given)


def _rows(name: str, folder: Path, given: argparse.Namespace) -> Iterator[dict[str, object]]:
    work = WORKLOADS[name]
    for opset in given.opsets:
        module, args, dynamic = work.source()
        plain = folder / f"{name}-{opset}.onnx"
        model = trace(module, args, dynamic=dynamic, opset=opset)
        save(model, plain)
        items = work.items(plain_session(plain, given.threads))
        for runtime in given.runtimes:
            target = f"{runtime}{{threads={given.threads}}}"
            made = tersor.compile(str(plain), target=target, exact=True, output=folder / f"{name}-{opset}-{runtime}")
            before = Contestant.parse(f"{plain}@{runtime}").open(given.threads).run_unchecked
            after = made.session.run_unchecked
            worst = max(distance(*_aligned(before(feeds), after(feeds))) for feeds in items)
            timed = paired({"plain": before, "exact": after}, items, rounds=200, budget_seconds=given.seconds)
            nodes = made.manifest["sizes"]["nodes"]
            row: dict[str, object] = {
                "workload": name,
                "input": work.input,
                "export": f"opset {opset}",
                "runtime": runtime,
            }
            row |= {"nodes": f"{nodes[0]:,} > {nodes[1]:,}", "error": worst}
            row |= {"ms plain": round(1e3 * timed.latency("plain").p50, 3)}
            row |= {"ms exact": round(1e3 * timed.latency("exact").p50, 3)}
            yield row | {"times as fast": str(timed.ratio("plain", "exact")), "pairs": timed.pairs}


def _aligned(expected: Feeds, found: Feeds) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return list(expected.values()), [found[name] for name in expected]


def _of(source: Source) -> Traced:
    return source.module, source.args, source.dynamic


def _spread(items: Sequence[Feeds], count: int) -> list[Feeds]:
    return list(items[:: max(1, len(items) // count)])


def _minilm(size: int) -> Workload:
    def items(_: Run) -> Sequence[Feeds]:
        texts = sts13().texts if size > 1 else sts13().texts[::40]
        return _spread(list(minilm.batches(texts, size)), 24)

    return Workload(lambda: _of(minilm.source()), items, "STS13, by length" if size > 1 else "STS13")


def _bert() -> Workload:
    """Batches of 8 sentences, by length."""

    def items(_: Run) -> Sequence[Feeds]:
        lines = data_file("sst2/sentiment-dev").read_text(encoding="utf-8").splitlines()
        texts = sorted((line.rpartition("\t")[0].strip() for line in lines), key=len)
        names = ("input_ids", "attention_mask")
        return [{name: feeds[name] for name in names} for feeds in _spread(list(minilm.batches(texts, 8)), 12)]

    return Workload(_source(transformers.bert(BERT, "sdpa")), items, "SST-2 dev, 8 by length")


def _gpt2() -> Workload:
    """Greedy decoding behind a prompt of random tokens."""

    def items(run: Run) -> Sequence[Feeds]:
        prompt = np.random.default_rng(SEED).integers(0, GPT2.vocabulary, (1, 128))
        past = np.zeros((1, GPT2.heads, 0, GPT2.width), np.float32)
        start = {"input_ids": prompt, **_empty(past, GPT2.layers)}
        return list(_decoded(run, start, "input_ids", 64, masked=True))

    return Workload(_source(transformers.gpt2(GPT2)), items, "128 random tokens, 64 steps")


def _babyllama() -> Workload:
    """Greedy decoding behind the beginning of a story."""

    def source() -> Traced:
        model = babyllama.module()
        config = model.config
        width = config.dim // config.heads
        keys, values = ([torch.randn(2, config.kv_heads, 5, width) for _ in range(config.layers)] for _ in range(2))
        names = [f"past_{kind}_{layer}" for kind in ("keys", "values") for layer in range(config.layers)]
        # the prompt and the tokens decoded behind it, together no more than the context
        sizes = {name: {0: "batch", 2: ("past", 0, config.context * 3 // 4)} for name in names}
        dynamic: Dynamic = {"tokens": {0: "batch", 1: ("sequence", 1, config.context // 4)}, **sizes}
        return babyllama.Cached(model).eval(), (torch.arange(6).reshape(2, 3), keys, values), dynamic

    def items(run: Run) -> Sequence[Feeds]:
        config = babyllama.module().config
        text = babyllama.Characters().encode(babyllama.stories()[0])
        past = np.zeros((1, config.kv_heads, 0, config.dim // config.heads), np.float32)
        start = {"tokens": np.array([[babyllama.START, *text[:31]]]), **_empty(past, config.layers)}
        return list(_decoded(run, start, "tokens", 128, masked=False))

    return Workload(source, items, "32 tokens of a story, 128 steps")


def _g2p(part: str) -> Workload:
    """Words of English text, up to 32 of one length at once; steps of the decoder for 1, 8 and 32 of them."""

    def items(_: Run) -> Sequence[Feeds]:
        found = (word.lower() for text in stdlib_text.sentences(400) for word in stdlib_text.WORD.findall(text))
        words = sorted({word for word in found if word.isalpha()})
        sized = [[word for word in words if len(word) == length][:32] for length in range(2, 14)]
        return [{"graphemes": g2p.graphemes(group)} for group in sized]

    def steps(run: Run) -> Sequence[Feeds]:
        encoder, timed = g2p.encoder(), list[Feeds]()

        def encode(feeds: Feeds) -> dict[str, np.ndarray]:
            with torch.inference_mode():
                return {"hidden": encoder(torch.from_numpy(feeds["graphemes"]))["hidden"].numpy()}

        def decode(feeds: Feeds) -> dict[str, np.ndarray]:
            timed.append(feeds)
            return run(feeds)

        words = items(run)[4]["graphemes"]
        for size in (1, 8, 32):
            g2p.greedy(encode, decode, words[:size])
        return _spread(timed, 12)

    if part == "encoder":
        return Workload(lambda: _of(g2p.encoder_source()), items, "English words, 32 of a length")
    return Workload(lambda: _of(g2p.decoder_source()), steps, "phonemes of 1, 8, 32 English words")


def _decoded(run: Run, feeds: dict[str, np.ndarray], tokens: str, steps: int, *, masked: bool) -> Iterator[Feeds]:
    """The prompt, then every EVERY-th step of greedy decoding."""
    length = 0
    for step in range(steps + 1):
        length += feeds[tokens].shape[1]
        if masked:
            feeds["attention_mask"] = np.ones((1, length), np.int64)
        if step % EVERY == 0:
            yield dict(feeds)
        made = run(feeds)
        chosen = made["logits"][:, -1:].argmax(axis=-1)
        present = {name: array for name, array in made.items() if name.startswith("present_")}
        feeds = {tokens: chosen}
        for name, array in present.items():
            _, kind, layer = name.split("_")
            feeds[f"past_{kind.removesuffix('s')}s_{layer}"] = array


def _empty(past: np.ndarray, layers: int) -> dict[str, np.ndarray]:
    return {f"past_{kind}_{layer}": past for kind in ("keys", "values") for layer in range(layers)}


def _source(entry: Entry) -> Callable[[], Traced]:
    assert entry.source is not None
    return entry.source


WORKLOADS: Mapping[str, Workload] = {
    "minilm-b32": _minilm(32),
    "minilm-b1": _minilm(1),
    "bert-base": _bert(),
    "gpt2 decode": _gpt2(),
    "babyllama decode": _babyllama(),
    "g2p encoder": _g2p("encoder"),
    "g2p decoder": _g2p("decoder"),
}

if __name__ == "__main__":
    main()
