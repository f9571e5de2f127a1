"""What branches and loops do at run time: Python decides in eager mode, torch's own control flow while exporting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import onnx_ir as oir
import torch
from torch import fx

from ..dtypes import torch_dtype
from ..host import Nested, flat
from . import loops

Module = Callable[..., object]
"""A body: an `fx.GraphModule`, or the interpreter that stands in for one."""
Row = tuple[int, Sequence[int]]
"""What one iteration adds to a scanned output: ONNX type, and sizes, 0 for those that the model leaves open."""
Array = torch.Tensor | np.ndarray

#: Bytes that a row takes before it is stacked, empty as it may be.
_ROW = 512


def branch(
    condition: torch.Tensor | Nested,
    then: Module,
    otherwise: Module,
    then_inputs: Sequence[object],
    else_inputs: Sequence[object],
    *,
    hosts: Sequence[bool] = (),
) -> object:
    """If: run one of two bodies; `hosts` says which results are shape arithmetic, where any is."""
    if loops.exporting():
        leaf = condition if isinstance(condition, torch.Tensor) else flat(condition)[0]
        if isinstance(leaf, torch.Tensor):
            return loops.choose(leaf, then, otherwise, then_inputs, else_inputs, hosts)
        if isinstance(leaf, torch.SymBool) and not loops.decided(leaf):
            with contextlib.suppress(Exception):
                return loops.choose(leaf, then, otherwise, then_inputs, else_inputs, hosts)
            # torch.cond has no form of branches that differ in rank: the size decides now, and is fixed or bounded
    return run(then, *then_inputs) if truth(condition) else run(otherwise, *else_inputs)


def run(body: Module, *inputs: object) -> object:
    """Call a body; torch's call of an `fx.GraphModule` prints its code where that fails, and says nothing more."""
    return body.forward(*inputs) if isinstance(body, fx.GraphModule) else body(*inputs)


def loop(
    body: Module,
    trips: torch.Tensor | Nested | None,
    condition: torch.Tensor | Nested | None,
    carried: Sequence[object],
    captured: Sequence[object],
    *,
    counted: bool = False,
    stacked: Sequence[Row] = (),
) -> tuple[object, ...]:
    """Loop: carried values as they leave the last iteration, then each scanned output stacked on a new first axis.

    `counted` says that the body never ends the loop, `stacked` what each scanned output stacks.
    """
    if loops.exporting():
        found = _exported_loop(body, trips, condition, carried, captured, counted, bool(stacked))
        if found is not None:
            return found
    limit = None if trips is None else int(_scalar(trips))
    go = condition is None or truth(condition)
    rows: list[tuple[object, ...]] = []
    step, count = 0, len(carried)
    while go and (limit is None or step < limit):
        results = _sequence(run(body, step, torch.tensor(go), *carried, *captured))
        go, carried = counted or truth(results[0]), results[1 : 1 + count]
        rows.append(tuple(results[1 + count :]))
        _announce(rows)
        step += 1
    return (*carried, *_columns(rows, stacked))


def _exported_loop(
    body: Module,
    trips: torch.Tensor | Nested | None,
    condition: torch.Tensor | Nested | None,
    carried: Sequence[object],
    captured: Sequence[object],
    counted: bool,
    scanned: bool,
) -> tuple[object, ...] | None:
    """The loop as one of torch's; None where it may be unrolled. Raises ValueError for what torch has no form of."""
    limit = None if trips is None else cast(int | torch.SymInt, flat(cast(Nested, trips))[0])
    start = condition if condition is None or isinstance(condition, torch.Tensor) else flat(condition)[0]
    known = start is None or isinstance(start, bool | int)
    if counted and known and limit is not None:
        if not start and start is not None:
            return None
        if isinstance(limit, int) and limit <= loops.UNROLLED:
            return None
        return loops.count(body, limit, cast(list[torch.Tensor], list(carried)), captured)
    if scanned:
        raise ValueError(
            "torch.export has no form of a loop with scanned outputs that ends on a condition: how many rows there are "
            "is known only afterwards"
        )
    return loops.repeat(body, limit, start, cast(list[torch.Tensor], list(carried)), captured)


def scan(
    body: Module,
    state: Sequence[object],
    inputs: Sequence[torch.Tensor],
    captured: Sequence[object],
    input_axes: Sequence[int],
    input_backward: Sequence[int],
    output_axes: Sequence[int],
    output_backward: Sequence[int],
    *,
    stacked: Sequence[Row] = (),
) -> tuple[object, ...]:
    """Scan (opset 9 and later): final state, then each output stacked along its axis; `stacked` says what of."""
    if loops.exporting():
        length = inputs[0].shape[input_axes[0]]
        if not (isinstance(length, int) and length <= loops.UNROLLED):
            moved = [
                x.movedim(axis, 0).flip(0) if backward else x.movedim(axis, 0)
                for x, axis, backward in zip(inputs, input_axes, input_backward, strict=True)
            ]
            final, rows = loops.over(body, cast(list[torch.Tensor], list(state)), moved, captured)
            return (*final, *_placed(rows, output_axes, output_backward))
    columns = [
        list(x.unbind(axis))[:: -1 if backward else 1]
        for x, axis, backward in zip(inputs, input_axes, input_backward, strict=True)
    ]
    produced: list[tuple[object, ...]] = []
    for parts in zip(*columns, strict=True):
        results = _sequence(run(body, *state, *parts, *captured))
        state = results[: len(state)]
        produced.append(tuple(results[len(state) :]))
        _announce(produced)
    return (*state, *_placed(_columns(produced, stacked), output_axes, output_backward))


def batched_scan(
    body: Module,
    state: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    captured: Sequence[object],
    lengths: torch.Tensor | None,
    backward: Sequence[int],
    *,
    stacked: Sequence[Row] = (),
) -> tuple[object, ...]:
    """Scan of opset 8, for each entry of a batch on the first axis: final states, then outputs [batch, sequence, ...],
    zero after an entry's own length."""
    entries = range(inputs[0].shape[0])
    steps = [inputs[0].shape[1]] * len(entries) if lengths is None else [int(n) for n in lengths.tolist()]
    longest = inputs[0].shape[1]
    found: list[Sequence[torch.Tensor]] = []
    for i, n in zip(entries, steps, strict=True):
        parts = [x[i, :n] for x in inputs]
        none = [0] * len(stacked)
        row = scan(
            *(body, [x[i] for x in state], parts, captured, [0] * len(parts), backward, none, none), stacked=stacked
        )
        short = cast(Sequence[torch.Tensor], row[len(state) :])
        padded = [torch.cat([x, x.new_zeros((longest - n, *x.shape[1:]))]) for x in short]
        found.append([*cast(Sequence[torch.Tensor], row[: len(state)]), *padded])
    return tuple(torch.stack(column) for column in zip(*found, strict=True))


def _placed(rows: Sequence[Array], axes: Sequence[int], backward: Sequence[int]) -> list[Array]:
    """Scan's outputs, stacked on a first axis in the order they came, where and in the order they are wanted."""
    placed: list[Array] = []
    for column, axis, reverse in zip(rows, axes, backward, strict=False):
        if isinstance(column, np.ndarray):
            placed.append(np.moveaxis(column[::-1] if reverse else column, 0, axis))
        else:
            placed.append((column.flip(0) if reverse else column).movedim(0, axis))
    return placed


def _columns(rows: Sequence[Sequence[object]], stacked: Sequence[Row]) -> list[Array]:
    """The rows of a loop, each output's stacked on a new first axis; where there is none, an empty one."""
    if rows:
        return [_stack(column) for column in zip(*rows, strict=True)]
    empty: list[Array] = []
    for dtype, dims in stacked:
        if dtype == oir.DataType.STRING:
            empty.append(np.empty((0, *dims), object))
        else:
            empty.append(torch.empty((0, *dims), dtype=torch_dtype(dtype)))
    return empty


def _announce(rows: Sequence[Sequence[object]]) -> None:
    """Show a cap on values (`limit.py`) what the rows so far would be, stacked: every time their number doubled, as a
    tensor without data. Else it would see them one by one, until there is no memory to stack them in."""
    if loops.exporting() or len(rows) & (len(rows) - 1):
        return
    for part in rows[-1]:
        if isinstance(part, torch.Tensor):
            torch.empty((len(rows), *part.shape), dtype=part.dtype, device="meta")
            torch.empty((len(rows), _ROW), dtype=torch.uint8, device="meta")


def _scalar(value: torch.Tensor | Nested) -> int | bool:
    leaf = value.item() if isinstance(value, torch.Tensor) else flat(value)[0]
    # a size that decides what runs is tied to what it decides
    return leaf if isinstance(leaf, bool) else bool(leaf) if isinstance(leaf, torch.SymBool) else int(leaf)


def truth(value: object) -> bool:
    assert isinstance(value, torch.Tensor | list | int)
    return bool(_scalar(value))


def _sequence(results: object) -> Sequence[object]:
    return results if isinstance(results, tuple | list) else (results,)


def _stack(column: Sequence[object]) -> Array:
    if column and isinstance(column[0], np.ndarray):
        return np.stack(cast(Sequence[np.ndarray], column))
    tensors = [part for part in column if isinstance(part, torch.Tensor)]
    return torch.stack(tensors)
