"""The models that the benchmarks run through torch.fx: trained ones of the examples, transformers by shape.

`ZOO` holds them in the size that their name says, `zoo(small=True)` the same architectures in a size for tests.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tersor
from tersor.benchmarks import _zoo_transformers as transformers
from tersor.benchmarks._zoo_entry import Entry
from tersor.benchmarks._zoo_transformers import SMALL, Shape, encoder_feeds
from tersor.examples import babyllama, g2p, minilm, silero
from tersor.examples.data import Feeds

__all__ = ["ZOO", "Entry", "zoo"]


def zoo(*, small: bool = False) -> dict[str, Entry]:
    """The models by name; with `small` those whose weights are random are small."""

    def of(shape: Shape) -> Shape:
        return SMALL if small else shape

    bert = of(Shape(layers=12, hidden=768, heads=12, vocabulary=30522, inner=3072))
    gpt2 = of(Shape(layers=12, hidden=768, heads=12, vocabulary=50257, inner=3072))
    t5 = of(Shape(layers=6, hidden=512, heads=8, vocabulary=32128, inner=2048))
    modern = of(Shape(layers=4, hidden=384, heads=6, vocabulary=5000, inner=576))
    qwen2 = of(Shape(layers=4, hidden=256, heads=8, vocabulary=5000, inner=704, kv_heads=2))
    mamba = of(Shape(layers=4, hidden=256, heads=1, vocabulary=5000, inner=512))
    return {
        "MiniLM": _minilm(),
        "BERT-base": transformers.bert(bert, "sdpa"),
        "BERT-base, eager": transformers.bert(bert, "eager"),
        "GPT-2, cache": transformers.gpt2(gpt2),
        "T5-small encoder": transformers.t5_encoder(t5),
        "T5-small decoder, cache": transformers.t5_decoder(t5),
        "ModernBERT": transformers.modern_bert(modern),
        "Qwen2, cache": transformers.qwen2(qwen2),
        "Mamba": transformers.mamba(mamba),
        "Mamba step, cache": transformers.mamba_step(mamba),
        "BabyLlama": _babyllama(),
        "g2p encoder": _g2p_encoder(),
        "g2p decoder": _g2p_decoder(),
        "silero 16k": _silero(silero.OPENVINO),
        "silero opset 15": _silero(silero.OPSET_15),
    }


def _minilm() -> Entry:
    def feeds() -> list[Feeds]:
        return [{**feed, "token_type_ids": np.zeros_like(feed["input_ids"])} for feed in encoder_feeds(30522)]

    return Entry.of(minilm.source, feeds)


def _babyllama() -> Entry:
    def feeds() -> list[Feeds]:
        text = " ".join(babyllama.stories())
        tokens = np.array(babyllama.Characters().encode(text), dtype=np.int64)
        sizes = ((1, 1), (1, 200), (4, 50))
        return [{"tokens": tokens[: batch * sequence].reshape(batch, sequence)} for batch, sequence in sizes]

    return Entry.of(babyllama.source, feeds)


def _g2p_encoder() -> Entry:
    words = (["so"], ["graph", "torch", "loops"], ["compiler", "sequence"])
    return Entry.of(g2p.encoder_source, lambda: [{"graphemes": g2p.graphemes(row)} for row in words])


def _g2p_decoder() -> Entry:
    def feeds() -> list[Feeds]:
        rng = np.random.default_rng(0)
        return [
            {
                "phoneme": rng.integers(0, len(g2p.PHONEMES), (batch, 1)),
                "hidden": np.tanh(rng.standard_normal((1, batch, g2p.HIDDEN))).astype(np.float32),
            }
            for batch in (1, 3, 8)
        ]

    return Entry.of(g2p.decoder_source, feeds)


def _silero(name: str) -> Entry:
    """Chunks of speech; the graph of opset 15 takes several at once, and the sample rate."""
    batched = name == silero.OPSET_15

    def feeds() -> list[Feeds]:
        rng = np.random.default_rng(0)
        heard = silero.chunks(silero.sample_audio())
        made: list[Feeds] = []
        for start, batch in ((0, 1), (60, 1), (90, 3 if batched else 1)):
            state = (0.5 * rng.standard_normal((2, batch, 128))).astype(np.float32)
            rate = {"sr": np.array(silero.RATE, dtype=np.int64)} if batched else {}
            made.append({"input": np.ascontiguousarray(heard[start : start + batch]), "state": state, **rate})
        return made

    return Entry(lambda: tersor.load(silero.model_path(name)), feeds)


ZOO: Mapping[str, Entry] = zoo()
"""Every model in its own size."""
