"""Run an FX module by the model's own names, watch any value, hold no value longer than its last use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import fx

from ..errors import ModelError, OptionError, nearest
from .dtypes import to_numpy, to_torch

Tap = Callable[[str, torch.Tensor], None]
"""Called with a value's ONNX name and the value, in the order of execution; keep a clone, not the tensor."""


class Interpreter:
    """Runs a module that `to_fx` made.

    `values` are the names that can be tapped: what the graph computes, the bodies of `If` and `Loop` included, and the
    inputs; not weights, nor what was folded into constants. Raises ModelError for feeds that do not match the inputs,
    OptionError for a tap on a value that is not there.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
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
        """
        types = dict(zip(self.outputs, self.module.meta["output_types"], strict=True))
        kept: dict[str, np.ndarray] = {}
        if taps is not None and tap is None and not callable(taps):

            def keep(name: str, value: torch.Tensor) -> None:
                kept[name] = np.array(to_numpy(value))

            tap = keep
        found = self.tensors(feeds, taps=taps, tap=tap)
        return {**kept, **{name: to_numpy(value, types.get(name)) for name, value in found.items()}}

    def tensors(
        self,
        feeds: Mapping[str, np.ndarray | torch.Tensor],
        *,
        taps: Iterable[str] | Tap | None = None,
        tap: Tap | None = None,
        grad: bool = False,
    ) -> dict[str, torch.Tensor]:
        """As `run`, but the outputs stay tensors, and keep their gradients' history where `grad`."""
        inputs = self._feed(feeds)
        watch, wanted = self._watch(taps, tap)
        with torch.set_grad_enabled(grad):
            if watch is None:
                results = self.module(*inputs)
            else:
                results = self._walk(self.module, inputs, watch, wanted)
        row = results if len(self.outputs) != 1 else (results,)
        return dict(zip(self.outputs, row, strict=True))

    def _feed(self, feeds: Mapping[str, np.ndarray | torch.Tensor]) -> list[torch.Tensor]:
        unknown = [name for name in feeds if name not in self.inputs]
        if unknown:
            raise ModelError(f"feed {unknown[0]!r}: the model has no such input; {nearest(unknown[0], self.inputs)}")
        absent = [name for name in self.inputs if name not in feeds]
        if absent:
            raise ModelError(f"input {absent[0]!r} was not fed; the model needs {', '.join(self.inputs)}")
        given = (feeds[name] for name in self.inputs)
        return [value if isinstance(value, torch.Tensor) else to_torch(np.asarray(value)) for value in given]

    def _watch(self, taps: Iterable[str] | Tap | None, tap: Tap | None) -> tuple[Tap | None, frozenset[str]]:
        if taps is None:
            return tap, self.values
        if callable(taps):
            return taps, self.values
        wanted = frozenset(taps)
        for name in sorted(wanted - self.values):
            raise OptionError(f"no value named {name!r} can be tapped; {nearest(name, self.values)}")
        return tap, wanted

    def _walk(self, module: fx.GraphModule, inputs: Sequence[object], watch: Tap, wanted: frozenset[str]) -> object:
        """One graph, node by node, showing what is wanted and dropping what is no longer used."""
        values: dict[fx.Node, object] = {}
        given = iter(inputs)

        def value_of(node: fx.Node) -> object:
            return values[node]

        for node, dead in self._plan(module):
            args = fx.map_arg(node.args, value_of)
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = self._attribute(module, str(node.target), watch, wanted)
            elif node.op == "output":
                return args[0]
            else:
                assert callable(node.target)
                values[node] = node.target(*args, **fx.map_arg(node.kwargs, value_of))
            name = node.meta["onnx_name"]
            if name in wanted and node.op != "get_attr" and (shown := _shown(values[node])) is not None:
                watch(name, shown)
            for other in dead:
                del values[other]
        raise AssertionError("an FX graph ends in an output")

    def _attribute(self, module: fx.GraphModule, path: str, watch: Tap, wanted: frozenset[str]) -> object:
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


def _tappable(module: fx.GraphModule) -> Iterable[str]:
    for child in module.modules():
        if isinstance(child, fx.GraphModule):
            for node in child.graph.nodes:
                if node.op in ("placeholder", "call_function") and not node.meta["onnx_name"].startswith("("):
                    yield node.meta["onnx_name"]


def _shown(value: object) -> torch.Tensor | None:
    """A value as a tap sees it: shape arithmetic becomes a tensor."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, bool | int):
        return torch.tensor(value)
    if isinstance(value, list):
        return torch.tensor(value, dtype=torch.bool if value and isinstance(value[0], bool) else torch.int64)
    return None
