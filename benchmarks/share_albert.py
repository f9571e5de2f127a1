"""A random ALBERT that an exporter wrote layer by layer, each with weights of its own: bytes and speed when shared.

    python benchmarks/share_albert.py --layers 12 --width 256

`as it is` is torch's export of transformers' model, run as anyone runs it, and on torch the module, whose bytes are
those of its parameters. `compiled` has every weight once; `loop` has the layers as the body of one ONNX Loop besides;
`int8` has those in 8 bits, and activations rounded at run time. `difference` is the largest relative L2 error of the
outputs beside the module's. Rows of a runtime are timed in turns on one batch of 8 sequences of 64 tokens.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tersor.benchmarks._common import distance, options, publish
from tersor.benchmarks._int8_peers import Peer, on_onnxruntime, on_openvino
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.driver.timing import paired
from tersor.examples.data import Feeds
from torch import nn

ROWS = {"compiled": "", "loop": "loop-layers", "int8": "quantize-dynamic{embeddings=true}"}
FIRST = "as it is"
BATCH, TOKENS = 8, 64


def unshared(layers: int, width: int) -> nn.Module:
    """transformers' ALBERT, random, with as many copies of its layer as it runs."""
    from transformers import AlbertConfig, AlbertModel

    torch.manual_seed(0)
    config = AlbertConfig(
        hidden_size=width, num_attention_heads=width // 64, intermediate_size=4 * width, embedding_size=128,
        vocab_size=1000, num_hidden_layers=layers, num_hidden_groups=layers,
    )  # fmt: skip
    module = AlbertModel(config, add_pooling_layer=False).eval()
    groups = module.encoder.albert_layer_groups
    for group in groups[1:]:
        group.load_state_dict(groups[0].state_dict())
    return module


def exported(module: nn.Module, path: Path) -> None:
    """As torch's exporter writes it."""
    ids = torch.ones(2, 7, dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    names = ("input_ids", "attention_mask")
    torch.onnx.export(
        module, kwargs={name: ids.clone() for name in names}, f=path, dynamo=True, verbose=False,
        dynamic_shapes=dict.fromkeys(names, axes), input_names=list(names), output_names=["last_hidden_state"],
        external_data=False,
    )  # fmt: skip


def as_it_is(target: str, path: Path, module: nn.Module, threads: int) -> Quantized:
    """The exporter's file on a runtime, or the module."""
    if target == "onnxruntime":
        return on_onnxruntime(Peer(path), threads)
    if target == "openvino":
        return on_openvino(Peer(path), threads, "f32")

    def run(feeds: Feeds) -> Feeds:
        with torch.inference_mode():
            found = module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        return {"last_hidden_state": found[0].numpy()}

    return Quantized(run, sum(each.numel() * each.element_size() for each in module.parameters()))


def main() -> None:
    parser = options(__doc__ or "", seconds=20.0)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--targets", nargs="+", choices=("onnxruntime", "openvino", "torch"),
                        default=["onnxruntime", "openvino", "torch"])  # fmt: skip
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    module = unshared(given.layers, given.width)
    generator = np.random.default_rng(0)
    feeds: Feeds = {
        "input_ids": generator.integers(0, 1000, (BATCH, TOKENS)),
        "attention_mask": np.ones((BATCH, TOKENS), np.int64),
    }
    rows: list[dict[str, object]] = []
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        path = Path(folder) / "albert.onnx"
        exported(module, path)
        expected = as_it_is("torch", path, module, given.threads).run(feeds)
        for target in given.targets:
            made = {FIRST: as_it_is(target, path, module, given.threads)}
            for name, passes in ROWS.items():
                place = Path(folder) / f"{target}-{name}"
                made[name] = quantized(path, passes, place, threads=given.threads, backend=target)
            runs = {name: each.run for name, each in made.items()}
            timings = paired(runs, [feeds], rounds=200, budget_seconds=given.seconds)
            for name, run in runs.items():
                error = distance(expected.values(), [run(feeds)[name] for name in expected])
                row = {"": f"{target}, {name}", "bytes": made[name].bytes, "difference": f"{error:.1e}"}
                rows.append(row | {f"x {FIRST}": str(timings.ratio(FIRST, name))})
    publish("share_albert", f"A random ALBERT, {given.layers} layers, {given.width} wide", rows, given)


if __name__ == "__main__":
    main()
