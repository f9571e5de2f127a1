"""For one weight the best form of a tensor format, or why it has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ir.site import Site
from ..base import Miss
from ..edit import Array
from ..lookups import Table
from ..numerics.arrays import Floats
from ..numerics.low_rank import tails
from .contraction import Plan
from .methods.kronecker import rearranged
from .methods.modes import parse
from .methods.network import Network, folded
from .methods.spectra import squares
from .networks import plan
from .tabling import ROWS, NetworkTable
from .tensor_forms import Form, Format, Modes, Size, form, modes_of
from .weighing import Weighing, lost

#: Of all sums of Kronecker products that fit, twice so many have their loss computed, and so many are decomposed.
_TRIED = 8, 2
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Asked:
    """What the options say. modes: as they are spelled, empty for modes that are chosen."""

    format: Format
    size: Size
    modes: str
    seed: int

    def given(self, rows: int, columns: int, *, table: bool = False) -> list[Modes] | Miss:
        """The modes to try for a matrix."""
        if not self.modes:
            found = modes_of(self.format, rows, columns, table=table)
            need = "dimensions that are products of two numbers above 1"
            return found or Miss("modes", f"{rows} to {columns}", need)
        ins, outs = parse(self.modes)
        if all(size <= math.prod(modes) < 2 * size for size, modes in ((rows, ins), (columns, outs))):
            return [(ins, outs)]
        return Miss("modes", f"{rows} to {columns}", f"dimensions that {self.modes} is for, or a little less")


@dataclass(frozen=True)
class Fit:
    """A network for a weight, and what is said of it."""

    network: Network
    order: Plan
    told: str


#: A form, the order of its contractions, and the multiply-adds before.
_Fitting = tuple[Form, Plan, int]


@dataclass
class _Weighed:
    """A weight with its modes weighed, by the modes of its inputs."""

    weight: Floats
    gram: Array | None
    known: dict[tuple[int, ...], tuple[Weighing, Floats]] = field(default_factory=dict)

    def of(self, ins: tuple[int, ...]) -> tuple[Weighing, Floats]:
        """What weighs the modes, and the weight as it is then, [padded in, out]."""
        if ins not in self.known:
            weighing = Weighing.of(self.gram, ins)
            tensor = weighing.on(folded(self.weight, ins, (self.weight.shape[1],)))
            self.known[ins] = weighing, tensor.reshape(math.prod(ins), -1)
        return self.known[ins]


def linear(site: Site, asked: Asked, gram: Array | None, rows: int) -> Fit | Miss:
    """The network that loses least of those that hold fewer bytes and cost no more multiply-adds than the weight.

    gram: X.T X of the inputs, where they weigh the error. rows: of the activation.
    """
    weight, stored = np.asarray(site.dense(), np.float64), site.view.array().dtype

    def order(network: Network) -> tuple[Plan, int] | None:
        found = plan(network, rows)
        return None if found is None else (found, rows * weight.size)

    return _best(_Weighed(weight, gram), asked, asked.given(*weight.shape), order, stored, nbytes(site))


def table(found: Table, asked: Asked, counts: Array | None) -> tuple[NetworkTable, str] | Miss:
    """What stands for a table; a tied head costs no more multiply-adds than before.

    counts: how often each row is looked up, where that weighs the error.
    """
    dense = found.dense()
    weight, stored = np.asarray(dense, np.float64), dense.dtype

    def order(network: Network) -> tuple[Plan, int]:
        held = NetworkTable(network)
        return (held.scoring, ROWS * weight.size) if found.heads else (held.lookup, held.lookup.cost)

    # rows that were never looked up count as if they had been once
    smooth = None if counts is None else np.asarray(counts, np.float64) + 1
    modes = asked.given(*weight.shape, table=True)
    fit = _best(_Weighed(weight, smooth), asked, modes, order, stored, found.bytes)
    return fit if isinstance(fit, Miss) else (NetworkTable(fit.network), fit.told)


def nbytes(site: Site) -> int:
    """What the weight of a site that is taken on takes as stored."""
    tensor = site.weight.const_value
    assert tensor is not None  # a site that was chosen is stored
    return tensor.nbytes


def _best(
    weighed: _Weighed, asked: Asked, modes: list[Modes] | Miss,
    order: Callable[[Network], tuple[Plan, int] | None], stored: np.dtype[np.generic], before: int,
) -> Fit | Miss:  # fmt: skip
    """stored: the type of the factors. before: bytes of the weight."""
    if isinstance(modes, Miss):
        return modes
    weight, tried, refused = weighed.weight, list[Form](), ""
    for each in modes:
        # ranks are those of the weighed tensor, where a spectrum tells them
        seen = asked.size.share is not None and asked.format in ("tt", "tucker", "block-term")
        matrix = weighed.of(each[0])[1] if seen else weight
        try:
            made = form(asked.format, each, matrix, _over(asked.size, weight, matrix))
        except ValueError as error:
            if asked.size.share is not None:
                raise
            refused = str(error)
            continue
        if made is not None:
            tried.append(made)
    if not tried:
        return _none(asked, weight, modes, refused)
    smaller = [each for each in tried if each.outline.numbers * stored.itemsize < before]
    if not smaller:
        least = min(each.outline.numbers for each in tried) * stored.itemsize
        return Miss("bytes", str(least), f"fewer than the weight's {before}")
    dearest, fits = 0, list[_Fitting]()
    for small in smaller:
        found = order(_sized(small.outline, weight))
        if found is not None and found[0].cost <= found[1]:
            fits.append((small, *found))
        elif found is not None:
            dearest = min(dearest or found[0].cost, found[0].cost)
    if not fits:
        need = "as many as the weight's at most; a smaller ratio or other modes take fewer"
        return Miss("multiply-adds", f"{dearest} at best" if dearest else "those of the weight and more", need)
    # what loses nothing but by rounding is told apart by its cost
    return min(_made(weighed, asked, fits, stored), key=lambda made: (max(made[0], _ROUNDING), made[1].order.cost))[1]


def _made(
    weighed: _Weighed, asked: Asked, fits: list[_Fitting], stored: np.dtype[np.generic]
) -> Iterator[tuple[float, Fit]]:
    weight, gram = weighed.weight, weighed.gram
    whole = lost(weight, gram)
    for each, order, before in _promising(weighed, fits):
        weighing, matrix = weighed.of(each.ins)
        network = _sized(weighing.off(each.of(matrix, asked.seed)), weight)
        share = lost(weight - np.asarray(network.dense(), np.float64), gram) / max(whole, np.finfo(np.float64).tiny)
        cost = f", {order.cost / before:.2f} of the multiply-adds" if before != order.cost else ""
        held = f"{network.numbers / weight.size:.3f} of the numbers"
        told = f"{each}{_padded(each, weight)}: {held}{cost}, loses {share:.3g}"
        yield share, Fit(network.astype(stored), order, told)


def _promising(weighed: _Weighed, fits: list[_Fitting]) -> list[_Fitting]:
    """Those to decompose: the theory tells beforehand what a sum of Kronecker products loses."""
    if len(fits) <= _TRIED[1] or fits[0][0].format != "kronecker":
        return fits

    def left(each: Form) -> float:
        spectrum = squares(rearranged(weighed.of(each.ins)[1], each.ins, each.outs))
        return float(tails(spectrum)[each.ranks[0]])

    # most terms, and most of the terms that there are, lose least as a rule
    most = sorted(fits, key=lambda fit: -fit[0].ranks[0])[: _TRIED[0]]
    share = sorted(fits, key=lambda fit: -fit[0].ranks[0] / min(fit[0].shape))[: _TRIED[0]]
    return sorted({id(fit): fit for fit in most + share}.values(), key=lambda fit: left(fit[0]))[: _TRIED[1]]


def _over(size: Size, weight: Floats, matrix: Floats) -> Size:
    """The share as one of a matrix with zeros beside it."""
    share = None if size.share is None else size.share * weight.size / matrix.size
    return Size(share, size.rank, size.terms)


def _sized(network: Network, weight: Floats) -> Network:
    return Network(network.factors, network.ins, network.outs, (weight.shape[0], weight.shape[1]))


def _padded(form: Form, weight: Floats) -> str:
    """What is said of rows and columns that are zeros."""
    pairs = zip(weight.shape, (math.prod(form.ins), math.prod(form.outs)), strict=True)
    grown = [f"{size} padded to {whole}" for size, whole in pairs if whole != size]
    return f" ({', '.join(grown)})" if grown else ""


def _none(asked: Asked, weight: Floats, modes: Sequence[Modes], refused: str) -> Miss:
    if refused:
        if asked.size.rank is None:
            return Miss("terms", str(asked.size.terms), f"no more than all: {refused}")
        return Miss("rank", str(asked.size.rank), f"no more than the full rank: {refused}")
    numbers = []
    for each in modes:
        try:
            made = form(asked.format, each, weight, Size(None, 1, asked.size.terms or 1))
        except ValueError:
            continue
        if made is not None:
            numbers.append(made.outline.numbers)
    least = min(numbers, default=weight.size) / weight.size
    return Miss("ratio", f"{asked.size.share:g}", f"a ratio of at least {least:.3g}, of which rank one is held")
