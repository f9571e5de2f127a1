"""torch's own control flow, used while `torch.export` traces: `torch.cond`, `while_loop` and `scan`.

They keep both branches and a loop of any length in one graph, where Python's `if` and `for` would fix what the example
inputs do. What torch asks in return: tensors of one shape (up to sizes) and type from both branches and from one
iteration to the next, and no result that is an input itself, which is why results are copied.

torch names `while_loop`, `scan` and the settings of its tracer (`_dynamo.config`) in private modules only; tried with
2.13 (2.11 has them there too).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch._higher_order_ops.scan import scan as torch_scan
from torch._higher_order_ops.while_loop import while_loop as torch_while
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols, is_concrete_bool

from ..host import Nested
from ..runtime import as_tensor

Module = Callable[..., object]
Tensors = list[torch.Tensor]

UNROLLED = 16
"""Loops of so many iterations are unrolled, which a compiler fuses better; longer ones stay loops."""


def exporting() -> bool:
    return torch.compiler.is_exporting()


def decided(condition: object) -> bool:
    """Whether a condition is known while tracing, so that Python may choose."""
    if isinstance(condition, torch.SymBool):
        return is_concrete_bool(condition)
    return not isinstance(condition, torch.Tensor)


def choose(
    condition: torch.Tensor | torch.SymBool,
    then: Module,
    otherwise: Module,
    then_inputs: Sequence[object],
    else_inputs: Sequence[object],
    hosts: Sequence[bool],
) -> object:
    """If on data: both bodies in the graph. `hosts` says which results are shape arithmetic, passed as tensors."""
    tensors: Tensors = []
    places: dict[int, int] = {}
    for value in (*then_inputs, *else_inputs):
        if isinstance(value, torch.Tensor) and id(value) not in places:
            places[id(value)] = len(tensors)
            tensors.append(value)

    def body(module: Module, inputs: Sequence[object]) -> Callable[..., object]:
        where = [places.get(id(value), -1) if isinstance(value, torch.Tensor) else -1 for value in inputs]
        rest = [None if isinstance(value, torch.Tensor) else value for value in inputs]

        def run(*given: torch.Tensor) -> object:
            row = [value if place < 0 else given[place] for place, value in zip(where, rest, strict=True)]
            return _own(module(*row))

        return run

    if isinstance(condition, torch.Tensor):
        condition = condition.reshape(()).to(torch.bool)
    with _static():
        found = torch.cond(
            cast(torch.Tensor, condition), body(then, then_inputs), body(otherwise, else_inputs), tuple(tensors)
        )
    if not any(hosts):
        return cast(object, found)
    row = found if isinstance(found, tuple | list) else (found,)
    back = tuple(value.tolist() if host else value for value, host in zip(row, hosts, strict=True))
    return back if isinstance(found, tuple | list) else back[0]


def repeat(
    body: Module,
    trips: int | torch.SymInt | None,
    condition: object,
    carried: Tensors,
    captured: Sequence[object],
    *,
    scanned: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Loop whose end depends on data. Scanned outputs are written to rows made beforehand, so their number, the trips,
    must be known before the loop starts, and the condition never end it."""
    device = carried[0].device if carried else None
    step = torch.zeros((), dtype=torch.int64, device=device)
    go = torch.ones((), dtype=torch.bool, device=device)
    if isinstance(condition, torch.Tensor):
        go = condition.reshape(()).clone()
    kept = len(carried)
    limit = None if trips is None else torch.scalar_tensor(cast(int, trips), dtype=torch.int64, device=device)
    rows: Tensors = []
    if scanned and trips is not None:
        _at_least_zero(trips)
        # this call is for the shapes alone; nothing reads its values, so no graph keeps it
        shown = _row(body(0, go, *carried, *captured))[1 + kept :]
        rows = [row.new_zeros((trips, *row.shape)) for row in shown]

    def goes(step: torch.Tensor, go: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return go.clone() if limit is None else go & (step < limit)

    def run(step: torch.Tensor, go: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        further, *after = _row(body(_index(step), go, *values[:kept], *captured))
        state = [value.clone() for value in after[:kept]]
        place = step.reshape(1)
        written = [
            row.index_copy(0, place, new.unsqueeze(0)) for row, new in zip(values[kept:], after[kept:], strict=True)
        ]
        return (step + 1, further.reshape(()).clone(), *state, *written)

    with _static():
        found: Tensors = torch_while(goes, run, (step, go, *carried, *rows))  # type: ignore[no-untyped-call]
        return tuple(found[2:])


def count(
    body: Module, trips: int | torch.SymInt, carried: Tensors, captured: Sequence[object]
) -> tuple[torch.Tensor, ...]:
    """Loop that runs a given number of times: carried values, then the scanned outputs stacked on a first axis."""
    if not isinstance(trips, int) and free_unbacked_symbols(trips):
        # torch's scan asks whether it is empty, and of a number that is data nobody knows
        return repeat(body, trips, None, carried, captured, scanned=True)
    steps = torch.arange(cast(int, trips), device=carried[0].device if carried else None)
    kept = len(carried)

    def run(values: Tensors, step: torch.Tensor) -> tuple[Tensors, Tensors]:
        go = torch.ones((), dtype=torch.bool, device=step.device)
        results = _row(body(_index(step), go, *values[:kept], *captured))[1:]
        return _state(results[:kept], step), _state(results[kept:], step)

    with _static():
        last, rows = torch_scan(run, _state(carried, steps.new_zeros(())), steps)
    return (*last[:kept], *rows)


def over(body: Module, state: Tensors, inputs: Tensors, captured: Sequence[object]) -> tuple[Tensors, Tensors]:
    """Scan along the first axis of the inputs: final state, and outputs stacked on a first axis."""
    kept = len(state)

    def run(values: Tensors, parts: Tensors) -> tuple[Tensors, Tensors]:
        results = _row(body(*values[:kept], *parts, *captured))
        return _state(results[:kept], parts[0]), _state(results[kept:], parts[0])

    with _static():
        last, rows = torch_scan(run, _state(state, inputs[0].new_zeros(())), list(inputs))
    return list(last[:kept]), list(rows)


def _static() -> contextlib.AbstractContextManager[object]:
    """Sizes of weights stay numbers. torch traces all bodies of a process as one function, and takes a size that was
    another the time before, in another model, for a dynamic one."""
    if torch.compiler.is_dynamo_compiling():
        return contextlib.nullcontext()
    patched: contextlib.AbstractContextManager[object] = torch._dynamo.config.patch(
        automatic_dynamic_shapes=False, assume_static_by_default=True
    )
    return patched


def _state(values: Sequence[torch.Tensor], like: torch.Tensor) -> Tensors:
    """Copies, and at least one tensor: torch's scan carries and stacks something."""
    return [value.clone() for value in values] or [torch.zeros((), dtype=torch.int64, device=like.device)]


def _index(step: torch.Tensor) -> int:
    """The iteration number, which bodies take as a size."""
    found = cast(int, step.item())
    _at_least_zero(found)
    return found


def _at_least_zero(size: int | torch.SymInt) -> None:
    torch._check(size >= 0)  # type: ignore[no-untyped-call]


def _row(results: object) -> Tensors:
    return list(results) if isinstance(results, tuple | list) else [cast(torch.Tensor, results)]


def _own(results: object) -> object:
    """Results that share memory with nothing: shape arithmetic as tensors, tensors as copies."""
    if isinstance(results, tuple):
        return tuple(_own(result) for result in results)
    if isinstance(results, torch.Tensor):
        return results.clone()
    value = cast(Nested, results)
    leaf = value[0] if isinstance(value, list) and value else value
    return as_tensor(value, torch.bool if isinstance(leaf, bool | torch.SymBool) else torch.int64)
