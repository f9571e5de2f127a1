"""What a torch module really executes: norms, activations and softmaxes, counted while it runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from tersor.benchmarks._raising_calls import TRACED, Wrapped
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_NORM = re.compile(r"(RMS|Layer)Norm\w*$")
_GELU = re.compile(r"G(ELU|elu)")
_KINDS = {
    "softmax": "softmax",
    "scaled_dot_product_attention": "softmax",
    "gelu": "gelu",
    "silu": "silu",
}


@dataclass(frozen=True)
class Truth:
    """How often a module executes each.

    norms: LayerNorm and RMSNorm, apart from those of weights alone, which any compiler computes once. softmaxes: those
    inside of scaled_dot_product_attention too.
    """

    softmaxes: int
    norms: int
    gelus: int
    silus: int


def executed(module: Wrapped) -> Truth:
    """Run the module and count. A GELU written in Python counts as the module that it is."""
    ops = _Ops()
    norms: list[torch.Tensor] = []
    with ExitStack() as stack:
        for part in module.modules():
            kind = type(part).__name__
            if _NORM.search(kind) and not list(part.children()):
                stack.callback(part.register_forward_hook(lambda part, given, _: norms.append(given[0])).remove)
            if _GELU.search(kind):
                for handle in _counting(part, ops.counts):
                    stack.callback(handle.remove)
        with ops:
            module.answers(module.call.feeds(TRACED))
        counts = Counter(ops.counts)
        normalized, norms[:] = list(norms), ()
        module.answers(module.call.feeds(TRACED, seed=1))
    varying = sum(not torch.equal(one, other) for one, other in zip(normalized, norms, strict=True))
    return Truth(counts["softmax"], varying, counts["gelu"], counts["silu"])


def _counting(part: nn.Module, counts: Counter[str]) -> Sequence[torch.utils.hooks.RemovableHandle]:
    """Count a call of `part` as one GELU, whatever ops it is made of."""
    before: list[int] = []

    def entered(*_: object) -> None:
        before.append(counts["gelu"])

    def left(*_: object) -> None:
        counts["gelu"] = before.pop() + 1

    return part.register_forward_pre_hook(entered), part.register_forward_hook(left)


class _Ops(TorchDispatchMode):
    """Counts the kernels that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload[..., Any],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kind = _KINDS.get(func.overloadpacket.__name__)
        if kind is not None:
            self.counts[kind] += 1
        call: Callable[..., object] = func
        return call(*args, **(kwargs or {}))
