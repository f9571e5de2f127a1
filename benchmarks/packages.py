"""Packages of the target inductor: compiled once, opened where there is no compiler, run at every size.

Each model is compiled here, on one thread. Another process, with no compiler on PATH and an empty cache, opens the
artifact, runs it at a grid of sizes, and is given sizes that are out of range. Its answers are compared with ONNX
Runtime's on the original graph. The row says so if that process dies, starts any program, loads the compiler or leaves
anything in its cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir
import tersor
from tersor.benchmarks._common import distance, options, plain_session, publish
from tersor.examples import babyllama, g2p, minilm, silero
from tersor.examples.data import Feeds, Run
from tersor.examples.source import Source
from tersor.ir.feeds import random_feeds
from tersor.ir.save import save

BATCHES = (1, 2, 3, 7, 16, 32, 64)
LENGTHS = (2, 3, 16, 31, 128, 256)
TOLERANCE = 1e-5
SIGMOID = 2**-23
"""ONNX Runtime's Sigmoid is a rational function around 1/2: small probabilities come in steps of 2^-24."""
CHILD = Path(__file__).with_name("_package_child.py")
NOTE = (
    f"sizes: runs within {TOLERANCE:g} of those asked for; error: largest relative L2 of an output against ONNX "
    "Runtime, for silero beyond the steps in which its Sigmoid answers; silero hears speech, the others random feeds; "
    "refused: out-of-range feeds that are a ModelError, of those tried; weights and package in bytes, compile in "
    "seconds"
)


def _random(model: onnx_ir.Model, sizes: Mapping[str, int], seed: int) -> Feeds:
    return random_feeds(model, sizes, seed=seed)


def _speech(model: onnx_ir.Model, sizes: Mapping[str, int], seed: int) -> Feeds:
    """Windows of speech, one after the other, and a random state."""
    batch, heard = sizes.get("batch", 1), silero.chunks(silero.sample_audio())[60:]
    feeds = {
        "input": np.ascontiguousarray(heard[:batch, : sizes.get("sequence")]),
        "state": 0.5 * np.random.default_rng(seed).standard_normal((2, batch, 128), np.float32),
        "sr": np.array(silero.RATE),
    }
    return {str(value.name): feeds[str(value.name)] for value in model.graph.inputs}


@dataclass(frozen=True)
class Case:
    """A model and the sizes it is run at.

    grid: the sizes of each dynamic dimension, all combined. outside: sizes that must be refused, a set of them each.
    feeds: what the model is fed at some sizes, by a seed. step: differences up to it are ONNX Runtime's own.
    """

    load: Callable[[], onnx_ir.Model]
    grid: Mapping[str, Sequence[int]] = field(default_factory=dict)
    outside: Sequence[Mapping[str, int]] = ()
    feeds: Callable[[onnx_ir.Model, Mapping[str, int], int], Feeds] = _random
    step: float = 0.0

    def rounded(self, found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """What was found, where it is more than a step from what was wanted."""
        if not self.step or found.shape != wanted.shape:
            return found
        return np.where(np.abs(found - wanted) <= self.step, wanted, found)

    def sizes(self) -> list[dict[str, int]]:
        return [dict(zip(self.grid, chosen, strict=True)) for chosen in itertools.product(*self.grid.values())]


def _torch(source: Callable[[], Source]) -> Callable[[], onnx_ir.Model]:
    def load() -> onnx_ir.Model:
        module, args, dynamic = source()
        return tersor.load(module, args=args, dynamic=dynamic)

    return load


CASES: Mapping[str, Case] = {
    "MiniLM": Case(
        _torch(minilm.source),
        {"batch": BATCHES, "sequence": LENGTHS},
        ({"batch": 0, "sequence": 8}, {"batch": 2, "sequence": 0}, {"batch": 1, "sequence": 513}),
    ),
    "BabyLlama": Case(
        _torch(babyllama.source),
        {"batch": BATCHES, "sequence": (1, *LENGTHS)},
        ({"batch": 0, "sequence": 8}, {"batch": 2, "sequence": 0}, {"batch": 1, "sequence": 257}),
    ),
    "g2p encoder": Case(
        _torch(g2p.encoder_source),
        {"batch": BATCHES, "letters": (1, 2, 3, 16, 31)},
        ({"batch": 0, "letters": 8}, {"batch": 2, "letters": 0}),
    ),
    "g2p decoder": Case(_torch(g2p.decoder_source), {"batch": BATCHES}, ({"batch": 0},)),
    "silero, opset 16": Case(lambda: tersor.load(silero.model_path(silero.OPENVINO)), feeds=_speech, step=SIGMOID),
    "silero, opset 15, If": Case(
        lambda: tersor.load(silero.model_path(silero.OPSET_15)),
        {"batch": BATCHES, "sequence": (256, 512, 576)},
        ({"batch": 0, "sequence": 576}, {"batch": 2, "sequence": 0}, {"batch": 1, "sequence": 1024}),
        _speech,
        step=SIGMOID,
    ),
}


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--models", nargs="*", default=list(CASES), choices=list(CASES))
    parser.set_defaults(threads=1)
    given = parser.parse_args()
    rows = [{"model": name, **row(CASES[name], given)} for name in given.models]
    publish("packages", "Packages in a process without a compiler", rows, given, NOTE)


def row(case: Case, given: argparse.Namespace) -> dict[str, object]:
    """What a model's package is like, or why there is none."""
    model = case.load()
    with TemporaryDirectory(prefix="tersor-bench-") as base:
        folder = Path(base)
        save(model, folder / "model.onnx")
        start = time.perf_counter()
        try:
            target = f"inductor{{threads={given.threads}}}"
            artifact = tersor.compile(model, target=target, exact=True, output=folder / "artifact")
        except tersor.TersorError as error:
            return {"note": f"{type(error).__name__}: {error}"}
        found: dict[str, object] = {"compile": round(time.perf_counter() - start)}
        found["weights"] = artifact.manifest["sizes"]["weights"][0]
        found["package"] = (artifact.path / "model.pt2").stat().st_size
        return found | _away(case, model, folder, plain_session(folder / "model.onnx", given.threads))


def _away(case: Case, model: onnx_ir.Model, folder: Path, plain: Run) -> dict[str, object]:
    """What the process without a compiler makes of the artifact in `folder`."""
    inside, refused = folder / "inside", folder / "outside"
    wanted: dict[str, Feeds] = {}
    for place, sizes in enumerate(case.sizes()):
        feeds = case.feeds(model, sizes, place)
        _write(inside / f"{place}.npz", feeds)
        wanted[str(place)] = plain(feeds)
    for place, sizes in enumerate(case.outside):
        _write(refused / f"{place}.npz", _shaped(model, sizes))
    notes, errors, said = [], [], ""
    for feeds_folder in (inside, refused) if case.outside else (inside,):
        notes += _child(folder, feeds_folder)
    for name, answers in wanted.items():
        path = inside / f"{name}.found.npz"
        if path.is_file():
            with np.load(path) as made:
                expected = [*answers.values()]
                errors.append(distance(expected, map(case.rounded, made.values(), expected)))
        else:
            text = inside / f"{name}.error.txt"
            said = said or f"at {case.sizes()[int(name)]}: {text.read_text() if text.is_file() else 'no answer'}"
    held = sum(error <= TOLERANCE for error in errors)
    no = [path.read_text(encoding="utf-8") for path in sorted(refused.glob("*.error.txt"))]
    result: dict[str, object] = {"sizes": f"{held} / {len(wanted)}", "error": max(errors, default=float("nan"))}
    result["refused"] = f"{sum(text.startswith('ModelError') for text in no)} / {len(case.outside)}"
    return result | ({"note": "; ".join([said, *notes] if said else notes)} if said or notes else {})


def _child(folder: Path, feeds: Path) -> list[str]:
    """Run the artifact in a process of its own; what it did that it should not have done."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), "TRITON_CACHE_DIR": str(folder / "triton")}
    kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    command = [sys.executable, str(CHILD), str(folder / "artifact"), str(feeds)]
    done = subprocess.run(command, env={"PATH": str(empty), **caches, **kept}, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no word").splitlines()[-1]
        return [f"the process ended with {done.returncode}: {last}"]
    report = json.loads(done.stdout.splitlines()[-1])
    return [f"{key}: {value}" for key, value in report.items() if value]


def _shaped(model: onnx_ir.Model, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Ones in the shapes of these sizes, whether the model takes them or not."""
    return {
        value.name or "": np.ones(
            [dim if isinstance(dim, int) else sizes[str(dim.value)] for dim in value.shape or ()],
            (value.dtype or onnx_ir.DataType.FLOAT).numpy(),
        )
        for value in model.graph.inputs
    }


def _write(path: Path, feeds: Feeds) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **feeds)


if __name__ == "__main__":
    main()
