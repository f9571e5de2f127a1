"""A module of `to_fx` that a user put other torch code into -> ONNX, through torch.export and torch's exporter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import onnx_ir as oir
import torch
from torch import fx

from ... import dimensions, trace
from ...dynamic import Dimension
from ...errors import ModelError, TersorError
from ..dtypes import torch_dtype
from ..scope import Kept, identifier
from .model import signature


def retraced(module: fx.GraphModule, reason: str) -> oir.Model:
    """The model of a module whose graph has more in it than the tables know; `reason` says what.

    It is at the opset that torch's exporter writes. Names of inputs, outputs, initializers and dynamic dimensions are
    kept. Raises ModelError or UnsupportedError, with the reason, where torch cannot express the module either.
    """
    inputs = signature(module)
    try:
        examples, dynamic = _examples(module, inputs)
        with evaluated(module):
            model = trace.trace(module, examples, None, dynamic)
    except TersorError as error:
        error.add_note(
            f"the module was traced because {reason}; load it with example inputs in args if these do not fit"
        )
        raise
    _rename(model.graph.inputs, [value.name or "" for value in inputs], model)
    _rename(model.graph.outputs, module.meta["outputs"], model)
    taken = {value.name for value in _values(model)}
    for path, (name, _) in module.meta["stored"].items():
        for before, after in ((path, name), (f"{path}.T", f"{name}.T")):
            if before != after and before in model.graph.initializers and after not in taken:
                model.graph.initializers[before].name = after
    return model


def _examples(
    module: fx.GraphModule, inputs: Sequence[oir.Value]
) -> tuple[tuple[torch.Tensor, ...], dict[str, dict[int, Dimension]]]:
    kept: Kept = module.meta["onnx"]
    bare = oir.Model(oir.Graph(inputs, [], nodes=[], opset_imports=dict(kept.opsets)), ir_version=kept.ir_version)
    bare.metadata_props.update(kept.props)
    known, allowed = dimensions.names(bare), dimensions.ranges(bare)
    # different sizes, so that equal ones are not taken for the same
    sizes = {name: dimensions.clip(2 + i, allowed.get(name, (1, None))) for i, name in enumerate(known)}
    examples: list[torch.Tensor] = []
    dynamic: dict[str, dict[int, Dimension]] = {}
    for node, value in zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True):
        if value.dtype is None or value.shape is None:
            raise ModelError(f"input {value.name!r} has no known type and shape: load the module with example inputs")
        shape: list[int] = []
        for axis, dim in enumerate(value.shape):
            label = None if isinstance(dim, int) else dim.value or f"{value.name}_{axis}"
            shape.append(dim if isinstance(dim, int) else sizes.get(label or "", 2))
            if label is not None:
                low, high = allowed.get(label, (1, None))
                dynamic.setdefault(str(node.target), {})[axis] = (identifier(label), low, high)
        examples.append(torch.ones(shape, dtype=torch_dtype(value.dtype)))
    return tuple(examples), dynamic


@contextlib.contextmanager
def evaluated(module: torch.nn.Module) -> Iterator[None]:
    """The module in evaluation mode: `to_fx` makes nothing that differs in training, and the exporter asks for it."""
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True


def _rename(values: Sequence[oir.Value], wanted: Sequence[str], model: oir.Model) -> None:
    """Give ports their names; another value that has one gets another name."""
    for value, name in zip(values, wanted, strict=False):
        for other in _values(model):
            if other is not value and other.name == name:
                other.name = f"{name}_value"
        value.name = name


def _values(model: oir.Model) -> list[oir.Value]:
    made = [value for node in model.graph.all_nodes() for value in node.outputs]
    return [*model.graph.inputs, *model.graph.initializers.values(), *made]
