"""Store weights in 16- or 8-bit floats; activations and arithmetic stay as they were.

    before   y = x @ W
    after    y = x @ Cast(W16)                                             float16, bfloat16
             y = x @ DequantizeLinear(W8, scale)                           float8_e4m3fn, float8_e5m2

Lossy. The file is a half or a quarter; what the node computes, and in which type, does not change (a whole graph in
half precision is another thing). 16 bits hold each number as it is, to the nearest; 8 bits have a scale for each output
channel or row of a table, which puts its largest magnitude on the type's largest number. Runtimes widen what is cast
when they load a model; what is dequantized some widen at every run. Needs no data. Sources: IEEE 754-2019; Kalamkar et
al., A Study of BFLOAT16 for Deep Learning Training, 2019; Micikevicius et al., FP8 Formats for Deep Learning, 2022.
Left alone: weights read in two ways, small, not finite, computed, quantized or of as few bits already, beyond the
largest number of float16, or of so few inputs that their scales take what they save, and sites that the options leave
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Site
from ..base import Context, Contract, Lossy, Miss, Outcome
from ..choosing import outcome
from ..edit import Array
from ..placing import matrix, put
from ..weight_pass import WeightPass, taken
from ..weights import Floating, Half
from .methods.floats import cast, float8

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True)
class Cast(WeightPass):
    """weights stored as 16- or 8-bit floats

    dtype: what weights are stored in. float16 has 11 bits of mantissa and reaches 65504; bfloat16 has 8 and the range
        of float32; float8_e4m3fn has 4 and float8_e5m2 3, with a scale for each output.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "cast"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    dtype: Literal["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"] = "float16"
    embeddings: bool = True
    convolutions: bool = True

    def __post_init__(self) -> None:
        known = "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"
        if self.dtype not in known:
            raise OptionError(f"{self.name}: expected a dtype of {', '.join(known)}, found {self.dtype}")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self.verdicts(model, context)
        for site in taken(verdicts):
            put(site, self._narrowed(matrix(site)))
        return outcome(verdicts, ignore=self.ignore)

    def unfit(self, site: Site) -> Miss | None:
        """Why the type cannot hold the weight, or saves nothing."""
        weight, stored = matrix(site), site.weight.const_value
        assert stored is not None  # a site that was chosen is stored
        if self.dtype in ("float16", "bfloat16") and stored.dtype != ir.DataType.FLOAT:
            return Miss("dtype", stored.dtype.name.lower(), "weights of float, of which 16 bits are fewer")
        if self.dtype == "float16":
            largest = float(np.abs(weight).max(initial=0.0))
            return Miss("range", f"{largest:g}", f"weights of at most {_LARGEST:g}") if largest > _LARGEST else None
        size = weight.size + weight.shape[1] * weight.itemsize
        if self.dtype == "bfloat16" or size < stored.nbytes:
            return None
        return Miss("bytes", f"{size} bytes with scales", f"fewer than the weight's {stored.nbytes}")

    def _narrowed(self, weight: Array) -> Half | Floating:
        """The weight [in, out] in fewer bits."""
        match self.dtype:
            case "float16" | "bfloat16":
                return Half(cast(weight, self.dtype), weight.dtype)
            case "float8_e4m3fn" | "float8_e5m2":
                return float8(weight, self.dtype, axis=1)
