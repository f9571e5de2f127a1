"""Differences that are known and not FX's fault, each with its reason.

Where the second oracle sides with FX nothing needs to be known. The rest are differences on which ONNX is silent (each
engine may do as it likes), and faults of the only oracle that runs the op. An entry applies to an exact condition, and
where that is about values of a kind (NaN, infinities, a divisor of zero) the difference must be gone once those values
are replaced: then nothing else can hide behind them. Where both oracles agree against FX, no entry applies but those
that say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tersor.benchmarks._fuzz_check import WITH_ORACLE, Difference, Judge
from tersor.benchmarks._fuzz_engines import REFERENCE, RUNTIME
from tersor.benchmarks._fuzz_graph import Array

Test = Callable[[Difference], bool]
Cure = Callable[[int, Array], Array]


@dataclass(frozen=True)
class Known:
    """A difference of these ops to which all `tests` apply, which `cure` removes, and why it is none of ours."""

    reason: str
    ops: frozenset[str]
    tests: tuple[Test, ...]
    cure: Cure | None
    against_both: bool

    def explains(self, difference: Difference, judge: Judge) -> bool:
        if difference.op not in self.ops or not all(test(difference) for test in self.tests):
            return False
        if difference.second == WITH_ORACLE and not self.against_both:
            return False
        return self.cure is None or _cured(difference, self.cure, judge)


def _cured(difference: Difference, cure: Cure, judge: Judge) -> bool:
    assert difference.node is not None
    names = list(difference.node.input)
    arrays = {
        name: cure(i, value)
        for i, (name, value) in enumerate(zip(names, difference.inputs, strict=True))
        if isinstance(value, np.ndarray)
    }
    changed = any(
        value is not difference.inputs[names.index(name)] and not _equal(value, difference.inputs[names.index(name)])
        for name, value in arrays.items()
    )
    return changed and judge.same_on(difference, arrays)


def _equal(a: Array, b: object) -> bool:
    if not isinstance(b, np.ndarray) or a.dtype != b.dtype:
        return False
    return a.tolist() == b.tolist() if a.dtype.kind == "O" else a.tobytes() == b.tobytes()


def known(reason: str, ops: str, *tests: Test, cure: Cure | None = None, against_both: bool = False) -> Known:
    return Known(reason, frozenset(ops.split()), tests, cure, against_both)


def _real(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _numbers(index: int, array: Array) -> Array:
    """No NaN."""
    return np.where(np.isnan(array), np.asarray(0.25, array.dtype), array) if _real(array) else array


def _finite(index: int, array: Array) -> Array:
    """Neither NaN nor infinity."""
    return np.where(np.isfinite(array), array, np.asarray(0.25, array.dtype)) if _real(array) else array


def _small(index: int, array: Array) -> Array:
    """Integers with which no sum overflows."""
    if array.dtype.kind not in "iu":
        return array
    return np.where(np.abs(array.astype(np.float64)) > 100, np.asarray(3, array.dtype), array)


def _divisible(index: int, array: Array) -> Array:
    """No divisor of zero."""
    return np.where(array == 0, np.asarray(1, array.dtype), array) if index == 1 and array.dtype.kind in "iu" else array


def _whole_places(index: int, array: Array) -> Array:
    """No fractions among the places."""
    return np.trunc(array) if index == 0 and _real(array) else array


def _written(index: int, array: Array) -> Array:
    """No empty strings."""
    return np.where(array == "", "x", array).astype(object) if array.dtype == object else array


def _is(*kinds: str) -> Test:
    return lambda difference: difference.kind in kinds


def _of(oracle: str) -> Test:
    return lambda difference: difference.oracle == oracle


def _integers(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.dtype.kind in "iu"


def _empty(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.size == 0


def _power_out_of_range(difference: Difference) -> bool:
    """Each place that differs holds a power that the integers' type has no number for."""
    base, exponent, found, wanted = difference.array(0), difference.array(1), difference.found, difference.wanted
    if base is None or exponent is None or not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return False
    if base.dtype.kind not in "iu":
        return False
    with np.errstate(all="ignore"):
        exact = np.broadcast_to(np.float_power(base.astype(float), exponent.astype(float)), found.shape)
    ends = np.iinfo(base.dtype)
    fits = (exact >= ends.min) & (exact <= ends.max) & (exact == np.trunc(exact))
    return bool((~fits[found != wanted]).all())


def _as_reduced(difference: Difference) -> bool:
    """FX's shape is the one that NumPy gives a reduction of nothing."""
    x, given, found = difference.array(0), difference.array(1), difference.found
    if x is None or x.size or not isinstance(found, np.ndarray):
        return False
    named = difference.attribute("axes") if given is None else given.tolist()
    if difference.op in ("ArgMax", "ArgMin"):
        named = [difference.attribute("axis", 0)]
    axes = {axis % x.ndim for axis in named} if named else set(range(x.ndim))
    keep = difference.attribute("keepdims", 1)
    shape = [1 if i in axes else dim for i, dim in enumerate(x.shape) if keep or i not in axes]
    return list(found.shape) == shape


def _half_statistics(difference: Difference) -> bool:
    return str(getattr(difference.found, "dtype", "")) == "float32" and difference.attribute("stash_type", 1) == 1


def _one_axis_more(difference: Difference) -> bool:
    return np.ndim(difference.found) == np.ndim(difference.wanted) + 1  # type: ignore[arg-type]


def _grouped_bias(difference: Difference) -> bool:
    return difference.attribute("group", 1) > 1 and difference.array(2) is not None


def _in_order_of_occurrence(difference: Difference) -> bool:
    assert difference.node is not None
    return difference.attribute("sorted", 1) == 0 and len(difference.node.output) == 1


def _more_channels_than_images(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.shape[0] < x.shape[1]


def _to_float32(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.dtype != np.float32 and getattr(difference.wanted, "dtype", None) == np.float32


def _valid_and_ceil(difference: Difference) -> bool:
    return bool(difference.attribute("auto_pad") == b"VALID" and difference.attribute("ceil_mode") == 1)


def _lone_corner(difference: Difference) -> bool:
    size = difference.array(1)
    return difference.attribute("align_corners") == 1 and size is not None and bool((size[2:] == 1).any())


def _nothing_along_the_axis(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.shape[difference.attribute("axis", 0)] == 0


def _mask_of_ones(difference: Difference) -> bool:
    found = np.asarray(difference.found)
    return difference.opset < 12 and bool(found.all()) and not np.any(np.asarray(difference.wanted))


def _as_given(difference: Difference) -> bool:
    """FX draws one where the chance is one and zero where it is zero."""
    x, found = difference.array(0), difference.found
    return x is not None and isinstance(found, np.ndarray) and bool((found == x.astype(found.dtype)).all())


def _widened(difference: Difference) -> bool:
    """FX has the type of the input, as ONNX wants it, and the oracle NumPy's wider one."""
    x = difference.array(0)
    return (
        x is not None
        and x.dtype.kind in "iu"
        and getattr(difference.found, "dtype", None) == x.dtype
        and getattr(difference.wanted, "dtype", None) in (np.int64, np.uint64, np.float64)
    )


def _crops_too_much(difference: Difference) -> bool:
    x, pads = difference.array(0), difference.array(1)
    amounts = difference.attribute("pads") if pads is None else pads.tolist()
    if x is None or amounts is None:
        return False
    before, after = amounts[: x.ndim], amounts[x.ndim :]
    return any(size + min(a, 0) + min(b, 0) < 0 for size, a, b in zip(x.shape, before, after, strict=True))


def _out_of_range(difference: Difference) -> bool:
    """An index that addresses nothing, of a value whose every row is empty."""
    x, index = difference.array(0), difference.array(1)
    if x is None or index is None or not x.ndim:
        return False
    axis = difference.attribute("axis", 0) % x.ndim
    rest = [dim for i, dim in enumerate(x.shape) if i != axis]
    return 0 in rest and bool(((index >= x.shape[axis]) | (index < -x.shape[axis])).any())


_REDUCTIONS = " ".join(
    f"Reduce{name}" for name in ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
)
_ORDERED = (
    "ArgMax ArgMin TopK Max Min ReduceMax ReduceMin Unique Hardmax Clip MaxPool GlobalMaxPool "
    "DynamicQuantizeLinear QuantizeLinear ScatterElements ScatterND RoiAlign"
)
_WEIGHTED = (
    "Resize Upsample DFT STFT MeanVarianceNormalization GridSample Conv ConvTranspose DeformConv LSTM GRU RNN Attention"
)

KNOWN: tuple[Known, ...] = (
    known("ONNX does not say where NaN is in an order", _ORDERED, _is("value", "shape"), cure=_numbers),
    known("ONNX does not say whether zero times infinity counts", _WEIGHTED, _is("value"), cure=_finite),
    known(
        "torch's fused attention gives zeros where all scores of a row are NaN, ONNX NaN",
        "Attention",
        _is("value"),
        cure=_finite,
        against_both=True,
    ),
    known(
        "the maximum of a window with NaN is NaN in torch, in the others it is not; ONNX does not say",
        "MaxPool GlobalMaxPool",
        _is("value"),
        cure=_numbers,
        against_both=True,
    ),
    known(
        "ONNX does not say what NaN is quantized to", "QuantizeLinear", _is("value"), cure=_numbers, against_both=True
    ),
    known(
        "ONNX does not say which place the extreme of nothing has; FX refuses",
        "ArgMax ArgMin",
        _is("refused"),
        _nothing_along_the_axis,
    ),
    known(
        "ONNX casts fractional places to int64, ONNX Runtime finds nothing there",
        "OneHot",
        _of(RUNTIME),
        _is("value"),
        cure=_whole_places,
    ),
    known("the reference drops empty strings", "StringNormalizer", _of(REFERENCE), cure=_written),
    known(
        "ONNX Runtime's mask before opset 12 is all zeros where nothing is dropped",
        "Dropout",
        _of(RUNTIME),
        _is("value"),
        _mask_of_ones,
    ),
    known("ONNX does not say how a determinant of infinities is found", "Det", cure=_finite, against_both=True),
    known(
        "ONNX Runtime has ceil_mode in auto_pad VALID too, where ONNX's formula has no such window",
        "AveragePool MaxPool LpPool",
        _of(RUNTIME),
        _is("shape"),
        _valid_and_ceil,
    ),
    known(
        "ONNX Runtime puts the only element of an axis at 1, ONNX's function and reference at -1",
        "AffineGrid",
        _of(RUNTIME),
        _is("value"),
        _lone_corner,
    ),
    known("ONNX does not say what a quantized infinity is", "DynamicQuantizeLinear", _is("value"), cure=_finite),
    known("ONNX does not say what an integer divided by zero is", "Div Mod", cure=_divisible, against_both=True),
    known("ONNX does not say what an integer power is that does not fit", "Pow", _is("value"), _power_out_of_range),
    known("ONNX does not say how sums of integers overflow", "ReduceL1 ReduceL2", _is("value"), cure=_small),
    known("ONNX does not say what cropping more than there is leaves", "Pad", _crops_too_much),
    known("ONNX Runtime draws the opposite", "Bernoulli", _of(RUNTIME), _is("value"), _as_given),
    known("the reference takes NaN for padding", "AveragePool LpPool", _of(REFERENCE), cure=_numbers),
    known("the reference sums small integers as NumPy does, in 64 bits", _REDUCTIONS, _of(REFERENCE), _widened),
    known("the reference holds an optional as a list of one", "Optional", _of(REFERENCE), _is("type")),
    known("ONNX Runtime keeps reduced axes of an empty tensor", _REDUCTIONS, _of(RUNTIME), _is("shape"), _as_reduced),
    known(
        "ONNX Runtime looks at no index where there is nothing to read",
        "Gather",
        _of(RUNTIME),
        _is("refused"),
        _out_of_range,
    ),
    known(
        "the reference's LRN takes the batch's size for the channels'",
        "LRN",
        _of(REFERENCE),
        _more_channels_than_images,
    ),
    known(
        "the reference squeezes the axes that it pooled",
        "GlobalMaxPool GlobalAveragePool",
        _of(REFERENCE),
        _is("shape"),
    ),
    known(
        "the reference forgets that statistics are float32 (stash_type)",
        "LayerNormalization",
        _of(REFERENCE),
        _is("type"),
        _half_statistics,
    ),
    known(
        "the reference joins what a loop gathers instead of stacking it",
        "Loop",
        _of(REFERENCE),
        _is("shape"),
        _one_axis_more,
    ),
    known("the reference adds the first group's bias to all", "ConvTranspose", _of(REFERENCE), _grouped_bias),
    known(
        "the reference sorts unless it is asked for more than the values",
        "Unique",
        _of(REFERENCE),
        _in_order_of_occurrence,
    ),
    known("the reference makes every grid float32", "AffineGrid", _of(REFERENCE), _is("type"), _to_float32),
)


def explained(difference: Difference, judge: Judge) -> str | None:
    """Why the difference is none of ours; None where nothing explains it."""
    return next((entry.reason for entry in KNOWN if entry.explains(difference, judge)), None)
