"""Linear sites computed through fewer features than they have: y = x W as (x A) B.

    before   q = x @ Wq + bq      k = x @ Wk + bk
    after    q = (x @ A) @ Bq + bq            k = (x @ C) @ Bk + bk          each through features of its own
             h = x @ A,  q = h @ Bq + bq,     k = h @ Bk + bk                all through the same

A product from the left, W x, becomes B (A x); a convolution by one tap becomes two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..ir.site import Site
from .edit import Array, Tape, replace


def siblings(chosen: Iterable[Site]) -> list[tuple[Site, ...]]:
    """Those that read one activation along its last axis together, every other site alone, in the order given."""
    found: dict[object, list[Site]] = {}
    for site in chosen:
        apart = site.flipped or site.axis != -1
        alike = (site.activation, site.view.dtype, site.node.graph)
        found.setdefault(site.node if apart else alike, []).append(site)
    return [tuple(group) for group in found.values()]


@dataclass(frozen=True)
class Pair:
    """A weight in two factors: a site, and those that read the fewer features that it makes."""

    left: Site
    rights: tuple[Site, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.left, *self.rights

    @property
    def numbers(self) -> int:
        """How many the factors hold."""
        return sum(site.in_features * site.out_features for site in self.sites)

    @property
    def whole(self) -> int:
        """How many the weight held."""
        return self.left.in_features * sum(site.out_features for site in self.rights)


def pairs(every: Iterable[Site]) -> list[Pair]:
    """Sites that are factors already: nothing but fewer features lies between them."""
    by_node = {site.node: site for site in every}
    found = []
    for site in by_node.values():
        readers = [by_node.get(node) for node in site.node.outputs[0].consumers()]
        behind = [reader for reader in readers if reader is not None and reader.activation is site.node.outputs[0]]
        if not behind or len(behind) < len(readers) or site.node.outputs[0].is_graph_output() or site.bias is not None:
            continue
        if site.out_features < min(site.in_features, sum(reader.out_features for reader in behind)):
            found.append(Pair(site, tuple(behind)))
    return found


def paired(every: Iterable[Site]) -> set[ir.Node]:
    """The nodes of sites that are factors already."""
    return {site.node for pair in pairs(every) for site in pair.sites}


def spelled_alike(site: Site) -> tuple[object, ...]:
    """What sites have in common that can read one stored factor: how it lies, its type, and the graph that holds it."""
    taps = len(site.view.shape) - 2 if site.node.op_type == "Conv" else 0
    turned = _from_left(site) or bool(taps)
    return site.in_features, turned, taps, site.view.array().dtype, site.node.graph


def split(group: Sequence[Site], left: Array | ir.Value, right: Array, diagonal: Array | None = None) -> ir.Value:
    """Let sites that read one activation compute through the features that `left` makes of it; give that as stored.

    left: A, [in, rank], or what `split` gave for another group that is `spelled_alike`, to read it too. right: B,
    [rank, out], the columns of the sites side by side. diagonal: of a single site that is `straight`, [in], what each
    feature gives to the output of its number beside that. Biases stay where they are.
    """
    at, hidden, held = 0, None, left if isinstance(left, ir.Value) else None
    for site in group:
        part = right[:, at : at + site.out_features]
        at += site.out_features
        tape = Tape()
        if held is None:
            assert not isinstance(left, ir.Value)
            held = _held(tape, site, left, "left")
        if hidden is None:
            hidden = _narrowed(tape, site, held, len(right))
        made = _widened(tape, site, hidden, part)
        if diagonal is not None:
            made = tape("Add", made, tape("Mul", _read(site), _along(tape, site, diagonal)))
        replace(tape, [site.node.outputs[0]], [made], matched=[site.node])
    assert held is not None  # a group has a site
    return held


def straight(site: Site) -> bool:
    """Whether a site gives as many features as it reads, each where the one of its number was read."""
    node = site.node
    windows = [node.attributes.get(name) for name in ("strides", "pads")] if node.op_type == "Conv" else []
    moved = any(attr is not None and any(size != least for size in attr.as_ints())
                for attr, least in zip(windows, (1, 0), strict=False))  # fmt: skip
    return site.in_features == site.out_features and site.axis == site.output_axis and not moved


def _along(tape: Tape, site: Site, diagonal: Array) -> ir.Value:
    """Numbers of features as they broadcast to what the site reads."""
    rank = len(site.view.shape) if site.node.op_type == "Conv" else 0
    behind = rank - 2 if rank else 1 if site.axis == -2 else 0
    array = np.asarray(diagonal, site.view.array().dtype).reshape(-1, *[1] * behind)
    return tape.weight(array, f"{site.weight.name}_diagonal")


def _read(site: Site) -> ir.Value:
    """The activation as it is now: what gave it may be factored since the site was found."""
    value = site.node.inputs[1 if _from_left(site) else 0]
    assert value is not None
    return value


def _narrowed(tape: Tape, site: Site, held: ir.Value, rank: int) -> ir.Value:
    """x A, with the features where the site's own are."""
    node, x = site.node, _read(site)
    if node.op_type == "Conv":
        made = tape.node("Conv", [x, held], node.attributes).outputs[0]
    elif node.op_type == "Gemm" and site.axis == 0:
        made = tape("Gemm", x, held, transA=1)
    else:
        made = tape("MatMul", *((held, x) if _from_left(site) else (x, held)))
    like = node.outputs[0] if node.op_type == "Conv" or site.axis == 0 else x
    made.type = x.type
    if like.shape is not None:
        dims = list(like.shape)
        dims[site.output_axis] = rank
        made.shape = ir.Shape(dims)
    return made


def _widened(tape: Tape, site: Site, hidden: ir.Value, right: Array) -> ir.Value:
    """h B, and the bias where the site's node adds it."""
    node, held = site.node, _held(tape, site, right, "right")
    bias = node.inputs[2] if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 2 else None
    if node.op_type == "Conv":
        return tape("Conv", hidden, held, bias)
    if bias is not None:
        return tape("Gemm", hidden, held, bias, beta=node.attributes.get("beta"))
    return tape("MatMul", *((held, hidden) if _from_left(site) else (hidden, held)))


def _from_left(site: Site) -> bool:
    """Whether the weight is the left side of a product."""
    return site.node.op_type == "MatMul" and site.flipped


def _held(tape: Tape, site: Site, factor: Array, ending: str) -> ir.Value:
    """A factor as the site's op takes weights, in the type that it takes them in."""
    turned = factor.T if _from_left(site) or site.node.op_type == "Conv" else factor
    taps = site.view.shape[2:] if site.node.op_type == "Conv" else ()
    # leading ones of a weight make a product deeper than its activation
    ones = site.view.shape[:-2] if site.node.op_type == "MatMul" and ending == "right" else ()
    array = np.ascontiguousarray(turned, site.view.array().dtype).reshape(*ones, *turned.shape, *taps)
    return tape.weight(array, f"{site.weight.name}_{ending}")
