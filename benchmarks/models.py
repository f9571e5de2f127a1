"""Whole models through torch.fx: do they answer as ONNX Runtime does, as imported and at the semantic level?

    python benchmarks/models.py                 every model of `_zoo.py`, in its own size
    python benchmarks/models.py --only 'GPT|T5' those whose name matches; --small for the sizes of the tests
    python benchmarks/models.py --trips         also to torch and back, both ways (`_round_trip.py`)

Each model is fed several batch, sequence and past sizes. Numbers are the largest relative L2 error over feeds and
outputs, ||found - expected|| / ||expected|| in float64; integers and truth values that differ anywhere count as
infinite. What is expected is ONNX Runtime's answer to the imported graph, default optimization, one CPU provider.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir
import tersor
import torch
from tersor.benchmarks._common import distance, options, plain_session, publish
from tersor.benchmarks._round_trip import rows as trips
from tersor.benchmarks._zoo import Entry, zoo
from tersor.driver.compile import run_passes
from tersor.examples.data import Feeds, Run
from tersor.ir.fx import Interpreter, to_fx
from tersor.passes.presets import RAISING
from torch import fx

DEMAND = 1e-5
"""Relative L2 error that a conversion may have."""


@dataclass(frozen=True)
class Measured:
    """A model's counts, and errors against ONNX Runtime on the imported graph.

    fx: the graph as imported; raised: at the semantic level; tapped: the same, node by node with every value watched;
    original: the torch module that was traced, if there is one.
    """

    imported_nodes: int
    semantic_nodes: int
    fx_ops: int
    fx: float
    raised: float
    tapped: float
    original: float | None


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--only", default="", help="a regular expression that the names of models match")
    parser.add_argument("--small", action="store_true", help="the sizes of the tests")
    parser.add_argument("--trips", action="store_true", help="show what comes back from torch, too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    chosen = {name: entry for name, entry in zoo(small=given.small).items() if re.search(given.only, name)}
    rows = [_row(name, entry, given.threads) for name, entry in chosen.items()]
    note = "relative L2 against ONNX Runtime on the imported graph, the largest over feeds and outputs"
    publish("models", "Models through torch.fx", rows, given, note)
    if given.trips:
        found = [row for name, entry in chosen.items() for row in trips(name, entry)]
        given.json = None
        note = "ops without constants; relative L2 of what came back against what went, the largest over outputs"
        publish("round_trips", "Model to torch and back, at the semantic level", found, given, note)


def _row(name: str, entry: Entry, threads: int) -> dict[str, object]:
    found = measure(entry, threads)
    return {
        "model": name,
        "imported": found.imported_nodes,
        "semantic": found.semantic_nodes,
        "fx ops": found.fx_ops,
        "fx": found.fx,
        "semantic fx": found.raised,
        "tapped": found.tapped,
        "torch module": found.original,
    }


def measure(entry: Entry, threads: int = 1) -> Measured:
    """Load the model, run it in every form on all of its feeds, and compare."""
    model, feeds = entry.load(), entry.feeds()
    expected = runtime_answers(model, feeds, threads)
    imported = to_fx(model)
    before = _nodes(model)
    plain = _worst(expected, Interpreter(imported).run, feeds)
    run_passes(model, RAISING, verify="off")
    raised = Interpreter(to_fx(model))
    return Measured(
        imported_nodes=before,
        semantic_nodes=_nodes(model),
        fx_ops=_ops(imported),
        fx=plain,
        raised=_worst(expected, raised.run, feeds),
        tapped=_worst(expected, lambda feed: raised.run(feed, taps=lambda name, value: None), feeds),
        original=None if entry.original is None else _worst(expected, entry.original(), feeds),
    )


def runtime_answers(model: onnx_ir.Model, feeds: Sequence[Feeds], threads: int = 1) -> list[Feeds]:
    """What ONNX Runtime says to each of the feeds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        tersor.save(model, path)
        run = plain_session(path, threads)
        return [run(feed) for feed in feeds]


def _worst(expected: Sequence[Feeds], run: Run, feeds: Sequence[Feeds]) -> float:
    def each(wanted: Feeds, feed: Feeds) -> float:
        found = run(feed)
        return distance(wanted.values(), [found[name] for name in wanted])

    return max(each(wanted, feed) for wanted, feed in zip(expected, feeds, strict=True))


def _nodes(model: onnx_ir.Model) -> int:
    """Of the graph, the bodies of its control flow and its functions."""
    return sum(1 for graph in (model.graph, *model.functions.values()) for _ in graph.all_nodes())


def _ops(module: fx.GraphModule) -> int:
    """Calls in the module and in the bodies that it holds."""
    graphs = [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]
    return sum(node.op in ("call_function", "call_method") for graph in graphs for node in graph.nodes)


if __name__ == "__main__":
    main()
