"""Convolutions as sums of Kronecker products: of a matrix of channels, and a convolution of fewer of them.

    W[(o1 o2), (i1 i2), taps] = sum over t of A[t, i1, o1] B[t, i2, o2, taps]

    taps first       [b, i1 i2, ..] seen as [b i1, i2, ..] --> Conv B --> [b, i1 t, o2 ..] --> A x --> [b, o1 o2, ..]
    channels first   [b, i1, i2 ..] --> A x --> [b o1, t i2, ..] --> Conv B --> [b o1, o2, ..] seen as [b, o1 o2, ..]

The nearest with so many terms, as of a matrix [in, out * taps] (`methods.kronecker`); whichever order takes fewer
multiply-adds. Sizes that change from run to run are read from the values. For one group, and not transposed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.site import Site
from ..base import Miss
from ..edit import Tape, attribute, replace
from ..lookups import mark
from ..numerics.arrays import Floats
from ..numerics.low_rank import tails
from ..seen import Seen
from .fitted import nbytes
from .methods.kronecker import kronecker, rearranged
from .methods.network import folded
from .methods.spectra import squares
from .networks import Around
from .tensor_forms import Modes, Size, modes_of
from .weighing import Weighing

#: How many sums are decomposed, of all that fit.
_TRIED = 8


@dataclass(frozen=True)
class Products:
    """A: first [terms, i1, o1]. B: second [terms, i2, o2, taps..]. early: whether A comes first."""

    first: Floats
    second: Floats
    early: bool


@dataclass(frozen=True)
class _Way:
    modes: Modes
    terms: int
    held: int
    cost: int
    early: bool


def unfit(site: Site) -> Miss | None:
    """Why a convolution is not written so."""
    groups = attribute(site.node, "group", 1)
    if groups > 1:
        return Miss("groups", str(groups), "one group; tt, tucker, cp and block-term take several")
    if site.node.op_type != "Conv":
        return Miss("op", site.node.op_type, "a Conv; tt, tucker, cp and block-term take transposed ones")
    return None


def fit(site: Site, size: Size, seen: Seen | None, around: Around) -> tuple[Products, str] | Miss:
    """The sum that loses least of those within the size, and what is said of it."""
    stored = site.view.array()
    array = np.asarray(stored, np.float64)
    out, channels, *taps = array.shape
    count = math.prod(taps)
    matrix = np.moveaxis(array, 0, 1).reshape(channels, out * count)
    every = list(_ways(channels, out, count, size, around))
    if not every:
        return _none(size, array.size)
    ways = [way for way in every if way.held * stored.itemsize < nbytes(site)]
    if not ways:
        least = min(way.held for way in every) * stored.itemsize
        return Miss("bytes", str(least), f"fewer than the weight's {nbytes(site)}")
    before = array.size * math.prod(around.behind)
    cheap = [way for way in ways if way.cost <= before]
    if not cheap:
        need = f"as many as the weight's {before} at most; a smaller ratio takes fewer"
        return Miss("multiply-adds", str(min(way.cost for way in ways)), need)

    def weighed(way: _Way) -> tuple[Weighing, Floats]:
        weighing = Weighing.of(_channels(seen, channels, count), way.modes[0])
        tensor = weighing.on(folded(matrix, way.modes[0], (out * count,)))
        return weighing, tensor.reshape(channels, -1)

    def lost(way: _Way) -> float:
        spectrum = tails(squares(rearranged(weighed(way)[1], way.modes[0], _columns(way, count))))
        return float(spectrum[way.terms] / max(spectrum[0], np.finfo(np.float64).tiny))

    kept = sorted(cheap, key=lambda way: -way.terms / min(_sides(way, count)))[:_TRIED]
    best = min(kept, key=lost)
    weighing, turned = weighed(best)
    a, b = kronecker(turned, best.modes[0], _columns(best, count), best.terms)
    for at, (_, inverse) in weighing.roots.items():
        a, b = (np.einsum("ij,tjo->tio", inverse, a), b) if at == 0 else (a, np.einsum("ij,tjo->tio", inverse, b))
    made = Products(a, b.reshape(*b.shape[:2], -1, *taps), best.early)
    (i1, i2), (o1, o2) = best.modes
    share = f"{(a.size + b.size) / array.size:.3f} of the numbers, {best.cost / before:.2f} of the multiply-adds"
    return made, f"{i1}x{i2}/{o1}x{o2}, {best.terms} terms: {share}, loses {lost(best):.3g}"


def put(site: Site, made: Products) -> None:
    """Let the sum stand for the site's node."""
    node, tape, dtype, name = site.node, Tape(), site.view.array().dtype, site.weight.name
    x, bias = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None
    (terms, i1, o1), (_, i2, o2, *taps) = made.first.shape, made.second.shape
    batch, places = tape("Shape", x, start=0, end=1), tape("Shape", x, start=2)
    given = {key: attr for key, attr in node.attributes.items() if key != "group"}
    if made.early:
        left = made.first.transpose(2, 0, 1).reshape(o1 * terms, i1)
        kernel = made.second.transpose(2, 0, 1, *range(3, 3 + len(taps))).reshape(o2, terms * i2, *taps)
    else:
        left = made.first.transpose(2, 1, 0).reshape(o1, i1 * terms)
        kernel = made.second.transpose(0, 2, 1, *range(3, 3 + len(taps))).reshape(terms * o2, i2, *taps)
    a, b = (
        tape.weight(np.ascontiguousarray(each, dtype), f"{name}_core{at}") for at, each in enumerate((left, kernel))
    )

    def seen_as(value: ir.Value, *sizes: ir.Value | int) -> ir.Value:
        parts = (tape.constant([size], "size") if isinstance(size, int) else size for size in sizes)
        return tape("Reshape", value, tape("Concat", *parts, axis=0))

    if made.early:
        mixed = tape("MatMul", a, seen_as(x, batch, i1, -1))
        value = tape.node("Conv", [seen_as(mixed, -1, terms * i2, places), b], given).outputs[0]
        last = tape("Shape", value, start=2)
    else:
        value = tape.node("Conv", [seen_as(x, -1, i2, places), b], given).outputs[0]
        last = tape("Shape", value, start=2)
        value = tape("MatMul", a, seen_as(value, batch, i1 * terms, -1))
    value = seen_as(value, batch, o1 * o2, last)
    if bias is not None:
        value = tape("Add", value, tape("Reshape", bias, tape.constant([-1, *(1 for _ in taps)], "shape")))
    mark(tape.nodes)
    replace(tape, [node.outputs[0]], [value], matched=[node])


def _ways(channels: int, out: int, count: int, size: Size, around: Around) -> Iterator[_Way]:
    before, behind = math.prod(around.before), math.prod(around.behind)
    for modes in modes_of("kronecker", channels, out):
        (i1, i2), (o1, o2) = modes
        if (i1 * i2, o1 * o2) != (channels, out):
            continue
        a, b = i1 * o1, i2 * o2 * count
        share = None if size.share is None else int(size.share * channels * out * count) // (a + b)
        terms = min(share if share is not None else size.terms or 1, min(a, b))
        if terms < (1 if share is not None else size.terms or 1):
            continue
        late = behind * terms * (channels * o2 * count + i1 * out)
        early = before * terms * channels * o1 + behind * terms * i2 * out * count
        yield _Way(modes, terms, terms * (a + b), min(early, late), early < late)


def _sides(way: _Way, count: int) -> tuple[int, int]:
    (i1, i2), (o1, o2) = way.modes
    return i1 * o1, i2 * o2 * count


def _columns(way: _Way, count: int) -> tuple[int, int]:
    return way.modes[1][0], way.modes[1][1] * count


def _channels(seen: Seen | None, channels: int, count: int) -> Floats | None:
    """The Gram matrix of the channels: that of channels and taps, its taps traced out."""
    if seen is None or len(seen.parts) != 1:
        return None
    traced: Floats = np.einsum("ikjk->ij", seen.gram.reshape(channels, count, channels, count))
    return traced


def _none(size: Size, whole: int) -> Miss:
    if size.share is None:
        return Miss("terms", str(size.terms), "no more than the smaller factor has numbers")
    return Miss("ratio", f"{size.share:g}", f"a share of the {whole} numbers that one product fits into")
