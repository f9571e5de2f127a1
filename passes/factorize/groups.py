"""Weights that are factored together or apart: those that read one activation, and the parts of one that is split.

before   q = x @ Wq,  k = x @ Wk                      (q, k) = Split(x @ W)
sites    Wq and Wk, side by side                      W, whose columns are of two parts
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import onnx_ir as ir

from ...ir.constants import constant_of
from ...ir.site import Site, sites
from ..edit import Tape, attribute, is_op, only_reader, replace
from ..numerics.arrays import Floats
from ..pairs import siblings, straight


@dataclass(frozen=True, eq=False)
class Group:
    """Sites that read one activation. parts: the columns of each of them, all being side by side; or those of the parts
    that `cut`, a Split, takes the outputs of a single site apart in.
    """

    sites: tuple[Site, ...]
    parts: tuple[slice, ...]
    cut: ir.Node | None = None

    @property
    def first(self) -> Site:
        return self.sites[0]

    @property
    def inputs(self) -> int:
        """Features that all of them read."""
        return self.first.in_features

    @property
    def outputs(self) -> int:
        """Features that all of them give."""
        return sum(site.out_features for site in self.sites)

    @property
    def numbers(self) -> int:
        """How many the weights hold."""
        return self.inputs * self.outputs

    @property
    def columns(self) -> tuple[slice, ...]:
        """Those of each site."""
        return self.parts if self.cut is None else (slice(0, self.outputs),)

    def width(self, part: slice | None) -> int:
        """How many columns a part has; all of them unless told."""
        return self.outputs if part is None else part.stop - part.start

    def of(self, part: slice | None) -> tuple[Site, ...]:
        """The sites whose columns a part is; a part of a single site lies in that."""
        if part is None or self.cut is not None:
            return self.sites
        return tuple(site for site, columns in zip(self.sites, self.parts, strict=True) if columns == part)

    def nodes(self, part: slice | None) -> tuple[ir.Node, ...]:
        """What is rewritten where a part is; of what is split, all parts go together."""
        if part is None or self.cut is None:
            return tuple(site.node for site in self.of(part))
        beside = [self.first.bias_node] if self.first.bias_node not in (None, self.key) else []
        return (self.key, *(node for node in beside if node is not None), self.cut)

    def straight(self, part: slice | None) -> bool:
        """Whether a part is one site of as many outputs as inputs, which a diagonal may be beside."""
        sites = self.of(part)
        return self.cut is None and len(sites) == 1 and straight(sites[0])

    @property
    def key(self) -> ir.Node:
        """What tells it from other groups."""
        return self.first.node

    @property
    def bits(self) -> int:
        """Of a number as it is read."""
        return 8 * self.first.view.array().itemsize

    def weight(self) -> Floats:
        """All weights side by side, [in, out]."""
        return np.concatenate([np.asarray(site.dense(), np.float64) for site in self.sites], axis=1)


def groups(chosen: Iterable[Site], *, alone: bool = False) -> list[Group]:
    """Of the sites, in their order. alone: each by itself, and in one piece."""
    found = []
    for each in [(site,) for site in chosen] if alone else siblings(chosen):
        cut = _cut(each[0]) if len(each) == 1 and not alone else None
        widths = _widths(cut) if cut is not None else [site.out_features for site in each]
        ends = pairwise(accumulate(widths, initial=0))
        found.append(Group(each, tuple(slice(start, stop) for start, stop in ends), cut))
    return found


def _cut(site: Site) -> ir.Node | None:
    """What takes the outputs of a site apart, where nothing else reads them."""
    reader = only_reader(site.output)
    if not is_op(reader, "Split") or site.flipped or site.axis != -1 or site.node.op_type not in ("MatMul", "Gemm"):
        return None
    rank = None if site.output.shape is None else len(site.output.shape)
    along = attribute(reader, "axis", 0)
    at_end = along == -1 or (rank is not None and along == rank - 1)
    return reader if at_end and sum(_widths(reader) or [0]) == site.out_features else None


def _widths(cut: ir.Node) -> list[int]:
    """Columns of each part, none where that is not known."""
    told = constant_of(cut.inputs[1]) if len(cut.inputs) > 1 else None
    if told is not None:
        return [int(size) for size in told]
    lasts = [value.shape[-1] if value.shape is not None and len(value.shape) else None for value in cut.outputs]
    return [size for size in lasts if isinstance(size, int)] if all(isinstance(size, int) for size in lasts) else []


def taken_apart(model: ir.Model, group: Group, site: Site, weight: Floats, bias: Floats | None) -> tuple[Site, ...]:
    """Let each part of a group's single site be computed by a site of its own, from these numbers; give those.

    site: as it is now. weight: [in, out]. bias: [out].
    """
    cut = group.cut
    assert cut is not None
    tape, made = Tape(), []
    dtype = site.view.array().dtype
    for number, columns in enumerate(group.parts):
        held = np.ascontiguousarray(weight[:, columns], dtype)
        made.append(tape("MatMul", site.activation, tape.weight(held, f"{site.weight.name}_{number}")))
        made[-1].type, made[-1].shape = cut.outputs[number].type, cut.outputs[number].shape
    nodes = [value.producer() for value in made]
    if bias is not None:
        made = [
            tape("Add", value, tape.weight(np.asarray(bias[columns], dtype), f"{site.weight.name}_{number}_bias"))
            for number, (value, columns) in enumerate(zip(made, group.parts, strict=True))
        ]
    matched = [node for node in (site.node, site.bias_node, cut) if node is not None]
    replace(tape, list(cut.outputs), made, matched=matched)
    return now(model, [node for node in nodes if node is not None])


def now(model: ir.Model, nodes: Sequence[ir.Node]) -> tuple[Site, ...]:
    """The sites of these nodes in a model as it is."""
    found = {site.node: site for site in sites(model)}
    return tuple(found[node] for node in nodes)
