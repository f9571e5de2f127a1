"""Store weights in 2 to 8 bits; activations and arithmetic stay floats (W4A16, W8A16, ..).

    before   y = x @ W
    after    y = x @ DequantizeLinear{block_size=32}(W4, scale)             [+ left @ right, of rank `rank`]

Lossy. Weights [in, out] have a scale for each run of `group` inputs of an output, or for each output with group 0. 4
and 8 bits are types of ONNX; 2, 3, 5, 6 and 7 are stored as planes of bits (`weights.packing`), unpacked where the
runtime folds constants. `gptq`, `awq` and `refine` need calibration data; they go block by block (`ir.block`), so that
each sees what the blocks before it have become. What they have no Gram matrix for (`seen`: tables, values of subgraphs,
transposed convolutions in groups) is rounded to the nearest, as `rtn` does all.

    awq      LayerNormalization(h, g, b) @ W  ->  LayerNormalization(h, g / s, b / s) @ Q(s * W)

`awq` scales the sites that share an activation together; the reciprocal scales go into what produces it, where that is
exact and free (`scaling.producer`). Elsewhere sites are not scaled, only clipped, or read the activation by way of a
Mul with `multiply`; convolutions and recurrences between steps always. What feeds the product of queries and keys is
not clipped.

What several sites read alike is stored once, fitted to the inputs of all, behind what comes before the first of them;
awq does not scale it.

Left alone: weights read in two ways, small, not finite, computed or quantized already, that would be no smaller, and
sites that the options leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Kind, Site
from ..base import Context, Contract, Lossy, Miss, Outcome
from ..choosing import outcome
from ..edit import Array, declare_functions, is_op
from ..numerics.grid import Scheme, fit, nearest
from ..placing import Structured, matrix, put
from ..seen import Seen, inputs, joined
from ..weight_pass import WeightPass, taken
from ..weights import Affine, Quantized
from .methods.awq import awq, clipping, scaled
from .methods.gptq import gptq
from .methods.hqq import hqq
from .methods.lqer import lqer
from .methods.refine import refine
from .scaling import Fan, fans, makers, producer

#: Sites whose inputs are the features of an activation, which something before them may divide.
_SCALED = (Kind.LINEAR, Kind.RECURRENT_INPUT)


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights(WeightPass):
    """weights in 2 to 8 bits by group, activations in floats

    bits: how many a weight takes. group: inputs that share a scale; 0 for all of an output.
    algorithm: `rtn` rounds to the nearest, `hqq` fits most weights well and lets outliers go; neither needs data.
        `gptq` makes each rounding error good by later inputs. `awq` gives inputs that carry much finer grids.
    symmetric: signed integers around zero; else unsigned ones with a zero point. hqq's scale and offset are free,
        but where it is refined or corrected.
    clip: let gptq's scales cut off weights where that loses less; awq's always may.
    multiply: let awq put a Mul in front of sites where nothing before them can take their scales.
    refine: make what the algorithm found better, one row and one scale at a time, by the inputs that were seen.
    rank: of a correction in floats that is added to each weight but tables; 0 for none. With calibration data it is the
        best for the inputs that were seen, else for the weight.
    sequential: what needs data sees the blocks before as they are quantized; else all of the original at once, in one
        run.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "quantize-weights"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    bits: int = 4
    group: int = 32
    algorithm: Literal["rtn", "hqq", "gptq", "awq"] = "rtn"
    symmetric: bool = True
    clip: bool = False
    multiply: bool = False
    refine: bool = False
    rank: int = 0
    sequential: bool = True

    def __post_init__(self) -> None:
        try:
            self._scheme()
        except ValueError as error:
            raise OptionError(f"{self.name}: {error}") from error
        if self.rank < 0:
            raise OptionError(f"{self.name}: expected a rank of at least 0, found {self.rank}")
        for option, algorithm in (("clip", "gptq"), ("multiply", "awq")):
            if getattr(self, option) and self.algorithm != algorithm:
                raise OptionError(
                    f"{self.name}: the algorithm {self.algorithm} does not take {option}=true; {algorithm} does"
                )

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self.verdicts(model, context)
        self.store(model, taken(verdicts), context)
        return outcome(verdicts, ignore=self.ignore)

    def store(
        self, model: ir.Model, chosen: Sequence[Site], context: Context, bits: Mapping[ir.Value, int] | None = None
    ) -> None:
        """Quantize these sites; `bits` by weight take the place of the option's."""
        for part in self._parts(chosen):
            seen = self.seen(model, part, context)
            each = {site.weight: self.bits if bits is None else bits[site.weight] for site in part}
            if self.algorithm == "awq":
                seen |= self._scaled(model, part, seen, each)
            for site in part:
                made = replace(self, bits=each[site.weight]).quantized(site, seen.get(site.weight))
                put(site, made)
            declare_functions(model)

    def unfit(self, site: Site) -> Miss | None:
        """Why a site that was chosen would be no smaller."""
        stored = site.weight.const_value
        assert stored is not None  # a site that was chosen is stored
        parts = stored.size // (site.in_features * site.out_features)
        size = parts * self._bytes(site, stored.dtype.itemsize)
        if size < stored.nbytes:
            return None
        return Miss("bytes", f"{size:.0f}", f"fewer than the weight's {stored.nbytes}")

    def _bytes(self, site: Site, width: float) -> float:
        """What a weight takes, its scales and factors being numbers of `width` bytes."""
        rows, columns = site.in_features, site.out_features
        runs = len(self._scheme().groups(rows)) * columns
        free = self.algorithm == "hqq" and not self.refine and not self.rank
        apart = width if free else 0 if self.symmetric else self.bits / 8
        factors = 0 if site.kind is Kind.EMBEDDING else self.rank * (rows + columns)
        return rows * columns * self.bits / 8 + runs * (width + apart) + factors * width

    @property
    def _calibrated(self) -> bool:
        """Whether it cannot do without data."""
        return self.algorithm in ("gptq", "awq") or self.refine

    def _parts(self, chosen: Sequence[Site]) -> Iterator[list[Site]]:
        """The sites that are quantized on the same statistics: a block's, or those between two blocks."""
        if not self.sequential or not self._calibrated:
            yield list(chosen)
            return
        for _, part in groupby(chosen, lambda site: site.block):
            yield list(part)

    def seen(self, model: ir.Model, part: Sequence[Site], context: Context) -> dict[ir.Value, Seen]:
        """By weight, what calibration finds about the inputs of the sites, where it has to be asked."""
        if not self._calibrated and not (self.rank and context.calibration is not None):
            return {}
        return inputs(model, part, context)

    def _scaled(
        self, model: ir.Model, part: Sequence[Site], seen: Mapping[ir.Value, Seen], bits: Mapping[ir.Value, int]
    ) -> dict[ir.Value, Seen]:
        """The same, the inputs divided by awq's scales; the graph divides them from now on."""
        made_by = makers(model)
        found = {
            site.weight: replace(seen[site.weight], scales=np.ones(site.in_features), clipped=not _is_matched(site))
            for site in part
            if site.weight in seen
        }
        alone = (site for site in part if site.kind in _SCALED and site.weight in seen and not site.tied)
        for fan in fans(alone):
            inputs = seen[fan.sites[0].weight]
            # sites of fewer bits lose more by scales that do not suit them
            scheme = replace(self._scheme(), bits=min(bits[site.weight] for site in fan.sites))
            scales = awq([matrix(site) for site in fan.sites], inputs.magnitude, inputs.gram, scheme, clip=False).scales
            if not self._divided(fan, scales, made_by):
                scales = np.ones_like(scales)
            found |= {site.weight: replace(found[site.weight], scales=scales) for site in fan.sites}
        return found

    def _divided(self, fan: Fan, scales: Array, made_by: Mapping[ir.Value, Site]) -> bool:
        """Whether the fan's activation is divided by the scales from now on."""
        if (scales == 1).all():
            return False
        taken = producer(fan, made_by)
        if not isinstance(taken, Miss) and taken.divide(scales):
            return True
        if not self.multiply or not fan.plain:
            return False
        fan.divide(scales)
        return True

    def quantized(self, site: Site, seen: Seen | None) -> Structured:
        """What is stored in the place of the weight."""
        weight = matrix(site)
        if self.algorithm == "hqq" and not self.refine and not self.rank:
            free = hqq(weight, replace(self._scheme(), symmetric=False))
            return Affine(_in(free.levels, weight.dtype), free.offset.astype(weight.dtype))
        runs = [(weight, seen)] if seen is None else seen.apart(weight)
        found = joined([self._rounded(*run) for run in runs])
        if self.rank and site.kind is not Kind.EMBEDDING:
            wanted, gram = (weight, None) if seen is None else seen.scaled(weight)
            return lqer(wanted, found, self.rank, gram=gram)
        return found

    def _rounded(self, weight: Array, seen: Seen | None) -> Quantized:
        """Columns [in, out] that see the same inputs, on the grid."""
        scheme, gram = self._scheme(), None
        if seen is not None:
            weight, gram = seen.scaled(weight)
        if self.algorithm == "hqq":
            found = hqq(weight, scheme, zero="integer")
        elif gram is not None and self.algorithm == "gptq":
            found = gptq(weight, gram, scheme, clip=self.clip)
        elif gram is not None and seen is not None and seen.scales is not None:
            ratios = clipping(weight, gram, scheme) if seen.clipped else np.ones_like(fit(weight, scheme)[0])
            found = scaled(weight, np.ones(len(weight)), ratios, scheme)
        else:
            found = nearest(weight, scheme)
        found = _in(found, weight.dtype)
        return refine(weight, gram, found, scheme) if self.refine and gram is not None else found

    def _scheme(self) -> Scheme:
        return Scheme(bits=self.bits, group=self.group, symmetric=self.symmetric)


def _in(found: Quantized, dtype: np.dtype[np.generic]) -> Quantized:
    """The same with scales of the dtype that the node reads."""
    return found if found.scale.dtype == dtype else replace(found, scale=found.scale.astype(dtype))


#: What queries and keys go through on the way to their product.
_PASSED = ("Reshape", "Transpose", "Split", "Slice", "Concat", "Mul", "RotaryEmbedding", "RMSNormalization")


def _is_matched(site: Site) -> bool:
    """Whether the site makes queries or keys of Attention."""
    waiting, met = [site.output], {site.output}
    while waiting:
        for node, index in waiting.pop().uses():
            if is_op(node, "Attention") and index < 2:
                return True
            more = [value for value in node.outputs if is_op(node, *_PASSED) and value not in met]
            met.update(more)
            waiting += more
    return False
