"""Gradients of a model's drop (`passes.drop`) by its weights: what a change of a weight does to the answers.

At the original the drop is zero, its least, and so is its gradient. What is left is its second derivative, and as the
drop is a square of the outputs there, drop = |B.T d|^2 / 2 with d = J e for a change e of the weights, that is

    H = J.T B B.T J                     exactly: the curvature of the outputs meets a gradient of zero
    g = J.T B v                         for v of independent signs, E[v v.T] = I, so that E[g g.T] = H

One backward pass gives g for all weights. From a few of them follow, for each weight,

    trace of H              E[|g|^2]            Hutchinson's estimate, with the probe v in the space of the outputs
    diagonal of H           E[g^2]              the empirical Fisher information
    drop of a change e      E[(g . e)^2] / 2    without neglecting any entry of H

Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990; Martens, New Insights and Perspectives on
the Natural Gradient Method, 2020, sections 8 and 9 (H is the generalized Gauss-Newton matrix; for `kl`, the Fisher).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..ir.errors import ModelError
from ..ir.feeds import Feeds
from .drop import Drop, width

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Probe:
    """One draw of g, for the drops of a batch added up. rows: how many those are.

    gradients: of the shape that a weight is stored in. Over all probes, sum of f(g) / sum of rows is the estimate for
    the mean drop.
    """

    rows: int
    gradients: Mapping[ir.Value, NDArray[np.float32]]


def reached(model: ir.Model, weights: Iterable[ir.Value]) -> set[ir.Value]:
    """Those of the weights that gradients can be had of: trained in the main graph, where the model can be emitted."""
    from ..ir.fx import missing

    if missing(model):
        return set()
    held = set(model.graph.initializers.values())
    return {weight for weight in weights if weight in held}


def probes(
    model: ir.Model, weights: Sequence[ir.Value], batches: Iterable[Feeds], drop: Drop, *, count: int = 1, seed: int = 0
) -> Iterator[Probe]:
    """`count` draws for each batch. A weight that the outputs do not depend on has a gradient of zeros.

    Takes the memory of one run with everything kept that the backward pass needs, and one gradient for each weight.
    Raises ModelError where a gradient is not finite, UnsupportedError where the model has no executable form.
    """
    import torch

    from ..ir.fx import Interpreter, to_fx

    interpreter = Interpreter(to_fx(model))
    paths: Mapping[str, str] = interpreter.module.meta["initializers"]
    found = dict(interpreter.module.named_parameters())
    read = [weight for weight in weights if paths.get(weight.name or "") in found]
    parameters = [found[paths[weight.name or ""]] for weight in read]
    for parameter in found.values():
        parameter.requires_grad_(any(parameter is each for each in parameters))
    generator = torch.Generator().manual_seed(seed)
    for feeds in batches:
        outputs = interpreter.tensors(feeds, grad=True)
        moved = {name: outputs[name] for name in drop.outputs if outputs[name].requires_grad}
        # of outputs that no weight moves the drop is zero, and their rows count
        rows = sum(_rows(drop, name, tuple(outputs[name].shape), feeds) for name in drop.outputs)
        for draw in range(count if moved else 0):
            gradients = torch.autograd.grad(
                list(moved.values()),
                parameters,
                [_pull(drop, name, value.detach(), feeds, generator) for name, value in moved.items()],
                retain_graph=draw + 1 < count,
                allow_unused=True,
            )
            yield Probe(rows, dict(_arrays(weights, read, gradients)))


def _arrays(
    weights: Sequence[ir.Value], read: Sequence[ir.Value], gradients: Sequence[torch.Tensor | None]
) -> Iterator[tuple[ir.Value, NDArray[np.float32]]]:
    known = dict(zip(read, gradients, strict=True))
    for weight in weights:
        gradient = known.get(weight)
        if gradient is None:
            tensor = weight.const_value
            yield weight, np.zeros(() if tensor is None else tensor.numpy().shape, np.float32)
            continue
        array = gradient.float().numpy()
        if not np.isfinite(array).all():
            raise ModelError(f"the gradient of the outputs by {weight.name!r} is not finite on these data")
        yield weight, array


def _rows(drop: Drop, name: str, shape: tuple[int, ...], feeds: Feeds) -> int:
    """How many rows an output of this shape has."""
    return 1 if width(shape) == 1 else len(drop.places(name, shape, feeds))


def _pull(drop: Drop, name: str, value: torch.Tensor, feeds: Feeds, generator: torch.Generator) -> torch.Tensor:
    """B v for an output, of its shape."""
    import torch

    shape = tuple(value.shape)
    places = torch.from_numpy(drop.places(name, shape, feeds))
    flat = value.reshape(-1, width(shape))
    rows = flat[places].double()
    whole = rows.reshape(1, -1) if rows.shape[1] == 1 else rows
    signs = torch.randint(0, 2, whole.shape, generator=generator).double() * 2 - 1
    if drop.form == "kl":
        chances = torch.softmax(whole, -1)
        roots = chances.sqrt()
        pull = roots * signs - chances * (roots * signs).sum(-1, keepdim=True)
    else:
        length = whole.norm(dim=-1, keepdim=True)
        unit = whole / length.where(length > 0, torch.ones_like(length))
        pull = (signs - unit * (unit * signs).sum(-1, keepdim=True)) / length
        pull = pull.where(length > 0, torch.zeros_like(pull))
    spread = torch.zeros_like(flat)
    spread[places] = pull.reshape(rows.shape).to(flat.dtype)
    return spread.reshape(shape)


def spaced(batches: Sequence[Feeds], count: int) -> list[Feeds]:
    """At most `count` of the batches, from all parts of the data."""
    taken = np.linspace(0, len(batches) - 1, min(count, len(batches))).round().astype(int)
    return [batches[index] for index in taken]
