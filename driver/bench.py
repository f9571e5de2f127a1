"""Time contestants against the first of them: in turns, on the same feeds, with everything else that a choice needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ..backends.base import Interface, Session
from ..backends.catalogue import find
from ..ir.compare import compare
from ..ir.errors import OptionError, TersorError
from ..ir.feeds import Feeds, random_feeds
from ..passes.run import Observer
from .contestant import Contestant
from .data import batches
from .feeding import check_dimensions, feeds_for
from .host import host, versions
from .manifest import HostData
from .probe import Footprint, probe
from .timing import Interval, Latency, Timings, paired

#: Rounds that no benchmark reaches before its seconds are over.
_ROUNDS = 1_000_000


@dataclass(frozen=True)
class Row:
    """One contestant. Speed is how many times as fast as the first it is, from paired calls; `error` says why a
    contestant could not take part, and then only label, runtime and bytes are known.

    latency: seconds a call. throughput: samples (size of the first axis of the first input) a second.
    loss: largest relative L2 error of an output against the first, and `cosine` the smallest cosine.
    """

    label: str
    runtime: str
    version: str | None
    bytes: int | None
    load_seconds: float | None = None
    memory_bytes: int | None = None
    latency: Latency | None = None
    throughput: float | None = None
    speed: Interval | None = None
    loss: float | None = None
    cosine: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Bench:
    """A benchmark with all that it takes to judge and repeat it.

    feeds: `data` or `random`. shapes: those of the first batch. pairs: rounds in which every contestant ran once.
    """

    rows: tuple[Row, ...]
    pairs: int
    feeds: str
    batches: int
    shapes: Mapping[str, tuple[int, ...]]
    threads: int
    seconds: float
    seed: int
    host: HostData
    versions: Mapping[str, str | None]


def bench(
    labels: Sequence[str],
    *,
    data: str | None = None,
    dimensions: Mapping[str, int] | None = None,
    threads: int = 0,
    seconds: float = 10.0,
    seed: int = 0,
    memory: bool = True,
    observe: Observer | None = None,
) -> Bench:
    """Time every contestant that `labels` name against the first, for about `seconds` in all.

    threads: 0 leaves them to each runtime. memory: measure memory and load time, each in a process of its own.
    A contestant that cannot run is listed with its error; where that is the first, the error is raised.
    Raises OptionError for fewer than one contestant or two of one name.
    """
    if not labels or len(set(labels)) != len(labels) or seconds <= 0:
        raise OptionError("bench takes one or more different contestants and a positive number of seconds")
    say = observe or _silent
    contestants = [Contestant.parse(label) for label in labels]
    say("feeds")
    feeds = _feeds(contestants, data, dimensions or {}, seed)
    sessions: dict[str, Session] = {}
    faults: dict[str, str] = {}
    footprints: dict[str, Footprint] = {}
    for contestant in contestants:
        label = contestant.label
        say(f"open {label}")
        try:
            session = contestant.open(threads)
            session.run(feeds[0])
            if memory:
                say(f"memory of {label}")
                footprints[label] = probe(label, feeds[:2], threads)
        except TersorError as error:
            if contestant is contestants[0]:
                raise
            faults[label] = str(error)
            continue
        sessions[label] = session
    say("time in turns")
    runs: dict[str, Callable[[Feeds], object]] = {label: each.run_unchecked for label, each in sessions.items()}
    timings = paired(runs, feeds, rounds=_ROUNDS, warmup=2, budget_seconds=seconds)
    say("compare the answers")
    rows = (
        _fault(each, faults[each.label])
        if each.label in faults
        else _row(each, contestants[0].label, sessions, footprints.get(each.label), timings, feeds)
        for each in contestants
    )
    return Bench(
        rows=tuple(rows),
        pairs=timings.pairs,
        feeds="random" if data is None else "data",
        batches=len(feeds),
        shapes={name: array.shape for name, array in feeds[0].items()},
        threads=threads,
        seconds=seconds,
        seed=seed,
        host=host(),
        versions=versions(),
    )


def samples(feeds: Feeds) -> int:
    """How many samples a batch holds: the size of the first axis of its first input, 1 for a scalar."""
    first = next(iter(feeds.values()))
    return int(first.shape[0]) if first.ndim else 1


def _feeds(
    contestants: Sequence[Contestant], data: str | None, dimensions: Mapping[str, int], seed: int
) -> Sequence[Feeds]:
    """From the first contestant that has a graph, as it tells what random feeds must look like."""
    model = next(_models(contestants), None)
    if model is not None:
        return feeds_for(model, data, dimensions, seed)
    interface = contestants[0].open().interface
    if data is not None:
        return batches(data, interface)[0]
    ports = _ports_only(interface)
    check_dimensions(ports, dimensions)
    return [random_feeds(ports, dimensions, seed=seed)]


def _models(contestants: Sequence[Contestant]) -> Iterator[onnx_ir.Model]:
    for contestant in contestants:
        model = contestant.model()
        if model is not None:
            yield model


def _ports_only(interface: Interface) -> onnx_ir.Model:
    """A model of nothing but the inputs, to make random feeds for."""
    from ..ir.dimensions import set_ranges

    inputs = [
        onnx_ir.Value(
            name=port.name,
            type=None if port.dtype is None else onnx_ir.TensorType(port.dtype),
            shape=None if port.shape is None else onnx_ir.Shape(port.shape),
        )
        for port in interface.signature.inputs
    ]
    model = onnx_ir.Model(onnx_ir.Graph(inputs, [], nodes=[], opset_imports={"": 23}), ir_version=10)
    set_ranges(model, dict(interface.ranges))
    return model


def _row(
    contestant: Contestant,
    first: str,
    sessions: Mapping[str, Session],
    footprint: Footprint | None,
    timings: Timings,
    feeds: Sequence[Feeds],
) -> Row:
    label = contestant.label
    timed = [feeds[int(item)] for item in np.unique(timings.items)]
    found = compare(sessions[first].run, sessions[label].run, timed)
    return Row(
        label=label,
        runtime=contestant.backend,
        version=find(contestant.backend).version(),
        bytes=contestant.bytes(),
        load_seconds=None if footprint is None else footprint.load_seconds,
        memory_bytes=None if footprint is None else footprint.memory_bytes,
        latency=timings.latency(label),
        throughput=timings.throughput(label, [samples(batch) for batch in feeds]),
        speed=timings.ratio(first, label),
        loss=found.relative_l2,
        cosine=min((output.cosine for output in found.outputs), default=1.0),
    )


def _fault(contestant: Contestant, reason: str) -> Row:
    runtime = contestant.backend
    return Row(contestant.label, runtime, find(runtime).version(), contestant.bytes(), error=reason)


def _silent(_: str) -> None:
    return None
