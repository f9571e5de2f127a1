"""Quantize weights, and activations on grids that calibration found, to 8 bits or fewer.

    before   y = x @ W + b
    after    y = DequantizeLinear(QuantizeLinear(x)) @ DequantizeLinear(W8, scale) + b

Lossy. Each activation is rounded once, however many sites read it, on one grid for the tensor, or with `groups` on one
for each group of features of like range. Weights have a scale for each output, for the tensor, or for each run of
`group` inputs. Tables (by option) and the recurrent half of cells are stored in few bits and read as floats. What lies
outside of a grid is clipped to it; zero is always on it, and padding never counts. With `attention` the two products of
each attention are rounded too (`rounded_attention`).

Left alone: weights read in two ways, or by several sites where they are corrected or have groups, small, not finite,
computed or quantized already, activations of subgraphs and those that calibration never sees, layers in half precision,
and sites that the options leave out.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018;
ranges: `methods.ranges`; groups: `methods.embedding_groups`; corrections: `methods.correction`, `methods.repair`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Kind, Site
from ..attending import Heads
from ..base import Context, Contract, Lossy, Miss, Outcome
from ..choosing import Verdict, idle, outcome, together
from ..edit import Array, Tape, declare_functions, is_op, reroute
from ..numerics.grid import Scheme, nearest
from ..placing import matrix, put
from ..statistics import Statistics, Want
from ..weight_pass import WeightPass, reading, taken
from ..weights import Floating, Quantized
from .compensating import Compensation, give_biases
from .methods.floats import float8
from .methods.uniform import symmetric
from .ranging import FLOATS8, INTEGERS, Grid, Method, Ranging, Type
from .rounded_attention import Attention, Rounding, attentions, round_products
from .scaling import Fan

#: Sites whose activation is rounded too.
_FED = (Kind.LINEAR, Kind.CONV, Kind.RECURRENT_INPUT)


@dataclass(frozen=True, kw_only=True)
class QuantizeStatic(WeightPass):
    """weights and activations in few bits, activations on grids found by calibration

    range: what a grid reaches: `min-max` all that was seen, `percentile` a `fraction` of it, `entropy` what keeps most
        of the distribution, `mse` what costs the least squared error.
    type: of activations; with floats of 8 bits weights are such floats too.
    symmetric: activations on grids around zero.
    groups: of features, each with a grid of its own; needs range=min-max.
    bits: of weights. group: inputs that share a scale of the weight; 0 for all.
    granularity: one scale of a weight for each output, `channel`, or one in all, `tensor`.
    headroom: against saturation on x86 CPUs without VNNI, which add pairs of 8-bit products in 16 bits. `pairs` scales
        each output so that no pair of neighbouring weights can (7 bits for convolutions); `bits` uses 7 bits; `none`
        trusts the CPU. Weights with scales by `group` have no such products, and need none.
    correct: of linear sites, behind all that was quantized before them. `bias` keeps the mean of each output;
        `least-squares` first fits the weight to the inputs that are left.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    attention: take in attention's own products, of queries with keys and of probabilities with values; `headroom` holds
        for them too.
    shares: attention's probabilities on one grid of [0, 1] for the `tensor`, or each `row` over its largest, which is
        slower and for rows that spread over hundreds of keys.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over names of sites and attentions, `kind:..` and `block:..` (`tersor explain` lists
        them).
    """

    name: ClassVar[str] = "quantize-static"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    range: Method = "mse"
    fraction: float = 0.9999
    type: Type = "uint8"
    symmetric: bool = False
    groups: int = 1
    bits: int = 8
    group: int = 0
    granularity: Literal["channel", "tensor"] = "channel"
    headroom: Literal["pairs", "bits", "none"] = "pairs"
    correct: Literal["none", "bias", "least-squares"] = "none"
    attention: bool = False
    shares: Literal["tensor", "row"] = "tensor"

    def __post_init__(self) -> None:
        try:
            self._ranging().check()
            self._scheme()
        except ValueError as error:
            raise OptionError(f"{self.name}: {error}") from error
        whole = self.bits == 8 and not self.group
        if self.granularity == "tensor" and not whole:
            raise OptionError(f"{self.name}: expected 8 bits without groups where weights have one scale in all")
        if self.type in FLOATS8 and not whole:
            raise OptionError(f"{self.name}: expected 8 bits without groups where activations are {self.type}")
        if self.attention and self.correct != "none":
            raise OptionError(
                f"{self.name}: corrections know nothing of what attention=true rounds; leave one of both out"
            )
        if self.attention and INTEGERS.get(self.type) != 8:
            raise OptionError(f"{self.name}: expected activations of uint8 or int8 with attention, found {self.type}")

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site and every attention, leaving `model` as it is."""
        return self._outcome(self.verdicts(model, context), self._attentions(model, context))

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        if self.correct != "none":
            give_biases(taken(self.verdicts(model, context)))
        verdicts, attended = dict(self.verdicts(model, context)), dict(self._attentions(model, context))
        rounding = self._rounding()
        heads = {each: verdict for each, verdict in attended.items() if isinstance(verdict, Heads)}
        wants = [want for each in heads for want in rounding.wants(each)]
        grids, found = self._grids(model, verdicts, wants, context)
        own = {each: rounding.grids(each, found) for each in heads}
        compensation = Compensation.of(model, context, self.correct, [*grids])
        done: set[ir.Value] = set()
        for fan, grid in grids.items():
            rounded = _round(fan, grid)
            moments = compensation.moments(fan, rounded[model.graph]) if model.graph in rounded else None
            for site in fan.sites:
                if site.weight in done:
                    continue
                done.add(site.weight)
                weight = matrix(site)
                fitted = weight if moments is None else moments.fitted(site, weight)
                stored = self._quantized(site, fitted, grid)
                if moments is not None:
                    moments.settle(site, weight, stored.dense())
                put(site, stored)
            declare_functions(model)
        for site in taken(verdicts.items()):
            if site.kind not in _FED:
                put(site, self._quantized(site, matrix(site)))
        declare_functions(model)
        for each, made in own.items():
            if isinstance(made, Miss):
                attended[each] = made
            else:
                round_products(heads[each], made, by_row=self.shares == "row")
        return self._outcome([*verdicts.items()], [*attended.items()])

    def verdicts(self, model: ir.Model, context: Context | None = None) -> list[Verdict]:
        """Every weight site, and why it stays as it is."""
        return together(
            (site, miss or (_inside(site) if site.kind in _FED and site.activation.graph is not model.graph else None))
            for site, miss in super().verdicts(model, context)
        )

    def unfit(self, site: Site) -> Miss | None:
        """Why a site that was chosen cannot be computed in few bits."""
        dtype = site.activation.dtype
        if site.kind in _FED and dtype not in (None, ir.DataType.FLOAT):
            return Miss("dtype", dtype.name.lower(), "activations of float")
        corrected = self.correct != "none" and site.kind is Kind.LINEAR
        if site.tied and (corrected or (self.groups > 1 and site.kind in _FED)):
            need = "a weight that one node reads; without correct and groups, several may"
            return Miss("tied", ", ".join(site.tied), need)
        return None

    def _attentions(self, model: ir.Model, context: Context | None) -> list[tuple[Attention, Heads | Miss]]:
        """Every attention, with its heads or why it stays as it is; none unless the option asks."""
        return attentions(self, model, context, self.only, self.ignore) if self.attention else []

    def _outcome(self, verdicts: Sequence[Verdict], attended: Sequence[tuple[Attention, Heads | Miss]]) -> Outcome:
        told = [each.finding(verdict) for each, verdict in attended]
        unmet = idle(self.ignore, [each.names for each, _ in attended])
        return Outcome((*outcome(verdicts, ignore=unmet).findings, *told))

    def _grids(
        self, model: ir.Model, verdicts: dict[Site, Miss | None], also: Iterable[Want], context: Context
    ) -> tuple[dict[Fan, Grid], Statistics]:
        """The grid of each activation, its sites in graph order; sites whose activation is never seen become misses.

        also: what else to learn from the same run over the data.
        """
        ranging = self._ranging()
        fed = [*_fans(site for site in reading(verdicts.items()) if site.kind in _FED)]
        wants = {fan: ranging.want(fan.activation, _features(fan), fan.axis) for fan in fed}
        every = [*wants.values(), *also]
        found = context.statistics(model, every) if every else Statistics({})
        grids = {fan: ranging.grid(found, want) for fan, want in wants.items()}
        unseen = {fan.activation: grid for fan, grid in grids.items() if isinstance(grid, Miss)}
        for site, miss in verdicts.items():
            if miss is None and site.kind in _FED and site.activation in unseen:
                verdicts[site] = unseen[site.activation]
        verdicts.update(together(verdicts.items()))
        left = {fan: tuple(site for site in fan.sites if verdicts[site] is None) for fan in grids}
        return {replace(fan, sites=left[fan]): each for fan, each in grids.items() if isinstance(each, Grid)}, found

    def _quantized(self, site: Site, weight: Array, grid: Grid | None = None) -> Quantized | Floating:
        """What is stored in the place of a weight [in, out] that meets an activation on this grid."""
        axis = None if self.granularity == "tensor" and site.kind is not Kind.EMBEDDING else 1
        if self.type == "float8_e4m3fn" or self.type == "float8_e5m2":
            return float8(weight, self.type, axis=axis)
        if self.bits != 8 or self.group:
            return nearest(weight, self._scheme())
        # convolutions unfold their inputs in an order of the kernel's own
        narrow = self.headroom == "bits" or (self.headroom == "pairs" and site.kind is Kind.CONV)
        if self.headroom == "pairs" and site.kind is Kind.LINEAR:
            return _paired(weight, axis, None if grid is None else grid.members)
        return symmetric(weight, bits=7 if narrow and site.kind in _FED else 8, axis=axis)

    def _ranging(self) -> Ranging:
        return Ranging(
            method=self.range, fraction=self.fraction, dtype=self.type, symmetric=self.symmetric, groups=self.groups
        )

    def _rounding(self) -> Rounding:
        """How both sides of attention's products are rounded. No pair of products of neighbours overflows 16 bits:
        2 * 255 * 64 < 2^15."""
        left = replace(self._ranging(), groups=1)
        right = replace(left, dtype="int8", symmetric=True, bits=0 if self.headroom == "none" else 7)
        return Rounding(left, right)

    def _scheme(self) -> Scheme:
        return Scheme(bits=self.bits, group=self.group)


def _inside(site: Site) -> Miss:
    return Miss("subgraph", site.activation.name or "", "an activation that is computed once at every run")


def _fans(sites: Iterable[Site]) -> Iterable[Fan]:
    """The sites by activation: features of a convolution lie elsewhere, but its activation is the same."""
    found: dict[ir.Value, list[Site]] = {}
    for site in sites:
        found.setdefault(site.activation, []).append(site)
    return (Fan(activation, members[0].axis, tuple(members)) for activation, members in found.items())


def _features(fan: Fan) -> int:
    """How many features can have grids of their own; none where they lie on several axes, or before a convolution."""
    plain = all(site.kind is not Kind.CONV and site.axis == fan.axis for site in fan.sites)
    return fan.sites[0].in_features if plain else 0


def _paired(weight: Array, axis: int | None, members: Array | None) -> Quantized:
    """int8 with headroom for pairs of neighbours; with groups, `members` [in], neighbours of the same group."""
    if members is None:
        return symmetric(weight, axis=axis, paired=0)
    order = [np.flatnonzero(members == group) for group in np.unique(members)]
    # a row of zeros behind groups of odd size, so that each begins a pair
    even = np.concatenate([np.append(rows, [-1] * (len(rows) % 2)) for rows in order]).astype(np.int64)
    apart = np.where((even < 0)[:, None], weight.dtype.type(0), weight[even])
    made = symmetric(apart, axis=axis, paired=0)
    values = np.empty(weight.shape, np.int8)
    values[even[even >= 0]] = made.values[even >= 0]
    return replace(made, values=values)


def _round(fan: Fan, grid: Grid) -> Mapping[ir.Graph | ir.Function | None, ir.Value]:
    """Let the sites read the activation as its grid has it: what each graph reads from now on."""
    rounded: dict[ir.Graph | ir.Function | None, ir.Value] = {}
    for site in fan.sites:
        tape, graph = Tape(), site.node.graph
        if graph not in rounded:
            again = is_op(site.activation.producer(), "DequantizeLinear")
            # names are those of the model: another graph's rounding of the same value is called after the weight
            name = "" if site.activation.graph is graph else f"{site.weight.name}_input"
            rounded[graph] = site.activation if again else grid.rounded(tape, site.activation, name=name)
        reroute(tape, site.node, site.activation, rounded[graph])
    return rounded
