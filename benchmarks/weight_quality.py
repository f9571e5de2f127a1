"""What weights of few bits cost MiniLM's answers, by algorithm, beside what other packages make of the same weights.

    python benchmarks/weight_quality.py                            tersor alone
    python benchmarks/weight_quality.py --peers VENV [VENV ..]     and the packages that these environments hold
    python benchmarks/weight_quality.py --bits 2 --groups 32       one setting

Linear layers alone are quantized; tables stay floats. blocks: the relative L2 error of each block's output over real
tokens, the mean over blocks; end: 1 - cosine of sentence embeddings, x 1000. Both are read on sentences of SNLI's
development split, Spearman (with --spearman) on STS13; everything calibrates on the same sentences of STS12's training
pairs. A peer is given the plain export, and what it made is read as dequantized weights and run as the same float32
graph by tersor's interpreter, as ours is. Peers run with what they do by default but bits, group, symmetry and data.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
import torch
from tersor.benchmarks import _calibration, _weight_peers
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._processes import interpreter
from tersor.benchmarks._pruned import raised
from tersor.benchmarks._sts import spearman, sts13
from tersor.examples import minilm
from tersor.examples.data import Feeds, data_file
from tersor.ir.block import blocks
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.held import Held
from tersor.ir.save import save
from tersor.ir.site import Kind, sites
from tersor.ir.trace import trace
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.statistics import Calibration

#: What is asked of quantize-weights; bits and group are added.
OURS = {
    "rtn": "",
    "rtn-asym": "symmetric=false",
    "hqq": "algorithm=hqq, symmetric=false",
    "awq": "algorithm=awq",
    "awq-asym": "algorithm=awq, symmetric=false",
    "gptq": "algorithm=gptq",
    "gptq-asym": "algorithm=gptq, symmetric=false",
    "gptq-clip": "algorithm=gptq, clip=true",
    "gptq-clip-refine": "algorithm=gptq, clip=true, refine=true",
    "gptq-clip-refine-asym": "algorithm=gptq, clip=true, refine=true, symmetric=false",
}
#: By peer what it is asked for, as `_weight_peers` understands it.
PEERS = {
    "onnxruntime": ("rtn", "rtn-asym", "hqq", "gptq", "k-quant"),
    "onnxsim": ("rtn", "hqq", "awq", "gptq"),
    "nncf": ("rtn", "rtn-asym", "scale-estimation", "awq", "awq-asym", "gptq", "gptq-asym"),
    "torchao": ("rtn", "rtn-asym", "hqq", "awq", "gptq"),
    "olive": ("rtn", "rtn-asym", "hqq"),
}
#: The module by which an environment is found to hold a peer.
MODULES = {"olive": "olive.model"}


@dataclass(frozen=True)
class Reference:
    """The original's answers: by batch each block's output at real tokens, and all sentence embeddings."""

    batches: Sequence[Feeds]
    blocks: Sequence[Sequence[np.ndarray]]
    embeddings: np.ndarray


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--bits", nargs="*", type=int, default=[4, 3, 2])
    parser.add_argument("--groups", nargs="*", type=int, default=[32, 64])
    parser.add_argument("--rows", nargs="*", default=list(OURS), choices=[*OURS, ""], help="of tersor's algorithms")
    parser.add_argument("--peers", nargs="*", type=Path, default=[], help="environments that hold other packages")
    parser.add_argument("--only", nargs="*", default=list(PEERS), choices=list(PEERS), help="of the peers")
    settings = list(dict.fromkeys(setting for each in PEERS.values() for setting in each))
    parser.add_argument("--settings", nargs="*", default=settings, choices=settings, help="of what peers are asked for")
    parser.add_argument("--sentences", type=int, default=256, help="that answers are compared on")
    parser.add_argument("--calibration", type=int, default=_calibration.SENTENCES, help="sentences to calibrate on")
    parser.add_argument("--spearman", action="store_true", help="on STS13")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds that a peer may take")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        publish("weight_quality", "MiniLM's linear layers in few bits", list(_rows(Path(folder), given)), given)


def _rows(folder: Path, given: Namespace) -> Iterator[dict[str, object]]:
    source = minilm.source()
    plain = trace(source.module, source.args, dynamic=source.dynamic, opset=21)
    save(plain, folder / "model.onnx")
    batches = [*minilm.batches(_calibration.sentences(given.calibration), _calibration.BATCH)]
    np.savez(
        folder / "calibration.npz",
        **{f"{number}/{name}": array for number, batch in enumerate(batches) for name, array in batch.items()},
    )
    original = raised(folder / "model.onnx")
    reference = _reference(original, given.sentences)
    yield {"": "float32"} | (_spearman(original) if given.spearman else {})
    found = {peer: interpreter(MODULES.get(peer, peer), given.peers) for peer in given.only if given.peers}
    for bits in given.bits:
        for group in given.groups:
            for name in filter(None, given.rows):
                start, model = time.perf_counter(), original.clone()
                text = f"quantize-weights{{bits={bits}, group={group}, {OURS[name]}}}".replace(", }", "}")
                Pipeline.of(text).apply(model, Context(calibration=Calibration(batches)))
                seconds = time.perf_counter() - start
                yield _row(f"tersor {name}", bits, group, seconds, model, reference, given)
            for peer, python in found.items():
                for setting in (each for each in PEERS[peer] if each in given.settings):
                    yield _peer(peer, setting, bits, group, python, folder, original, reference, given)


def _peer(
    peer: str, setting: str, bits: int, group: int, python: Path | None, folder: Path, original: ir.Model,
    reference: Reference, given: Namespace,
) -> dict[str, object]:  # fmt: skip
    row: dict[str, object] = {"": f"{peer} {setting}", "bits": bits, "group": group}
    if python is None:
        return row | {"error": "in none of the environments"}
    program = [str(python), str(Path(_weight_peers.__file__)), peer, setting, str(bits), str(group), str(folder)]
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=given.limit, check=False)
    except subprocess.TimeoutExpired:
        return row | {"error": f"took more than {given.limit:g} s"}
    path = folder / f"{peer}-{setting}-{bits}-{group}.onnx"
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return row | {"error": (said or [f"exit code {done.returncode}"])[-1][:120]}
    seconds = float(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["seconds"])
    model = raised(path) if path.exists() else _with(original, np.load(path.with_suffix(".npz")))
    return _row(f"{peer} {setting}", bits, group, seconds, model, reference, given)


def _row(
    name: str, bits: int, group: int, seconds: float, model: ir.Model, reference: Reference, given: Namespace
) -> dict[str, object]:
    row: dict[str, object] = {"": name, "bits": bits, "group": group} | _compared(model, reference)
    if given.spearman:
        row |= _spearman(model)
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row | {"s": round(seconds, 1)}


def _with(original: ir.Model, weights: Mapping[str, np.ndarray]) -> ir.Model:
    """The original with other weights, [in, out] by the names of its sites."""
    model = original.clone()
    for site in sites(model):
        if site.kind is Kind.LINEAR:
            stored = weights[site.name].T if site.transposed else weights[site.name]
            assert site.weight.shape is not None and list(stored.shape) == list(site.weight.shape)
            site.weight.const_value = ir.tensor(np.ascontiguousarray(stored), name=site.weight.name)
    return model


def _reference(model: ir.Model, count: int) -> Reference:
    lines = data_file("snli/s2.dev").read_text(encoding="utf-8").splitlines()
    texts = sorted(dict.fromkeys(lines), key=lambda text: (len(text), text))
    batches = [*minilm.batches(texts[:: max(1, len(texts) // count)][:count], 32)]
    return Reference(batches, *_answers(model, batches))


def _answers(model: ir.Model, batches: Sequence[Feeds]) -> tuple[list[list[np.ndarray]], np.ndarray]:
    interpreter = Interpreter(to_fx(model), hold=Held())
    names = [block.output.name or "" for block in blocks(model)]
    kept, embeddings = [], []
    for feeds in batches:
        found = interpreter.run(feeds, taps=[*names, *interpreter.outputs])
        real = feeds["attention_mask"] != 0
        kept.append([found[name][real] for name in names])
        embeddings.append(minilm.embed(lambda _, found=found: {"y": found[interpreter.outputs[0]]}, feeds))  # type: ignore[misc]
    return kept, np.concatenate(embeddings)


def _compared(model: ir.Model, reference: Reference) -> dict[str, object]:
    found, embeddings = _answers(model, reference.batches)
    count = len(reference.blocks[0])
    if any(len(each) != count for each in found):
        return {"error": f"{len(found[0])} blocks were found in its graph, not {count}"}
    errors = []
    for index in range(count):
        pairs = [(a[index].astype(np.float64), b[index]) for a, b in zip(reference.blocks, found, strict=True)]
        missed = sum(float(((b - a) ** 2).sum()) for a, b in pairs)
        errors.append(np.sqrt(missed / sum(float((a**2).sum()) for a, _ in pairs)))
    cosine = float((reference.embeddings.astype(np.float64) * embeddings).sum(1).mean())
    return {"blocks": round(float(np.mean(errors)), 5), "end x 1000": round(1000 * (1 - cosine), 3)}


def _spearman(model: ir.Model) -> dict[str, object]:
    interpreter = Interpreter(to_fx(model), hold=Held())

    def run(feeds: Feeds) -> Feeds:
        return interpreter.run(feeds, taps=[], tap=lambda name, value: None)

    return {"Spearman": round(spearman(run, sts13())[0], 2)}


if __name__ == "__main__":
    main()
