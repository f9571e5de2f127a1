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


def _integers(difference: Difference) -> bool:
    return all(array is None or array.dtype.kind in "iu" for array in difference.inputs)


def _of(oracle: str, *tests: Callable[[Difference], bool]) -> Callable[[Difference], bool]:
    return lambda difference: difference.oracle == oracle and all(test(difference) for test in tests)


def _is(kind: str) -> Callable[[Difference], bool]:
    return lambda difference: difference.kind == kind


def _known(reason: str, ops: str, applies: Callable[[Difference], bool]) -> Known:
    return Known(reason, frozenset(ops.split()), applies)


KNOWN: tuple[Known, ...] = (
    _known(
        "ONNX does not say where NaN is in an order", "ArgMax ArgMin TopK Max Min ReduceMax ReduceMin Unique", _has_nan
    ),
    _known("ONNX does not say what an integer divided by zero is", "Div Mod", _by_zero),
    _known("ONNX does not say how a float factor meets integers", "Gemm", _integers),
    _known("the reference's LRN reads the batch's size as the channels'", "LRN", _of(_REFERENCE)),
    _known(
        "the reference forgets that statistics have stash_type",
        "LayerNormalization",
        _of(_REFERENCE, _is("type")),
    ),
    _known("ONNX Runtime leaves a product of no terms uninitialised", "MatMulInteger", _of(_RUNTIME, _empty)),
    _known("ONNX Runtime keeps reduced axes of an empty tensor", "ReduceLogSumExp", _of(_RUNTIME, _empty)),
)


def explained(difference: Difference) -> str | None:
    """Why the difference is none of ours; None where nothing explains it."""
    return next((known.reason for known in KNOWN if difference.op in known.ops and known.applies(difference)), None)
