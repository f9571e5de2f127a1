"""What the zoo holds of each model, and a torch module called as a session is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir
import tersor
import torch
from tersor.examples.data import Feeds, Run
from torch import nn

if TYPE_CHECKING:
    from tersor.ir.dynamic import Dynamic

#: A module, what it is traced with, and its dynamic axes.
Traced: TypeAlias = "tuple[nn.Module, tuple[object, ...], Dynamic]"

BATCH_SEQUENCE = {0: "batch", 1: "sequence"}


@dataclass(frozen=True)
class Entry:
    """A model of the benchmark: how it is loaded and what it is fed."""

    load: Callable[[], onnx_ir.Model]
    """At the imported level, a model of its own each call."""
    feeds: Callable[[], Sequence[Feeds]]
    """Several batch and sequence sizes, seeded."""
    original: Callable[[], Run] | None = None
    """The torch module that it was traced from, with the same weights; None for a file."""
    source: Callable[[], Traced] | None = None
    """What it is traced from; None for a file."""

    @classmethod
    def of(cls, source: Callable[[], Traced], feeds: Callable[[], Sequence[Feeds]]) -> Entry:
        """Of a torch module; `source` makes it with the same weights each time."""

        def load() -> onnx_ir.Model:
            module, args, dynamic = source()
            return tersor.load(module, args=args, dynamic=dynamic)

        return cls(load, feeds, lambda: module_run(source()[0]), source)


def module_run(module: nn.Module) -> Run:
    """A module as a `Run`: a parameter that is a list takes the feeds `<name>_0`, `<name>_1`, ...; results likewise."""
    parameters = tuple(inspect.signature(module.forward).parameters)

    @torch.inference_mode()
    def run(feeds: Feeds) -> Feeds:
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        made = module(*(tensors[name] if name in tensors else _listed(name, tensors) for name in parameters))
        return dict(_leaves(made))

    return run


def _listed(name: str, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    count = sum(key.startswith(f"{name}_") for key in tensors)
    return [tensors[f"{name}_{index}"] for index in range(count)]


def _leaves(made: Mapping[str, torch.Tensor | list[torch.Tensor]]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in made.items():
        if isinstance(value, list):
            yield from ((f"{name}_{index}", item.numpy()) for index, item in enumerate(value))
        else:
            yield name, value.numpy()
