"""Store weights as indices into a few numbers, or into a few short vectors; activations and arithmetic stay floats.

    before   y = x @ W
    after    y = x @ Transpose(Gather(codebook, indices))                  balanced, gobo, kmeans, log2, adaptivfloat
             y = x @ Transpose(Gather(codebook, indices) * scale)          nf4, word2bits, log2{rows}
             y = x @ Transpose(Gather(vectors0, indices0) + ..)            product, residual

Lossy. Methods see [out, in]: scales and tables belong to outputs, vectors are runs of inputs; a table of embeddings is
seen as it is, a row for each word. Indices of 4 and 8 bits are types of ONNX, others are packed (`weights.packing`).
Needs no data. Sources: Han et al., Deep Compression, 2016 (kmeans); Dettmers et al., QLoRA, 2023 (nf4); Miyashita et
al., 2016 (log2); Zhou et al., Balanced Quantization, 2017; Zadeh et al., GOBO, 2020; Gong et al., 2014 (product,
residual); Lam, Word2Bits, 2018; Tambe et al., AdaptivFloat, 2020. Left alone: weights read in two ways, small, not
finite, computed or quantized already, that would take more bytes than before (books cost what they hold, outliers 8
bytes each), and sites that the options leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ..base import Context, Contract, Lossy, Outcome
from ..choosing import Verdict, outcome
from ..edit import Array, declare_functions
from ..numerics.kmeans import kmeans
from ..numerics.product import product, residual
from ..placing import matrix, put
from ..weight_pass import WeightPass, smaller
from ..weights import Codebook
from .methods.balanced import balanced
from .methods.floats import adaptivfloat
from .methods.gobo import gobo
from .methods.log2 import log2
from .methods.normal_float import normal_float
from .methods.word2bits import word2bits

Name = Literal["nf4", "kmeans", "log2", "balanced", "gobo", "product", "residual", "word2bits", "adaptivfloat"]

#: Methods on [out, in], and the options beside `bits` that each takes.
_METHODS: Mapping[Name, tuple[Callable[..., Codebook], tuple[str, ...]]] = {
    "nf4": (normal_float, ("block", "double")),
    "kmeans": (kmeans, ("group", "seeding")),
    "log2": (log2, ("rows", "search")),
    "balanced": (balanced, ("levels", "cut")),
    "gobo": (gobo, ("threshold", "sigmas")),
    "product": (product, ("width", "shared")),
    "residual": (residual, ("width", "stages")),
    "word2bits": (word2bits, ("fit",)),
    "adaptivfloat": (adaptivfloat, ("exponent",)),
}
#: What differs from the methods' own defaults: rows of a whole matrix are too few to share vectors.
_DEFAULTS: Mapping[Name, Mapping[str, object]] = {"residual": {"width": 4}}
#: Methods that draw by chance.
_DRAWING = ("kmeans", "product", "residual")


@dataclass(frozen=True, kw_only=True)
class QuantizeCodebook(WeightPass):
    """weights as indices into a table of few numbers or vectors

    codebook: `nf4` has the quantiles of a normal distribution and a scale by block, closest at 4 bits; `kmeans` finds
        the numbers by Lloyd's iteration; `log2` powers of two; `balanced` levels that are used equally often; `gobo`
        few numbers and outliers that are kept; `product` vectors of a few inputs, `residual` sums of such vectors;
        `word2bits` two or four numbers around zero; `adaptivfloat` floats whose exponents end where the weight's do.
    bits: what an index takes: 4 (nf4, kmeans, log2), 2 (balanced), 3 (gobo), 8 (product, residual, adaptivfloat) and 1
        (word2bits) unless told.
    block: nf4: inputs of an output that share a scale, 64; 0 for all. double: nf4: scales in 8 bits themselves.
    group: kmeans: outputs that share a table; 0 for all. seeding: kmeans: first centers `linear`, by `density`, or
        drawn (`k-means++`).
    rows: log2: a largest power for each output. search: log2: the largest power of least squared error.
    levels: balanced: `uniform` steps, or the `means` of the bins. cut: balanced: at the `median` or the `mean`.
    threshold, sigmas: gobo: outliers are below this logarithm of the density, -4, or beyond so many deviations.
    width: product, residual: inputs of a vector, 4; 0 for all of an output (residual).
    shared: product: one table; else one for each run of inputs. stages: residual: vectors that add up, 2.
    fit: word2bits: scales of least squared error by `rows`, for the `tensor`, or `none`.
    exponent: adaptivfloat: bits of the exponent, 3.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "quantize-codebook"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    codebook: Name = "nf4"
    bits: int | None = None
    block: int | None = None
    double: bool | None = None
    group: int | None = None
    seeding: Literal["linear", "density", "k-means++"] | None = None
    rows: bool | None = None
    search: bool | None = None
    levels: Literal["uniform", "means"] | None = None
    cut: Literal["median", "mean"] | None = None
    threshold: float | None = None
    sigmas: float | None = None
    width: int | None = None
    shared: bool | None = None
    stages: int | None = None
    fit: Literal["none", "tensor", "rows"] | None = None
    exponent: int | None = None

    def __post_init__(self) -> None:
        if self.codebook not in _METHODS:
            raise OptionError(f"{self.name}: expected a codebook of {', '.join(_METHODS)}, found {self.codebook}")
        taken = ("bits", *_METHODS[self.codebook][1])
        for option, value in self._given().items():
            if option not in taken:
                raise OptionError(
                    f"{self.name}: the codebook {self.codebook} does not take {option}={value}; "
                    f"it takes {', '.join(taken)}"
                )
        if self.threshold is not None and self.sigmas is not None:
            raise OptionError(f"{self.name}: expected threshold or sigmas, found both")
        try:
            self._quantized(np.ones((1, 1), np.float32), 0)
        except ValueError as error:
            raise OptionError(f"{self.name}: {self.codebook}: {error}") from error

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = []
        for verdict, found in self._candidates(model, context):
            verdicts.append(verdict)
            if found is not None:
                put(verdict[0], found, turned=True)
        declare_functions(model)
        return outcome(verdicts, ignore=self.ignore)

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site, leaving `model` as it is; takes as long as `apply`, to know the bytes."""
        return outcome([verdict for verdict, _ in self._candidates(model, context)], ignore=self.ignore)

    def _candidates(self, model: ir.Model, context: Context) -> Iterator[tuple[Verdict, Codebook | None]]:
        return smaller(self.verdicts(model, context), lambda site: self._quantized(matrix(site).T, context.seed))

    def _quantized(self, weight: Array, seed: int) -> Codebook:
        """The weight [out, in] by the method."""
        drawn = {"seed": seed} if self.codebook in _DRAWING else {}
        options = {**_DEFAULTS.get(self.codebook, {}), **self._given(), **drawn}
        return _METHODS[self.codebook][0](weight, **options)

    def _given(self) -> dict[str, object]:
        """The options of methods that are not left to them."""
        names = ("bits", *dict.fromkeys(name for _, taken in _METHODS.values() for name in taken))
        return {name: value for name in names if (value := getattr(self, name)) is not None}
