"""Give each weight the bits that it needs: the least drop of the answers that a budget allows, or the least size.

    before   y = (x @ W) @ V
    after    y = (x @ DequantizeLinear(W6, ..)) @ DequantizeLinear(V4, ..)         at 5 bits on average

Lossy. For each weight and each number of bits it is predicted what the answers lose by that alone: half the second
derivative of the drop along the change of the weight (`methods.sensitivity`), from gradients of the outputs on
calibration data, without labels. The drop is the mean of 1 - cosine, or of the KL divergence, over the rows of the
outputs (`passes.drop`); the changes of different weights are taken not to disturb each other. Then bits are chosen
exactly, by a multiple-choice knapsack (`numerics.knapsack`), and weights stored as `quantize-weights` does.

The changes are those of rounding to the nearest also where `gptq`, `awq` or `refine` store the weights: those make
errors good on the very data that predict the drop, which then seems less than it is on others. The answers drop less
than predicted there.

The curve from which it chose, and what it chose for each weight, go into the report and the manifest; `explain` with
data shows them without changing the model.

Left alone: what `quantize-weights` leaves alone. Bits in which a weight would be no smaller are not chosen for it.

Dong et al., HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks, 2020; Shen et al., Q-BERT, 2020.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Site
from ..base import Context, Contract, Lossy, Miss, Outcome
from ..choosing import Verdict, outcome
from ..drop import Drop, Form
from ..report import Size
from ..seen import inputs
from ..weight_pass import WeightPass, taken
from .budget import Budget, Item, Option, Plan
from .curvature import Sensitivities, Sensitivity
from .quantize_weights import QuantizeWeights

#: Bytes that the shapes of a stored weight take beside its numbers, at most.
_SHAPES = 128


@dataclass(frozen=True, kw_only=True)
class MixPrecision(WeightPass):
    """each weight in as many bits as it needs, under a budget of bits, bytes or drop

    budget: `5.0 bits` for each number of the weights on average, scales apart; `10 MB` for all constants of the model;
        or `0.01 drop`, the largest that may be predicted, at the least size.
    bits: those to choose from, each 2 to 8.
    keep: whether weights may also stay as they are.
    sensitivity: how the drop is predicted. `output`: by the errors of a site's outputs, each weighed by what it does to
        the answers; `hessian`: by the trace of the second derivatives; `fisher`: by their diagonal; `alone`: by running
        the model with one site quantized, on 4 of the batches. What gradients do not reach is run alone.
    drop: what answers lose: 1 - `cosine` of the rows of outputs, or the `kl` divergence of their softmax.
    outputs: names of those that count; all of floats where none is given.
    probes: how many random projections of the outputs gradients are taken of.
    group, algorithm, symmetric, clip, refine, rank, sequential: as `quantize-weights` has them.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "mix-precision"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    budget: str = "5 bits"
    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    keep: bool = False
    sensitivity: Sensitivity = "output"
    drop: Form = "cosine"
    outputs: tuple[str, ...] = ()
    probes: int = 32
    group: int = 32
    algorithm: Literal["rtn", "hqq", "gptq", "awq"] = "rtn"
    symmetric: bool = True
    clip: bool = False
    refine: bool = False
    rank: int = 0
    sequential: bool = True

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if not self.bits or len(set(self.bits)) != len(self.bits):
            raise OptionError(f"{self.name}: expected bits to choose from, each once, found {list(self.bits)}")
        if self.probes < 1:
            raise OptionError(f"{self.name}: expected at least one probe, found {self.probes}")
        for bits in self.bits:
            self._storing(bits)

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self.verdicts(model, context)
        chosen = taken(verdicts)
        if not chosen:
            return outcome(verdicts, ignore=self.ignore)
        plan = self._plan(model, chosen, context)
        told = _told(verdicts, chosen, plan, self.ignore)
        bits = {site.weight: way.bits for site, way in zip(chosen, plan.taken, strict=True) if not _kept(way)}
        quantized = [site for site in chosen if site.weight in bits]
        self._storing(self.bits[0]).store(model, quantized, context, bits)
        return told

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site, and with calibration data the bits it would have and the curve."""
        verdicts = self.verdicts(model, context)
        chosen = taken(verdicts)
        if not chosen or context.calibration is None:
            return outcome(verdicts, ignore=self.ignore)
        return _told(verdicts, chosen, self._plan(model, chosen, context), self.ignore)

    def unfit(self, site: Site) -> Miss | None:
        """Why a site that was chosen would be no smaller in any of the bits there are to choose from."""
        return self._storing(min(self.bits)).unfit(site)

    def _plan(self, model: ir.Model, chosen: Sequence[Site], context: Context) -> Plan:
        context.statistics(model, ())  # says so where there are no data
        storing = {bits: self._predicting(bits) for bits in sorted(self.bits)}
        calibrated = self.sensitivity == "output" or self.refine or self.rank
        seen = inputs(model, chosen, context) if calibrated else {}
        drop = Drop.of(model, self.drop, self.outputs)
        sensitivities = Sensitivities.of(model, chosen, self.sensitivity, drop, context, self.probes)
        items = []
        for site in chosen:
            known, tensor = seen.get(site.weight), site.weight.const_value
            assert tensor is not None  # it was chosen
            # scales and factors may leave only fewer bits smaller than the weight is
            fit = {bits: each for bits, each in storing.items() if each.unfit(site) is None}
            ways = [each.quantized(site, known) for each in fit.values()]
            costs = sensitivities.costs(site, ways, known)
            sizes = (way.bytes + _SHAPES for way in ways)
            options = [Option(*each) for each in zip(fit, sizes, costs, strict=True)]
            if self.keep:
                options.append(Option(tensor.dtype.bitwidth, tensor.nbytes, 0.0))
            items.append(Item(tensor.size, tuple(options)))
        held = sum(site.weight.const_value.nbytes for site in chosen if site.weight.const_value is not None)
        return Budget.parse(self.budget).plan(items, rest=Size.of(model).bytes - held)

    def _predicting(self, bits: int) -> QuantizeWeights:
        """What stands for that in predictions: what fits errors to the calibration data is rounded to the nearest."""
        storing = self._storing(bits)
        return storing if self.algorithm == "hqq" else replace(storing, algorithm="rtn", clip=False, refine=False)

    def _storing(self, bits: int) -> QuantizeWeights:
        """What stores the weights in so many bits."""
        try:
            return QuantizeWeights(
                bits=bits,
                group=self.group,
                algorithm=self.algorithm,
                symmetric=self.symmetric,
                clip=self.clip,
                refine=self.refine,
                rank=self.rank,
                sequential=self.sequential,
            )
        except OptionError as error:
            raise OptionError(f"{self.name}: {str(error).partition(': ')[2]}") from error


def _kept(way: Option) -> bool:
    """Whether it is the weight as it was: quantized ones have at most 8 bits."""
    return way.bits > 8


def _told(verdicts: Sequence[Verdict], chosen: Sequence[Site], plan: Plan, ignore: Collection[str]) -> Outcome:
    """The findings, with the bits of each weight; what stays as it is is missed."""
    ways = {site.weight: way for site, way in zip(chosen, plan.taken, strict=True)}
    stays = Miss("kept", "the bits it has", "fewer bits that drop less than they save elsewhere")
    found = [(site, stays if miss is None and _kept(ways[site.weight]) else miss) for site, miss in verdicts]
    told = {weight: f"{way.bits} bits, {way.drop:.2g} drop predicted" for weight, way in ways.items()}
    return outcome(found, told, plan.curve, ignore=ignore)
