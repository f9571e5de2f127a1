"""Which source nodes a rewritten node stands for, and in which module of the user's they were.

A node that no pass touched stands for itself. A node made by a rewrite carries the names of the nodes it
replaced in its metadata, and the module that they share, so that reports, diffs and healing speak of the layers of the
model that was loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

KEY = "tersor.sources"
#: The module that a rewritten node belongs to.
SCOPE = "tersor.scope"
#: In a value's `meta`: what its features were divided by, and their axis from the end.
_DIVIDED = "tersor.divided"

#: torch's exporter: the modules around a node from the outermost in, then the node, as Python writes a list.
_TORCH = "pkg.torch.onnx.name_scopes"
#: What torch writes for nodes that are of no module (seen in 2.13).
_NOWHERE = "_empty_nn_module_stack_from_metadata_hook"


def sources(node: ir.Node) -> tuple[str, ...]:
    """Names of the source nodes that `node` stands for, in the order they were merged."""
    recorded = node.metadata_props.get(KEY)
    if recorded is not None:
        return tuple(recorded.split("\n")) if recorded else ()
    return (node.name,) if node.name else ()


def scope(node: ir.Node) -> str:
    """The innermost module that a node was exported from, as `named_modules` has it; empty where nothing tells.

    >>> scope(ir.node("Softmax", [], name="/encoder/layer.0/attention/Softmax"))
    'encoder.layer.0.attention'
    """
    recorded = node.metadata_props.get(SCOPE)
    if recorded is not None:
        return recorded
    listed = node.metadata_props.get(_TORCH)
    if listed is not None:
        module = "".join(listed.split("', '")[-2:-1]).removeprefix("['")
        return "" if module == _NOWHERE else module
    return _module(node.name) or shared(map(_module, sources(node)))


def shared(scopes: Iterable[str]) -> str:
    """The innermost module around all of these; those that are empty say nothing.

    >>> shared(["layers.7.attn.q", "", "layers.7.attn.k"])
    'layers.7.attn'
    """
    common: list[str] | None = None
    for path in filter(None, scopes):
        parts = path.split(".")
        if common is None:
            common = parts
        elif common != parts:
            same = [one == other for one, other in zip(common, parts, strict=False)]
            common = common[: same.index(False) if False in same else len(same)]
    return ".".join(common or ())


def inherit(new_nodes: Iterable[ir.Node], old_nodes: Iterable[ir.Node], *, at: Iterable[ir.Node] | None = None) -> None:
    """Record on each new node that it stands for everything that the old nodes stood for.

    Those that come from no module are from now on in the one that the nodes `at` share, of all old nodes without.
    """
    new, old = list(new_nodes), list(old_nodes)
    module = shared(map(scope, old if at is None else at))
    for node in new if module else ():
        if not scope(node):
            node.metadata_props[SCOPE] = module
    stand_for(new, dict.fromkeys(name for node in old for name in sources(node)))


def stand_for(nodes: Iterable[ir.Node], names: Iterable[str]) -> None:
    """Record on each node that it stands for the source nodes of these names."""
    text = "\n".join(names)
    for node in nodes:
        node.metadata_props[KEY] = text


def divide(value: ir.Value, scales: NDArray[np.floating], axis: int) -> None:
    """Note that a value's features, on `axis` from the end, are from now on what they were over `scales`."""
    known = division(value)
    value.meta[_DIVIDED] = (scales if known is None or known[1] != axis else known[0] * scales, axis)


def division(value: ir.Value) -> tuple[NDArray[np.floating], int] | None:
    """What a value's features were divided by, and their axis from the end; None where they are what they were."""
    found: tuple[NDArray[np.floating], int] | None = value.meta.get(_DIVIDED)
    return found


def settle(model: ir.Model) -> None:
    """Forget divisions: what the model computes now is what later ones are counted from."""
    for node in model.graph:
        for value in node.outputs:
            value.meta.pop(_DIVIDED, None)


def _module(name: str | None) -> str:
    """The module in a name of the TorchScript exporter, `/encoder/layer.0/attention/Softmax`."""
    return name[1 : max(name.rfind("/"), 1)].replace("/", ".") if name and name.startswith("/") else ""
