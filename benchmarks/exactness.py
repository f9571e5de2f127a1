"""MiniLM through the exact pipeline, from both exports: error to torch eager, and attention at the semantic level."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tersor
from tersor.benchmarks._common import SEED, options, publish
from tersor.examples import minilm
from tersor.examples.data import Feeds
from tersor.examples.source import torch_run
from tersor.ir.trace import trace
from tersor.passes.presets import RAISING

CASES = {
    "(1, 16)": (1, 16, False),
    "(8, 128)": (8, 128, False),
    "(3, 512)": (3, 512, False),
    "(8, 128) padded": (8, 128, True),
}


def main() -> None:
    given = options(__doc__ or "", seconds=0.0).parse_args()
    source = minilm.source()
    eager = torch_run(source.module)
    rows: list[dict[str, object]] = []
    for opset in (18, 23):
        model = trace(source.module, source.args, dynamic=source.dynamic, opset=opset)
        semantic = model.clone()
        tersor.run_passes(semantic, RAISING)
        for target in ("onnxruntime", "openvino", "torch"):
            artifact = tersor.compile(model, target=f"{target}{{threads={given.threads}}}", exact=True)
            row: dict[str, object] = {"export": f"opset {opset}", "target": target}
            row["Attention nodes"] = sum(node.op_type == "Attention" for node in semantic.graph)
            row["Softmax left"] = sum(node.op_type == "Softmax" for node in semantic.graph)
            for name, feeds in _cases():
                (expected,), (found,) = eager(feeds).values(), artifact.session.run(feeds).values()
                row[name] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
            rows.append(row)
    publish("exactness", "MiniLM, exact pipeline: relative L2 of the hidden states to torch eager", rows, given)


def _cases() -> Iterator[tuple[str, Feeds]]:
    rng = np.random.default_rng(SEED)
    for name, (batch, sequence, padded) in CASES.items():
        lengths = rng.integers(4, sequence + 1, batch) if padded else np.full(batch, sequence)
        mask = (np.arange(sequence) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(1000, 30000, (batch, sequence)) * mask
        yield name, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


if __name__ == "__main__":
    main()
