"""A model to torch and back: are the ops the same, are the outputs?

Three ways: the GraphModule of `to_fx`; the program that `ir/fx/export.py` makes of it, saved and read again; and that
program without its note of the model (`ir/fx/inverse/note.py`), which is what a program of anybody's is, and is raised
like one.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
import tersor
import torch
from tersor.backends.base import Interface
from tersor.backends.onnxruntime.backend import OnnxRuntime
from tersor.benchmarks._common import distance
from tersor.benchmarks._zoo_entry import Entry
from tersor.driver.compile import run_passes
from tersor.examples.data import Feeds
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.export import export
from tersor.ir.fx.inverse.note import KEY
from tersor.ir.level import Level, detect
from tersor.passes.presets import RAISING

Ops = Counter[tuple[str, str]]
Answers = Callable[[Feeds], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Trip:
    """What came back one way. `error` is the largest relative L2 distance of an output, of FX and of ONNX Runtime;
    `failure` says why nothing came back."""

    way: str
    before: Ops
    after: Ops
    level: Level | None = None
    same_ports: bool = False
    error: float | None = None
    error_onnxruntime: float | None = None
    failure: str = ""

    @property
    def difference(self) -> str:
        """`-Gelu*2 +Erf*2`; empty where the ops are the same."""
        lost, new = self.before - self.after, self.after - self.before
        parts = [f"{sign}{_spelled(key, found[key])}" for sign, found in (("-", lost), ("+", new)) for key in found]
        return self.failure or " ".join(parts)

    @property
    def same(self) -> bool:
        return not self.difference


def rows(name: str, entry: Entry) -> Iterator[dict[str, object]]:
    """A model of the zoo, raised, each way."""
    model, feeds = entry.load(), entry.feeds()
    run_passes(model, RAISING, verify="off")
    for trip in round_trips(model, feeds):
        yield {
            "model": name,
            "way": trip.way,
            "ops": trip.before.total(),
            "back": trip.after.total(),
            "difference": trip.difference,
            "ports": "same" if trip.same_ports else "",
            "fx": trip.error,
            "onnxruntime": trip.error_onnxruntime,
        }


def round_trips(model: onnx_ir.Model, feeds: Sequence[Feeds], ways: Sequence[str] = ()) -> Iterator[Trip]:
    """The trips of a model at the semantic level, or of those `ways`; the model is left as it is."""
    made: dict[str, Callable[[], onnx_ir.Model]] = {
        "GraphModule": lambda: tersor.load(to_fx(model)),
        "program": lambda: _through_program(model, noted=True),
        "bare program": lambda: _through_program(model, noted=False),
    }
    for way in ways or made:
        try:
            again = made[way]()
        except tersor.TersorError as error:
            yield Trip(way, ops(model), Counter(), failure=str(error).splitlines()[0][:100])
            continue
        yield Trip(
            way,
            before=ops(model),
            after=ops(again),
            level=detect(again),
            same_ports=_ports(again) == _ports(model),
            error=_distance(_fx_run(model), _fx_run(again), feeds),
            error_onnxruntime=_distance_onnxruntime(model, again, feeds),
        )


def ops(model: onnx_ir.Model) -> Ops:
    """How many nodes there are of each op, bodies included, constants aside."""
    return Counter((node.domain, node.op_type) for node in model.graph.all_nodes() if node.op_type != "Constant")


def _through_program(model: onnx_ir.Model, *, noted: bool) -> onnx_ir.Model:
    program = export(model, to_fx(model), complete=False)
    if not noted:
        program.graph_module.meta["custom"].pop(KEY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        torch.export.save(program, path)
        again = tersor.load(path)
    if not noted:
        run_passes(again, RAISING, verify="off")
    return again


def _ports(model: onnx_ir.Model) -> list[tuple[str, str]]:
    """Names, and shapes with their named dimensions, of inputs and outputs."""
    return [(str(value.name), str(value.shape)) for value in (*model.graph.inputs, *model.graph.outputs)]


def _fx_run(model: onnx_ir.Model) -> Answers:
    interpreter, names = Interpreter(to_fx(model)), [str(value.name) for value in model.graph.outputs]

    def run(feeds: Feeds) -> Sequence[np.ndarray]:
        found = interpreter.run(_given(model, feeds))
        return [found[name] for name in names]

    return run


def _distance_onnxruntime(model: onnx_ir.Model, again: onnx_ir.Model, feeds: Sequence[Feeds]) -> float | None:
    """None where ONNX Runtime takes one of the two not."""
    try:
        return _distance(onnxruntime_run(model), onnxruntime_run(again), feeds)
    except Exception:  # ONNX Runtime has an exception for each of its states
        return None


def onnxruntime_run(model: onnx_ir.Model) -> Answers:
    """As the target onnxruntime runs it: lowered for it."""
    backend, lowered = OnnxRuntime(), model.clone()
    run_passes(lowered, backend.pipeline(), verify="off")
    with tempfile.TemporaryDirectory() as folder:
        backend.write(lowered, Path(folder))
        session = backend.open(Path(folder), Interface.of(lowered))
    names = [str(value.name) for value in model.graph.outputs]

    def run(feeds: Feeds) -> Sequence[np.ndarray]:
        found = session.run(_given(model, feeds))
        return [found[name] for name in names]

    return run


def _given(model: onnx_ir.Model, feeds: Feeds) -> Mapping[str, np.ndarray]:
    """The feeds by the model's own names: inputs keep their order."""
    names = [str(value.name) for value in model.graph.inputs]
    if set(names) <= set(feeds):
        return {name: feeds[name] for name in names}
    return dict(zip(names, feeds.values(), strict=True))


def _distance(first: Answers, second: Answers, feeds: Sequence[Feeds]) -> float:
    """The largest relative L2 distance of an output."""
    return max(distance(first(feed), second(feed)) for feed in feeds)


def _spelled(key: tuple[str, str], count: int) -> str:
    name = ".".join(filter(None, key))
    return f"{name}*{count}" if count > 1 else name
