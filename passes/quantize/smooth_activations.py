"""Move the spread between an activation's features into the weights that read it: then both lose less when rounded.

    before   LayerNormalization(h, g, b) @ W
    after    LayerNormalization(h, g / s, b / s) @ (s * W)          s_j = max|x_j|^alpha / max|W_j|^(1 - alpha)

Exact, and free where what produces the activation takes the reciprocal scales (`scaling.producer`); elsewhere a Mul
does, by option. It is for what quantizes activations afterwards (`quantize-static`, `quantize-dynamic`) and needs
calibration data. Sites that share an activation share its scales, those behind come first, and a fan of sites is gone
over until no exponent promises less error: what is smooth is left alone. So are weights below float32, for which s W
rounds, and those that are tied, not finite, computed or quantized already.

Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, 2022, arXiv
2211.10438, equation 4; the search for alpha: `methods.smooth.search`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Kind, Site, computed_sites, sites
from ..accumulators import FeatureRange, Gram
from ..base import Context, Contract, Exact, Miss, Outcome, Pass
from ..choosing import Choice, Verdict, outcome
from ..edit import Array
from ..numerics.arrays import Floats
from ..numerics.grid import Scheme
from ..placing import matrix
from ..statistics import Statistics, Want
from .methods.scaling import times
from .methods.smooth import search, smooth
from .scaling import Fan, Scalable, fans, makers, producer, rows

#: Searches on one fan, each from where the last ended.
_ROUNDS = 8
#: Scales nearer to one than this change no rounding worth a new weight: some roundings of float32.
_NOTHING = 64 * np.finfo(np.float32).eps


@dataclass(frozen=True, kw_only=True)
class SmoothActivations(Pass):
    """even out the features of activations, at the expense of the weights that read them

    alpha: the share of the spread that goes to the weights, from 0 to 1. With null that of least expected error is
        searched for each activation, and where none promises a thousandth less it stays as it is; it trusts the ranges
        that calibration found, so it wants plenty of data.
    bits, weight_bits: what activations and weights are to be quantized to, for the search.
    multiply: put a Mul in front of sites where nothing before them can take their scales.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "smooth-activations"
    contract: ClassVar[Contract] = Exact()
    alpha: float | None = 0.5
    bits: int = 8
    weight_bits: int = 8
    multiply: bool = False
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise OptionError(f"{self.name}: expected an alpha from 0 to 1, found {self.alpha}")
        if not (2 <= self.bits <= 16 and 2 <= self.weight_bits <= 8):
            raise OptionError(
                f"{self.name}: expected 2 to 16 bits, and 2 to 8 for weights, found {self.bits} and {self.weight_bits}"
            )

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        places, verdicts = self._places(model)
        kinds = (FeatureRange, Gram) if self.alpha is None else (FeatureRange,)
        wants = [
            Want(place.fan.activation, kind, place.fan.sites[0].in_features, axis=place.fan.axis)
            for place in places
            for kind in kinds
        ]
        found = context.statistics(model, wants) if wants else Statistics({})
        # the columns that a fan divides are weights of the fan before it
        for place in reversed(places):
            scales = self._scales(place.fan, found)
            missed = scales if isinstance(scales, Miss) else place.divide(scales)
            if missed is not None:
                verdicts |= dict.fromkeys(place.fan.sites, missed)
        return outcome(list(verdicts.items()), ignore=self.ignore)

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site as far as the graph decides, leaving `model` as it is."""
        return outcome(list(self._places(model)[1].items()), ignore=self.ignore)

    def _places(self, model: ir.Model) -> tuple[list[_Place], dict[Site, Miss | None]]:
        """Where scales can go, in graph order, and the verdict at every site."""
        choice = Choice(
            kinds=(Kind.LINEAR, Kind.RECURRENT_INPUT),
            smallest=1,
            only=self.only,
            ignore=self.ignore,
            dtypes=(ir.DataType.FLOAT,),
        )
        found: list[Verdict] = [(site, choice.verdict(site)) for site in sites(model)]
        stored: list[Verdict] = [(site, choice.computed(site)) for site in computed_sites(model)]
        verdicts, made_by, places = dict([*found, *stored]), makers(model), list[_Place]()
        for fan in fans(site for site, miss in found if miss is None):
            # both directions of a recurrent weight lie in one tensor
            whole = replace(fan, sites=tuple({site.weight: site for site in fan.sites}.values()))
            taken, undone = producer(whole, made_by), rows(whole)
            if fan.activation.graph is not model.graph:
                missed = Miss("subgraph", fan.activation.name or "", "an activation that is computed once at every run")
                verdicts |= dict.fromkeys(fan.sites, missed)
            elif isinstance(undone, Miss):
                verdicts |= dict.fromkeys(fan.sites, undone)
            elif isinstance(taken, Miss) and not (self.multiply and whole.plain):
                verdicts |= dict.fromkeys(fan.sites, taken)
            else:
                places.append(_Place(whole, None if isinstance(taken, Miss) else taken, undone))
        return places, verdicts

    def _scales(self, fan: Fan, found: Statistics) -> Array | Miss:
        """What the fan's activation is divided by."""
        weights = [matrix(site) for site in fan.sites]
        seen = found.of(fan.activation, FeatureRange, fan.axis)
        if not seen.count:
            return Miss("data", fan.activation.name or "", "an activation that calibration sees")
        if self.alpha is not None:
            scales = smooth(weights, np.maximum(np.abs(seen.low), np.abs(seen.high)), alpha=self.alpha)
        else:
            gram = found.of(fan.activation, Gram, fan.axis)
            scales = self._searched(weights, seen, gram)
        if np.abs(scales - 1).max(initial=0.0) <= _NOTHING:
            return Miss("smooth", fan.activation.name or "", "an activation that rounds better when it is scaled")
        return scales

    def _searched(self, weights: list[Array], seen: FeatureRange, gram: Gram) -> Floats:
        scales, scheme = np.ones(len(seen.low)), Scheme(bits=self.weight_bits)
        for _ in range(_ROUNDS):
            found = search(
                [times(scales, weight) for weight in weights],
                seen.low / scales,
                seen.high / scales,
                gram.matrix / np.outer(scales, scales),
                gram.count,
                bits=self.bits,
                scheme=scheme,
            )
            if found.alpha is None:
                break
            scales *= np.asarray(found.scales, np.float64)
        return scales


@dataclass(frozen=True)
class _Place:
    """A fan of sites, what takes its scales (None for a Mul in front of it), and what undoes them."""

    fan: Fan
    taken: Scalable | None
    undone: Scalable

    def divide(self, scales: Array) -> Miss | None:
        """Divide the activation and multiply the weights, or say why not and change nothing."""
        constants = () if self.taken is None else self.taken.constants
        if not Scalable((*constants, *self.undone.constants)).divide(scales):
            return Miss("range", self.fan.activation.name or "", "scales that leave numbers finite")
        if self.taken is None:
            self.fan.divide(scales)
        return None
