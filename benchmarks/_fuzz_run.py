"""Batches of examples, each in a forked child, so that the death of either side is one finding."""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import resource
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import Pipe

import onnxruntime
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tersor.benchmarks._fuzz_check import WITH_FX, Judge, shown
from tersor.benchmarks._fuzz_graph import Example
from tersor.benchmarks._fuzz_known import explained

#: Room for the example that is under way.
_ROOM = 1 << 20
#: Seconds that a batch may take, shrinking and all, before what is under way counts as hung.
_PATIENCE = 300
#: KiB by which one example may raise FX's peak of memory.
_GROWTH = 1 << 20


class FindingError(AssertionError):
    """A disagreement that nothing explains, or an error that is no TersorError."""


@dataclass
class Report:
    """What came of examples: counts by outcome, and what is left unexplained.

    `explained` counts differences by reason, `settled` those where the second oracle sides with FX.
    """

    counts: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        for name in ("counts", "ops", "explained", "settled", "alone"):
            getattr(self, name).update(getattr(other, name))
        self.findings.extend(other.findings)
        self.crashes.extend(other.crashes)


def batch(strategy: st.SearchStrategy[Example], number: int, count: int, *, shrink: bool = True) -> Report:
    """`count` examples from a seed, in a child; a finding ends the batch."""
    memory = mmap.mmap(-1, _ROOM)
    receiver, sender = Pipe(duplex=False)
    child = os.fork()
    if not child:
        code = 1
        try:
            receiver.close()
            sender.send(_tried(strategy, number, count, memory, shrink=shrink))
            code = 0
        except BaseException:
            # what is no Exception: a panic of a library in Rust, an exit
            traceback.print_exc()
        finally:
            os._exit(code)
    sender.close()
    report = Report()
    try:
        if not receiver.poll(_PATIENCE):
            os.kill(child, 9)
        report = receiver.recv()
    except EOFError:
        pass
    finally:
        receiver.close()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        who, example = pickle.loads(memory[:])
        text = f"the process ended with {status} while {who} had\n{shown(example)}"
        (report.findings if who == "FX" else report.crashes).append(text)
        report.counts["batches lost to a crash"] += 1
    return report


def _tried(strategy: st.SearchStrategy[Example], number: int, count: int, memory: mmap.mmap, *, shrink: bool) -> Report:
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(4)
    warnings.simplefilter("ignore")
    report = Report()

    def note(who: str, example: Example) -> None:
        written = pickle.dumps((who, example))
        if len(written) <= _ROOM:
            memory[: len(written)] = written

    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(strategy)
    def run(example: Example) -> None:
        try_one(example, Judge(note), report)

    try:
        run()
    except FindingError as finding:
        report.findings.append(str(finding))
    except Exception as error:
        # a finding that did not come again is inside of hypothesis' own error
        parts = "\n".join(str(part) for part in getattr(error, "exceptions", ()))
        report.findings.append(f"the search itself failed: {type(error).__name__}: {error}\n{parts}")
    return report


def try_one(example: Example, judge: Judge, report: Report) -> None:
    """Count one example. Raises FindingError."""
    report.counts["examples"] += 1
    report.ops.update(node.op_type for node in example.model.graph.node)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        verdict = judge.judged(example)
    except Exception as error:
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        raise FindingError(f"{type(error).__name__}: {error}\n{where}{shown(example)}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > _GROWTH:
        raise FindingError(f"memory grew by {grown >> 10} MiB\n{shown(example)}")
    kind = "broken, " if example.broken else ""
    report.counts[f"{kind}FX {'refused' if verdict.fx else 'ran'}"] += 1
    if not example.broken:
        report.counts[f"ONNX Runtime {'refused' if verdict.oracle else 'ran'}"] += 1
    report.alone.update(verdict.alone)
    for difference in verdict.differences:
        if (reason := explained(difference, judge)) is not None:
            report.explained[reason] += 1
        elif difference.second == WITH_FX:
            report.settled[f"{difference.op} {difference.kind}: {difference.oracle}"] += 1
        else:
            raise FindingError(f"{difference}\n{shown(example, difference)}")
