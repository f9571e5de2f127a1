"""From what calibration saw of an activation to the grid that it is rounded to, and the nodes that round it.

x -> QuantizeLinear(scale, zero) -> DequantizeLinear(scale, zero)        behind a Clip where codes are left over
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..accumulators import FeatureRange, Histogram, Range
from ..base import Miss
from ..edit import Array, Tape
from ..statistics import Statistics, Want
from .methods.embedding_groups import embedding_groups
from .methods.ranges import Bounds, activation_grid, entropy, min_max, mse, percentile

Method = Literal["min-max", "percentile", "entropy", "mse"]
Type = Literal["uint8", "int8", "uint16", "int16", "float8_e4m3fn", "float8_e5m2"]

#: The types of grids of integers, with their bits.
INTEGERS: Mapping[str, int] = {"uint8": 8, "int8": 8, "uint16": 16, "int16": 16}
#: Those of floats, with their largest number.
FLOATS8: Mapping[str, float] = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}


@dataclass(frozen=True)
class Grid:
    """Scale and zero point, one for all or one for each index along `axis`, of a type; floats have no zero point.

    ends: the least and the largest code, where the type has others beyond them.
    """

    scale: Array
    zero: Array
    axis: int | None = None
    ends: tuple[int, int] | None = None

    @property
    def members(self) -> Array | None:
        """Which features share a grid: a number for each; None where all do."""
        if self.axis is None:
            return None
        pairs = np.stack([self.scale.astype(np.float64), self.zero.astype(np.float64)])
        return np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)

    def rounded(self, tape: Tape, x: ir.Value, *, name: str = "", times: float = 1.0) -> ir.Value:
        """Record the round trip of x, whose constants are named after it unless told; the way back may multiply."""
        name = name or x.name or ""
        scale = tape.weight(self.scale, f"{name}_scale")
        zero = tape.weight(self.zero, f"{name}_zero_point")
        if self.ends is not None:
            ends = [np.float32((end - int(self.zero)) * float(self.scale)) for end in self.ends]
            x = tape("Clip", x, *(tape.constant(np.asarray(end), "end") for end in ends))
        codes = tape("QuantizeLinear", x, scale, zero, axis=self.axis)
        back = scale
        if times != 1.0:
            back = tape.weight(np.asarray(self.scale.astype(np.float64) * times, np.float32), f"{name}_scale_back")
        made = tape("DequantizeLinear", codes, back, zero, axis=self.axis)
        codes.type, codes.shape = ir.TensorType(ir.DataType.from_numpy(self.zero.dtype)), x.shape
        made.type, made.shape = ir.TensorType(ir.DataType.from_numpy(self.scale.dtype)), x.shape
        return made


@dataclass(frozen=True, kw_only=True)
class Ranging:
    """How grids are chosen.

    method: how much of what was seen a grid reaches. fraction: the share of numbers that `percentile` keeps. dtype: of
    the integers or floats. symmetric: around zero. groups: of features that have a grid each. bits: that the codes of
    symmetric int8 make do with, 0 for all.
    """

    method: Method = "mse"
    fraction: float = 0.9999
    dtype: Type = "uint8"
    symmetric: bool = False
    groups: int = 1
    bits: int = 0

    def check(self) -> None:
        """Raises ValueError for what cannot be."""
        if not 0 < self.fraction <= 1:
            raise ValueError(f"expected to keep a fraction above 0 and at most 1, found {self.fraction}")
        if self.groups < 1:
            raise ValueError(f"expected at least one group, found {self.groups}")
        if self.groups > 1 and self.method != "min-max":
            raise ValueError(f"expected range=min-max where features have groups, found range={self.method}")

    def want(self, activation: ir.Value, features: int, axis: int) -> Want:
        """What has to be known about an activation whose features lie on `axis`; 0 where they cannot be grouped."""
        if self.groups > 1 and features:
            return Want(activation, FeatureRange, features, axis=axis)
        return Want(activation, Range if self.method == "min-max" else Histogram, axis=axis)

    def grid(self, found: Statistics, want: Want) -> Grid | Miss:
        """The grid of an activation."""
        seen = found.found[want]
        if not seen.count:
            return Miss("data", want.value.name or "", "an activation that calibration sees")
        if isinstance(seen, Range | Histogram | FeatureRange) and np.min(seen.low) == np.max(seen.high):
            told = f"{want.value.name or ''} is {np.min(seen.low):g} throughout the data"
            return Miss("data", told, "an activation of more numbers than one, which a grid can reach over")
        if isinstance(seen, FeatureRange):
            groups = embedding_groups(seen.low, seen.high, min(self.groups, seen.features))
            scale, zero = self._on(groups.low, groups.high)
            return Grid(groups.spread(scale), groups.spread(zero), want.axis)
        assert isinstance(seen, Range | Histogram)
        ends = (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if self.bits else None
        return Grid(*self._on(*(np.asarray(end, np.float64) for end in self._bounds(seen))), ends=ends)

    def _bounds(self, seen: Range | Histogram) -> Bounds:
        bits = self.bits or INTEGERS.get(self.dtype, 8)
        if not isinstance(seen, Histogram):
            return min_max(seen)
        if self.method == "percentile":
            return percentile(seen, fraction=self.fraction)
        measure = entropy if self.method == "entropy" else mse
        return measure(seen, bits=bits, symmetric=self.symmetric)

    def _on(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Scale and zero point over [low, high]."""
        limit = FLOATS8.get(self.dtype)
        if limit is not None:
            reach = np.maximum(np.abs(low), np.abs(high)) / limit
            held = np.where(reach > 0, np.maximum(reach, np.finfo(np.float32).tiny), 1.0).astype(np.float32)
            return held, np.zeros(held.shape, getattr(ml_dtypes, self.dtype))
        bits = self.bits or INTEGERS[self.dtype]
        scale, zero = activation_grid(low, high, bits=bits, symmetric=self.symmetric)
        # signed and unsigned integers are the same grid, half their number apart
        half = 1 << (bits - 1)
        shift = half * (int(zero.dtype.kind == "i") - int(self.dtype.startswith("i")))
        return scale, np.asarray(zero.astype(np.int32) + shift, self.dtype)
