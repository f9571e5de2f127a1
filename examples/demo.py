"""`make demo`: compile all-MiniLM-L6-v2 in three variants and measure what came of it.

Calibration and verification read one half of the standard library's docstrings, speed and agreement the other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import tersor
import torch
from rich.console import Console
from rich.table import Table
from tersor.driver.timing import Timings, paired
from tersor.examples import minilm, stdlib_text
from tersor.examples.data import Feeds, Run
from tersor.examples.source import Source, torch_run
from tersor.examples.tanh_gelu import TanhGelu
from tersor.ir.save import save
from tersor.ir.trace import trace

VARIANTS: Mapping[str, str | list[object]] = {
    "exact": "",
    "int8": "quantize-dynamic{embeddings=true}",
    "tanh-gelu": [TanhGelu()],
}
BASELINES = ("torch eager", "onnxruntime, plain")


@dataclass(frozen=True)
class Contestant:
    """Something that runs, what it weighs, and what is behind it."""

    run: Run
    bytes: int
    target: str


def main() -> None:
    options = _options()
    console = Console() if sys.stdout.isatty() else Console(width=120)
    texts = stdlib_text.sentences(2 * options.sentences)
    calibration, measured = texts[::2], sorted(texts[1::2], key=len)
    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    source = minilm.source()
    contestants = dict(_baselines(source, out))
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    for name, passes in VARIANTS.items():
        with console.status(f"compiling {name}"):
            feeds = minilm.batches(calibration, 8)
            artifact = tersor.compile(model, passes=passes, data=feeds, size_first=True, output=out / name)
        size = sum(file["bytes"] for file in artifact.manifest["files"] if file["role"] == "model")
        contestants[f"tersor {name}"] = Contestant(artifact.session.run, size, artifact.manifest["target"]["text"])
        console.print(f"{name:10} {artifact.path}   report: {artifact.path / 'report.html'}")
    with console.status("timing"):
        large = _timed(contestants, list(minilm.batches(measured, 32)), options.seconds)
        small = _timed(contestants, list(minilm.batches(measured, 1)), options.seconds)
    console.print(_table(contestants, measured, large, small))
    console.print("x torch, x ort: times as fast, medians of paired calls. cosine: of the embeddings to torch's.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="where the artifacts go")
    parser.add_argument("--sentences", type=int, default=320, help="to measure on; as many again calibrate")
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing, for each batch size")
    return parser.parse_args()


def _baselines(source: Source, folder: Path) -> Mapping[str, Contestant]:
    """The module itself, and ONNX Runtime on what torch exports at opset 18."""
    plain = folder / "plain-opset18.onnx"
    save(trace(source.module, source.args, dynamic=source.dynamic, opset=18), plain)
    inner = onnxruntime.InferenceSession(str(plain), _session_options())
    names = [output.name for output in inner.get_outputs()]
    weights = sum(tensor.nbytes for tensor in source.module.state_dict().values())
    return {
        BASELINES[0]: Contestant(torch_run(source.module), weights, f"torch {torch.__version__}"),
        BASELINES[1]: Contestant(
            lambda feeds: dict(zip(names, inner.run(names, dict(feeds)), strict=True)),
            sum(file.stat().st_size for file in folder.glob("plain-opset18.onnx*")),
            f"onnxruntime {onnxruntime.__version__}",
        ),
    }


def _session_options() -> onnxruntime.SessionOptions:
    """As tersor's sessions: idle threads must not spin while another contestant has its turn."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _timed(contestants: Mapping[str, Contestant], feeds: list[Feeds], seconds: float) -> Timings:
    runs: dict[str, Callable[[Feeds], object]] = {name: each.run for name, each in contestants.items()}
    return paired(runs, feeds, rounds=1000, warmup=1, budget_seconds=seconds)


def _table(contestants: Mapping[str, Contestant], texts: list[str], large: Timings, small: Timings) -> Table:
    table = Table(title="all-MiniLM-L6-v2: milliseconds for one sentence, sentences a second in batches of 32")
    for head in ("", "runs on", "MB", "ms", "x torch", "x ort", "sentences/s", "x torch", "x ort", "cosine"):
        table.add_column(head, justify="left" if head in ("", "runs on") else "right", no_wrap=True)
    reference = minilm.encode(contestants[BASELINES[0]].run, texts)
    samples = [min(32, len(texts) - start) for start in range(0, len(texts), 32)]
    for name, each in contestants.items():
        cosine = float(np.mean((minilm.encode(each.run, texts) * reference).sum(axis=1)))
        table.add_row(
            name,
            each.target,
            f"{each.bytes / 1e6:.1f}",
            f"{small.latency(name).p50 * 1e3:.2f}",
            *(f"{small.ratio(base, name).median:.2f}" for base in BASELINES),
            f"{large.throughput(name, samples):.0f}",
            *(f"{large.ratio(base, name).median:.2f}" for base in BASELINES),
            f"{cosine:.5f}",
        )
    return table


if __name__ == "__main__":
    main()
