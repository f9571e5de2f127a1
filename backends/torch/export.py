"""From an FX module to a program that plain torch loads, and whether every size the model takes survived."""

from __future__ import annotations

import onnx_ir as ir
import torch

from ...ir.dimensions import Range, clip, names, ranges
from ...ir.errors import TersorError, UnsupportedError
from ...ir.feeds import default_sizes, random_feeds
from ...ir.fx.dtypes import to_torch

#: torch.export takes sizes 0 and 1 to behave as larger ones do, and writes 2 for a smallest size below it.
_SMALLEST = 2

#: A size that all dimensions are given at once, to see that none of them must differ.
_EQUAL = 8


class ExportError(UnsupportedError):
    """torch.export cannot express the module for all of its sizes; the message says why."""


def export(model: ir.Model, module: torch.fx.GraphModule) -> torch.export.ExportedProgram:
    """The program of `module`, the FX form of `model`, with the model's dynamic dimensions.

    Raises ExportError where control flow depends on data, where a dimension would be fixed or narrowed, or where no
    example inputs can be made up.
    """
    try:
        feeds = random_feeds(model, _distinct(model))
    except TersorError as error:
        raise ExportError(f"no example inputs: {error}") from error
    arguments = tuple(to_torch(feeds[name]) for name in module.meta["inputs"])
    allowed = ranges(model)
    inputs = {value.name: value for value in model.graph.inputs}
    shapes = tuple(_dynamic(inputs[name], allowed) for name in module.meta["inputs"])
    try:
        with torch.no_grad():
            program = torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises whatever the traced code or its own solver raises
        raise ExportError(f"torch.export: {_first_line(error)}") from error
    _check_sizes(program, shapes, module.meta["inputs"])
    _check_runs(program, model, module)
    return program


def _distinct(model: ir.Model) -> dict[str, int]:
    """Sizes that differ from each other, so that equal ones are not taken for the same."""
    sizes, allowed = default_sizes(model), ranges(model)
    taken: set[int] = set()
    for name in names(model):
        if name in sizes:
            low, high = allowed.get(name, (1, None))
            free = (size for size in range(max(low, 3), (high or 3 + 2 * len(sizes)) + 1) if size not in taken)
            sizes[name] = next(free, sizes[name])
            taken.add(sizes[name])
    return sizes


def _dynamic(value: ir.Value, allowed: dict[str, Range]) -> dict[int, object]:
    """Axis -> what may vary, for the dimensions that are no numbers."""
    found: dict[int, object] = {}
    for axis, dim in enumerate(value.shape or ()):
        if not isinstance(dim, int):
            low, high = allowed.get(dim.value or "", (1, None))
            if low != high:
                found[axis] = torch.export.Dim.AUTO(min=low, max=high)
    return found


def _check_sizes(
    program: torch.export.ExportedProgram, shapes: tuple[dict[int, object], ...], inputs: tuple[str, ...]
) -> None:
    """Raise ExportError when a dynamic dimension became a number, or its smallest size became larger."""
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    limits = {str(symbol): limit for symbol, limit in program.range_constraints.items()}
    for name, given, dynamic in zip(inputs, program.graph_signature.user_inputs, shapes, strict=True):
        for axis, wanted in dynamic.items():
            size = by_name[str(given)].meta["val"].shape[axis]
            if str(size).isdigit():  # a number, or a symbol that stands for one
                raise ExportError(f"torch.export fixes axis {axis} of input {name!r} to {size}")
            limit, low = limits.get(str(size)), getattr(wanted, "min", None) or 0
            if limit is not None and int(limit.lower) > max(low, _SMALLEST):
                raise ExportError(f"torch.export needs axis {axis} of input {name!r} to be {limit.lower} or more")


def _check_runs(program: torch.export.ExportedProgram, model: ir.Model, module: torch.fx.GraphModule) -> None:
    """Raise ExportError when the program refuses sizes that the module takes: a relation between dimensions, say."""
    exported, allowed = program.module(), ranges(model)
    for wanted in (1, _EQUAL):
        sizes = {name: clip(wanted, allowed.get(name, (1, None))) for name in names(model)}
        try:
            arguments = [to_torch(random_feeds(model, sizes)[name]) for name in module.meta["inputs"]]
            with torch.no_grad():
                module(*arguments)
        except Exception:
            continue  # the model itself does not take these sizes, in whichever of torch's many ways
        try:
            with torch.no_grad():
                exported(*arguments)
        except Exception as error:
            raise ExportError(f"torch.export refuses {sizes}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
