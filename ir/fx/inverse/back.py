"""FX -> ONNX: the inverse of `to_fx`, for modules that it made and a user may have edited since, and for programs.

Each node's op comes from what the node calls and with what (`table.py`); what the graph does not say, such as names,
types of packed weights and declared shapes, comes from what `to_fx` noted in `node.meta` and `gm.meta`. Weights are
those that the module has now, on the same memory where they are on the CPU. Inlined functions stay inlined.

Where a node calls something else, torch functions or modules that a user put there, the whole module goes through
torch.export and torch's ONNX exporter (`retrace.py`).
"""

from __future__ import annotations

import onnx_ir as oir
import torch
from torch import fx

from ... import dimensions, trace
from ...dynamic import Dynamic, parsed
from ...errors import ModelError, OptionError, nearest
from ..emit import to_fx
from ..scope import identifier
from .model import is_ours, written
from .note import digest, read
from .retrace import retraced
from .table import UnwritableError


def from_fx(module: fx.GraphModule) -> oir.Model:
    """The ONNX model of a module that `to_fx` made, with the module's weights and edits.

    Inputs, outputs, initializers and dynamic dimensions have the names they had, and the opset is the same. Raises
    ModelError for a module of other origin, and for one that neither the tables nor torch's exporter can write.
    """
    if not is_ours(module):
        raise ModelError("this GraphModule was not made by to_fx: load it with example inputs in args")
    try:
        return written(module)[0]
    except UnwritableError as reason:
        return retraced(module, str(reason))


def from_program(program: torch.export.ExportedProgram, dynamic: Dynamic | None = None) -> oir.Model:
    """The ONNX model of an exported program: the one that it says it is, with the weights of now, where it was made
    from a module of ours; else what torch's exporter writes. `dynamic` names dimensions that the program has.

    Raises what `trace` does.
    """
    found = read(program)
    if found is not None:
        model, signed = found
        now = digest(program)
        if now == (signed or _again(model, program)):
            _rename(model, dynamic or {})
            return model
    return trace.trace(program, dynamic=dynamic)


def _again(model: oir.Model, program: torch.export.ExportedProgram) -> str | None:
    """The digest of what the model exports to for the inputs of a program; None where it does not export so."""
    if program.example_inputs is None:
        return None
    args, kwargs = program.example_inputs
    try:
        with torch.no_grad():
            return digest(torch.export.export(to_fx(model), args, kwargs, dynamic_shapes=_shapes(program)))
    except Exception:  # torch raises whatever the traced code or its own solver raises
        return None


def _shapes(program: torch.export.ExportedProgram) -> dict[str, dict[int, object]]:
    """Input -> axis -> what may vary, as the program has it: axes that are the same share a dimension."""
    entries = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    limits = {str(symbol): limit for symbol, limit in program.range_constraints.items()}
    dims: dict[str, object] = {}
    for name in program.graph_signature.user_inputs:
        for size in map(str, entries[str(name)].shape):
            if size.isidentifier():
                low, high = (str(getattr(limits.get(size), end, "")) for end in ("lower", "upper"))
                bounds = {"min": int(low) if low.isdigit() else None, "max": int(high) if high.isdigit() else None}
                dims[size] = torch.export.Dim(f"d{len(dims)}", **bounds)
    return {
        str(name): {
            axis: dims.get(str(size), torch.export.Dim.AUTO)
            for axis, size in enumerate(entries[str(name)].shape)
            if not str(size).isdigit()
        }
        for name in program.graph_signature.user_inputs
    }


def _rename(model: oir.Model, dynamic: Dynamic) -> None:
    """Give dimensions of inputs, and all that are the same, other names."""
    known = {identifier(value.name or ""): value for value in model.graph.inputs}
    known |= {value.name or "": value for value in model.graph.inputs}
    names: dict[str, str] = {}
    for name, axes in dynamic.items():
        if name not in known:
            raise OptionError(f"dynamic names the input {name!r}, which the program has not: {nearest(name, known)}")
        shape = known[name].shape
        for axis, given in axes.items():
            dim = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else 0
            if isinstance(dim, int) or dim.value is None:
                raise OptionError(
                    f"dynamic, {name} axis {axis}: the exported program has the shape {shape}, where that is no "
                    "dynamic dimension: name only those that it was exported with"
                )
            label = parsed(given, f"dynamic, {name} axis {axis}")[0]
            if names.setdefault(dim.value, label) != label:
                raise OptionError(
                    f"dynamic, {name} axis {axis}: this is the dimension that {names[dim.value]!r} is: one dimension "
                    "has one name"
                )
    after = [names.get(dim, dim) for dim in dimensions.names(model)]
    twice = next((dim for dim in after if after.count(dim) > 1), None)
    if twice is not None:
        raise OptionError(f"dynamic: two dimensions of the program would be called {twice!r}, which means one size")
    if names:
        dimensions.rename(model, names)
