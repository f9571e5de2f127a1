"""Which weights play one role in one layer after another: what can share a basis or a table.

    block 0: q k v | o | up | down        block 1: q k v | o | up | down        ..
    roles: [(q0 k0 v0), (q1 k1 v1), ..], [(o0), (o1), ..], ..

In repeated blocks they are twins (`passes.twins`): the same path leads from them to the block's end. Where blocks are
not alike throughout, and outside of blocks, they have one shape and one place among those of their shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from ...ir.block import Block, blocks
from ...ir.site import Kind, Site
from ..pairs import siblings, spelled_alike
from ..twins import Read, twins

#: Sites of one layer that read one activation.
Layer = tuple[Site, ...]


def roles(model: ir.Model, chosen: Sequence[Site]) -> list[list[Layer]]:
    """Linear sites by role, each role's layers in graph order; all layers of a role are spelled alike."""
    of, found = _Roles(model), dict[object, list[Layer]]()
    for layer in siblings(chosen):
        key = spelled_alike(layer[0]), tuple(of.key(site) for site in layer)
        found.setdefault(key, []).append(layer)
    return list(found.values())


def role_of(model: ir.Model, chosen: Sequence[Site]) -> list[object]:
    """What role each site plays, of whatever kind: equal for those that play one."""
    of = _Roles(model)
    return [of.key(site) for site in chosen]


class _Roles:
    """What sites are known by in all blocks of a stack."""

    def __init__(self, model: ir.Model) -> None:
        self._blocks = blocks(model)
        self._names: dict[Read, object] = {}
        self._taken: Counter[object] = Counter()
        first: dict[int, Block] = {}
        for block in self._blocks:
            start = first.setdefault(block.stack, block)
            matched = twins(start, block)
            for (mine, at), theirs in (matched or {}).items():
                self._names[theirs] = (block.stack, start.nodes.index(mine), at)

    def key(self, site: Site) -> object:
        """What a site is known by; to be asked in graph order."""
        reader = site.view.path[0] if site.view.path else site.node
        at = next((index for index, value in enumerate(reader.inputs) if value is site.weight), 0)
        known = self._names.get((reader, at))
        if known is not None:
            return known, site.direction
        shape = site.kind, site.in_features, site.out_features, site.direction
        if site.block is None:
            return shape if site.kind is not Kind.EMBEDDING else (*shape, site.weight.name)
        # the n-th of its shape in its block
        self._taken[site.block, shape] += 1
        return self._blocks[site.block].stack, shape, self._taken[site.block, shape]
