"""Where a pass stands in the stages that every compile runs: raising, and each backend's lowering."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..backends import catalogue
from ..passes.base import Lossy, Pass
from ..passes.pipeline import Pipeline
from ..passes.presets import RAISING


@dataclass(frozen=True)
class Standing:
    """A pass of a stage (`raise`, or a backend's name) and all that runs before it."""

    stage: str
    made: Pass
    before: tuple[Pass, ...]


def standing(name: str) -> Standing | None:
    """The first place where a pass of that name stands, None where no stage runs it."""
    for stage, steps, earlier in _stages():
        for index, made in enumerate(steps):
            if made.name == name:
                return Standing(stage, made, (*earlier, *steps[:index]))
    return None


def lowering(backend: str) -> tuple[Pass, ...]:
    """The lowering passes of a backend, in order. Raises OptionError for an unknown one."""
    return tuple(catalogue.find(backend)().pipeline().flat())


def halves(pipeline: Pipeline) -> tuple[tuple[Pass, ...], tuple[Pass, ...]]:
    """The exact passes before the first lossy one, and all from there on: none where no pass is lossy.

    What the former leave is what a lossy pass is held against, layer by layer.
    """
    every = tuple(pipeline.flat())
    exact = tuple(itertools.takewhile(lambda step: not isinstance(step.contract, Lossy), every))
    return exact, every[len(exact) :]


def _stages() -> Iterator[tuple[str, Sequence[Pass], Sequence[Pass]]]:
    """Name, passes, and the passes of the stage before it."""
    raising = tuple(RAISING.flat())
    yield "raise", raising, ()
    for name in catalogue.table():
        try:
            yield name, lowering(name), raising
        except ImportError:
            continue
