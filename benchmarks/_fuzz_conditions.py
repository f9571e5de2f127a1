"""Exact conditions on a difference, and what is put in place of inputs to see whether it goes away."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
from tersor.benchmarks._fuzz_check import Difference
from tersor.benchmarks._fuzz_graph import Array

Test = Callable[[Difference], bool]
Cure = Callable[[int, Array], Array]


def equal(a: Array, b: object) -> bool:
    if not isinstance(b, np.ndarray) or a.dtype != b.dtype:
        return False
    return a.tolist() == b.tolist() if a.dtype.kind == "O" else a.tobytes() == b.tobytes()


def real(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def numbers(index: int, array: Array) -> Array:
    """No NaN."""
    return np.where(np.isnan(array), np.asarray(0.25, array.dtype), array) if real(array) else array


def finite(index: int, array: Array) -> Array:
    """Neither NaN nor infinity."""
    return np.where(np.isfinite(array), array, np.asarray(0.25, array.dtype)) if real(array) else array


def small(index: int, array: Array) -> Array:
    """Integers with which no sum overflows."""
    if array.dtype.kind not in "iu":
        return array
    return np.where(np.abs(array.astype(np.float64)) > 100, np.asarray(3, array.dtype), array)


def divisible(index: int, array: Array) -> Array:
    """No divisor of zero."""
    return np.where(array == 0, np.asarray(1, array.dtype), array) if index == 1 and array.dtype.kind in "iu" else array


def whole_places(index: int, array: Array) -> Array:
    """No fractions among the places."""
    return np.trunc(array) if index == 0 and real(array) else array


def written(index: int, array: Array) -> Array:
    """No empty strings."""
    return np.where(array == "", "x", array).astype(object) if array.dtype == object else array


def is_(*kinds: str) -> Test:
    return lambda difference: difference.kind in kinds


def of(oracle: str) -> Test:
    return lambda difference: difference.oracle == oracle


def integers(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.dtype.kind in "iu"


def empty(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.size == 0


def power_out_of_range(difference: Difference) -> bool:
    """Each place that differs holds a power that the integers' type has no number for."""
    base, exponent, found, wanted = difference.array(0), difference.array(1), difference.found, difference.wanted
    if base is None or exponent is None or not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return False
    if base.dtype.kind not in "iu":
        return False
    with np.errstate(all="ignore"):
        exact = np.broadcast_to(np.float_power(base.astype(float), exponent.astype(float)), found.shape)
    ends = np.iinfo(base.dtype)
    beyond = 2.0 ** (ends.bits - (base.dtype.kind == "i"))
    fits = (exact >= ends.min) & (exact < beyond) & (exact == np.trunc(exact))
    return bool((~fits[found != wanted]).all())


def reduced_axes(difference: Difference, rank: int) -> set[int]:
    """The axes that a reduction reduces, given as attribute or input."""
    given = difference.array(1)
    named = difference.attribute("axes") if given is None else given.tolist()
    if difference.op in ("ArgMax", "ArgMin"):
        named = [difference.attribute("axis", 0)]
    return {axis % rank for axis in named} if named else set(range(rank))


def as_reduced(difference: Difference) -> bool:
    """FX's shape is the one that NumPy gives a reduction of nothing."""
    x, found = difference.array(0), difference.found
    if x is None or x.size or not isinstance(found, np.ndarray):
        return False
    axes = reduced_axes(difference, x.ndim)
    keep = difference.attribute("keepdims", 1)
    shape = [1 if i in axes else dim for i, dim in enumerate(x.shape) if keep or i not in axes]
    return list(found.shape) == shape


def half_statistics(difference: Difference) -> bool:
    return str(getattr(difference.found, "dtype", "")) == "float32" and difference.attribute("stash_type", 1) == 1


def one_axis_apart(difference: Difference) -> bool:
    found, wanted = difference.found, difference.wanted
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray) or found.size != wanted.size:
        return False
    a, b = found.reshape(-1), wanted.reshape(-1)
    same = equal(a, b) if a.dtype.kind == "O" else np.allclose(a, b, rtol=1e-4, equal_nan=True)
    return abs(found.ndim - wanted.ndim) == 1 and same


def scans_nothing(difference: Difference) -> bool:
    """The states are as they came in."""
    scanned = difference.attribute("num_scan_inputs")
    states = difference.inputs[1:-scanned]
    last = difference.array(len(difference.inputs) - 1)
    nothing = difference.opset == 8 and last is not None and last.shape[1] == 0
    return nothing and any(
        isinstance(difference.found, np.ndarray) and isinstance(state, np.ndarray) and equal(difference.found, state)
        for state in states
    )


def log_sum_exp(difference: Difference) -> bool:
    """FX has what float64 has, cut to an integer."""
    x, found = difference.array(0), difference.found
    if x is None or not isinstance(found, np.ndarray):
        return False
    exact = x.astype(np.float64)
    for axis in reduced_axes(difference, x.ndim):
        exact = np.expand_dims(np.logaddexp.reduce(exact, axis=axis), axis)
    return found.size == exact.size and bool((np.trunc(exact.reshape(-1)) == found.reshape(-1)).all())


def all_empty(difference: Difference) -> bool:
    rows = [value if isinstance(value, list) else [value] for value in difference.inputs]
    return all(isinstance(part, np.ndarray) and part.size == 0 for row in rows for part in row)


def without_alpha(difference: Difference) -> bool:
    return bool(difference.attribute("alpha", 1.0) == 0)


def skips_the_end(difference: Difference) -> bool:
    """Strides greater than the kernel, with padding that is computed."""
    strides = difference.attribute("strides", ())
    pairs = zip(difference.attribute("kernel_shape", ()), strides, strict=False)
    return difference.attribute("auto_pad", b"")[:4] == b"SAME" and any(kernel < stride for kernel, stride in pairs)


def backward_to_the_greatest(difference: Difference) -> bool:
    """A step below zero with an end that stands for no end, which going backward is the least number."""
    ends, steps = difference.array(2), difference.array(4)
    if ends is None or steps is None:
        return False
    return bool(((steps < 0) & np.isin(ends, (2**31 - 1, 2**63 - 1))).any())


def beyond_the_end(difference: Difference) -> bool:
    return bool(difference.attribute("ceil_mode", 0) == 1)


def in_float32(difference: Difference) -> bool:
    """The oracle has FX's numbers, as exact as float32 is."""
    found, wanted = difference.found, difference.wanted
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray) or found.dtype != np.float64:
        return False
    # terms as large as the input may have cancelled
    x = difference.array(0)
    scale = 1.0 if x is None or not x.size else float(np.nanmax(np.abs(x)))
    return bool(np.allclose(found, wanted, rtol=3e-7, atol=3e-7 * scale, equal_nan=True))


def leaves_a_rest(difference: Difference) -> bool:
    """The parts of a split are not all that there is."""
    x, given = difference.array(0), difference.array(1)
    sizes = difference.attribute("split") if given is None else given.tolist()
    return x is not None and bool(sizes) and sum(sizes) != x.shape[difference.attribute("axis", 0)]


def times_the_strides(difference: Difference) -> bool:
    """FX's sizes are ONNX's for auto_pad SAME of a transposed convolution: the input's times the strides."""
    x, found = difference.array(0), difference.found
    if x is None or not isinstance(found, np.ndarray) or difference.attribute("auto_pad", b"")[:4] != b"SAME":
        return False
    strides = difference.attribute("strides", [1] * (x.ndim - 2))
    return list(found.shape[2:]) == [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]


def accents(difference: Difference) -> bool:
    """The oracle has the same text without accents."""
    found, wanted = difference.found, difference.wanted
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        return False
    return [_bare(text) for text in found.reshape(-1)] == list(wanted.reshape(-1))


def _bare(text: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFKD", text) if not unicodedata.combining(part))


def stops_in_any_case(difference: Difference) -> bool:
    return bool(difference.attribute("stopwords")) and difference.attribute("is_case_sensitive", 0) == 0


def places(difference: Difference) -> bool:
    """FX counts places over the whole tensor, of which the oracle has the rest within a channel."""
    x, found, wanted = difference.array(0), difference.found, difference.wanted
    if x is None or not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray) or found.dtype != np.int64:
        return False
    return bool((found % int(np.prod(x.shape[2:])) == wanted).all())


def ends_before_the_start(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and difference.attribute("end", 0) < -x.ndim


def uneven_pads(difference: Difference) -> bool:
    pads = difference.attribute("pads", ())
    return bool(pads[: len(pads) // 2] != pads[len(pads) // 2 :])


def backward_from_before_the_first(difference: Difference) -> bool:
    """A step below zero from a start that ONNX moves to the first element."""
    x, starts, steps = difference.array(0), difference.array(1), difference.array(4)
    if x is None or starts is None or steps is None:
        return False
    axes = difference.array(3)
    sizes = np.array(x.shape)[: len(starts)] if axes is None else np.array(x.shape)[axes]
    return bool(((steps < 0) & (starts < -sizes)).any())


def before_13(difference: Difference) -> bool:
    return difference.opset < 13


def grouped_bias(difference: Difference) -> bool:
    return difference.attribute("group", 1) > 1 and difference.array(2) is not None


def in_order_of_occurrence(difference: Difference) -> bool:
    assert difference.node is not None
    return difference.attribute("sorted", 1) == 0 and len(difference.node.output) == 1


def more_channels_than_images(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.shape[0] < x.shape[1]


def to_float32(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.dtype != np.float32 and getattr(difference.wanted, "dtype", None) == np.float32


def valid_and_ceil(difference: Difference) -> bool:
    return bool(difference.attribute("auto_pad") == b"VALID" and difference.attribute("ceil_mode") == 1)


def lone_corner(difference: Difference) -> bool:
    size = difference.array(1)
    return difference.attribute("align_corners") == 1 and size is not None and bool((size[2:] == 1).any())


def nothing_along_the_axis(difference: Difference) -> bool:
    x = difference.array(0)
    return x is not None and x.shape[difference.attribute("axis", 0)] == 0


def mask_of_ones(difference: Difference) -> bool:
    found = np.asarray(difference.found)
    return difference.opset < 12 and bool(found.all()) and not np.any(np.asarray(difference.wanted))


def as_given(difference: Difference) -> bool:
    """FX draws one where the chance is one and zero where it is zero."""
    x, found = difference.array(0), difference.found
    return x is not None and isinstance(found, np.ndarray) and bool((found == x.astype(found.dtype)).all())


def widened(difference: Difference) -> bool:
    """FX has the type of the input, as ONNX wants it, and the oracle NumPy's wider one."""
    x = difference.array(0)
    return (
        x is not None
        and x.dtype.kind in "iu"
        and getattr(difference.found, "dtype", None) == x.dtype
        and getattr(difference.wanted, "dtype", None) in (np.int64, np.uint64, np.float64)
    )


def crops_too_much(difference: Difference) -> bool:
    x, pads = difference.array(0), difference.array(1)
    amounts = difference.attribute("pads") if pads is None else pads.tolist()
    if x is None or amounts is None:
        return False
    before, after = amounts[: x.ndim], amounts[x.ndim :]
    return any(size + min(a, 0) + min(b, 0) < 0 for size, a, b in zip(x.shape, before, after, strict=True))


def out_of_range(difference: Difference) -> bool:
    """An index that addresses nothing, of a value whose every row is empty."""
    x, index = difference.array(0), difference.array(1)
    if x is None or index is None or not x.ndim:
        return False
    axis = difference.attribute("axis", 0) % x.ndim
    rest = [dim for i, dim in enumerate(x.shape) if i != axis]
    return 0 in rest and bool(((index >= x.shape[axis]) | (index < -x.shape[axis])).any())
