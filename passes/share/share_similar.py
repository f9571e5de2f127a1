"""Store once the initializers that hold nearly the same numbers, transposed or not.

    before   a = W1, b = W2, c = W3.T     |Wi - Wj| <= tolerance |Wi|          after   a = b = M, c = M.T

Lossy by at most the tolerance in every weight. Clusters are those of complete linkage: each two of their members are
within the tolerance of each other, as a share of the smaller one, and so each is within it of the mean, or the first,
that stands for all. Transposes are taken in where all that reads them can read either (`share.standing`). Left alone:
integers, strings, what is quantized and its scales, single numbers, initializers that are inputs or outputs of the
graph, hold NaN or infinity, or are computed when they are read. What is equal byte for byte is shared exactly (pass
`share-identical`).

Source: Soerensen, A Method of Establishing Groups of Equal Amplitude in Plant Sociology, 1948 (complete linkage).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.level import Level
from ...ir.text import place
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..choosing import FLOATS, left_out
from ..edit import Array, is_op
from ..numerics.arrays import Floats
from .methods.linkage import clusters, distances
from .standing import stand_for, turnable, turned_for

#: Whose second inputs are scales.
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, kw_only=True)
class ShareSimilar(Pass):
    """nearly equal initializers stored once

    tolerance: how far two may be apart, |A - B| / |A|; more than 0 and less than 1.
    merge: what stands for a cluster: the `mean`, or the `first`.
    transposed: take in what is nearly another's transpose.
    smallest: fewest numbers of a tensor.
    only, ignore: glob patterns over the names of initializers.
    """

    name: ClassVar[str] = "share-similar"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    level: ClassVar[Level] = Level.IMPORTED
    tolerance: float = 0.01
    merge: Literal["mean", "first"] = "mean"
    transposed: bool = True
    smallest: int = 16
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise OptionError(
                f"{self.name}: expected a tolerance of more than 0 and less than 1, found {self.tolerance:g}; "
                "share-identical shares what is equal"
            )

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        scopes = (model.graph, *model.graph.subgraphs())
        return Outcome(tuple(finding for scope in scopes for finding in self._share(scope)))

    def _share(self, graph: ir.Graph) -> list[Finding]:
        findings: list[Finding] = []
        kinds: defaultdict[tuple[object, ...], list[ir.Value]] = defaultdict(list)
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype not in (*FLOATS, ir.DataType.DOUBLE) or tensor.size < self.smallest:
                continue
            miss = left_out([value.name or ""], self.only, self.ignore) or _unfit(value, tensor)
            if miss is not None:
                findings.append(Finding(value.name or "", miss=miss))
                continue
            sizes = tuple(tensor.shape.numpy())
            kinds[tensor.dtype, tuple(sorted(sizes)) if self._turns(sizes) else sizes].append(value)
        return findings + [finding for kind in kinds.values() for finding in self._merge(kind)]

    def _turns(self, sizes: tuple[int, ...]) -> bool:
        return self.transposed and len(sizes) == 2

    def _merge(self, kind: Sequence[ir.Value]) -> list[Finding]:
        if len(kind) < 2:
            return []
        arrays = [_array(value) for value in kind]
        able = [self._turns(array.shape) and turnable(value) for value, array in zip(kind, arrays, strict=True)]
        apart, turned = distances(arrays, able, self.tolerance)
        findings = []
        for members in clusters(apart, self.tolerance):
            if len(members) < 2:
                continue
            # what cannot be turned stands for the others
            first = next((at for at in members if not able[at]), members[0])
            others = [at for at in members if at != first]
            flips = [bool(turned[first, at]) for at in others]
            beside = [arrays[at].T if flip else arrays[at] for at, flip in zip(others, flips, strict=True)]
            if self.merge == "mean":
                _become(kind[first], arrays[first], beside, self.tolerance)
            for at, flip in zip(others, flips, strict=True):
                told = f"apart {apart[first, at]:.2g}{', transposed' if flip else ''}"
                findings.append(Finding(f"{kind[at].name} is {kind[first].name}", chosen=told))
                (turned_for if flip else stand_for)(kind[at], kind[first])
        return findings


def _unfit(value: ir.Value, tensor: ir.TensorProtocol) -> Miss | None:
    if value.is_graph_input() or value.is_graph_output():
        return Miss("signature", value.name or "", "an initializer that is no input or output of the graph")
    reader = next((use.node for use in value.uses() if use.idx == 1 and is_op(use.node, *_QUANTIZED)), None)
    if reader is not None:
        return Miss("quantized", f"{value.name}, a scale of {place(reader)}", "weights, of which scales are none")
    if isinstance(tensor, ir.LazyTensor):
        return Miss("stored", value.name or "", "numbers that are stored, not computed when they are read")
    if not np.isfinite(_array(value).astype(np.float64)).all():
        return Miss("finite", value.name or "", "weights without NaN and infinity")
    return None


def _array(value: ir.Value) -> Array:
    tensor = value.const_value
    assert tensor is not None
    return tensor.numpy()


def _become(value: ir.Value, own: Array, others: Sequence[Array], tolerance: float) -> None:
    """Let an initializer hold the mean, where that is within the tolerance of all, as it is unless types round."""
    arrays = [own, *others]
    mean: Floats = sum((array.astype(np.float64) for array in arrays), np.zeros(own.shape)) / len(arrays)
    made = mean.astype(own.dtype)
    for array in arrays:
        wide = array.astype(np.float64)
        if np.linalg.norm(wide - made.astype(np.float64)) > tolerance * np.linalg.norm(wide):
            return
    tensor = value.const_value
    assert tensor is not None
    value.const_value = ir.Tensor(made, dtype=tensor.dtype, name=value.name)
