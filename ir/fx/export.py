"""From an FX module to a program that plain torch loads, and whether every size the model takes survived."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import onnx_ir as ir
import torch

from ..dimensions import Range, clip, names, ranges
from ..errors import TersorError, UnsupportedError
from ..feeds import default_sizes, random_feeds
from .dtypes import to_torch
from .inverse.note import Draft, sign

#: torch.export takes sizes 0 and 1 to behave as larger ones do, and writes 2 for a smallest size below it.
_SMALLEST = 2

#: A size that all dimensions are given at once, to see that none of them must differ.
_EQUAL = 8

#: Example inputs are tried at so many times the least sizes.
_SCALES = (1, 4)

#: No bound for a size: more is not tried.
_HUGE = 1 << 20


class ExportError(UnsupportedError):
    """torch.export cannot express the module for all of its sizes; the message says why."""


class NarrowError(ExportError):
    """By these example inputs it cannot; by larger ones it may, which have no sizes of 1 inside of the graph."""


def export(
    model: ir.Model,
    module: torch.fx.GraphModule,
    sizes: Mapping[str, int] | None = None,
    *,
    complete: bool = True,
    before: Draft | None = None,
) -> torch.export.ExportedProgram:
    """The program of `module`, the FX form of `model`, with the model's dynamic dimensions.

    The program carries a note of what the model is beyond its operators, by which `tersor.load` knows it again
    (`inverse/note.py`); plain torch does not read it. `before` is the module's draft from before its weights were
    packed.

    `sizes` are those of dimensions in the example inputs, which differ from each other; small ones where not given.
    Without `complete` the program may refuse sizes that the model takes: torch.export sets a size of 1 apart, and so
    the sizes at which one inside of the graph is 1, or is not.

    Raises ExportError where control flow depends on data, where a dimension would be fixed or narrowed, or where no
    example inputs can be made up.
    """
    given = dict(sizes or {})
    smallest: dict[str, int] = {}
    narrow: torch.export.ExportedProgram | None = None
    refusal: NarrowError | None = None
    for scale in _SCALES:
        program = None
        try:
            chosen = _taken(model, module, _grown(model, _distinct(model, given), scale, given), given)
            smallest = smallest or chosen
            program = _exported(model, module, chosen, complete=complete)
            for others in (_grown(model, chosen, 3, given), *([smallest] if complete else [])):
                _check_same(program.module(), model, module, others)
        except NarrowError as error:
            refusal, narrow = refusal or error, narrow or program
        except TersorError as error:
            raise error if isinstance(error, ExportError) else ExportError(f"no example inputs: {error}") from error
        else:
            return sign(program, module, before)
    if complete or narrow is None:
        assert refusal is not None
        raise refusal
    return sign(narrow, module, before)


def _exported(
    model: ir.Model, module: torch.fx.GraphModule, sizes: dict[str, int], *, complete: bool
) -> torch.export.ExportedProgram:
    """The program by example inputs of these sizes."""
    allowed, inputs = ranges(model), {value.name: value for value in model.graph.inputs}
    shapes = tuple(_dynamic(inputs[name], allowed) for name in module.meta["inputs"])
    arguments = _arguments(model, module, sizes)
    try:
        with torch.no_grad():
            program = torch.export.export(_tied(module, inputs), arguments, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch raises whatever the traced code or its own solver raises
        raise ExportError(f"torch.export: {_first_line(error)}") from error
    _check_sizes(program, shapes, model, module, sizes, complete=complete)
    _check_runs(program, model, module)
    return program


def _tied(module: torch.fx.GraphModule, inputs: Mapping[str | None, ir.Value]) -> torch.fx.GraphModule:
    """The module with what the model says of its sizes, dimensions of one name are equal, said first: torch.export has
    a symbol for each axis of each input, and compares those that it does not know to be the same."""
    places: dict[str, list[tuple[torch.fx.Node, int]]] = {}
    graph = copy.deepcopy(module.graph)
    entries = graph.find_nodes(op="placeholder")
    for name, entry in zip(module.meta["inputs"], entries, strict=True):
        for axis, dim in enumerate(inputs[name].shape or ()):
            if not isinstance(dim, int) and dim.value is not None:
                places.setdefault(dim.value, []).append((entry, axis))
    with graph.inserting_after(entries[-1] if entries else None):
        for found in places.values():
            if len(found) > 1:
                graph.call_function(_check_equal, tuple(found))
    return torch.fx.GraphModule(module, graph)


def _check_equal(*places: tuple[torch.Tensor, int]) -> None:
    (first, at), *others = places
    for tensor, axis in others:
        torch._check(tensor.shape[axis] == first.shape[at])  # type: ignore[no-untyped-call]


def _distinct(model: ir.Model, given: Mapping[str, int]) -> dict[str, int]:
    """Sizes that differ from each other, so that equal ones are not taken for the same; `given` ones as they are."""
    sizes, allowed = default_sizes(model, given), ranges(model)
    taken = set(given.values())
    for name in names(model):
        if name in sizes and name not in given:
            low, high = allowed.get(name, (1, None))
            free = (size for size in range(max(low, 3), (high or 3 + 2 * len(sizes)) + 1) if size not in taken)
            sizes[name] = next(free, sizes[name])
            taken.add(sizes[name])
    return sizes


def _arguments(model: ir.Model, module: torch.fx.GraphModule, sizes: dict[str, int]) -> tuple[torch.Tensor, ...]:
    feeds = random_feeds(model, sizes)
    return tuple(to_torch(feeds[name]) for name in module.meta["inputs"])


def _runs(model: ir.Model, module: torch.fx.GraphModule, sizes: dict[str, int]) -> bool:
    """Whether the model takes inputs of these sizes."""
    try:
        with torch.no_grad():
            module.forward(*_arguments(model, module, sizes))
    except Exception:  # in whichever of torch's many ways
        return False
    return True


def _grown(model: ir.Model, sizes: Mapping[str, int], scale: int, given: Mapping[str, int]) -> dict[str, int]:
    """The sizes times `scale` where that is allowed, but for the `given` ones and batches."""
    allowed = ranges(model)
    kept = {str(value.shape[0]) for value in model.graph.inputs if value.shape is not None and value.shape.rank()}
    larger = {name: size * (1 if name in kept or name in given else scale) for name, size in sizes.items()}
    return {name: size if name in given else clip(size, allowed.get(name, (1, None))) for name, size in larger.items()}


def _taken(
    model: ir.Model, module: torch.fx.GraphModule, sizes: dict[str, int], given: Mapping[str, int]
) -> dict[str, int]:
    """The sizes, or larger ones where the model wants more: a window of sound, say. As they are where none fit."""
    if _runs(model, module, sizes):
        return sizes
    for scale in (8, 64, 512):
        # twice what is enough, if it can be: at the least size there are sizes of 1 inside, which torch would fix
        for found in (_grown(model, sizes, times, given) for times in (2 * scale, scale)):
            if _runs(model, module, found):
                return found
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
    program: torch.export.ExportedProgram,
    shapes: tuple[dict[int, object], ...],
    model: ir.Model,
    module: torch.fx.GraphModule,
    sizes: dict[str, int],
    *,
    complete: bool,
) -> None:
    """Raise NarrowError when a dynamic dimension became a number, or got bounds that the model itself has not."""
    values = {value.name: value for value in model.graph.inputs}
    inputs: tuple[str, ...] = module.meta["inputs"]
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    limits = {str(symbol): limit for symbol, limit in program.range_constraints.items()}
    for name, given, dynamic in zip(inputs, program.graph_signature.user_inputs, shapes, strict=True):
        for axis, wanted in dynamic.items():
            size = by_name[str(given)].meta["val"].shape[axis]
            if str(size).isdigit():  # a number, or a symbol that stands for one
                raise NarrowError(f"torch.export fixes axis {axis} of input {name!r} to {size}")
            limit, label = limits.get(str(size)), str((values[name].shape or ())[axis])
            if limit is None:
                continue
            low, high = getattr(wanted, "min", None) or 0, getattr(wanted, "max", None) or _HUGE
            smallest = int(limit.lower)
            if complete and smallest > max(low, _SMALLEST) and _runs(model, module, {**sizes, label: smallest - 1}):
                raise NarrowError(f"torch.export needs axis {axis} of input {name!r} to be {smallest} or more")
            most = int(str(limit.upper)) if str(limit.upper).isdigit() else _HUGE
            if most < min(high, _HUGE) and _runs(model, module, {**sizes, label: most + 1}):
                raise NarrowError(f"torch.export needs axis {axis} of input {name!r} to be {limit.upper} or less")


def _check_runs(program: torch.export.ExportedProgram, model: ir.Model, module: torch.fx.GraphModule) -> None:
    """Raise NarrowError when the program refuses sizes that the module takes: a relation between dimensions, say."""
    exported, allowed = program.module(), ranges(model)
    for size in (1, _EQUAL):
        _check_same(exported, model, module, {name: clip(size, allowed.get(name, (1, None))) for name in names(model)})


def _check_same(
    exported: torch.nn.Module, model: ir.Model, module: torch.fx.GraphModule, sizes: dict[str, int]
) -> None:
    """Raise NarrowError when the module takes these sizes, and the program refuses them or has other results."""
    if not _runs(model, module, sizes):
        return
    arguments = _arguments(model, module, sizes)
    try:
        with torch.no_grad():
            wanted, found = _shapes(module(*arguments)), _shapes(exported(*arguments))
    except Exception as error:
        raise NarrowError(f"torch.export refuses {sizes}: {_first_line(error)}") from error
    if wanted != found:
        raise NarrowError(f"torch.export fixes a path that {sizes} do not take: shapes {found}, expected {wanted}")


def _shapes(results: object) -> list[tuple[int, ...]]:
    row = results if isinstance(results, tuple | list) else (results,)
    return [tuple(value.shape) for value in row if isinstance(value, torch.Tensor)]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
