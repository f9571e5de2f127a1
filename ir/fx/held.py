"""What follows from weights alone, such as dequantized weights, kept from one run to the next and from one module to
another that computes it in the same way from the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter

import torch
from torch import fx

from ..identity import Same

#: Numbers of a constant that are compared one by one.
_SMALL = 64


@dataclass(eq=False)
class Held:
    """Values by number: equal for nodes that do the same to the same weights."""

    values: dict[int, object] = field(default_factory=dict)
    _numbers: dict[tuple[object, ...], int] = field(default_factory=dict, repr=False)
    _fresh: count[int] = field(default_factory=count, repr=False)

    def number(self, module: fx.GraphModule, weights: Mapping[str, object]) -> dict[fx.Node, int]:
        """The numbers of the nodes that read nothing but weights. What this module does not compute is dropped.

        weights: the object that each initializer's numbers come from, by name. Of other constants the small ones are
        told apart by what they hold; large ones are the module's own.
        """
        found: dict[fx.Node, int] = {}
        key: tuple[object, ...]
        for node in module.graph.nodes:
            if node.op == "get_attr":
                key = _constant(module, node, weights.get(node.meta.get("onnx_name", "")))
            elif node.op == "call_function" and all(each in found for each in read(node)):
                parts = fx.map_arg((node.args, node.kwargs), lambda each: f"\0{found.get(each)}")
                key = Same(node.target), repr(parts)
            else:
                continue
            if key not in self._numbers:
                self._numbers[key] = next(self._fresh)
            found[node] = self._numbers[key]
        alive = set(found.values())
        self._numbers = {key: number for key, number in self._numbers.items() if number in alive}
        self.values = {number: value for number, value in self.values.items() if number in alive}
        return found


def read(node: fx.Node) -> list[fx.Node]:
    """The nodes whose numbers a node reads: of what it is told to be `like` it takes the device."""
    return [each for each in node.all_input_nodes if each is not node.kwargs.get("like")]


def _constant(module: fx.GraphModule, node: fx.Node, weight: object) -> tuple[object, ...]:
    """What tells a constant from others."""
    if weight is not None:
        return (Same(weight),)
    held = attrgetter(str(node.target))(module)
    if isinstance(held, torch.Tensor) and held.numel() <= _SMALL:
        return held.dtype, tuple(held.shape), repr(held.tolist())
    return (Same(node),)
