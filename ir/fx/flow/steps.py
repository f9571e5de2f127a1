"""A cell stepped over time: a Python loop, or torch's `scan` where `torch.export` has a length that is no number."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import loops

State = tuple[torch.Tensor, ...]
Cell = Callable[[State, State], tuple[State, torch.Tensor]]
"""(state, inputs of one step) -> the state after it, of the same shapes, and what the step gives."""


def over_time(cell: Cell, state: State, inputs: State, *, backward: bool = False) -> tuple[State, torch.Tensor]:
    """The last state, and what the steps give, stacked on a first axis: [time, ...] in the order of time.

    Inputs are [time, ...]; `backward` steps from the last to the first. Raises ValueError where there is no step.
    """
    length = inputs[0].shape[0]
    if isinstance(length, int) and length == 0:
        raise ValueError("a sequence of length 0, expected at least one step")
    if backward:
        inputs = tuple(part.flip(0) for part in inputs)
    if loops.exporting() and not (isinstance(length, int) and length <= loops.UNROLLED):
        state, rows = _scanned(cell, state, inputs)
    else:
        found = []
        for parts in zip(*(part.unbind(0) for part in inputs), strict=True):
            state, row = cell(state, parts)
            found.append(row)
        rows = torch.stack(found)
    return state, rows.flip(0) if backward else rows


def _scanned(cell: Cell, state: State, inputs: State) -> tuple[State, torch.Tensor]:
    kept, shapes = len(state), [tuple(part.shape) for part in state]

    def body(*values: torch.Tensor) -> State:
        after, row = cell(values[:kept], values[kept:])
        # Inductor (torch 2.13) finds a symbolic size of what scan gives only among the sizes that the body reads
        return (*(part.expand(shape) for part, shape in zip(after, shapes, strict=True)), row)

    last, (rows,) = loops.over(body, list(state), list(inputs), ())
    return tuple(last), rows
