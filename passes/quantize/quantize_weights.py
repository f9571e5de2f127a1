"""Store weights in 2 to 8 bits; activations and arithmetic stay floats (W4A16, W8A16, ..).

    before   y = x @ W
    after    y = x @ DequantizeLinear{block_size=32}(W4, scale)

Lossy. Weights [in, out] have a scale for each run of `group` inputs of an output, or for each output with group 0. 4
and 8 bits are types of ONNX; 2, 3, 5, 6 and 7 are stored as planes of bits (`weights.packing`), unpacked where the
runtime folds constants. `gptq` needs calibration data; it goes block by block (`ir.block`), so that each sees what the
blocks before it have become. What it has no Gram matrix for (tables, convolutions, recurrences between steps) is
rounded to the nearest, as `rtn` does all. Left alone: weights that are tied, small, not finite, computed or quantized
already, and sites that the options leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Kind, Site, sites
from ..accumulators import Gram
from ..base import Context, Contract, Lossy, Outcome, Pass
from ..edit import declare_functions
from ..statistics import Statistics, Want
from .choosing import Choice, Verdict, outcome
from .methods.gptq import gptq
from .methods.grid import Scheme, nearest
from .methods.hqq import hqq
from .placing import matrix, put

#: Sites whose input is an activation that calibration sees as rows of features.
_SEEN = (Kind.LINEAR, Kind.RECURRENT_INPUT)


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights(Pass):
    """weights in 2 to 8 bits by group, activations in floats

    bits: how many a weight takes. group: inputs that share a scale; 0 for all of an output.
    algorithm: `rtn` rounds to the nearest, `hqq` fits most weights well and lets outliers go; neither needs data.
        `gptq` makes each rounding error good by later inputs.
    symmetric: signed integers around zero; else unsigned ones with a zero point. hqq's scale and offset are free.
    clip: let gptq's scales cut off weights where that loses less.
    sequential: gptq sees the blocks before as they are quantized; else all of the original at once, in one run.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor inspect` lists them).
    """

    name: ClassVar[str] = "quantize-weights"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    bits: int = 4
    group: int = 32
    algorithm: Literal["rtn", "hqq", "gptq"] = "rtn"
    symmetric: bool = True
    clip: bool = False
    sequential: bool = True
    embeddings: bool = False
    convolutions: bool = False
    recurrent: bool = True
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            self._scheme()
        except ValueError as error:
            raise OptionError(f"{self.name}: {error}") from error

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self._verdicts(model)
        # both directions of a recurrent weight lie in one tensor
        taken = list({(site.node, site.weight): site for site, miss in verdicts if miss is None}.values())
        for part in self._parts(taken):
            wants = [Want(site.activation, Gram, site.in_features, axis=site.axis) for site in part if self._sees(site)]
            found = context.statistics(model, wants) if wants else None
            for site in part:
                self._quantize(site, found)
            declare_functions(model)
        return outcome(verdicts)

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site, leaving `model` as it is."""
        return outcome(self._verdicts(model))

    def _verdicts(self, model: ir.Model) -> list[Verdict]:
        kinds = [Kind.LINEAR]
        kinds += [Kind.EMBEDDING] if self.embeddings else []
        kinds += [Kind.CONV] if self.convolutions else []
        kinds += [Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN] if self.recurrent else []
        choice = Choice(kinds=kinds, smallest=self.smallest, only=self.only, ignore=self.ignore)
        return [(site, choice.verdict(site)) for site in sites(model)]

    def _parts(self, taken: Sequence[Site]) -> Iterator[list[Site]]:
        """The sites that are quantized on the same statistics: a block's, or those between two blocks."""
        if not self.sequential or self.algorithm != "gptq":
            yield list(taken)
            return
        for _, part in groupby(taken, lambda site: site.block):
            yield list(part)

    def _sees(self, site: Site) -> bool:
        return self.algorithm == "gptq" and site.kind in _SEEN

    def _quantize(self, site: Site, found: Statistics | None) -> None:
        weight, scheme = matrix(site), self._scheme()
        if self.algorithm == "hqq":
            put(site, hqq(weight, replace(scheme, symmetric=False)))
        elif found is not None and self._sees(site):
            gram = found.of(site.activation, Gram, site.axis).matrix
            put(site, gptq(weight, gram, scheme, clip=self.clip))
        else:
            put(site, nearest(weight, scheme))

    def _scheme(self) -> Scheme:
        return Scheme(bits=self.bits, group=self.group, symmetric=self.symmetric)
