"""Models that compressing passes are held to: small graphs, trained models, and shapes of the raising table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.examples import babyllama, g2p, minilm, silero
from tersor.examples.data import Feeds
from tersor.ir.feeds import random_feeds
from tersor.ir.provenance import scope
from tersor.ir.site import Kind, sites
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.presets import RAISING
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_attention import normal
from tersor.tests.passes.corpus_prune import redundant_layers
from tersor.tests.support import data_folder

TEXTS = ["A man is playing a large flute.", "Three women sit at a table.", "It rained all night.", "Prices fell."]
#: Of the shapes: unlike what they were exported with, and enough tokens that no fit is short of them.
SIZES = {"batch": 32, "sequence": 20, "source": 17, "images": 12}


class Example(NamedTuple):
    """A model as passes see it, and batches that calibration reads."""

    model: ir.Model
    feeds: list[Feeds]

    @property
    def context(self) -> Context:
        return Context(calibration=Calibration(self.feeds))


def _minilm(folder: Path) -> tuple[ir.Model, list[Feeds]]:
    source = minilm.source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    return model, [*minilm.batches(TEXTS, 2)]


def _babyllama(folder: Path) -> tuple[ir.Model, list[Feeds]]:
    source = babyllama.source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    tokens = np.array(babyllama.Characters().encode(babyllama.stories()[0])[:192], np.int64)
    return model, [{"tokens": part[None]} for part in tokens.reshape(4, 48)]


def _encoder(folder: Path) -> tuple[ir.Model, list[Feeds]]:
    source = g2p.encoder_source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    return model, [{"graphemes": g2p.graphemes(words)} for words in (["weights", "octopus"], ["quality", "example"])]


def _decoder(folder: Path) -> tuple[ir.Model, list[Feeds]]:
    source = g2p.decoder_source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, len(g2p.PHONEMES), (32, 1)) for _ in range(2)]
    states = [np.tanh(rng.standard_normal((1, 32, g2p.HIDDEN))).astype(np.float32) for _ in tokens]
    return model, [{"phoneme": one, "hidden": state} for one, state in zip(tokens, states, strict=True)]


def _language(folder: Path) -> tuple[ir.Model, list[Feeds]]:
    """The shape of an LSTM language model, with random weights."""
    import torch
    from tersor.benchmarks import _lstm_lm

    torch.manual_seed(0)
    source = _lstm_lm.source(_lstm_lm.LanguageModel().eval())
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    rng = np.random.default_rng(0)
    states = {name: np.zeros((_lstm_lm.LAYERS, 4, _lstm_lm.WIDTH), np.float32) for name in ("hidden", "cell")}
    return model, [{"words": rng.zipf(1.3, (16, 4)) % _lstm_lm.WORDS, **states} for _ in range(4)]


def _silero(folder: Path) -> tuple[ir.Model, list[Feeds]]:
    model = tersor.load(silero.model_path(silero.OPENVINO))
    pieces = silero.chunks(silero.sample_audio())
    loud = np.argsort(-np.abs(pieces).mean(1))[:64]
    state = np.random.default_rng(0).standard_normal(silero.STATE_SHAPE).astype(np.float32) / 2
    return model, [{"input": np.ascontiguousarray(pieces[at][None]), "state": state} for at in loud]


def _shape(name: str, attention: str, folder: Path) -> tuple[ir.Model, list[Feeds]]:
    """A row of the raising table, exported as it is there."""
    pytest.importorskip("transformers")
    from tersor.benchmarks._raising_architectures import architectures
    from tersor.benchmarks._raising_export import Cell, exported

    cell = Cell(name, "dynamo18", attention)
    assert exported(cell, folder) == ""
    return tersor.load(cell.path(folder)), [architectures()[name].call.feeds(SIZES, seed) for seed in range(2)]


def _small(model: ir.Model) -> tuple[ir.Model, list[Feeds]]:
    feeds = [random_feeds(model, {"batch": 32}, seed=seed) for seed in range(2)]
    return model, [{name: array % 50 if name == "ids" else array for name, array in each.items()} for each in feeds]


def recurrent() -> ir.Model:
    """Words to states of an LSTM, to scores."""
    return graph(
        "e = Gather(table, ids)", "s = Transpose{perm=[1, 0, 2]}(e)", "h = LSTM{hidden_size=32}(s, w, r, b)",
        "o = Squeeze(h, [1])", "p = MatMul(o, v)", "y = Add(p, c)",
        inputs={"ids": "int64[batch, sequence]"}, table=normal(64, 48),
        w=normal(1, 128, 48), r=normal(1, 128, 32), b=normal(1, 256), v=normal(32, 40), c=normal(40),
    )  # fmt: skip


def channels() -> ir.Model:
    """Convolutions around one by channel, and a layer on what they see on average."""
    return graph(
        "a = Conv{pads=[1, 1, 1, 1]}(x, wa, ba)", "b = Relu(a)", "c = Conv{group=32, pads=[1, 1, 1, 1]}(b, wc, bc)",
        "d = HardSwish(c)", "e = Conv(d, we, be)", "f = Relu(e)", "g = GlobalAveragePool(f)", "h = Flatten(g)",
        "y = Gemm{transB=1}(h, wy, by)",
        inputs={"x": "float[batch, 3, 8, 8]"}, wa=normal(32, 3, 3, 3), ba=normal(32), wc=normal(32, 1, 3, 3),
        bc=normal(2, 32)[1], we=normal(48, 32, 3, 3), be=normal(48), wy=normal(24, 48), by=normal(24),
    )  # fmt: skip


def copies() -> ir.Model:
    """Words to scores by one table, stored for each, around three equal layers, stored for each."""
    text, weights, stream = ["e = Gather(table, ids)"], dict[str, np.ndarray](), "e"
    for at in range(3):
        text += [
            f"n{at} = LayerNormalization{{axis=-1}}({stream}, g{at}, b{at})", f"p{at} = MatMul(n{at}, u{at})",
            f"h{at} = Add(p{at}, c{at})", f"r{at} = Gelu(h{at})", f"d{at} = MatMul(r{at}, v{at})",
            f"s{at} = Add({stream}, d{at})",
        ]  # fmt: skip
        stream = f"s{at}"
        weights |= {f"g{at}": 1 + 0.1 * normal(2, 32)[0], f"b{at}": 0.1 * normal(2, 32)[1], f"c{at}": normal(64)}
        weights |= {f"u{at}": normal(32, 64), f"v{at}": 0.2 * normal(64, 32)}
    table = normal(512, 32)
    return graph(
        *text, f"y = MatMul({stream}, head)",
        inputs={"ids": "int64[batch, sequence]"}, table=table, head=np.ascontiguousarray(table.T), **weights,
    )  # fmt: skip


_MADE: Mapping[str, Callable[[Path], tuple[ir.Model, list[Feeds]]]] = {
    "blocks": lambda folder: _small(redundant_layers()),
    "recurrent": lambda folder: _small(recurrent()),
    "channels": lambda folder: _small(channels()),
    "copies": lambda folder: _small(copies()),
    "minilm": _minilm,
    "babyllama": _babyllama,
    "g2p": _encoder,
    "g2p-decoder": _decoder,
    "silero": _silero,
    "lstm": _language,
    "gpt2": partial(_shape, "gpt2", "sdpa"),
    "llama": partial(_shape, "llama", "sdpa"),
    "t5-decoder": partial(_shape, "t5-decoder", "sdpa"),
    "vit": partial(_shape, "vit", "sdpa"),
    "squeezebert": partial(_shape, "squeezebert", "eager"),
}
SMALL = ("blocks", "recurrent", "channels")
#: Those that hold what can be shared, beside the small ones.
FAST = (*SMALL, "copies")
#: Whose weights lie in the data folder.
TRAINED = ("minilm", "babyllama", "g2p", "g2p-decoder", "silero")
#: Those that passes that prune are held to, and those that passes that share and factorize are.
MODELS = tuple(name for name in _MADE if name not in ("copies", "g2p-decoder"))
SHARED = (*FAST, "minilm", "babyllama", "g2p", "g2p-decoder", "lstm")


@cache
def example(name: str, folder: Path) -> Example:
    """One of MODELS or SHARED, raised; the test skips where that needs a data folder and there is none.

    folder: where the shapes are exported.
    """
    if name in TRAINED:
        data_folder()
    model, feeds = _MADE[name](folder)
    run_pipeline(RAISING, model, verify=Verify.OFF)
    return Example(model, feeds)


def write_ticket(path: Path, model: ir.Model, *, share: float = 0.5) -> None:
    """Masks of this share of the largest weights, as of torch's parameters; tables of whole languages are left out."""
    masks: dict[str, np.ndarray] = {}
    rows = []
    for site in sites(model):
        if site.kind is Kind.EMBEDDING and site.in_features > 1024:
            continue
        name = (site.weight.name or "").removesuffix(".T")
        kept = np.abs(site.dense()) > np.quantile(np.abs(site.dense()), 1 - share)
        if site.kind is Kind.LINEAR:
            rows.append(name)
            kept = kept.T
        elif site.kind is Kind.CONV:
            kept = kept.T
        elif site.kind is not Kind.EMBEDDING:
            kind = "ih" if site.kind is Kind.RECURRENT_INPUT else "hh"
            name, kept = f"{scope(site.node)}.weight_{kind}_l0".lstrip("."), kept.T
        stored = site.weight.shape.numpy() if site.weight.shape is not None else kept.shape
        masks[name] = kept.reshape(stored) if site.node.op_type == "Conv" else kept
    np.savez(path, **masks, **{"tersor:rows": np.array(rows, np.str_)})  # type: ignore[arg-type]
