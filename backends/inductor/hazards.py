"""What Inductor's kernels for the CPU would end the process for is checked before they run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

_ATEN = torch.ops.aten


def graphs(module: fx.GraphModule) -> Iterator[fx.Graph]:
    """The module's own graph and those of the bodies of its control flow."""
    return (part.graph for part in module.modules() if isinstance(part, fx.GraphModule))


def demand(graph: fx.Graph, each: fx.Node, text: str) -> None:
    """Raise an error that says `text` unless every element of `each` is true."""
    every = graph.call_function(_ATEN.all.default, (each,))
    graph.call_function(_ATEN._assert_async.msg, (every, text))
