"""What the passes over FX modules that repack weights share: reading constants, owning new ones, replacing calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import fx
from torch.fx.node import Argument

Tensor = torch.Tensor


def constant(module: fx.GraphModule, value: object) -> Tensor | None:
    """The tensor that an FX node reads off the module; None where the node computes something."""
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return None
    found = attribute_of(module, value)
    return found.detach() if isinstance(found, Tensor) else None


def attribute_of(module: fx.GraphModule, node: fx.Node) -> object:
    """What a `get_attr` node reads."""
    found: object = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found


def free_name(module: fx.GraphModule, base: str) -> str:
    """`base`, or that with a number where something has its name."""
    name, number = base, 0
    while hasattr(module, name):
        number += 1
        name = f"{base}_{number}"
    return name


def bound(node: fx.Node, names: tuple[str, ...]) -> dict[str, object]:
    """A call's arguments by name: those by position take the given names in turn."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


class Rewriter:
    """Calls in front of one node, with that node's provenance; new constants are buffers beside the old weights."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        self.module = module
        self.node = node

    def call(self, function: Callable[..., object], *args: object, **keywords: object) -> fx.Node:
        graph = self.module.graph
        with graph.inserting_before(self.node):
            made = graph.call_function(function, _arguments(args), _keywords(keywords))
        return self._described(made)

    def own(self, tensor: Tensor, source: fx.Node, kind: str) -> fx.Node:
        """A buffer named after the weight it was made from."""
        name = free_name(self.module, f"{str(source.target).replace('.', '_')}_{kind}")
        self.module.register_buffer(name, tensor, persistent=True)
        self.module.meta.setdefault("made", {})[name] = str(source.target)
        with self.module.graph.inserting_before(self.node):
            made = self.module.graph.get_attr(name)
        return self._described(made)

    def replace(self, by: fx.Node) -> None:
        """Let the node's users read `by`, under the node's own name for taps, and drop the node."""
        by.meta.update(self.node.meta)
        self.node.replace_all_uses_with(by)
        self.module.graph.erase_node(self.node)

    def _described(self, made: fx.Node) -> fx.Node:
        for key in ("onnx_name", "source"):
            if key in self.node.meta:
                made.meta[key] = self.node.meta[key]
        made.meta["tap"] = False
        return made


def finish(module: fx.GraphModule) -> None:
    """Drop what nobody reads any more from the graph (the weights stay on the module) and write the code anew."""
    for node in reversed(module.graph.nodes):
        if not node.users and node.op in ("get_attr", "call_function"):
            module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()


def drop_unread(module: fx.GraphModule) -> None:
    """Let go of the weights that neither the graph reads any more nor the bodies of its control flow."""
    read = {
        f"{prefix}.{node.target}".lstrip(".")
        for prefix, part in module.named_modules()
        if isinstance(part, fx.GraphModule)
        for node in part.graph.nodes
        if node.op == "get_attr"
    }
    for path in [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in read]:
        owner, _, leaf = path.rpartition(".")
        delattr(module.get_submodule(owner), leaf)
    kept = module.meta.get("initializers", {})
    module.meta["initializers"] = {name: path for name, path in kept.items() if path in read}


def quicken(module: torch.nn.Module) -> None:
    """Let attribute lookup find weights at once rather than by `Module.__getattr__`, which takes as long as a small
    kernel; for a module that will neither be moved nor changed any more."""
    for owner in module.modules():
        owner.__dict__.update(owner._modules)
        owner.__dict__.update(owner._parameters)
        owner.__dict__.update(owner._buffers)


def _arguments(values: tuple[object, ...]) -> tuple[Argument, ...]:
    return values  # type: ignore[return-value]


def _keywords(values: Mapping[str, object]) -> dict[str, Argument]:
    return dict(values)  # type: ignore[arg-type]
