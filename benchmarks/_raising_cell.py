"""One cell of the raising benchmark: an exported file brought to the semantic level, counted, compared, explained."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir
import tersor
from tersor.benchmarks._common import distance, plain_session
from tersor.benchmarks._processes import described
from tersor.benchmarks._raising_architecture import AttentionMissingError
from tersor.benchmarks._raising_architectures import architectures
from tersor.benchmarks._raising_calls import TRACED, UNSEEN, Wrapped
from tersor.benchmarks._raising_export import Cell, exported
from tersor.benchmarks._raising_truth import executed
from tersor.benchmarks._round_trip import onnxruntime_run
from tersor.driver.compile import run_passes
from tersor.examples.data import Feeds, Run
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.level import DOMAIN
from tersor.passes.base import Context
from tersor.passes.presets import RAISING

DEMAND = 1e-4
"""Relative L2 distance to the torch module that a raised model may have."""

KINDS = ("attention", "norms", "gelus", "silus", "rotary")

_OPS = {
    "attention": re.compile(r"Attention"),
    "norms": re.compile(r"(Layer|RMS)Normalization"),
    "gelus": re.compile(r"Gelu|tersor\.GeGLU.*|tersor\.(Swish|SwiGLU):scaled"),
    "silus": re.compile(r"(tersor\.)?Swish|tersor\.SwiGLU"),
    "rotary": re.compile(r"RotaryEmbedding|tersor\.\w*Rotary.*"),
}
"""Ops and functions by kind; a Swish with a scale is the quick GELU."""
_PASSES = {
    "attention": re.compile(r"attention|softmax|mask"),
    "norms": re.compile(r"norm"),
    "gelus": re.compile(r"gelu|activation|glu"),
    "silus": re.compile(r"silu|swish|activation|glu"),
    "rotary": re.compile(r"rotary|rope"),
}
_SIGNS = {
    "attention": ("Softmax",),
    "norms": ("ReduceMean", "ReduceSum", "ReduceL2", "Sqrt", "Rsqrt"),
    "gelus": ("Erf", "Tanh", "Sigmoid"),
    "silus": ("Sigmoid",),
    "rotary": ("Cos", "Sin", "Neg"),
}
_SHOWN = 3
"""Misses of a kind that are kept."""
_NAME = re.compile(r"[\w/.:-]*(?:[/_]|\d)[\w/.:-]*")


@dataclass
class Measured:
    """What became of a cell; `error` says why there is nothing else."""

    cell: Cell
    absent: bool = False
    """transformers has not this attention for the model."""
    error: str = ""
    truth: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    before: int = 0
    after: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    """Relative L2 of the raised model, lowered for ONNX Runtime, to the torch module."""
    loss_export: float = math.nan
    """The same of the exported file in ONNX Runtime."""
    loss_reference: float = math.nan
    """The same of the raised model in torch.fx; measured where `loss` is over DEMAND."""
    seen: bool = False
    """Compared at the sizes of the export, for the file takes no others."""
    remarks: list[str] = field(default_factory=list)
    misses: dict[str, list[str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Everything that is there was raised."""
        return all(self.found[kind] >= self.truth[kind] for kind in KINDS)


def measure(task: tuple[Cell, Path]) -> Measured:
    """Export the cell where that is not done yet, raise it, compare it at sizes that the exporter did not see."""
    cell, folder = task
    architecture = architectures()[cell.architecture]
    try:
        module = architecture.build(cell.attention)
    except AttentionMissingError:
        return Measured(cell, absent=True)
    made = Measured(cell)
    counted = executed(module)
    made.truth = {
        "attention": counted.softmaxes,
        "norms": counted.norms,
        "gelus": counted.gelus,
        "silus": counted.silus,
        "rotary": architecture.rotary,
    }
    made.error = exported(cell, folder)
    if made.error:
        made.error = f"export: {made.error}"
        return made
    feeds, made.loss_export, made.seen = comparable(module, cell.path(folder), made.remarks)
    expected = [module.answers(feed) for feed in feeds]
    model = tersor.load(cell.path(folder))
    made.before = nodes(model)
    begun = time.perf_counter()
    try:
        run_passes(model, RAISING, verify="off")
    except Exception as error:  # of a pass: the cell is a row all the same
        made.error = f"raise: {described(error)}"
        return made
    made.seconds = time.perf_counter() - begun
    made.after = nodes(model)
    made.found = counts(model)
    made.misses = _misses(model, [kind for kind in KINDS if made.found[kind] < made.truth[kind]])
    _compare(made, model, feeds, expected)
    return made


def nodes(model: onnx_ir.Model) -> int:
    """Of the graph and the bodies of its control flow, constants aside."""
    return sum(node.op_type != "Constant" for node in model.graph.all_nodes())


def counts(model: onnx_ir.Model) -> dict[str, int]:
    """The ops and functions that carry meaning, by kind."""
    found = Counter(_spelled(node) for node in model.graph.all_nodes() if node.domain in ("", DOMAIN))
    return {kind: sum(found[op] for op in found if pattern.fullmatch(op)) for kind, pattern in _OPS.items()}


def _spelled(node: onnx_ir.Node) -> str:
    """`Gelu`, `tersor.Swish`, `tersor.Swish:scaled`."""
    return ":".join(filter(None, (".".join(filter(None, (node.domain, node.op_type))), node.overload)))


def comparable(module: Wrapped, path: Path, remarks: list[str]) -> tuple[Sequence[Feeds], float, bool]:
    """Feeds of unseen sizes, the export's own distance to the module, and False; or those of the export, and True.

    The latter where ONNX Runtime cannot run the exported file on other sizes. A file that it cannot run at all is
    infinitely far away.
    """
    for seen, sizes in ((False, UNSEEN), (True, (TRACED,))):
        feeds = [module.call.feeds(each) for each in sizes]
        try:
            found = worst(plain_session(path, 1), feeds, [module.answers(feed) for feed in feeds])
        except Exception as error:  # ONNX Runtime has an exception for each of its states
            remarks.append(f"ONNX Runtime on the export: {described(error)}")
            continue
        return feeds, found, seen
    return [module.call.feeds(each) for each in UNSEEN], math.inf, False


def _compare(made: Measured, model: onnx_ir.Model, feeds: Sequence[Feeds], expected: Sequence[Feeds]) -> None:
    try:
        lowered = onnxruntime_run(model)
        names = [str(value.name) for value in model.graph.outputs]
        made.loss = worst(lambda feed: dict(zip(names, lowered(feed), strict=True)), feeds, expected)
    except Exception as error:  # of a backend: said in the row
        made.remarks.append(f"onnxruntime: {described(error)}")
    if not made.loss <= DEMAND:
        try:
            made.loss_reference = worst(Interpreter(to_fx(model)).run, feeds, expected)
        except Exception as error:  # of torch: said in the row
            made.remarks.append(f"torch.fx: {described(error)}")


def worst(run: Run, feeds: Sequence[Feeds], expected: Sequence[Feeds]) -> float:
    """The largest distance of an output over the feeds."""

    def each(feed: Feeds, wanted: Feeds) -> float:
        found = run(feed)
        return distance(wanted.values(), [found[name] for name in wanted])

    return max(each(feed, wanted) for feed, wanted in zip(feeds, expected, strict=True))


def general(text: str) -> str:
    """A miss without the names of values and nodes, so that the same one in two places reads the same."""
    return _NAME.sub("*", text)


def _misses(model: onnx_ir.Model, kinds: Sequence[str]) -> dict[str, list[str]]:
    """Of what is left, the first distinct misses of the passes that raise it; else the ops that stand for it."""
    left = Counter(node.op_type for node in model.graph.all_nodes() if not node.domain)
    told: dict[str, list[str]] = {}
    for kind in kinds:
        distinct: dict[str, str] = {}
        for step in RAISING.flat():
            if not _PASSES[kind].search(step.name) or not step.name.startswith("raise"):
                continue
            for finding in step.explain(model, Context()).misses:
                miss = finding.miss
                assert miss is not None
                text = f"{step.name}: {miss}"
                distinct.setdefault(general(text), text)
        signs = ", ".join(f"{left[op]} {op}" for op in _SIGNS[kind] if left[op])
        told[kind] = list(distinct.values())[:_SHOWN] or [
            f"no pass refused anything; left in the graph: {signs or '-'}"
        ]
    return told
