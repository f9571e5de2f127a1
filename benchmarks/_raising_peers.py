"""What other optimizers make of the files of the raising benchmark: onnxruntime.transformers and onnxscript.

ONNX Runtime's optimizer is told the kind of model and how many heads there are. Each kind that fits is tried, with its
own offline pass before (`opt_level` 1) and without, with `Attention` and with `MultiHeadAttention`; the attempt with
most attention that answers as torch does is kept. onnxscript's fusions are those of `optimize_for_ort`.
"""

from __future__ import annotations

import itertools
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir
from tersor.benchmarks._common import plain_session
from tersor.benchmarks._processes import described
from tersor.benchmarks._quiet import quiet
from tersor.benchmarks._raising_architecture import HEADS, HIDDEN
from tersor.benchmarks._raising_architectures import architectures
from tersor.benchmarks._raising_cell import DEMAND, comparable, worst
from tersor.benchmarks._raising_export import Cell

PEERS = ("onnxruntime", "onnxscript")

_OPS = {
    "attention": re.compile(r"(MultiHead|GroupQuery|Packed|PackedMultiHead|DecoderMaskedMultiHead|Sparse)?Attention"),
    "norms": re.compile(r"(Skip|Embed)?(Simplified)?(Layer|RMS)Normalization"),
    "gelus": re.compile(r"(Fast|Bias|Quick|BiasSplit)?Gelu"),
    "silus": re.compile(r"Swish|Silu|QuickGelu"),
    "rotary": re.compile(r"RotaryEmbedding"),
}
_SETTINGS = ((1, False), (0, False), (1, True))
"""opt_level, and whether MultiHeadAttention is asked for."""


@dataclass
class PeerMeasured:
    """What a peer made of a file."""

    cell: Cell
    peer: str
    setting: str = ""
    error: str = ""
    found: dict[str, int] = field(default_factory=dict)
    after: int = 0
    loss: float = math.nan
    """Relative L2 to the torch module; NaN where it does not run."""
    remarks: list[str] = field(default_factory=list)

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """Right answers first, then attention, then all that is fused, then nodes."""
        return self.loss <= DEMAND, self.found.get("attention", 0), sum(self.found.values()), -self.after


def measure(task: tuple[Cell, str, Path]) -> PeerMeasured:
    """Let a peer optimize the exported file of a cell."""
    cell, peer, folder = task
    architecture = architectures()[cell.architecture]
    module = architecture.build(cell.attention)
    feeds, _, _ = comparable(module, cell.path(folder), [])
    expected = [module.answers(feed) for feed in feeds]
    tried: list[PeerMeasured] = []
    with tempfile.TemporaryDirectory() as place, quiet():
        path = Path(place) / "optimized.onnx"
        for setting, model in (_onnxruntime if peer == "onnxruntime" else _onnxscript)(cell, folder, Path(place)):
            made = PeerMeasured(cell, peer, setting)
            tried.append(made)
            if isinstance(model, str):
                made.error = model
                continue
            made.found, made.after = counts(model), sum(node.op_type != "Constant" for node in model.graph.node)
            try:
                onnx.save(model, path)
                made.loss = worst(plain_session(path, 1), feeds, expected)
            except Exception as error:  # ONNX Runtime has an exception for each of its states
                made.remarks.append(described(error))
            if made.loss <= DEMAND and made.found["attention"] >= architecture.attention:
                break
    best = max(tried, key=lambda made: made.rank)
    more = max(tried, key=lambda made: made.found.get("attention", 0))
    if more.found.get("attention", 0) > best.found.get("attention", 0):
        wrong = f"{more.loss:.2g} off" if more.found and not more.remarks else "and does not run"
        best.remarks.append(f"{more.setting}: {more.found['attention']} attention, {wrong}")
    return best


def counts(model: onnx.ModelProto) -> dict[str, int]:
    """The fused ops, of ONNX and of ONNX Runtime, by kind; a rotation inside GroupQueryAttention counts twice."""
    found = Counter(node.op_type for node in model.graph.node)
    made = {kind: sum(found[op] for op in found if pattern.fullmatch(op)) for kind, pattern in _OPS.items()}
    for node in model.graph.node:
        if any(attribute.name == "do_rotary" and attribute.i for attribute in node.attribute):
            made["rotary"] += 2
    return made


def _onnxruntime(cell: Cell, folder: Path, place: Path) -> Iterator[tuple[str, onnx.ModelProto | str]]:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    kinds = architectures()[cell.architecture].peers
    for kind, (level, several) in itertools.product(kinds, _SETTINGS):
        setting = f"{kind}, opt_level={level}{', multi-head' if several else ''}"
        options = FusionOptions(kind)
        options.use_multi_head_attention = several
        copy = place / "copy.onnx"
        copy.write_bytes(cell.path(folder).read_bytes())
        try:
            yield setting, optimize_model(str(copy), kind, HEADS, HIDDEN, options, level).model
        except Exception as error:  # of any class
            yield setting, described(error)


def _onnxscript(cell: Cell, folder: Path, place: Path) -> Iterator[tuple[str, onnx.ModelProto | str]]:
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    try:
        model, _ = optimize_for_ort(onnx_ir.load(cell.path(folder)))
        yield "optimize_for_ort", onnx_ir.to_proto(model)
    except Exception as error:  # of any class
        yield "optimize_for_ort", described(error)
