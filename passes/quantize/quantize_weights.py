"""Store weights in 2 to 8 bits; activations and arithmetic stay floats (W4A16, W8A16, ..).

    before   y = x @ W
    after    y = x @ DequantizeLinear{block_size=32}(W4, scale)             [+ left @ right, of rank `rank`]

Lossy. Weights [in, out] have a scale for each run of `group` inputs of an output, or for each output with group 0. 4
and 8 bits are types of ONNX; 2, 3, 5, 6 and 7 are stored as planes of bits (`weights.packing`), unpacked where the
runtime folds constants. `gptq`, `awq` and `refine` need calibration data; they go block by block (`ir.block`), so that
each sees what the blocks before it have become. What they have no Gram matrix for (tables, convolutions, recurrences
between steps, values of subgraphs) is rounded to the nearest, as `rtn` does all.

    awq      LayerNormalization(h, g, b) @ W  ->  LayerNormalization(h, g / s, b / s) @ Q(s * W)

`awq` scales the sites that share an activation together; the reciprocal scales go into what produces it, where that is
exact and free (`scaling.producer`). Elsewhere sites are not scaled, only clipped, or read the activation by way of a
Mul with `multiply`. What feeds the product of queries and keys is not clipped.

Left alone: weights that are tied, small, not finite, computed or quantized already, and sites that the options leave
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.errors import OptionError
from ...ir.site import Kind, Site
from ..accumulators import Gram
from ..base import Context, Contract, Lossy, Miss, Outcome
from ..edit import Array, declare_functions, is_op
from ..statistics import Want
from ..weights import Affine, Quantized
from .choosing import outcome
from .methods.awq import awq, clipping, scaled
from .methods.gptq import gptq
from .methods.grid import Scheme, fit, nearest
from .methods.hqq import hqq
from .methods.lqer import lqer
from .methods.refine import refine
from .methods.scaling import times
from .placing import Structured, matrix, put
from .scaling import Fan, fans, makers, producer
from .weight_pass import WeightPass, taken

#: Sites whose input is an activation that calibration sees as rows of features.
_SEEN = (Kind.LINEAR, Kind.RECURRENT_INPUT)


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
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor inspect` lists them).
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

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self.verdicts(model)
        for part in self._parts(taken(verdicts)):
            seen = self._seen(model, part, context)
            if self.algorithm == "awq":
                seen |= self._scaled(model, part, seen)
            for site in part:
                put(site, self._quantized(site, seen.get(site.weight)))
            declare_functions(model)
        return outcome(verdicts)

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

    def _seen(self, model: ir.Model, part: Sequence[Site], context: Context) -> dict[ir.Value, _Seen]:
        """By weight, what calibration finds about the inputs of the sites, where it has to be asked."""
        if not self._calibrated and not (self.rank and context.calibration is not None):
            return {}
        # what a subgraph computes is not computed at every run, or many times
        fed = [site for site in part if site.kind in _SEEN and site.activation.graph is model.graph]
        wants = [Want(site.activation, Gram, site.in_features, axis=site.axis) for site in fed]
        if not wants:
            return {}
        found = context.statistics(model, wants)
        return {site.weight: _Seen(found.of(site.activation, Gram, site.axis)) for site in fed}

    def _scaled(self, model: ir.Model, part: Sequence[Site], seen: Mapping[ir.Value, _Seen]) -> dict[ir.Value, _Seen]:
        """The same, the inputs divided by awq's scales; the graph divides them from now on."""
        scheme, made_by = self._scheme(), makers(model)
        found: dict[ir.Value, _Seen] = {}
        for fan in fans(site for site in part if site.weight in seen):
            inputs = seen[fan.sites[0].weight]
            scales = awq([matrix(site) for site in fan.sites], inputs.magnitude, inputs.gram, scheme, clip=False).scales
            if not self._divided(fan, scales, made_by):
                scales = np.ones_like(scales)
            found |= {site.weight: replace(inputs, scales=scales, clipped=not _is_matched(site)) for site in fan.sites}
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

    def _quantized(self, site: Site, seen: _Seen | None) -> Structured:
        """What is stored in the place of the weight."""
        weight, scheme = matrix(site), self._scheme()
        if self.algorithm == "hqq" and not self.refine and not self.rank:
            free = hqq(weight, replace(scheme, symmetric=False))
            return Affine(_in(free.levels, weight.dtype), free.offset.astype(weight.dtype))
        gram = None if seen is None else seen.gram
        if self.algorithm == "hqq":
            found = hqq(weight, scheme, zero="integer")
        elif gram is not None and self.algorithm == "gptq":
            found = gptq(weight, gram, scheme, clip=self.clip)
        elif seen is not None and seen.scales is not None:
            weight, gram = seen.scaled(weight)
            ratios = clipping(weight, gram, scheme) if seen.clipped else np.ones_like(fit(weight, scheme)[0])
            found = scaled(weight, np.ones(len(weight)), ratios, scheme)
        else:
            found = nearest(weight, scheme)
        found = _in(found, weight.dtype)
        if self.refine and gram is not None:
            found = refine(weight, gram, found, scheme)
        if self.rank and site.kind is not Kind.EMBEDDING:
            return lqer(weight, found, self.rank, gram=gram)
        return found

    def _scheme(self) -> Scheme:
        return Scheme(bits=self.bits, group=self.group, symmetric=self.symmetric)


@dataclass(frozen=True)
class _Seen:
    """What is known of a site's inputs: their Gram matrix before they are divided by `scales`, [in]."""

    found: Gram
    scales: Array | None = None
    clipped: bool = True

    @property
    def gram(self) -> NDArray[np.float64]:
        return self.found.matrix

    @property
    def magnitude(self) -> NDArray[np.float64]:
        """The root mean square of each input."""
        squares: NDArray[np.float64] = np.diagonal(self.gram) / max(self.found.count, 1)
        return np.sqrt(np.maximum(squares, 0.0))

    def scaled(self, weight: Array) -> tuple[Array, NDArray[np.float64]]:
        """The weight times the scales, and the Gram matrix of the inputs over them."""
        assert self.scales is not None
        wide = self.scales.astype(np.float64)
        return times(self.scales, weight).astype(weight.dtype), self.gram / np.outer(wide, wide)


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
