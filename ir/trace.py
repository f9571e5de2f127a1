"""torch -> model, through torch.export and torch's ONNX exporter.

Inputs are named after forward's parameters (`states_0` inside a list), outputs after the keys of what forward returns,
else `output`, `output_1`, ... Dynamic dimensions keep the names they are given, and their ranges go into the metadata
(`ir/dimensions.py`). Initializers keep the names of their parameters; a weight that the exporter stores transposed is
called `<parameter>.T`. Weights stay shared with the module, tied ones stay one.

What torch.export would get wrong without a word is refused before or after it (`ir/traps.py`), and what it refuses is
said in terms of the user's code. A dynamic dimension whose example has size 1 is traced at size 2, for 1 would be taken
as fixed.
"""

from __future__ import annotations

import contextlib
import linecache
import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import onnx_ir
import torch

from . import dimensions, indexing, recurrent, traps
from .caches import as_tensors
from .dimensions import Range
from .dynamic import Dynamic, Plan, parsed
from .errors import ModelError, OptionError, TersorError, UnsupportedError, nearest
from .level import SEMANTIC_OPSET
from .naming import name_dimensions, name_outputs, name_ports, name_transposed, transposed_weights
from .repair import mend, part_names
from .selective import whole_scans

_NARROWED = re.compile(r"^\s*(\w+) = Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)", re.MULTILINE)
_SPECIALIZED = re.compile(r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)")
_MULTIPLE = re.compile(r"(\d+)\*_\w+")
_ATTEMPTS = 3
_LIBRARIES = (Path(torch.__file__).parent, Path(sysconfig.get_path("stdlib")), Path(__file__).parent)


def is_traceable(source: object) -> TypeGuard[torch.nn.Module | torch.export.ExportedProgram]:
    """Whether `trace` takes `source`."""
    return isinstance(source, torch.nn.Module | torch.export.ExportedProgram)


def trace(
    source: torch.nn.Module | torch.export.ExportedProgram,
    args: Sequence[object] | torch.Tensor = (),
    kwargs: Mapping[str, object] | None = None,
    dynamic: Dynamic | None = None,
    *,
    opset: int = SEMANTIC_OPSET,
) -> onnx_ir.Model:
    """The ONNX model of a module called with example inputs, or of an exported program.

    `args` and `kwargs` hold tensors, lists, tuples and dicts of them, and caches of transformers (`ir/caches.py`);
    None, True, False and strings are taken as settings. For an exported program `dynamic` only names the dimensions
    that it has.

    Raises ModelError for what cannot be traced faithfully, OptionError for a `dynamic` that does not fit the inputs,
    UnsupportedError for an operator that torch's exporter has no translation of.
    """
    positional = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    if isinstance(source, torch.export.ExportedProgram):
        if positional or kwargs:
            raise ModelError("an ExportedProgram is traced already: it takes no example inputs")
        traps.check_modes(source)
        return _converted(source, _program_plan(source, dynamic or {}), opset)
    traps.check_module(source)
    with as_tensors(source, positional, kwargs or {}) as (positional, named):
        call = traps.Call.of(source, positional, named)
        call.check()
        plan = Plan.of(dynamic or {}, call.tensors, call.groups)
        if plan.axes and call.loose:
            raise ModelError(
                f"{type(source).__name__}.forward takes {', '.join(call.loose)} in **{call.spread}, and torch.export "
                "cannot make those dynamic: wrap the module in one whose forward names its inputs"
            )
        program, plan = _exported(source, call, plan)
    traps.check_modes(program)
    return _converted(program, plan, opset)


def _exported(module: torch.nn.Module, call: traps.Call, plan: Plan) -> tuple[torch.export.ExportedProgram, Plan]:
    """The module as an exported program, and the plan within the ranges that tracing found to be needed."""
    widths = plan.widths(call.tensors)
    wide = call.widened(widths)
    for attempt in range(_ATTEMPTS):
        shapes = wide.shaped(plan.shapes()) if plan.axes else None
        try:
            with _quiet(), torch.no_grad(), recurrent.WholeLayers(), whole_scans(module):
                program = torch.export.export(module, wide.args, wide.kwargs, dynamic_shapes=shapes, strict=False)
            return program, plan
        except Exception as error:
            narrower = plan.narrowed(_suggested(str(error), plan)) if attempt < _ATTEMPTS - 1 else None
            if narrower is None:
                raise _explained(error, module, plan, sorted(widths)) from error
            plan = narrower
    raise AssertionError("the last attempt returns or raises")


def _suggested(message: str, plan: Plan) -> dict[str, Range]:
    """The ranges that torch asks for, of dimensions that it does not ask more of than a range."""
    _, found, suggestions = message.partition("Suggested fixes:")
    if not found:
        return {}
    ranges = {}
    for name, low, high in _NARROWED.findall(suggestions):
        before = plan.ranges.get(name, (1, None))
        ranges[name] = (max(int(low or 0), before[0]), int(high) if high else before[1])
    return ranges


def _explained(error: Exception, module: torch.nn.Module, plan: Plan, widened: list[str]) -> TersorError:
    if isinstance(error, TersorError):
        return error
    message = str(error)
    where = f"{type(module).__name__} cannot be traced"
    line = _user_line(error)
    at = f" at {line}" if line else ""
    wide = f" (dynamic dimensions of size 1 were traced at size 2 in {', '.join(widened)})" if widened else ""
    names = {type(cause).__name__ for cause in _causes(error)}
    if "data-dependent" in message or any(name.startswith("GuardOnDataDependent") for name in names):
        return ModelError(
            f"{where}: what forward does next depends on the values of a tensor{at}, and a graph has one path. "
            "Compute both sides and choose with torch.where, use torch.cond, or move the decision out of the module"
        )
    fixed = _SPECIALIZED.findall(message)
    if fixed:
        told = " and ".join(f"{name!r} to {size}" for name, size in dict(fixed).items())
        return ModelError(
            f"{where} with the dynamic dimensions asked for: forward fixes {told}{at}{wide}. Leave that out of "
            "dynamic, or have forward take sizes from x.shape instead of constants"
        )
    if "Constraints violated" in message:
        asked = ", ".join(f"{name} {dimensions.describe(pair)}" for name, pair in plan.ranges.items())
        return ModelError(
            f"{where} with the dynamic dimensions asked for ({asked}){wide}: forward needs "
            f"{_wanted(message)}. Ask for that, or pad inside of forward"
        )
    first = next((part.strip() for part in message.splitlines() if part.strip()), "no message")
    return ModelError(f"{where}{at}{wide}: {type(error).__name__}: {first}")


def _wanted(message: str) -> str:
    """What torch suggests, for people: `sequence = Dim('sequence', max=512)` is `sequence up to 512`."""
    _, _, suggestions = message.partition("Suggested fixes:")
    told = []
    for line in suggestions.splitlines():
        name, found, fix = (part.strip() for part in line.partition(" = "))
        name = name.replace("_plus_", " + ")
        if not found or name.startswith("_"):
            continue
        multiple, bounds = _MULTIPLE.fullmatch(fix), _NARROWED.match(line)
        if multiple:
            told.append(f"{name} to be a multiple of {multiple[1]}")
        elif bounds:
            low, high = bounds[2], bounds[3]
            told.append(f"{name} to be {f'from {low} ' if low else ''}{f'up to {high}' if high else 'up'}")
        else:
            told.append(f"{name} to be {fix.replace('_plus_', ' + ')}")
    return " and ".join(told) or "fewer sizes"


def _user_line(error: BaseException) -> str | None:
    """`file:line in function: source` of the innermost frame that is neither torch's, Python's nor ours."""
    for cause in _causes(error):
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            path = Path(frame.filename)
            if path.is_file() and not any(path.is_relative_to(library) for library in _LIBRARIES if library):
                source = linecache.getline(frame.filename, frame.lineno or 0).strip()
                return f"{path.name}:{frame.lineno} in {frame.name}: {source}"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _program_plan(program: torch.export.ExportedProgram, dynamic: Dynamic) -> Plan:
    """The user's names for dimensions that an exported program has."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    tensors = {name: values[name] for name in program.graph_signature.user_inputs if isinstance(name, str)}
    axes: dict[tuple[str, int], str] = {}
    for name, chosen in dynamic.items():
        if name not in tensors:
            raise OptionError(f"dynamic names the input {name!r}, which the program has not: {nearest(name, tensors)}")
        shape = tensors[name].shape
        for axis, given in chosen.items():
            if not -len(shape) <= axis < len(shape) or isinstance(shape[axis], int):
                raise OptionError(
                    f"dynamic, {name} axis {axis}: the exported program has the shape {list(shape)}, where that is no "
                    "dynamic dimension: name only those that it was exported with"
                )
            axes[name, axis % len(shape)] = parsed(given, f"dynamic, {name} axis {axis}")[0]
    return Plan(axes, {}, frozenset(), {})


def _converted(program: torch.export.ExportedProgram, plan: Plan, opset: int) -> onnx_ir.Model:
    try:
        # as in tracing: with gradients, attention would be taken apart by another kernel, whose results lie otherwise
        with _quiet(), torch.no_grad():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                optimize=False,
                verbose=False,
                custom_translation_table={**recurrent.translations(), **indexing.translations()},
            )
            assert converted is not None
            part_names(converted.model)
            origins = transposed_weights(converted.model)
            converted.optimize()
    except torch.onnx.OnnxExporterError as error:
        root = list(_causes(error))[-1]
        reason = next((line for line in str(root).splitlines() if line.strip()), type(root).__name__)
        raise UnsupportedError(
            f"torch's ONNX exporter has no translation for the module at opset {opset}: {reason}. Write that part of "
            "forward with other operators"
        ) from error
    assert converted.exported_program is not None
    traps.check_pure(converted.exported_program)
    model = converted.model
    mend(model)
    name_transposed(model, origins)
    name_ports(model, program)
    name_outputs(model, program)
    ranges = name_dimensions(model, program, plan)
    dimensions.set_ranges(model, ranges)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Show the warnings of the user's code, not those that torch and its exporter give about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
    for warning in caught:
        home = Path(warning.filename)
        if not any(home.is_relative_to(library) for library in _LIBRARIES) and "site-packages" not in home.parts:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
