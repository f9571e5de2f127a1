"""Which of ONNX Runtime's CPU kernels is fastest for the same thing: what its lowering was chosen by.

Each family is one computation in several forms, as models of a few nodes, loaded without graph optimizations so that
every form runs as written, timed in turns on the same random activations of MiniLM's sizes (hidden 384, 12 heads).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import onnxruntime
from tersor.benchmarks._common import SEED, options, publish
from tersor.benchmarks._kernel_forms import FORMS, HEADS, HIDDEN, INNER, PAST, WIDTH, Form
from tersor.driver.timing import paired
from tersor.examples.data import Feeds
from tersor.ir.text import graph

SHAPES = ((1, 11), (17, 19))


def main() -> None:
    given = options(__doc__ or "", seconds=3.0).parse_args()
    rows = [
        row
        for family in dict.fromkeys(form.family for form in FORMS)
        for row in _family(family, given.seconds, given.threads)
    ]
    publish("onnxruntime_kernels", "ONNX Runtime's CPU kernels, forms of one computation", rows, given)


def _family(family: str, seconds: float, threads: int) -> Iterator[dict[str, object]]:
    forms = [form for form in FORMS if form.family == family]
    runs = {form.name: _session(form, threads) for form in forms}
    timed = {
        shape: paired(runs, [_feeds(*shape)], rounds=100_000, warmup=20, budget_seconds=seconds) for shape in SHAPES
    }
    for form in forms:
        row: dict[str, object] = {"computation": family, "form": form.name}
        for (batch, sequence), timings in timed.items():
            row[f"us [{batch}, {sequence}]"] = round(timings.latency(form.name).p50 * 1e6, 1)
            row[f"x first [{batch}, {sequence}]"] = str(timings.ratio(forms[0].name, form.name))
        yield row


def _session(form: Form, threads: int) -> Callable[[Feeds], object]:
    rng = np.random.default_rng(SEED)
    constants: dict[str, object] = {
        "g": np.ones(HIDDEN, np.float32),
        "b": np.zeros(HIDDEN, np.float32),
        "c": _random(rng, HIDDEN),
        "d": _random(rng, INNER),
        **{name: _random(rng, HIDDEN, HIDDEN) for name in ("wq", "wk", "wv")},
        "wqkv": _random(rng, HIDDEN, 3 * HIDDEN),
        "bqkv": _random(rng, 3 * HIDDEN),
        "w1": _random(rng, HIDDEN, INNER),
        "w2": _random(rng, HIDDEN, INNER),
        "w12": _random(rng, HIDDEN, 2 * INNER),
        "w8": rng.integers(-127, 127, (HIDDEN, INNER)).astype(np.int8),
        "s8": np.abs(_random(rng, INNER)),
        **{name: rng.integers(-60, 60, (HIDDEN, HIDDEN)).astype(np.int8) for name in ("q8", "k8", "v8")},
        "qkv8": rng.integers(-60, 60, (HIDDEN, 3 * HIDDEN)).astype(np.int8),
        "u8": rng.integers(68, 188, (HIDDEN, INNER)).astype(np.uint8),
        "uz": np.full(INNER, 128, np.uint8),
        "half8": rng.integers(-60, 60, (HIDDEN // 2, INNER)).astype(np.int8),
        "down8": rng.integers(-60, 60, (INNER, HIDDEN)).astype(np.int8),
        "sh": np.full(HIDDEN, 0.01, np.float32),
        "sqkv": np.full(3 * HIDDEN, 0.01, np.float32),
        "xs": np.float32(0.03).reshape(()),
        "xz": np.array(120, np.uint8),
        "iz": np.array(-8, np.int8),
        **_grids(),
        "n8": rng.integers(0, 255, (INNER, HIDDEN // 128, 128)).astype(np.uint8),
        "ns": np.abs(_random(rng, INNER * HIDDEN // 128)),
    }
    inputs = {
        "x": f"float[b, s, {HIDDEN}]",
        "skip": f"float[b, s, {HIDDEN}]",
        "wide": f"float[b, s, {INNER}]",
        "other": f"float[b, s, {INNER}]",
        "cos": f"float[b, s, {WIDTH // 2}]",
        "sin": f"float[b, s, {WIDTH // 2}]",
        "one": f"float[b, 1, {HIDDEN}]",
        "keys": f"float[b, {HEADS}, {PAST}, {WIDTH}]",
        "values": f"float[b, {HEADS}, {PAST}, {WIDTH}]",
        "mask": "bool[b, s]",
    }
    text = " ".join(form.lines)
    model = graph(
        *form.lines,
        inputs={name: kind for name, kind in inputs.items() if _mentions(text, name)},
        outputs=["y"],
        **{name: value for name, value in constants.items() if _mentions(text, name)},
    )
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), settings)
    names = [given.name for given in session.get_inputs()]
    return lambda feeds: session.run(None, {name: feeds[name] for name in names})


def _grids() -> dict[str, np.ndarray]:
    """Two grids for features in turn, and the features of each."""
    even = np.arange(HIDDEN) % 2
    return {"order": np.argsort(even, kind="stable"), "halves": np.array([HIDDEN // 2, HIDDEN // 2])}


def _feeds(batch: int, sequence: int) -> Feeds:
    rng = np.random.default_rng(SEED)
    return {
        "x": _random(rng, batch, sequence, HIDDEN),
        "skip": _random(rng, batch, sequence, HIDDEN),
        "wide": _random(rng, batch, sequence, INNER),
        "other": _random(rng, batch, sequence, INNER),
        "cos": _random(rng, batch, sequence, WIDTH // 2),
        "sin": _random(rng, batch, sequence, WIDTH // 2),
        "one": _random(rng, batch, 1, HIDDEN),
        "keys": _random(rng, batch, HEADS, PAST, WIDTH),
        "values": _random(rng, batch, HEADS, PAST, WIDTH),
        "mask": np.ones((batch, sequence), bool),
    }


def _mentions(text: str, name: str) -> bool:
    return any(word == name for word in text.replace("(", " ").replace(")", " ").replace(",", " ").split())


def _random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


if __name__ == "__main__":
    main()
