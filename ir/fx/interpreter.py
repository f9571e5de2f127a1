"""Run an FX module by the model's own names, watch any value, hold no value longer than its last use."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import onnx_ir as oir
import torch
from torch import fx
from torch.fx.node import Argument

from ..errors import ModelError, OptionError, nearest
from .dtypes import to_numpy
from .edge import enter, holds_values, leave
from .held import Held, read
from .limit import Limit
from .lowering import FAILURES
from .ops import random

Tap = Callable[[str, torch.Tensor], torch.Tensor | None]
"""Called with a value's ONNX name and the value, in the order of execution; keep a clone, not the tensor. A tensor that
it returns takes the value's place for everything that runs after."""


LIMIT = 8 << 30
"""Bytes that one value may take unless the interpreter is told otherwise."""


class Interpreter:
    """Runs a module that `to_fx` made.

    `values` are the names that can be tapped: what the graph computes, the bodies of `If` and `Loop` included, and the
    inputs; not weights, nor what was folded into constants. Feeds go to the device of the module's weights, or to
    `device`, to which the module then moves. No op runs whose result would take more than `limit` bytes. `hold` keeps
    what runs with taps compute from weights alone, such as dequantized weights, for the next run, and for interpreters
    of other modules that share it and say by name which objects the `weights` are of.

    Raises ModelError for a module of other origin, for feeds that do not match the inputs, and for a model that cannot
    run on them or not within the limit; OptionError for a tap on a value that is not there.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        *,
        device: str | torch.device | None = None,
        limit: int = LIMIT,
        hold: Held | None = None,
        weights: Mapping[str, object] | None = None,
    ) -> None:
        _check_ports(module)
        self.module = module if device is None else module.to(device)
        self.device = torch.device(device) if device is not None else _device(module)
        self.limit = limit
        self.hold = hold
        self._numbers = {} if hold is None else hold.number(module, weights or {})
        self.inputs: tuple[str, ...] = tuple(module.meta["inputs"])
        self.outputs: tuple[str, ...] = tuple(module.meta["outputs"])
        self.values = frozenset(_tappable(module))
        self._plans: dict[fx.GraphModule, list[tuple[fx.Node, tuple[fx.Node, ...]]]] = {}

    def run(
        self,
        feeds: Mapping[str, np.ndarray | torch.Tensor],
        *,
        taps: Iterable[str] | Tap | None = None,
        tap: Tap | None = None,
    ) -> dict[str, np.ndarray]:
        """The outputs by name.

        `taps` names values: each goes to `tap` as soon as it is computed, or without `tap` into the result beside the
        outputs. A function as `taps` sees every value.

        Strings go in and come out as object arrays, sequences as lists of arrays, optionals as their element or None;
        no tap sees those.
        """
        types = dict(zip(self.outputs, self.module.meta["output_types"], strict=True))
        kept: dict[str, np.ndarray] = {}
        if taps is not None and tap is None and not callable(taps):

            def keep(name: str, value: torch.Tensor) -> None:
                kept[name] = np.array(to_numpy(value))

            tap = keep
        found = self.tensors(feeds, taps=taps, tap=tap)
        return {**kept, **{name: cast(np.ndarray, leave(value, types.get(name))) for name, value in found.items()}}

    def tensors(
        self,
        feeds: Mapping[str, np.ndarray | torch.Tensor],
        *,
        taps: Iterable[str] | Tap | None = None,
        tap: Tap | None = None,
        grad: bool = False,
    ) -> dict[str, torch.Tensor]:
        """As `run`, but the outputs stay tensors, and keep their gradients' history where `grad`."""
        inputs = self.arguments(feeds)
        watch, wanted = self._watch(taps, tap)
        with torch.set_grad_enabled(grad), Limit(self.limit):
            results = self._run(inputs) if watch is None else self._walk(self.module, inputs, watch, wanted)
        row = cast(Sequence[torch.Tensor], results if isinstance(results, tuple) else (results,))
        return dict(zip(self.outputs, row, strict=True))

    def _run(self, inputs: Sequence[torch.Tensor]) -> object:
        """The module's own code; where it fails, node by node, to say where."""
        try:
            # not the module's own call, which prints the generated code where that fails
            return self.module.forward(*inputs)
        except FAILURES:
            return self._walk(self.module, inputs, None, frozenset())

    def arguments(self, feeds: Mapping[str, np.ndarray | torch.Tensor]) -> list[torch.Tensor]:
        """The module's arguments. Raises ModelError for feeds that do not match the inputs."""
        unknown = [name for name in feeds if name not in self.inputs]
        if unknown:
            raise ModelError(f"feed {unknown[0]!r}: the model has no such input; {nearest(unknown[0], self.inputs)}")
        absent = [name for name in self.inputs if name not in feeds]
        if absent:
            raise ModelError(f"input {absent[0]!r} was not fed; the model needs {', '.join(self.inputs)}")
        kinds = [node.meta.get("onnx_type") for node in self.module.graph.find_nodes(op="placeholder")]
        return [self._fed(name, feeds[name], kind) for name, kind in zip(self.inputs, kinds, strict=True)]

    def _fed(self, name: str, value: object, kind: oir.TypeProtocol | None) -> torch.Tensor:
        try:
            return cast(torch.Tensor, enter(value, kind, self.device))
        except ModelError as error:
            raise ModelError(f"feed {name!r}: {error}") from error

    def _watch(self, taps: Iterable[str] | Tap | None, tap: Tap | None) -> tuple[Tap | None, frozenset[str]]:
        if taps is None:
            return tap, self.values
        if callable(taps):
            return taps, self.values
        wanted = frozenset(taps)
        for name in sorted(wanted - self.values):
            raise OptionError(f"no value named {name!r} can be tapped; {nearest(name, self.values)}")
        return tap, wanted

    def _walk(
        self, module: fx.GraphModule, inputs: Sequence[object], watch: Tap | None, wanted: frozenset[str]
    ) -> object:
        """One graph, node by node, showing what is wanted and dropping what is no longer used."""
        values: dict[fx.Node, object] = {}
        given = iter(inputs)
        fixed = _fixed(module, wanted) if self.hold is not None and module is self.module else frozenset[fx.Node]()

        def value_of(node: fx.Node) -> Argument:
            return cast(Argument, values[node])

        for node, dead in self._plan(module):
            if node in fixed:
                if any(user not in fixed for user in node.users):
                    values[node] = self._constant(node, fixed)
                continue
            args = fx.map_arg(node.args, value_of)
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = self._attribute(module, str(node.target), watch, wanted)
            elif node.op == "output":
                return args[0]
            else:
                values[node] = called(node, args, fx.map_arg(node.kwargs, value_of))
            if watch is not None and node.meta.get("tap") and node.meta["onnx_name"] in wanted:
                values[node] = _seen(watch, node.meta["onnx_name"], values[node])
            for other in dead:
                values.pop(other, None)
        raise AssertionError("an FX graph ends in an output")

    def _constant(self, node: fx.Node, fixed: frozenset[fx.Node]) -> object:
        """What a node gives at every run; all that it was computed from is dropped."""
        if node.op == "get_attr":
            return self._attribute(self.module, str(node.target), None, frozenset())
        assert self.hold is not None
        held, at = self.hold.values, self._numbers
        if at[node] not in held:
            new = [each for each in read(node) if at[each] not in held]
            known = {each: self._constant(each, fixed) for each in read(node)}
            like = torch.empty(0, device=self.device)

            def value_of(each: fx.Node) -> Argument:
                return cast(Argument, known.get(each, like))

            held[at[node]] = called(node, fx.map_arg(node.args, value_of), fx.map_arg(node.kwargs, value_of))
            for each in new:
                if all(user in fixed for user in each.users):
                    held.pop(at[each], None)
        return held[at[node]]

    def _attribute(self, module: fx.GraphModule, path: str, watch: Tap | None, wanted: frozenset[str]) -> object:
        """A tensor; or for a branch or loop body, a function that walks it with the same taps."""
        found: object = module
        for part in path.split("."):
            found = getattr(found, part)
        if isinstance(found, fx.GraphModule):
            body = found
            return lambda *inputs: self._walk(body, inputs, watch, wanted)
        return found

    def _plan(self, module: fx.GraphModule) -> list[tuple[fx.Node, tuple[fx.Node, ...]]]:
        """The nodes in order, each with those that are used for the last time there (or never)."""
        if module not in self._plans:
            last: dict[fx.Node, fx.Node] = {}
            for node in module.graph.nodes:
                last[node] = node
                for used in node.all_input_nodes:
                    last[used] = node
            dead: dict[fx.Node, list[fx.Node]] = {}
            for node, at in last.items():
                dead.setdefault(at, []).append(node)
            self._plans[module] = [(node, tuple(dead.get(node, ()))) for node in module.graph.nodes]
        return self._plans[module]


def _fixed(module: fx.GraphModule, wanted: frozenset[str]) -> frozenset[fx.Node]:
    """Weights and what follows from them alone, unless it is watched, random or the body of a branch."""
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "get_attr":
            plain = not isinstance(getattr(module, str(node.target), None), fx.GraphModule)
        else:
            drawn = getattr(node.target, "__module__", "") == random.__name__
            alone = bool(node.all_input_nodes) and all(each in found for each in read(node))
            plain = node.op == "call_function" and alone and not drawn and node.meta.get("onnx_name") not in wanted
        if plain:
            found.add(node)
    return frozenset(found)


def _check_ports(module: fx.GraphModule) -> None:
    """Raise ModelError unless the graph takes and returns what the module says that it does."""
    if "inputs" not in module.meta:
        raise ModelError("this GraphModule was not made by to_fx: bring it in with tersor.load, and to_fx makes one")
    (last,) = module.graph.find_nodes(op="output")
    results = last.args[0] if isinstance(last.args[0], tuple | list) else (last.args[0],)
    for kind, now in (("inputs", module.graph.find_nodes(op="placeholder")), ("outputs", results)):
        before = module.meta[kind]
        if len(now) != len(before):
            raise ModelError(
                f"the graph has {len(now)} {kind} and had {', '.join(before) or 'none'} when to_fx made it: take it "
                "anew, to_fx(tersor.load(module))"
            )


def _device(module: torch.nn.Module) -> torch.device:
    """Where the weights are; the CPU for a module without."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def called(node: fx.Node, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    """What the function of an FX node gives. Raises ModelError that names the ONNX node where it fails."""
    assert callable(node.target)
    try:
        return node.target(*args, **kwargs)
    except FAILURES as error:
        given = ", ".join(_described(value) for value in args)
        text = str(error).strip().split("\n")[0]
        raise ModelError(f"{node.meta['source']} cannot run on ({given}): {text}") from error


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value) if isinstance(value, bool | int | float | list | None) else type(value).__name__


def _tappable(module: fx.GraphModule) -> Iterable[str]:
    for child in module.modules():
        if isinstance(child, fx.GraphModule):
            for node in child.graph.nodes:
                if node.meta.get("tap"):
                    yield node.meta["onnx_name"]


def _seen(watch: Tap, name: str, value: object) -> object:
    """The value, or what the tap puts in its place. Of neither does anything stay behind here."""
    shown = _shown(value)
    forced = None if shown is None else watch(name, shown)
    return forced if forced is not None and isinstance(value, torch.Tensor) else value


def _shown(value: object) -> torch.Tensor | None:
    """A value as a tap sees it: shape arithmetic becomes a tensor; strings, sequences and optionals are not shown."""
    if isinstance(value, torch.Tensor):
        return value
    if not isinstance(value, bool | int | float | list | torch.SymInt) or holds_values(value):
        return None
    return torch.tensor(value, dtype=torch.int64 if value == [] else None)
