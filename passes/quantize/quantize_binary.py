"""Store weights as sums of a few scaled signs, or in three levels; activations and arithmetic stay floats.

    before   y = x @ W
    after    y = x @ (Where(bits0, scale0, -scale0) + Where(bits1, scale1, -scale1) + ..)       planes of signs
             y = x @ DequantizeLinear(W2, scale)                                                ternary
             y = x @ Gather(levels, W2)                                                         trained-ternary

Lossy. Weights [in, out] take a bit for each plane, packed (`weights.packing`), and each output has a scale for each
plane; three levels take two bits. Needs no data. One plane is for models that were trained for it: the others lose much
by it. Sources: Courbariaux et al., BinaryConnect, 2015; Rastegari et al., XNOR-Net, 2016 (BWN); Guo et al., Network
Sketching, 2017 (greedy, refined); Xu et al., Alternating Multi-bit Quantization, 2018; Li et al., Ternary Weight
Networks, 2016; Zhu et al., Trained Ternary Quantization, 2017. Left alone: weights read in two ways, small, not finite,
computed or quantized already, that would take more bytes than before (small groups), and sites that the options leave
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.errors import OptionError
from ..base import Context, Contract, Lossy, Outcome
from ..choosing import Verdict, outcome
from ..edit import Array, declare_functions
from ..placing import matrix, put
from ..weight_pass import WeightPass, smaller
from ..weights import Codebook, Planes, Quantized
from .methods.binary import binary_connect, binary_weight
from .methods.multibinary import alternating, greedy, refined
from .methods.ternary import ternary, trained_ternary

Algorithm = Literal["bwn", "binary-connect", "greedy", "refined", "alternating", "ternary", "trained-ternary"]

#: What only some algorithms take.
_TAKES: Mapping[Algorithm, tuple[str, ...]] = {
    "bwn": (),
    "binary-connect": (),
    "greedy": ("planes",),
    "refined": ("planes",),
    "alternating": ("planes",),
    "ternary": ("group", "exact"),
    "trained-ternary": ("group", "threshold"),
}
_PLANES = 3
_MOST = 4


@dataclass(frozen=True, kw_only=True)
class QuantizeBinary(WeightPass):
    """weights as sums of scaled signs, or in three levels

    algorithm: `bwn` is a plane of signs and the mean magnitude of each output, `binary-connect` the signs alone, for
        models trained so. `greedy`, `refined` and `alternating` are sums of planes, each better and slower than the one
        before. `ternary` is -1, 0 or 1 times a scale, `trained-ternary` has a level of its own for each sign.
    planes: 1 to 4 of greedy, refined and alternating; 3 unless told.
    group: inputs that share a scale (ternary) or levels (trained-ternary); 0 for all of an output. Unless told, 0 and
        one set of levels for the whole weight.
    exact: ternary's threshold is the one of least error; false for 0.7 of the mean magnitude.
    threshold: trained-ternary's, as a part of the largest magnitude (0.05 in the paper); the best one unless told.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "quantize-binary"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    algorithm: Algorithm = "alternating"
    planes: int | None = None
    group: int | None = None
    exact: bool | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        options = {"planes": self.planes, "group": self.group, "exact": self.exact, "threshold": self.threshold}
        takes = _TAKES[self.algorithm]
        for option, value in options.items():
            if value is not None and option not in takes:
                ours = " and ".join(takes) or "none of " + ", ".join(options)
                raise OptionError(
                    f"{self.name}: the algorithm {self.algorithm} does not take {option}={value}; it takes {ours}"
                )
        if self.planes is not None and not 1 <= self.planes <= _MOST:
            raise OptionError(f"{self.name}: expected 1 to {_MOST} planes, found {self.planes}")
        if self.group is not None and self.group < 0:
            raise OptionError(
                f"{self.name}: expected a group of at least one input, or 0 for all of an output, found {self.group}"
            )
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise OptionError(f"{self.name}: expected a threshold from 0 to below 1, found {self.threshold}")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = []
        for verdict, found in self._candidates(model, context):
            verdicts.append(verdict)
            if found is not None:
                put(verdict[0], found)
        declare_functions(model)
        return outcome(verdicts, ignore=self.ignore)

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site, leaving `model` as it is; takes as long as `apply`, to know the bytes."""
        return outcome([verdict for verdict, _ in self._candidates(model, context)], ignore=self.ignore)

    def _candidates(
        self, model: ir.Model, context: Context
    ) -> Iterator[tuple[Verdict, Planes | Quantized | Codebook | None]]:
        return smaller(self.verdicts(model, context), lambda site: self._quantized(matrix(site)))

    def _quantized(self, weight: Array) -> Planes | Quantized | Codebook:
        """The weight [in, out] by the algorithm."""
        planes = _PLANES if self.planes is None else self.planes
        match self.algorithm:
            case "bwn":
                return binary_weight(weight)
            case "binary-connect":
                return binary_connect(weight)
            case "greedy":
                return greedy(weight, planes)
            case "refined":
                return refined(weight, planes)
            case "alternating":
                return alternating(weight, planes)
            case "ternary":
                return ternary(weight, group=self.group or 0, exact=self.exact is not False)
            case "trained-ternary":
                return trained_ternary(weight, group=self.group, threshold=self.threshold)
