"""What torch.export would get wrong without a word, found before and after it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from .errors import ModelError

_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD
_BY_MODE = ("Dropout", "BatchNorm", "InstanceNorm")


@dataclass(frozen=True)
class Call:
    """A call of a module with example inputs; `leaves` holds what is in them under the names that inputs get."""

    args: tuple[object, ...]
    kwargs: dict[str, object]
    bound: dict[str, object]
    leaves: tuple[tuple[str, object], ...]
    spread: str = ""
    """The parameter, if any, that collects inputs which forward does not name."""

    @classmethod
    def of(cls, module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
        """Bind the inputs to forward's parameters. Raises ModelError where they do not fit."""
        signature = inspect.signature(module.forward)
        try:
            bound = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise ModelError(
                f"{type(module).__name__}.forward{signature} cannot be called with the example inputs: {error}. "
                "Give them in args and kwargs"
            ) from error
        leaves: list[tuple[str, object]] = []
        for name, value in bound.items():
            collects = signature.parameters[name].kind is _VAR_KEYWORD
            for label, item in value.items() if collects else ((name, value),):
                leaves += _leaves(label, item)
        spread = next((name for name in bound if signature.parameters[name].kind is _VAR_KEYWORD), "")
        return cls(args, kwargs, dict(bound), tuple(leaves), spread)

    @property
    def loose(self) -> tuple[str, ...]:
        """The inputs that forward does not name."""
        held = self.bound.get(self.spread)
        return tuple(held) if isinstance(held, Mapping) else ()

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors among the example inputs, by input name."""
        return {name: value for name, value in self.leaves if isinstance(value, torch.Tensor)}

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The names of the tensors in each parameter that holds several."""
        found = {}
        for name, value in self.bound.items():
            if isinstance(value, Mapping | list | tuple) and name != self.spread:
                found[name] = tuple(label for label, leaf in _leaves(name, value) if isinstance(leaf, torch.Tensor))
        return found

    def check(self) -> None:
        """Raise ModelError for inputs that tracing would fuse, bake in, or cannot run."""
        if not self.tensors:
            raise ModelError("tracing a module needs example inputs: give its tensors in args or kwargs")
        for name, value in self.leaves:
            if not isinstance(value, torch.Tensor | None | bool | str):
                raise ModelError(
                    f"example input {name!r} is a {type(value).__name__}, whose value would be fixed in the graph: "
                    "give a torch.Tensor, or set it inside of a wrapping module if it is meant to be fixed"
                )
        seen: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            other = seen.setdefault(id(tensor), name)
            if other != name:
                raise ModelError(
                    f"example inputs {other!r} and {name!r} are one tensor object, and torch.export would make them "
                    f"one input: give {name!r} a tensor of its own ({name}.clone())"
                )
            if tensor.is_meta:
                raise ModelError(f"example input {name!r} is on the meta device, which holds no values: give real data")

    def shaped(self, shapes: Mapping[str, dict[int, torch.export.Dim]]) -> dict[str, object]:
        """The dynamic dimensions of each tensor in the nesting that torch.export asks for: that of the arguments."""
        places = {id(tensor): shapes.get(name) for name, tensor in self.tensors.items()}
        return {name: _mapped(value, lambda leaf: places.get(id(leaf))) for name, value in self.bound.items()}

    def widened(self, widths: Mapping[str, Mapping[int, int]]) -> Call:
        """This call with the named tensors repeated along their axes up to the given sizes."""
        if not widths:
            return self
        wide: dict[int, torch.Tensor] = {}
        for name, axes in widths.items():
            tensor = self.tensors[name].detach()
            for axis, size in axes.items():
                tensor = tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
            wide[id(self.tensors[name])] = tensor

        def replaced(leaf: object) -> object:
            return wide.get(id(leaf), leaf)

        return Call(
            tuple(_mapped(item, replaced) for item in self.args),
            {key: _mapped(item, replaced) for key, item in self.kwargs.items()},
            {key: _mapped(item, replaced) for key, item in self.bound.items()},
            tuple((name, replaced(leaf)) for name, leaf in self.leaves),
            self.spread,
        )


def check_module(module: torch.nn.Module) -> None:
    """Raise ModelError for a module that would be traced as for training, or that holds no weights."""
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError("TorchScript modules cannot be traced: give the module they were made from")
    training = [(name or "the module", child) for name, child in module.named_modules() if child.training]
    if training:
        telling = [name for name, child in training if type(child).__name__.startswith(_BY_MODE)]
        names = telling or [name for name, _ in training]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        what = "dropout and normalization layers in training mode" if telling else "training mode"
        raise ModelError(
            f"{type(module).__name__} is in training mode ({what}: {', '.join(names[:4])}{more}), so its graph would "
            "drop values at random or update statistics: call .eval() first"
        )
    empty = [name for name, tensor in _state(module) if tensor.is_meta]
    if empty:
        raise ModelError(
            f"{type(module).__name__} has weights on the meta device ({', '.join(empty[:4])}), which hold no values: "
            "load them first"
        )


def check_pure(program: torch.export.ExportedProgram) -> None:
    """Raise ModelError for writes to inputs and buffers; `program` is one whose decompositions have run."""
    signature = program.graph_signature
    inputs = sorted(set(signature.user_inputs_to_mutate.values()))
    if inputs:
        raise ModelError(
            f"forward changes its input{'s' if len(inputs) > 1 else ''} {', '.join(inputs)} in place, which a graph "
            "cannot: work on a copy (x = x.clone()) or return the new value"
        )
    buffers = sorted(set(signature.buffers_to_mutate.values()))
    if buffers:
        raise ModelError(
            f"forward updates {'buffers' if len(buffers) > 1 else 'the buffer'} {', '.join(buffers[:4])}, and a graph "
            "has no memory: make that state an input and an output"
        )


def check_modes(program: torch.export.ExportedProgram) -> None:
    """Raise ModelError for layers that were traced as for training."""
    for node in program.graph.nodes:
        position = _TRAINING_FLAG.get(str(node.target))
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise ModelError(
                f"{node.target} is traced as for training{_where(node)}: call .eval() on the module before exporting, "
                "and pass training=self.training to functional calls"
            )


_TRAINING_FLAG: Mapping[str, int] = {
    "aten.dropout.default": 2,
    "aten.dropout_.default": 2,
    "aten.feature_dropout.default": 2,
    "aten.alpha_dropout.default": 2,
    "aten.native_dropout.default": 2,
    "aten.batch_norm.default": 5,
    "aten.instance_norm.default": 5,
}


def _where(node: torch.fx.Node) -> str:
    lines = [line.strip() for line in (node.stack_trace or "").splitlines() if line.strip().startswith("File ")]
    return f" ({lines[-1]})" if lines else ""


def _state(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{name}_{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(f"{name}_{index}", item)
    else:
        yield name, value


def _mapped(value: object, function: Callable[[object], object]) -> object:
    if isinstance(value, dict):
        return type(value)((key, _mapped(item, function)) for key, item in value.items())
    if isinstance(value, list):
        return [_mapped(item, function) for item in value]
    if isinstance(value, tuple):
        items = tuple(_mapped(item, function) for item in value)
        make = getattr(value, "_make", None)
        return items if make is None else make(items)
    return function(value)
