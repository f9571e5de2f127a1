"""Carrying out a plan: layer after layer each weight is fitted to the original's stream, and what it becomes is
factored under the inputs that it has by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from ...ir.site import Site
from ..edit import Array, declare_functions
from ..fitting import Fit, again, write, write_bias
from ..moments import biased, key_of, moments
from ..numerics.arrays import Floats
from ..numerics.gram import centred
from ..pairs import split
from ..placing import put
from ..ranks import Way
from ..statistics import Calibration
from ..trail import Trail
from ..weights import Corrected, Masked, Quantized
from .beside import Beside
from .costs import remember
from .groups import Group, now, taken_apart
from .measure import Measure
from .methods.residual import Sum


@dataclass(frozen=True)
class _Wanted:
    """What a group is to compute: all weights side by side, [in, out], the biases, [out], where they can be written,
    and the Gram matrix of what it reads, of what a bias cannot make good; the mean of that, [in].
    """

    weight: Floats
    biases: tuple[Floats | None, ...]
    gram: Floats | None = None
    mean: Floats | None = None


@dataclass(eq=False)
class Factoring:
    """whole: what parts took as they were, to be noted. original: to whose stream weights are fitted; None where they
    are factored as they are.
    """

    model: ir.Model
    measure: Measure
    beside: Beside
    whole: Callable[[Group, slice | None], float] | None = None
    original: ir.Model | None = None
    calibration: Calibration | None = None
    _trail: Trail = field(default_factory=Trail)

    def run(self, taken: Sequence[tuple[Group, Way]]) -> None:
        changed = False
        for group, way in taken:
            sites = now(self.model, [site.node for site in group.sites])
            wanted = self._fitted(sites) if self.original is not None else _as_it_is(sites)
            if way.whole:
                self._keep(sites, group, wanted, changed)
                continue
            changed = True
            if len(way.ranks) == 1:
                (rank,) = way.ranks
                assert rank is not None  # it is not whole
                found = self.beside.of(self.measure, group, None, wanted.weight, rank, wanted.gram)
                self._bias(sites, group, wanted, found.dense())
                self._put(sites, found, group, None)
            else:
                self._apart(sites, group, way, wanted)

    def _apart(self, sites: Sequence[Site], group: Group, way: Way, wanted: _Wanted) -> None:
        """Parts with ranks of their own."""
        weight, factors = wanted.weight.copy(), list[Sum | None]()
        for part, rank in zip(group.parts, way.ranks, strict=True):
            found = None
            if rank is not None:
                found = self.beside.of(self.measure, group, part, weight[:, part], rank, wanted.gram)
                weight[:, part] = found.dense()
            factors.append(found)
        self._bias(sites, group, wanted, weight)
        if group.cut is not None:
            (site,) = now(self.model, [group.key])
            bias = site.bias_array()
            sites = taken_apart(self.model, group, site, weight, None if bias is None else np.asarray(bias, np.float64))
        elif self.original is not None:
            for site, part, found in zip(sites, group.parts, factors, strict=True):
                if found is None:
                    write(site, Fit(weight[:, part], None, None))
        nodes = [site.node for site in sites]
        for node, part, found in zip(nodes, group.parts, factors, strict=True):
            if found is not None:
                self._put(now(self.model, [node]), found, group, part)

    def _put(self, sites: Sequence[Site], found: Sum, group: Group, part: slice | None) -> None:
        """Let sites, side by side, be computed so, and note what they cost."""
        left, right, rest = found.factors.left, found.factors.right, found.rest
        if rest is None or isinstance(rest, np.ndarray):
            held = split(sites, left, right, rest)
            if self.whole is not None:
                remember(next(iter(held.consumers())), nanoseconds=self.whole(group, part))
            return
        (site,) = sites
        dtype, rows, columns = site.view.array().dtype, site.in_features, site.out_features
        # the node goes on scaling what it reads
        scale = 1 / site.alpha
        made = Corrected(_scaled(rest, scale), (scale * left).astype(dtype), right.astype(dtype))
        put(site, made)
        # the next layers are fitted on runs of the model as it is
        declare_functions(self.model)
        remember(site.node, stored=(made.bytes / dtype.itemsize, rows * columns, dtype.itemsize))

    def _fitted(self, sites: Sequence[Site]) -> _Wanted:
        """The weights and biases that are the best in front of the original's stream."""
        assert self.original is not None and self.calibration is not None
        seen = moments(self.original, self.model, self.calibration, sites, trail=self._trail)
        fits = [again(site, seen[key_of(site)]) for site in sites]
        one = seen[key_of(sites[0])]
        # a bias makes up for the mean, where all have one
        free = all(fit.bias is not None for fit in fits)
        gram = centred(one.gram, one.count, one.inputs) if free else one.gram
        biases = tuple(fit.bias for fit in fits)
        return _Wanted(np.concatenate([fit.weight for fit in fits], axis=1), biases, gram, one.inputs)

    def _keep(self, sites: Sequence[Site], group: Group, wanted: _Wanted, changed: bool) -> None:
        """Leave weights whole, fitted where something before them has changed."""
        if self.original is None or not changed:
            return
        for site, part, bias in zip(sites, group.columns, wanted.biases, strict=True):
            write(site, Fit(wanted.weight[:, part], bias, None))

    def _bias(self, sites: Sequence[Site], group: Group, wanted: _Wanted, weight: Floats) -> None:
        """Let biases make up for what becomes of the mean, the weights becoming these."""
        if wanted.mean is None:
            return
        moved = wanted.mean @ (wanted.weight - weight)
        for site, part, bias in zip(sites, group.columns, wanted.biases, strict=True):
            if bias is not None and biased(site):
                write_bias(site, bias + moved[part])


def _as_it_is(sites: Sequence[Site]) -> _Wanted:
    weight = np.concatenate([np.asarray(site.dense(), np.float64) for site in sites], axis=1)
    return _Wanted(weight, (None,) * len(sites))


def _scaled(rest: Masked | Quantized, scale: float) -> Masked | Quantized:
    if scale == 1:
        return rest
    if isinstance(rest, Masked):
        return replace(rest, values=_times(rest.values, scale))
    return replace(rest, scale=_times(rest.scale, scale))


def _times(array: Array, scale: float) -> Array:
    product: Array = np.multiply(array, scale, dtype=np.float64).astype(array.dtype)
    return product
