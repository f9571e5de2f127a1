"""Run tasks one process each, so that a crash is one answer and no task sees what another left."""

from __future__ import annotations

import multiprocessing
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

from tersor.ir.errors import colourless

#: Imports what all need, once.
PRELOAD = "tersor.benchmarks._preload"

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer(Generic[Task, Result]):
    """What a task's process said; `error` is how it ended otherwise."""

    task: Task
    result: Result | None = None
    error: str = ""


def isolated(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int, limit: float
) -> Iterator[Answer[Task, Result]]:
    """function(task) of each, in a process of its own, `jobs` at a time, as they end.

    limit: seconds that a task may take. The function lies at the top of a module; an exception of it is an `error`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    waiting = deque(tasks)
    running: dict[Connection, _Running[Task]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            task = waiting.popleft()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(function, task, sender), daemon=True)
            process.start()
            sender.close()
            running[receiver] = _Running(task, process, time.monotonic() + limit, limit)
        ready = wait(list(running), timeout=1.0)
        late = [channel for channel, one in running.items() if time.monotonic() > one.deadline]
        for channel in dict.fromkeys([*ready, *late]):
            assert isinstance(channel, Connection)
            yield _answer(channel, running.pop(channel))


@dataclass(frozen=True)
class _Running(Generic[Task]):
    task: Task
    process: BaseProcess
    deadline: float
    limit: float


def _answer(channel: Connection, one: _Running[Task]) -> Answer[Task, Result]:
    """What the task's process said, or how it ended without a word."""
    result: Result | None = None
    error = ""
    if not channel.poll():
        one.process.kill()
        error = f"took more than {one.limit:g} s"
    else:
        try:
            result, error = channel.recv()
        except EOFError:
            one.process.join()
            error = f"the process died with exit code {one.process.exitcode}"
    one.process.join()
    channel.close()
    return Answer(one.task, result, error)


def _child(function: Callable[[Task], Result], task: Task, sender: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        sender.send((function(task), ""))
    except BaseException as error:  # whatever it is, the task has failed with it
        sender.send((None, described(error)))
    sender.close()


def described(error: BaseException) -> str:
    """The first lines of an error that say something, as one line."""
    lines = [line.strip() for line in colourless(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {'; '.join(lines[:3])[:300]}"


def interpreter(module: str, environments: Sequence[Path]) -> Path | None:
    """Python of the first virtual environment that holds a module."""
    program = f"import importlib.util, sys; sys.exit(not importlib.util.find_spec({module!r}))"
    for folder in environments:
        python = folder.absolute() / "bin" / "python"
        if not subprocess.run([str(python), "-c", program], capture_output=True, check=False).returncode:
            return python
    return None
