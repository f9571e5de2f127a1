"""Run an FX module in steps: up to one value after another, which may be replaced, and on from there more than once.

    stepwise = Stepwise(Interpreter(to_fx(model)), ["h", "y"])
    run = stepwise.start(feeds)
    h = run.next()                      what the graph computes for h
    other = run.fork()                  a second run that has come as far
    other.put(h * 0)
    other.finish()                      the outputs, as if h had been zero

What a stop needs is computed on the way to it and what is no longer needed is dropped, whatever order the graph has its
nodes in; so runs of two graphs that have values in common can go side by side and exchange them. Nothing limits what an
op may take here, as it does in `Interpreter.run`, which is for feeds that nobody has run before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import fx
from torch.fx.node import Argument

from ..errors import ModelError, OptionError, nearest
from ..feeds import Feeds
from .interpreter import Interpreter, called

_Step = tuple[fx.Node, tuple[fx.Node, ...]]


class Stepwise:
    """A module and the values that runs of it stop at, in this order; weights and folded constants are none.

    Raises OptionError for a value that is not there, ModelError where one is needed to compute another before it.
    """

    def __init__(self, interpreter: Interpreter, stops: Sequence[str]) -> None:
        self.interpreter = interpreter
        self.module = interpreter.module
        graph = self.module.graph
        tapped = {node.meta["onnx_name"]: node for node in graph.nodes if node.meta.get("tap")}
        for name in stops:
            if name not in tapped:
                raise OptionError(f"no run can stop at {name!r}; {nearest(name, tapped)}")
        self.stops = [tapped[name] for name in stops]
        (self.end,) = graph.find_nodes(op="output")
        self.steps = self._planned([*self.stops, self.end])

    def start(self, feeds: Feeds) -> Run:
        """A run at its beginning. Raises ModelError for feeds that do not match the inputs."""
        placeholders = self.module.graph.find_nodes(op="placeholder")
        return Run(self, dict(zip(placeholders, self.interpreter.arguments(feeds), strict=True)))

    def _planned(self, targets: Sequence[fx.Node]) -> list[list[_Step]]:
        """For each target the nodes that lead there and no further back, each with those that it is the last to use."""
        place = {node: index for index, node in enumerate(self.module.graph.nodes)}
        done: set[fx.Node] = set()
        order: list[list[fx.Node]] = []
        for target in targets:
            if target in done:
                raise ModelError(f"{target.meta['onnx_name']!r} is needed before another value that was to come first")
            found, waiting = {target}, [target]
            while waiting:
                fresh = [node for node in waiting.pop().all_input_nodes if node not in done and node not in found]
                found.update(fresh)
                waiting += fresh
            order.append(sorted(found, key=place.__getitem__))
            done |= found
        last = {used: node for step in order for node in step for used in (node, *node.all_input_nodes)}
        dead: dict[fx.Node, list[fx.Node]] = {}
        for node, at in last.items():
            # a stop that nobody reads is still what was stopped for
            if node is not at or node not in targets:
                dead.setdefault(at, []).append(node)
        return [[(node, tuple(dead.get(node, ()))) for node in step] for step in order]


@dataclass
class Run:
    """One run of a module: what is held at this point, and how many stops are behind."""

    of: Stepwise
    _values: dict[fx.Node, object]
    _behind: int = 0

    def next(self) -> torch.Tensor:
        """Run up to the next stop, and give its value."""
        assert self._behind < len(self.of.stops), "no stop is left"
        self._go()
        return cast(torch.Tensor, self._values[self.of.stops[self._behind - 1]])

    def put(self, value: torch.Tensor) -> None:
        """Let everything that runs from now on see `value` in the place of the last stop's."""
        self._values[self.of.stops[self._behind - 1]] = value

    def fork(self) -> Run:
        """A second run that has come as far and goes its own way from here."""
        return Run(self.of, dict(self._values), self._behind)

    def finish(self) -> Mapping[str, torch.Tensor]:
        """Run to the end, past the stops that are left, and give the outputs by name. The run is used up."""
        while self._behind <= len(self.of.stops):
            self._go()
        found = self._values[self.of.end]
        row = cast(Sequence[torch.Tensor], found if isinstance(found, tuple | list) else (found,))
        return dict(zip(self.of.interpreter.outputs, row, strict=True))

    def _go(self) -> None:
        values = self._values

        def value_of(node: fx.Node) -> Argument:
            return cast(Argument, values[node])

        with torch.no_grad():
            for node, dead in self.of.steps[self._behind]:
                if node.op == "get_attr":
                    values[node] = _attribute(self.of.module, str(node.target))
                elif node.op == "output":
                    values[node] = fx.map_arg(node.args, value_of)[0]
                elif node.op != "placeholder":
                    values[node] = called(node, fx.map_arg(node.args, value_of), fx.map_arg(node.kwargs, value_of))
                for other in dead:
                    values.pop(other, None)
        self._behind += 1


def _attribute(module: torch.nn.Module, path: str) -> object:
    """A tensor, or the body of a branch or a loop, which is called as a function."""
    found: object = module
    for part in path.split("."):
        found = getattr(found, part)
    return found
