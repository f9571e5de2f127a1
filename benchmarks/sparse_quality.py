"""What zeros in half of the weights cost MiniLM's and BabyLlama's answers, and what a file is smaller by.

    python benchmarks/sparse_quality.py                            tersor alone
    python benchmarks/sparse_quality.py --peers VENV [VENV ..]     and the packages that these environments hold
    python benchmarks/sparse_quality.py --sizes                    bytes of the targets' files instead

Linear layers of blocks alone are pruned: no table, and no layer that reads the last block. blocks: the relative L2
error of each block's output over real tokens, the mean over blocks; end: 1 - cosine of sentence embeddings x 1000 for
MiniLM, KL to the original's next token x 1000 for BabyLlama. Read on sentences of SNLI's development split and on the
stories of BabyLlama's sample text; calibrated on STS12's training pairs and on what BabyLlama itself writes. Of what a
peer made the weights of the same layers are read, and run as the same float32 graph as ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from tersor.backends.catalogue import create
from tersor.benchmarks import _calibration, _sparse_peers
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._processes import interpreter
from tersor.benchmarks._pruned import raised
from tersor.benchmarks.babyllama_quantize import _sampled, _windows
from tersor.examples import babyllama, minilm
from tersor.examples.data import Feeds, data_file
from tersor.ir.block import blocks
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.held import Held
from tersor.ir.save import save
from tersor.ir.site import Site, sites
from tersor.ir.trace import trace
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.prune.prune_magnitude import PruneMagnitude
from tersor.passes.statistics import Calibration

CHOICE = 'storage=dense, only=["block:*"]'
#: What is asked of tersor; sparsity or pattern is added.
OURS = {
    "magnitude": "prune-magnitude{CHOICE, SHARE}",
    "magnitude, output": "prune-magnitude{CHOICE, scope=output, SHARE}",
    "magnitude, global": "prune-magnitude{CHOICE, scope=global, SHARE}",
    "magnitude, distribution": "prune-magnitude{CHOICE, scope=distribution, SHARE}",
    "wanda": "prune-wanda{CHOICE, SHARE}",
    "obs": "prune-obs{CHOICE, SHARE}",
    "obs, not sequential": "prune-obs{CHOICE, sequential=false, SHARE}",
    "obs, refit": "prune-obs{CHOICE, refit=true, SHARE}",
}
METHODS = {"onnxsim": ("magnitude", "wanda", "obs"), "llmcompressor": ("wanda", "obs")}
PATTERNS = {"50 %": ("sparsity=0.5", "free"), "2:4": ('pattern="2:4"', "2:4")}
SIZES = {
    "dense": "",
    "50 %": "prune-magnitude{OPTIONS}",
    "2:4": 'prune-magnitude{OPTIONS, pattern="2:4"}',
    "4x4, 50 %": "prune-magnitude{OPTIONS, pattern=4x4}",
    "80 %": "prune-magnitude{OPTIONS, sparsity=0.8}",
}
TARGETS = ("onnxruntime", "openvino", "torch")


@dataclass(frozen=True)
class Task:
    """A model with what it is calibrated and read on."""

    name: str
    plain: ir.Model
    calibration: Sequence[Feeds]
    read: Sequence[Feeds]

    def real(self, feeds: Feeds) -> np.ndarray:
        """Which tokens are no padding, [batch, sequence]."""
        if "attention_mask" in feeds:
            return np.asarray(feeds["attention_mask"]) != 0
        return np.ones(feeds["tokens"].shape, bool)

    def end(self, output: np.ndarray, feeds: Feeds) -> np.ndarray:
        """What a run comes to: sentence embeddings, or log probabilities of each token."""
        if self.name == "MiniLM":
            return minilm.embed(lambda _: {"y": output}, feeds)
        wide = output.astype(np.float64).reshape(-1, output.shape[-1])
        return wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)

    def distance(self, wanted: np.ndarray, found: np.ndarray) -> float:
        if self.name == "MiniLM":
            return 1 - float((wanted.astype(np.float64) * found).sum(1).mean())
        return float((np.exp(wanted) * (wanted - found)).sum(-1).mean())


Answers = tuple[list[list[np.ndarray]], np.ndarray]


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--models", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--patterns", nargs="*", default=list(PATTERNS), choices=list(PATTERNS))
    parser.add_argument("--rows", nargs="*", default=list(OURS), choices=list(OURS), help="of tersor's methods")
    parser.add_argument("--peers", nargs="*", type=Path, default=[], help="environments that hold other packages")
    parser.add_argument("--sentences", type=int, default=256, help="that MiniLM's answers are compared on")
    parser.add_argument("--sizes", action="store_true", help="bytes of the targets' files")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    made = _sizes(given) if given.sizes else _rows(given)
    publish("sparse_sizes" if given.sizes else "sparse_quality", "Weights with zeros", list(made), given)


def _minilm(given: Namespace) -> Task:
    source = minilm.source()
    lines = data_file("snli/s2.dev").read_text(encoding="utf-8").splitlines()
    texts = sorted(dict.fromkeys(lines), key=lambda text: (len(text), text))
    read = [*minilm.batches(texts[:: max(1, len(texts) // given.sentences)][: given.sentences], 32)]
    plain = trace(source.module, source.args, dynamic=source.dynamic, opset=21)
    return Task("MiniLM", plain, [*_calibration.sts12()], read)


def _babyllama(given: Namespace) -> Task:
    source = babyllama.source()
    plain = trace(source.module, source.args, dynamic=source.dynamic, opset=21)
    return Task("BabyLlama", plain, _sampled(), [{"tokens": window[None, :-1]} for window in _windows()])


TASKS = {"MiniLM": _minilm, "BabyLlama": _babyllama}


def _rows(given: Namespace) -> Iterator[dict[str, object]]:
    pythons = {peer: interpreter(peer, given.peers) for peer in METHODS if given.peers}
    for name in given.models:
        task = TASKS[name](given)
        with tempfile.TemporaryDirectory(prefix="tersor-bench-") as folder:
            yield from _task(task, Path(folder), pythons, given)


def _task(
    task: Task, folder: Path, pythons: Mapping[str, Path | None], given: Namespace
) -> Iterator[dict[str, object]]:
    save(task.plain, folder / "model.onnx")
    arrays = {f"{n}/{name}": array for n, feeds in enumerate(task.calibration) for name, array in feeds.items()}
    np.savez(folder / "calibration.npz", **arrays)
    original = raised(folder / "model.onnx")
    reference = _answers(task, original)
    for label in given.patterns:
        share, pattern = PATTERNS[label]
        for name in given.rows:
            if "scope" in OURS[name] and pattern != "free":
                continue
            start, model = time.perf_counter(), original.clone()
            text = OURS[name].replace("SHARE", share).replace("CHOICE", CHOICE)
            Pipeline.of(text).apply(model, Context(calibration=Calibration(task.calibration)))
            yield _row(task, f"tersor {name}", label, time.perf_counter() - start, model, reference)
        for peer, python in pythons.items():
            for method in METHODS[peer]:
                start = time.perf_counter()
                make = _by_onnxsim if peer == "onnxsim" else _by_llmcompressor
                try:
                    if python is None:
                        raise ValueError("in none of the environments")
                    model = make(
                        task, original, [str(python), _sparse_peers.__file__, peer, method, "0.5", pattern], folder
                    )
                except (ValueError, KeyError) as error:
                    yield {"": f"{peer} {method}", "model": task.name, "zeros": label, "error": str(error)[:120]}
                    continue
                yield _row(task, f"{peer} {method}", label, time.perf_counter() - start, model, reference)


def _row(task: Task, name: str, label: str, seconds: float, model: ir.Model, reference: Answers) -> dict[str, object]:
    found = _answers(task, model)
    errors = []
    for index in range(len(reference[0][0])):
        pairs = [(a[index].astype(np.float64), b[index]) for a, b in zip(reference[0], found[0], strict=True)]
        missed = sum(float(((b - a) ** 2).sum()) for a, b in pairs)
        errors.append(np.sqrt(missed / sum(float((a**2).sum()) for a, _ in pairs)))
    weights = [site.dense() for site in _chosen(model)]
    share = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.size for weight in weights)
    row = {"": name, "model": task.name, "zeros": label, "share": round(share, 4)}
    row |= {
        "blocks": round(float(np.mean(errors)), 5),
        "end x 1000": round(1000 * task.distance(reference[1], found[1]), 3),
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row | {"s": round(seconds, 1)}


def _answers(task: Task, model: ir.Model) -> Answers:
    """By batch each block's output at real tokens, and what the runs come to."""
    interpreter = Interpreter(to_fx(model), hold=Held())
    names = [block.output.name or "" for block in blocks(model)]
    kept, ends = [], []
    for feeds in task.read:
        found = interpreter.run(feeds, taps=[*names, *interpreter.outputs])
        kept.append([found[name][task.real(feeds)] for name in names])
        ends.append(task.end(found[interpreter.outputs[0]], feeds))
    return kept, np.concatenate(ends)


def _chosen(model: ir.Model) -> list[Site]:
    """The sites that are pruned."""
    return [site for site, miss in PruneMagnitude(only=("block:*",)).verdicts(model) if miss is None]


def _put(site: Site, weight: np.ndarray) -> None:
    """Store a weight [in, out]."""
    stored = weight.T if site.transposed else weight
    assert site.weight.shape is not None
    array = np.ascontiguousarray(stored.reshape([int(dim) for dim in site.weight.shape]))
    site.weight.const_value = ir.tensor(array, name=site.weight.name)


def _called(program: Sequence[str], folder: Path) -> None:
    done = subprocess.run([*program, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ValueError((said or [f"exit code {done.returncode}"])[-1])


def _by_onnxsim(task: Task, original: ir.Model, program: Sequence[str], folder: Path) -> ir.Model:
    _called(program, folder)
    model = original.clone()
    chosen = {site.weight.name for site in _chosen(model)}
    # its initializers have names of its own, its nodes their order
    for site, other in zip(sites(model), sites(raised(folder / "pruned.onnx")), strict=True):
        if site.weight.name in chosen:
            _put(site, other.dense())
    return model


def _by_llmcompressor(task: Task, original: ir.Model, program: Sequence[str], folder: Path) -> ir.Model:
    """Block by block, on what the blocks before have become."""
    model = original.clone()
    for _, group in groupby(_chosen(model), lambda site: site.block):
        part = list(group)
        interpreter, seen = Interpreter(to_fx(model), hold=Held()), {site.name: [] for site in part}
        names = list(dict.fromkeys(site.activation.name or "" for site in part))
        for feeds in task.calibration:
            found = interpreter.run(feeds, taps=names)
            for site in part:
                seen[site.name].append(found[site.activation.name or ""][task.real(feeds)])
        arrays = {f"{site.name}/weight": np.ascontiguousarray(site.dense().T) for site in part}
        arrays |= {f"{name}/inputs": np.concatenate(rows) for name, rows in seen.items()}
        np.savez(folder / "layers.npz", **arrays)
        _called(program, folder)
        made = np.load(folder / "pruned.npz")
        for site in part:
            _put(site, made[site.name].T)
    return model


def _sizes(given: Namespace) -> Iterator[dict[str, object]]:
    for name in given.models:
        task = TASKS[name](given)
        with tempfile.TemporaryDirectory(prefix="tersor-bench-") as folder:
            save(task.plain, Path(folder) / "model.onnx")
            original = raised(Path(folder) / "model.onnx")
        for embeddings in (False, True):
            for label, text in SIZES.items():
                model = original.clone()
                if text:
                    Pipeline.of(text.replace("OPTIONS", f"embeddings={str(embeddings).lower()}")).apply(
                        model, Context()
                    )
                elif embeddings:
                    continue
                row: dict[str, object] = {"": label, "model": name, "tables too": embeddings}
                for target in TARGETS:
                    row[f"{target} MB"] = round(_bytes(model.clone(), target) / 1e6, 2)
                yield row


def _bytes(model: ir.Model, target: str) -> int:
    made = create(target)
    made.pipeline().apply(model, Context())
    with tempfile.TemporaryDirectory(prefix="tersor-bench-") as folder:
        made.write(model, Path(folder))
        return sum(file.stat().st_size for file in Path(folder).iterdir())


if __name__ == "__main__":
    main()
