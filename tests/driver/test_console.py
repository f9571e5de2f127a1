"""Progress: what the line says while calibration runs, and silence where stderr is no terminal."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console
from rich.progress import Progress
from tersor.driver import console
from tersor.driver.console import Amount, Steps, TimeLeft, steps


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_while_the_amount_of_work_is_known() -> None:
    now = [0.0]
    progress = Progress(console=Console(file=io.StringIO()), get_time=lambda: now[0])
    line = Steps(progress, "compile", None)
    line.say("quantize-static")
    for done in (0, 1, 2):
        line.far(done, 8)
        now[0] += 3.0
    whole, run = progress.tasks
    assert (whole.description, whole.total) == ("compile: quantize-static", None)
    assert (run.completed, run.total) == (2, 8)
    assert (str(Amount().render(run)), str(TimeLeft().render(run))) == ("2/8", "0:00:18 left")
    assert (str(Amount().render(whole)), str(TimeLeft().render(whole))) == ("", "")
    line.far(8, 8)
    assert progress.tasks == [whole]
    line.far(3, 8)
    assert progress.tasks[1].completed == 3, "a run that goes on from where it was stopped"
    line.far(0, 4)
    assert (progress.tasks[1].completed, progress.tasks[1].total) == (0, 4), "and the next after one that failed"


def test_a_terminal_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with steps("compile") as line:
        line.say("smooth-activations")
        line.far(0, 26)
        line.far(3, 26)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "compile: smooth-activations" in shown
    assert "3/26" in shown


def test_nothing_where_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with console.steps("compile") as line:
        line.say("smooth-activations")
        line.far(0, 26)
        line.far(3, 26)
    assert stream.getvalue().strip() == ""
