"""What the commands print: results on stdout, progress and errors on stderr.

With `--json` stdout carries one JSON document and nothing else. Progress shows only where stderr is a terminal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import functools
import io
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import ParamSpec, TextIO, TypeVar

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from ..ir.errors import colourless

Given = ParamSpec("Given")
Made = TypeVar("Made")

#: Columns where the output is no terminal: wide enough that nothing is cut or wrapped.
_WIDE = 100_000


def show(document: object, *renderables: RenderableType, as_json: bool) -> None:
    """Print a result: `document` as JSON, or the renderables for people."""
    stream = _results()
    if as_json:
        stream.write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")
        stream.flush()
        return
    console = Console(file=stream)
    if console.is_terminal:
        console.print(*renderables, sep="\n")
        return
    wide = Console(file=io.StringIO(), width=_WIDE, highlight=False)
    with wide.capture() as text:
        wide.print(*renderables, sep="\n")
    stream.writelines(f"{line.rstrip()}\n" for line in text.get().splitlines())


def complain(error: BaseException, *, code: int, as_json: bool, debug: bool) -> None:
    """Print an error: one paragraph and its notes on stderr, the same as JSON on stdout where that was asked for."""
    notes = list(getattr(error, "__notes__", ()))
    message = colourless(str(error)) or type(error).__name__
    if as_json:
        kind = type(error).__name__
        show({"error": {"kind": kind, "message": message, "notes": notes, "exit_code": code}}, as_json=True)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
        return
    console = Console(file=sys.stderr, highlight=False)
    console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    for note in notes:
        console.print(escape(note), soft_wrap=True, style="dim")


class Steps:
    """A line of progress: what is being done now, and a bar where the amount of work is known."""

    def __init__(self, progress: Progress, title: str, total: float | None) -> None:
        self._progress = progress
        self._title = title
        self._task = progress.add_task(escape(title), total=total)
        self._run: TaskID | None = None

    def say(self, doing: str) -> None:
        """Name what is being done."""
        self._progress.update(self._task, description=escape(f"{self._title}: {doing}"))

    def far(self, done: int, total: int) -> None:
        """A line of its own for a run over data: batches done, and the time left; it goes when all are."""
        if self._run is not None and (not done or done >= total):
            self._progress.remove_task(self._run)
            self._run = None
        if done >= total:
            return
        if self._run is None:
            self._run = self._progress.add_task("  calibration", total=total, completed=done)
        self._progress.update(self._run, completed=done)

    def advance(self, amount: float = 1.0) -> None:
        """Move the bar."""
        self._progress.update(self._task, advance=amount)


class Amount(ProgressColumn):
    """`3/26` where the amount of work is known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


class TimeLeft(ProgressColumn):
    """`0:00:12 left` where the amount of work is known and some of it is done."""

    def render(self, task: Task) -> Text:
        left = None if task.total is None else task.time_remaining
        return Text("" if left is None else f"{datetime.timedelta(seconds=round(left))} left")


@contextlib.contextmanager
def steps(title: str, *, total: float | None = None) -> Iterator[Steps]:
    """Progress on stderr while the body runs; silent where stderr is no terminal, and gone afterwards."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        Amount(),
        TimeElapsedColumn(),
        TimeLeft(),
    )
    stderr = Console(file=sys.stderr)
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        yield Steps(progress, title, total)


def results_apart(command: Callable[Given, Made]) -> Callable[Given, Made]:
    """Wrap a command: what libraries or user code print while it runs goes to stderr, `show` alone reaches stdout."""

    @functools.wraps(command)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        _stdout.append(sys.stdout)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return command(*args, **kwargs)
        finally:
            _stdout.pop()

    return run


def table(*columns: str, rows: Iterable[Sequence[object]]) -> Table:
    """A plain table. A column whose name starts with `>` is flush right; None shows as nothing."""
    titled = any(column.removeprefix(">") for column in columns)
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold", show_header=titled)
    for column in columns:
        made.add_column(escape(column.removeprefix(">")), justify="right" if column.startswith(">") else "left")
    for row in rows:
        made.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    return made


def heading(text: str) -> str:
    """A line that starts a part of a longer output."""
    return f"\n[bold]{escape(text)}[/]"


def part(title: str, content: RenderableType | None) -> list[RenderableType]:
    """A heading and what is under it; nothing where there is none."""
    return [] if content is None else [heading(title), content]


def literal(text: str) -> str:
    """Text that shows as it is, brackets included."""
    return escape(text)


def plain(value: object) -> object:
    """The JSON form of a result: dataclasses by field, enums by value, numbers that are not finite as null."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | Set):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)
    return plain(item()) if callable(item) else str(value)


_stdout: list[TextIO] = []


def _results() -> TextIO:
    return _stdout[-1] if _stdout else sys.stdout
