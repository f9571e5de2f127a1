"""Run ONNX's backend tests one process each, so that a crash is one failure and no case sees what another left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tersor.benchmarks import _onnx_cases
from tersor.benchmarks._onnx_cases import KINDS, Case, Engine, cases
from tersor.benchmarks._processes import isolated

ENGINES: dict[str, Engine] = {"fx": _onnx_cases.fx, "onnxruntime": _onnx_cases.onnx_runtime}

#: Seconds a case may take; the slowest one that passes needs a few.
LIMIT = 120.0

_Task: TypeAlias = "tuple[str, str, str]"


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
    chosen = [(engine, case.kind, case.name) for case in cases(kinds) if only is None or only.search(case.name)]
    answers = isolated(_check, chosen, jobs=jobs, limit=LIMIT)
    errors = {answer.task: answer.error for answer in answers}
    return [Outcome(kind, name, errors[engine, kind, name]) for _, kind, name in chosen]


def _check(task: _Task) -> None:
    engine, kind, name = task
    _onnx_cases.check(index(kind)[name], ENGINES[engine])


_CASES: dict[str, dict[str, Case]] = {}


def index(kind: str) -> dict[str, Case]:
    if kind not in _CASES:
        _CASES[kind] = {case.name: case for case in cases([kind])}
    return _CASES[kind]
