"""Run ONNX's backend tests one process each, so that a crash is one failure and no case sees what another left."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tersor.benchmarks import _onnx_cases
from tersor.benchmarks._onnx_cases import KINDS, Case, Engine, cases

ENGINES: dict[str, Engine] = {"fx": _onnx_cases.fx, "onnxruntime": _onnx_cases.onnx_runtime}

#: Seconds a case may take; the slowest one that passes needs a few.
LIMIT = 120.0


@dataclass(frozen=True)
class Outcome:
    """How a case went: `error` is empty where it passed."""

    kind: str
    name: str
    error: str

    @property
    def passed(self) -> bool:
        return not self.error


def run(
    engine: str, kinds: Sequence[str] = KINDS, *, only: re.Pattern[str] | None = None, jobs: int = 2
) -> list[Outcome]:
    """Every case of these kinds, each in a process of its own, `jobs` at a time."""
    chosen = [(case.kind, case.name) for case in cases(kinds) if only is None or only.search(case.name)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tersor.benchmarks._preload"])
    waiting = deque(chosen)
    running: dict[Connection, _Running] = {}
    done: dict[tuple[str, str], str] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            kind, name = waiting.popleft()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(engine, kind, name, sender), daemon=True)
            process.start()
            sender.close()
            running[receiver] = _Running(kind, name, process, time.monotonic() + LIMIT)
        ready = wait(list(running), timeout=1.0)
        late = [channel for channel, case in running.items() if time.monotonic() > case.deadline]
        for channel in dict.fromkeys([*ready, *late]):
            assert isinstance(channel, Connection)
            case = running.pop(channel)
            done[case.kind, case.name] = _result(channel, case)
    return [Outcome(kind, name, done[kind, name]) for kind, name in chosen]


@dataclass(frozen=True)
class _Running:
    kind: str
    name: str
    process: BaseProcess
    deadline: float


def _result(channel: Connection, case: _Running) -> str:
    """What the case's process said, or how it ended without a word."""
    if not channel.poll():
        case.process.kill()
        error = f"took more than {LIMIT:g} s"
    else:
        try:
            error = channel.recv()
        except EOFError:
            case.process.join()
            error = f"the process died with exit code {case.process.exitcode}"
    case.process.join()
    channel.close()
    return str(error)


def _child(engine: str, kind: str, name: str, sender: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        _onnx_cases.check(index(kind)[name], ENGINES[engine])
    except BaseException as error:  # whatever it is, the case has failed with it
        sender.send(described(error))
    else:
        sender.send("")
    sender.close()


_CASES: dict[str, dict[str, Case]] = {}


def index(kind: str) -> dict[str, Case]:
    if kind not in _CASES:
        _CASES[kind] = {case.name: case for case in cases([kind])}
    return _CASES[kind]


def described(error: BaseException) -> str:
    """The first lines of an error that say something, as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {'; '.join(lines[:3])[:300]}"
