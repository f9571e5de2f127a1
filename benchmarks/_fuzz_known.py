"""Differences that are known and not FX's fault, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tersor.benchmarks._fuzz_check import Difference

_RUNTIME, _REFERENCE = "ONNX Runtime", "the reference evaluator"


@dataclass(frozen=True)
class Known:
    """A difference of these ops that `applies`, and why it is none of ours."""

    reason: str
    ops: frozenset[str]
    applies: Callable[[Difference], bool]


def _floats(difference: Difference) -> list[np.ndarray]:
    return [array for array in difference.inputs if array is not None and array.dtype.kind == "f"]


def _has_nan(difference: Difference) -> bool:
    return any(np.isnan(array).any() for array in _floats(difference))


def _unbounded(difference: Difference) -> bool:
    return any(not np.isfinite(array).all() for array in _floats(difference))


def _empty(difference: Difference) -> bool:
    return any(array is not None and array.size == 0 for array in difference.inputs)


def _by_zero(difference: Difference) -> bool:
    divisor = difference.inputs[1]
    return divisor is not None and divisor.dtype.kind in "iu" and bool((divisor == 0).any())


def _wide(difference: Difference) -> bool:
    return any(array.dtype == np.float64 for array in _floats(difference))


def _large(difference: Difference) -> bool:
    base = difference.inputs[0]
    return base is not None and base.dtype.kind in "iu"


def _fractions(difference: Difference) -> bool:
    places = difference.inputs[0]
    return places is not None and places.dtype.kind == "f" and not bool((places == np.trunc(places)).all())


def _crops_too_much(difference: Difference) -> bool:
    x, pads = (*difference.inputs, None)[:2]
    amounts = difference.attribute("pads") if pads is None else pads.tolist()
    if x is None or amounts is None:
        return False
    before, after = amounts[: x.ndim], amounts[x.ndim :]
    return any(size + min(a, 0) + min(b, 0) < 0 for size, a, b in zip(x.shape, before, after, strict=True))


def _aligned(difference: Difference) -> bool:
    return bool(difference.attribute("coordinate_transformation_mode") == b"align_corners")


def _valid(difference: Difference) -> bool:
    return bool(difference.attribute("auto_pad") == b"VALID" and difference.attribute("ceil_mode") == 1)


def _overflows(difference: Difference) -> bool:
    x = difference.inputs[0]
    return x is not None and x.dtype.kind in "iu" and float(np.abs(x.astype(np.float64)).sum()) >= np.iinfo(x.dtype).max


def _to_the_end(difference: Difference) -> bool:
    ends = difference.inputs[2] if len(difference.inputs) > 2 else None
    return ends is not None and bool((ends >= 2**31 - 1).any())


def _integers(difference: Difference) -> bool:
    return all(array is None or array.dtype.kind in "iu" for array in difference.inputs)


def _of(oracle: str, *tests: Callable[[Difference], bool]) -> Callable[[Difference], bool]:
    return lambda difference: difference.oracle == oracle and all(test(difference) for test in tests)


def _is(kind: str) -> Callable[[Difference], bool]:
    return lambda difference: difference.kind == kind


def _known(reason: str, ops: str, applies: Callable[[Difference], bool]) -> Known:
    return Known(reason, frozenset(ops.split()), applies)


_REDUCTIONS = " ".join(
    f"Reduce{name}" for name in ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
)
_RECURRENT = "LSTM GRU RNN"
_ORDERED = (
    "ArgMax ArgMin TopK Max Min ReduceMax ReduceMin Unique Hardmax Clip MaxPool GlobalMaxPool "
    "DynamicQuantizeLinear QuantizeLinear"
)

KNOWN: tuple[Known, ...] = (
    _known("ONNX does not say where NaN is in an order", _ORDERED, _has_nan),
    _known("the reference reads the default 0.2 as float32", "HardSigmoid", _of(_REFERENCE, _wide)),
    _known("ONNX Runtime's least float is not infinite", "MaxPool GlobalMaxPool", _of(_RUNTIME, _unbounded)),
    _known("ONNX does not say what an integer divided by zero is", "Div Mod", _by_zero),
    _known("ONNX does not say how a float factor meets integers", "Gemm", _integers),
    _known("ONNX does not say how a float bias meets integers", "Shrink", _integers),
    _known("ONNX does not say what an integer power is that does not fit", "Pow", _large),
    _known("ONNX does not say which place a fraction is", "OneHot", _fractions),
    _known(
        "ONNX does not say what the extremes of nothing are", "ArgMax ArgMin GlobalMaxPool ReduceMax ReduceMin", _empty
    ),
    _known(
        "ONNX does not say what the mean of nothing is", "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss", _empty
    ),
    _known(
        "ONNX does not say how far infinity reaches in a weighted sum",
        "Resize Upsample LogSoftmax Softmax DFT MeanVarianceNormalization",
        _unbounded,
    ),
    _known(
        "ONNX Runtime looks at no index where there is nothing to read", "Gather", _of(_RUNTIME, _is("refused"), _empty)
    ),
    _known(
        "E[x^2] - E[x]^2 rounds below zero in ONNX's function", "MeanVarianceNormalization", _of(_RUNTIME, _is("value"))
    ),
    _known(
        "ONNX Runtime lets ceil_mode count windows that ONNX's formula for VALID does not",
        "AveragePool MaxPool LpPool",
        _of(_RUNTIME, _is("shape"), _valid),
    ),
    _known("the reference takes NaN for padding", "AveragePool LpPool", _of(_REFERENCE, _has_nan)),
    _known("ONNX Runtime rounds each exponential to an integer", "ReduceLogSumExp", _of(_RUNTIME, _integers)),
    _known("ONNX does not say how sums of integers overflow", "ReduceL1 ReduceL2", _overflows),
    _known("ONNX does not say what cropping more than there is leaves", "Pad", _crops_too_much),
    _known("ONNX does not say what NaN or infinity leaves of an attention", "Attention", _unbounded),
    _known("the reference's LRN reads the batch's size as the channels'", "LRN", _of(_REFERENCE)),
    _known("the reference keeps no axes of length 1", "GlobalMaxPool GlobalAveragePool", _of(_REFERENCE, _is("shape"))),
    _known("the reference forgets that statistics have stash_type", "LayerNormalization", _of(_REFERENCE, _is("type"))),
    _known("the reference joins what a loop gathers instead of stacking it", "Loop", _of(_REFERENCE, _is("shape"))),
    _known("the reference forgets the bias of grouped convolutions", "ConvTranspose", _of(_REFERENCE)),
    _known("ONNX does not say where infinity is", "GridSample", _unbounded),
    _known("ONNX Runtime rounds the new length before it aligns corners", "Resize", _of(_RUNTIME, _aligned)),
    _known(
        "ONNX Runtime takes the greatest int for `to the end` when it goes backward",
        "Slice",
        _of(_RUNTIME, _to_the_end),
    ),
    _known(
        "ONNX Runtime leaves a product of no terms uninitialised",
        "MatMulInteger QLinearMatMul MatMul Gemm",
        _of(_RUNTIME, _empty),
    ),
    _known("ONNX Runtime keeps reduced axes of an empty tensor", f"{_REDUCTIONS} ArgMax ArgMin", _of(_RUNTIME, _empty)),
    _known("ONNX Runtime skips products with an initial state of zeros", _RECURRENT, _of(_RUNTIME, _unbounded)),
)


def explained(difference: Difference) -> str | None:
    """Why the difference is none of ours; None where nothing explains it."""
    return next((known.reason for known in KNOWN if difference.op in known.ops and known.applies(difference)), None)
