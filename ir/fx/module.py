"""The class of the modules that `to_fx` makes: an `fx.GraphModule` that pickle and `torch.save` keep whole.

torch pickles a GraphModule as Python code and traces that again when it is read, through the functions that the graph
calls, and drops what nodes note. Here the graph itself is written, one row a node, with what each notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx

_OPERATOR = type(torch.ops.aten.add.Tensor)


@dataclass(frozen=True)
class _Place:
    """A node among the arguments of another, by its row."""

    row: int


class _Row(NamedTuple):
    op: str
    name: str
    target: object
    args: Any
    kwargs: Any
    meta: dict[str, object]


class _Operator(NamedTuple):
    """One of torch's operators as a target, by name: `aten`, `add`, `Tensor`."""

    domain: str
    op: str
    overload: str


class Emitted(fx.GraphModule):
    """A module of `to_fx`, or one of its branches or loop bodies.

    Read a file of `torch.save` with `weights_only=False`, as any that holds a module, and only if you trust it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key not in ("_graph", "_compiled_call_impl")}
        return _empty, (), (state, _rows(self.graph))

    def __setstate__(self, state: tuple[Mapping[str, object], list[_Row]]) -> None:
        held, rows = state
        self.__dict__.update(held)
        self.graph = _graph(rows)


def _empty() -> Emitted:
    return Emitted(torch.nn.Module(), fx.Graph())


def _rows(graph: fx.Graph) -> list[_Row]:
    places = {node: _Place(row) for row, node in enumerate(graph.nodes)}

    def placed(value: Any) -> Any:
        return fx.map_arg(value, places.__getitem__)  # type: ignore[arg-type]

    return [
        _Row(node.op, node.name, _named(node.target), placed(node.args), placed(node.kwargs), node.meta)
        for node in graph.nodes
    ]


def _graph(rows: list[_Row]) -> fx.Graph:
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def found(value: Any) -> Any:
        return nodes[value.row] if isinstance(value, _Place) else value

    for row in rows:
        args, kwargs = fx.node.map_aggregate(row.args, found), fx.node.map_aggregate(row.kwargs, found)
        node = graph.create_node(row.op, _target(row.target), args, kwargs, name=row.name)  # type: ignore[arg-type]
        node.meta.update(row.meta)
        nodes.append(node)
    return graph


def _named(target: object) -> object:
    if isinstance(target, _OPERATOR):
        # `aten.add.Tensor`
        return _Operator(*str(target).split("."))
    return target


def _target(named: object) -> object:
    if not isinstance(named, _Operator):
        return named
    found: object = torch.ops
    for part in named:
        found = getattr(found, part)
    return found
