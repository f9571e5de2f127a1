"""Replace computed shapes by constant ones where names and numbers suffice.

    before   x: [batch, sequence, 384]   Shape(x) .. Concat .. --> Reshape(x, [batch, sequence, 12, 32])
    after    Reshape(x, [0, 0, 12, 32])

Exact: 0 keeps the dimension of `x` at its place, and at most one dimension that cannot be so written becomes -1. Also
removes a Reshape or Expand to the shape a value already has. Left alone: targets with two or more dimensions that are
neither numbers nor the input's own at that place, and zero-size inputs, where -1 has no meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.content import Element, content, dimensions
from ...ir.level import Level
from ..base import Match, Miss, Rewrite
from ..edit import Tape, attribute, constant_of, replace


@dataclass(frozen=True, kw_only=True)
class Target(Match):
    """The constant target of a reshape; None when the reshape changes nothing."""

    shape: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class FoldShapes(Rewrite):
    """Constant targets for Reshape and Expand."""

    name: ClassVar[str] = "fold-shapes"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = ("Reshape", "Expand")

    def match(self, node: ir.Node) -> Match | Miss:
        data, target = node.inputs
        assert data is not None and target is not None
        wanted, have = content(target), dimensions(data)
        if wanted is None:
            return Miss("target", target.name or "", "shape arithmetic over named dimensions and numbers")
        if node.op_type == "Expand":
            if have is not None and len(wanted) <= len(have) and _broadcasts(wanted, have):
                return Target(node=node, shape=None)
            need = "the shape that the value already has"
            return Miss("expand", f"{have} to {wanted}", need, far=have is not None and _widens(wanted, have))
        if have is not None and _resolved(wanted, have, node) == have and None not in have:
            return Target(node=node, shape=None)
        if constant_of(target) is not None:
            return Miss("constant", target.name or "", "a computed target", far=True)
        shape = _spell(wanted, have or [])
        if shape is None:
            need = "at most one dimension that is not the input's own at its place"
            return Miss("spelling", f"{have} to {wanted}", need, far=None not in wanted)
        if 0 in (have or []) or (attribute(node, "allowzero", 0) and 0 in wanted):
            return Miss("zero-size", f"{have} to {wanted}", "no dimension of size zero")
        return Target(node=node, shape=shape)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Target)
        node, tape = found.node, Tape()
        data = node.inputs[0]
        if found.shape is None:
            new = tape("Identity", data) if node.outputs[0].is_graph_output() else data
        else:
            new = tape("Reshape", data, tape.constant(found.shape, "shape"))
        assert new is not None
        replace(tape, node.outputs, [new])


def _broadcasts(wanted: Sequence[Element], have: Sequence[Element]) -> bool:
    """Expand leaves a value alone when every wanted dimension is 1 or its own, aligned at the right."""
    aligned = have[len(have) - len(wanted) :]
    return all(want == 1 or (want is not None and want == own) for want, own in zip(wanted, aligned, strict=True))


def _widens(wanted: Sequence[Element], have: Sequence[Element]) -> bool:
    """Whether wherever Expand may change a size, that is 1 or not there."""
    own = [1] * max(len(wanted) - len(have), 0) + list(have)
    aligned = own[len(own) - len(wanted) :]
    return all(want in (1, dim) or dim == 1 for want, dim in zip(wanted, aligned, strict=True))


def _resolved(wanted: Sequence[Element], have: Sequence[Element], node: ir.Node) -> list[Element]:
    """The wanted shape with 0 read as the input's own dimension, and -1 as what is left over if only one is unknown."""
    keep = not attribute(node, "allowzero", 0)
    shape = [have[i] if want == 0 and keep and i < len(have) else want for i, want in enumerate(wanted)]
    if shape.count(-1) == 1 and len(shape) == len(have):
        at = shape.index(-1)
        if all(dim == own for i, (dim, own) in enumerate(zip(shape, have, strict=True)) if i != at):
            shape[at] = have[at]
    return shape


def _spell(wanted: Sequence[Element], have: Sequence[Element]) -> tuple[int, ...] | None:
    shape: list[int] = []
    for index, want in enumerate(wanted):
        if isinstance(want, int) and want > 0:
            shape.append(want)
        elif want is not None and index < len(have) and want == have[index]:
            shape.append(0)
        elif want == 0:
            return None
        else:
            shape.append(-1)
    return tuple(shape) if shape.count(-1) <= 1 else None
