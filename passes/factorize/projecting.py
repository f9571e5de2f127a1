"""Surgery on recurrent layers: what they read is projected, and their weights become factors.

LSTM(x, W, R)        LSTM(x @ Q, V, MatMul(Z, Transpose(P)))        tersor.ProjectedLSTM(x @ Q, V, Z, P)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...ir.constants import STORED
from ...ir.content import dimensions
from ...ir.site import Kind, Site
from ..edit import Tape, replace, reroute, sweep
from ..numerics.arrays import Floats
from ..seen import Seen
from .projected import projected
from .recurrences import Item, project


@dataclass(frozen=True)
class Projecting:
    """seen: what the weights multiply. stepped: the nodes whose steps are written out."""

    seen: Mapping[ir.Value, Seen]
    leading: bool
    damping: float
    stepped: Collection[ir.Node]
    _projections: dict[Item, ir.Value] = field(default_factory=dict, repr=False)

    def run(self, taken: Sequence[tuple[Item, int]]) -> None:
        """Let the items compute through projections of these ranks."""
        late: list[tuple[Item, ir.Value, ir.Value]] = []
        for item, rank in taken:
            lefts, rights = self._factors(item, rank)
            if item.own.kind is Kind.RECURRENT_INPUT:
                self._input(item.own, lefts[0], rights[0][0])
                continue
            tape = Tape()
            name, dtype = item.own.weight.name, item.own.view.array().dtype
            stacked = lefts[0] if item.ways == 1 else np.stack(lefts)
            held = tape.weight(np.ascontiguousarray(stacked, dtype), f"{name}_projection")
            factor = np.ascontiguousarray(np.stack([each[0].T for each in rights]), dtype)
            wide = tape.weight(factor, f"{name}_factor")
            self._recurrence(tape, item, held, wide)
            for number, site in enumerate(item.above, 1):
                self._above(site, held, [each[number] for each in rights])
            if item.node in self.stepped:
                late.append((item, held, wide))
        # the call takes what the node reads once all of that is there
        for item, held, wide in late:
            _step(item.node, held, wide)

    def _factors(self, item: Item, rank: int) -> tuple[list[Floats], list[list[Floats]]]:
        """P and what is multiplied by it, for each direction."""
        found = [
            item.basis(way, self.seen, leading=self.leading, damping=self.damping).factors(rank)
            for way in range(item.ways)
        ]
        return [left for left, _ in found], [right for _, right in found]

    def _recurrence(self, tape: Tape, item: Item, held: ir.Value, wide: ir.Value) -> None:
        """R as Z P.T, stored on purpose as the two."""
        site, size = item.own, item.features
        rank = int(wide.const_value.shape[2]) if wide.const_value is not None else 0  # type: ignore[arg-type]
        perm = [1, 0] if item.ways == 1 else [0, 2, 1]
        turned = tape("Transpose", held, perm=perm)
        turned.shape = ir.Shape([rank, size] if item.ways == 1 else [item.ways, rank, size])
        value = tape("MatMul", wide, turned)
        value.shape = ir.Shape(site.view.shape)
        for each in (turned, value):
            _keep(each, site)
        reroute(tape, site.node, site.read, value)
        sweep(site.view.path[-1:])

    def _input(self, site: Site, left: Floats, right: Floats) -> None:
        """x Q before the node, which reads V, [directions, gates * hidden, rank]."""
        tape = Tape()
        held = tape.weight(np.ascontiguousarray(left, site.view.array().dtype), f"{site.weight.name}_projection")
        x = _product(tape, site, site.activation, held)
        reroute(tape, site.node, site.activation, x)
        self._narrow(site, right)

    def _above(self, site: Site, held: ir.Value, rights: Sequence[Floats]) -> None:
        """h P before the node, by the projection of each direction's states."""
        tape, x = Tape(), site.activation
        if len(rights) == 1:
            made = _product(tape, site, x, held)
        else:
            states = tape.node("Split", [x], {"axis": -1, "num_outputs": len(rights)}, outputs=len(rights)).outputs
            parts = []
            for way, state in enumerate(states):
                state.type, state.shape = x.type, _resized(x, site.in_features // len(rights))
                own = tape("Gather", held, tape.constant(np.array(way, np.int64), "way"), axis=0)
                sizes = held.shape
                assert sizes is not None
                own.shape = ir.Shape(list(sizes)[1:])
                _keep(own, site)
                parts.append(_product(tape, site, state, own))
            made = tape("Concat", *parts, axis=-1)
            made.type, made.shape = x.type, _resized(x, sum(len(each) for each in rights))
        reroute(tape, site.node, x, made)
        self._narrow(site, np.concatenate(rights, axis=0))

    def _narrow(self, site: Site, right: Floats) -> None:
        """Let the node read [rank, directions * gates * hidden] as its W."""
        tape, (ways, gates, _) = Tape(), site.view.shape
        array = np.ascontiguousarray(right.T.reshape(ways, gates, len(right)), site.view.array().dtype)
        reroute(tape, site.node, site.read, tape.weight(array, f"{site.weight.name}_factor"))
        sweep(site.view.path[-1:])


def told(taken: Sequence[tuple[Item, int]], stepped: Collection[ir.Node]) -> dict[ir.Value, str]:
    """What becomes of each weight of the items."""
    found: dict[ir.Value, str] = {}
    for item, rank in taken:
        if item.own.kind is Kind.RECURRENT_INPUT:
            found[item.own.weight] = f"rank {rank}"
            continue
        shares = f", shared with {len(item.above)} layer above" if item.above else ""
        how = "two products a step" if item.node in stepped else "multiplied when it is loaded"
        found[item.own.weight] = f"rank {rank}{shares}; {how}"
        found |= {site.weight: f"rank {rank}, that of the states below" for site in item.above}
    return found


def _step(node: ir.Node, held: ir.Value, wide: ir.Value) -> None:
    """Put the call of a projected recurrence in the place of a node."""
    tape = Tape()
    x, w = node.inputs[:2]
    assert x is not None and w is not None
    made = projected(tape, node, {"x": x, "w": w, "z": wide, "p": held})
    read = [index for index, value in enumerate(node.outputs) if value.name]
    replace(tape, [node.outputs[index] for index in read], [made[index] for index in read], matched=[node])


def _product(tape: Tape, site: Site, x: ir.Value, held: ir.Value) -> ir.Value:
    made = tape("MatMul", x, held)
    sizes = held.shape
    assert sizes is not None
    rank = list(sizes)[-1]
    made.type, made.shape = x.type, _resized(x, rank if isinstance(rank, int) else 0)
    project(made)
    return made


def _resized(x: ir.Value, size: int) -> ir.Shape | None:
    """The shape of a value with so many features."""
    return None if dimensions(x) is None or x.shape is None else ir.Shape([*list(x.shape)[:-1], size])


def _keep(value: ir.Value, site: Site) -> None:
    """What is computed from constants here is to stay so: it is stored as what it is computed from, on purpose."""
    node = value.producer()
    assert node is not None
    node.metadata_props[STORED] = "weight"
    value.type = ir.TensorType(ir.DataType.from_numpy(site.view.array().dtype))
