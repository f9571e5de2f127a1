"""What the examples written in torch give: a `Source` to compile, and the module itself as a `Run` to compare with."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from .data import Feeds, Run


class Source(NamedTuple):
    """What `package.module:function` returns to `tersor compile`."""

    module: nn.Module
    args: tuple[Tensor, ...]
    dynamic: dict[str, dict[int, Dim]]
    """The dynamic axes of each input, by its name in `forward`."""


def torch_run(module: nn.Module) -> Run:
    """A module that returns tensors by name, as a `Run`; its inputs by the names of `forward`."""
    inputs = tuple(inspect.signature(module.forward).parameters)

    @torch.inference_mode()
    def run(feeds: Feeds) -> Feeds:
        made = module(*(torch.from_numpy(feeds[name]) for name in inputs))
        return {name: array.numpy() for name, array in made.items()}

    return run
