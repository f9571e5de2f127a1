"""No single value larger than a cap: what each torch op would allocate is known before it runs.

A bound from the arguments alone (the product of all sizes in them) settles nearly every call in a microsecond. Where it
is above the cap and the op is not of a family whose sizes are known, the op is evaluated on torch's meta device, which
computes shapes and allocates nothing, but imports torch's compiler for some ops, two seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

# The documented way to see every op that runs (pytorch.org/docs/stable/notes/extending.html), though its module has an
# underscore: torch 2.11 to 2.13.
from torch.utils._python_dispatch import TorchDispatchMode

#: Bytes of an element of torch's widest type, complex128.
_WIDEST = 16

#: Ops whose results are no larger than their first argument, though their other sizes multiply to more.
_LIKE_FIRST = frozenset(
    {
        torch.ops.aten.native_layer_norm.default,
        torch.ops.aten.native_group_norm.default,
        torch.ops.aten.native_batch_norm.default,
    }
)


class TooLargeError(ValueError):
    """A value would be larger than the cap."""


class Limit(TorchDispatchMode):  # type: ignore[no-untyped-call,unused-ignore]
    """While active, an op whose result would take more than `cap` bytes raises TooLargeError instead of running.

    A view counts in full, whatever it shares: somebody is about to make it real.
    """

    def __init__(self, cap: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self.cap = cap

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nobody compiles in here; the default would import torch's compiler, a second and more, to say so."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        bound = _bound(args) * _bound(tuple(kwargs.values())) * _WIDEST
        if not args or not isinstance(args[0], torch.Tensor):
            bound *= _steps(args)
        if bound > self.cap and _elements(func, args) * _WIDEST > self.cap:
            self._check(func, args, kwargs)
        return func(*args, **kwargs)

    def _check(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            results = func(*_meta(args), **_meta({**kwargs, **({"device": "meta"} if "device" in kwargs else {})}))
        except Exception:
            # no shape without the data (nonzero and its like, no larger than their inputs), or the op's own refusal
            return
        for result in results if isinstance(results, list | tuple) else (results,):
            if isinstance(result, torch.Tensor) and result.nbytes > self.cap:
                raise TooLargeError(
                    f"a value of {_size(result.nbytes)} for the shape {list(result.shape)} is over the limit of "
                    f"{_size(self.cap)} for one value"
                )


def _bound(values: object) -> float:
    """What all sizes multiply to, each at least one: no op's result has more elements than that."""
    if isinstance(values, torch.Tensor):
        return max(1, values.numel())
    if isinstance(values, list | tuple):
        return math.prod(map(_bound, values))
    return max(1, abs(values)) if type(values) is int else 1


def _elements(func: Any, args: Sequence[Any]) -> float:
    """How many elements the results have at most, where the kind of op tells."""
    if func in _LIKE_FIRST:
        return int(args[0].numel())
    if torch.Tag.pointwise not in func.tags:
        return math.inf
    try:
        return math.prod(np.broadcast_shapes(*(arg.shape for arg in args if isinstance(arg, torch.Tensor))))
    except ValueError:
        return math.inf


def _steps(values: Sequence[object]) -> float:
    """As `_bound` for the floats of ops that make a tensor out of numbers: a range is as long as its step is small."""
    given = [abs(value) for value in values if isinstance(value, float) and value]
    return math.prod(max(value, 1 / value) if math.isfinite(value) else math.inf for value in given)


def _meta(value: Any) -> Any:
    """Arguments with their tensors as shapes without data; zero-dimensional ones may be read, and stay."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, list | tuple):
        return type(value)(map(_meta, value))
    if isinstance(value, dict):
        return {key: _meta(item) for key, item in value.items()}
    return value


def _size(amount: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024  # type: ignore[assignment]
    return f"{amount:.4g} TiB"
