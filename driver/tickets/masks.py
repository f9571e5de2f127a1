"""What is pruned together, and which of it: single weights, or the units of a layer with all their weights.

    weights    every number of a weight by itself
    units      Linear, Conv      an output: its row and its bias
               LSTM, GRU, RNN    a hidden unit: its row and bias in every gate, of input and state
               MultiheadAttention    a head: its rows and biases of query, key and value

A unit is scored by the root of the mean square of its weights, so that layers of any width compare; a weight by its
magnitude. Left out: embeddings, normalizations, biases by themselves, parameters that take no gradient, units of
LSTMs with a projection and of attention with weights of their own for keys of another width.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...ir.errors import OptionError, nearest
from .folder import write_atomically
from .ticket import Weights

Scope = Literal["global", "layer"]
Kept = Mapping[str, Tensor]
"""By group, True for each unit that stays."""

#: Parameters whose first axis is what they give rise to, in the file that `prune-ticket` reads.
ROWS = "tersor:rows"
_EXEMPT = (
    nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.LocalResponseNorm,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
_ROWS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Part:
    """A parameter seen as [outer, units, inner]: what a unit is made of there."""

    name: str
    shape: tuple[int, ...]
    outer: int
    inner: int


@dataclass(frozen=True)
class Group:
    """Units that are pruned whole, and the parameters that they lie in."""

    name: str
    units: int
    parts: tuple[Part, ...]

    def scores(self, weights: Weights) -> Tensor:
        """The root of the mean square of each unit's weights, float64 [units]."""
        squares = sum(self._seen(part, weights[part.name].double().square()).sum((0, 2)) for part in self.parts)
        assert isinstance(squares, Tensor)
        return (squares / sum(part.outer * part.inner for part in self.parts)).sqrt()

    def masks(self, kept: Tensor) -> dict[str, Tensor]:
        """The mask of each parameter, True where a weight stays."""
        return {
            part.name: kept[None, :, None].expand(part.outer, self.units, part.inner).reshape(part.shape).clone()
            for part in self.parts
        }

    def _seen(self, part: Part, weight: Tensor) -> Tensor:
        return weight.reshape(part.outer, self.units, part.inner)


def groups(
    model: nn.Module, *, structured: bool, only: Sequence[str] = (), ignore: Sequence[str] = ()
) -> tuple[Group, ...]:
    """What of the model can be pruned.

    structured: units instead of weights. only, ignore: glob patterns over names of parameters, and of modules where
    units are pruned; weights that `only` names are taken though they be an embedding's or a bias.

    Raises OptionError for a pattern that fits nothing, and where nothing is left.
    """
    every = list(_units(model) if structured else _weights(model, anything=bool(only)))
    known = sorted({name for group in every for name in _names(group)})
    for pattern in (*only, *ignore):
        if not fnmatch.filter(known, pattern):
            raise OptionError(f"lottery: nothing that can be pruned is called {pattern!r}; {nearest(pattern, known)}")
    found = tuple(group for group in every if (not only or _fits(group, only)) and not _fits(group, ignore))
    if not found:
        what = "Linear, convolution, recurrent or attention layers" if structured else "weights of two axes or more"
        raise OptionError(
            f"lottery: {type(model).__name__} has nothing to prune: expected {what} that take a gradient and are "
            "not ignored"
        )
    return found


def everything(found: Iterable[Group]) -> dict[str, Tensor]:
    """Nothing pruned."""
    return {group.name: torch.ones(group.units, dtype=torch.bool) for group in found}


def spread(found: Iterable[Group], kept: Kept) -> dict[str, Tensor]:
    """The mask of every prunable parameter."""
    return {name: mask for group in found for name, mask in group.masks(kept[group.name]).items()}


def pruned(found: Sequence[Group], kept: Kept, weights: Weights, rate: float, scope: Scope) -> dict[str, Tensor]:
    """Without the `rate` of the units left that score least: of each group, or of all; each group keeps one at least.

    The number is rounded down, so that no round prunes more than was asked for.
    """
    scores = {group.name: group.scores(weights).masked_fill(~kept[group.name], torch.inf) for group in found}
    left = {name: int(mask.sum()) for name, mask in kept.items()}
    if scope == "layer":
        return {name: kept[name] & _without(score, _part_of(left[name], rate)) for name, score in scores.items()}
    for name, score in scores.items():
        # the last that a group would have left is not among those that can be chosen
        score[score.masked_fill(~kept[name], -torch.inf).argmax()] = torch.inf
    whole = torch.cat(list(scores.values()))
    count = min(_part_of(sum(left.values()), rate), int(whole.isfinite().sum()))
    stays = torch.split(_without(whole, count), [group.units for group in found])
    return {group.name: kept[group.name] & part for group, part in zip(found, stays, strict=True)}


def shuffled(kept: Kept, seed: int) -> dict[str, Tensor]:
    """As many units of each group, chosen at random."""
    source = torch.Generator().manual_seed(seed)
    return {name: mask[torch.randperm(len(mask), generator=source)] for name, mask in kept.items()}


def rows_of(model: nn.Module) -> frozenset[str]:
    """The parameters of layers of torch, whose first axis is what they give rise to."""
    layers = (nn.Linear, nn.RNNBase, nn.MultiheadAttention)
    return frozenset(
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, layers)
        for name, _ in module.named_parameters(recurse=False)
    )


def save(path: Path, masks: Mapping[str, NDArray[np.bool_]], rows: frozenset[str]) -> None:
    """Write masks by parameter for the pass `prune-ticket{masks=path}`."""
    held: dict[str, NDArray[np.generic]] = {**masks, ROWS: np.array(sorted(rows & masks.keys()), dtype=np.str_)}
    write_atomically(path, lambda file: np.savez_compressed(file, **held))  # type: ignore[arg-type]


def _part_of(count: int, rate: float) -> int:
    """The number rounded down; 0.29 * 100, a little less than 29 in binary, is 29."""
    return int(rate * count + 1e-9)


def _without(scores: Tensor, count: int) -> Tensor:
    """True for all but the `count` lowest, earlier ones first among equals."""
    stays = torch.ones(len(scores), dtype=torch.bool)
    stays[scores.argsort(stable=True)[:count]] = False
    return stays


def _exempt(model: nn.Module) -> set[int]:
    return {
        id(each)
        for module in model.modules()
        if isinstance(module, _EXEMPT)
        for each in module.parameters(recurse=False)
    }


def _weights(model: nn.Module, *, anything: bool) -> Iterator[Group]:
    exempt = _exempt(model)
    for name, each in model.named_parameters():
        if each.requires_grad and (anything or (each.ndim > 1 and id(each) not in exempt)):
            yield Group(name, each.numel(), (Part(name, tuple(each.shape), 1, 1),))


def _units(model: nn.Module) -> Iterator[Group]:
    known = {id(each): name for name, each in model.named_parameters()}
    seen = _exempt(model)
    for path, module in model.named_modules():
        for name, units, lying in _layers(path, module):
            fit = all(each.requires_grad and id(each) not in seen for each, _ in lying)
            seen |= {id(each) for each, _ in lying}
            if fit:
                parts = (
                    Part(known[id(each)], tuple(each.shape), outer, each.numel() // (outer * units))
                    for each, outer in lying
                )
                yield Group(name, units, tuple(parts))


def _layers(path: str, module: nn.Module) -> Iterator[tuple[str, int, list[tuple[Tensor, int]]]]:
    """Name, number of units and the parameters they lie in, each seen as so many times all units."""
    if isinstance(module, _ROWS):
        yield path, len(module.weight), _given((module.weight, 1), (module.bias, 1))
    elif isinstance(module, nn.RNNBase) and not module.proj_size:
        for suffix in (f"l{layer}{end}" for layer in range(module.num_layers) for end in _ENDS[module.bidirectional]):
            weights = [getattr(module, f"{kind}_{suffix}") for kind in ("weight_ih", "weight_hh")]
            biases = [getattr(module, f"{kind}_{suffix}", None) for kind in ("bias_ih", "bias_hh")]
            gates = len(weights[0]) // module.hidden_size
            name = f"{path}.{suffix}".lstrip(".")
            yield name, module.hidden_size, _given(*((each, gates) for each in (*weights, *biases)))
    elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        yield path, module.num_heads, _given((module.in_proj_weight, 3), (module.in_proj_bias, 3))


_ENDS: Mapping[bool, tuple[str, ...]] = {False: ("",), True: ("", "_reverse")}


def _given(*pairs: tuple[Tensor | None, int]) -> list[tuple[Tensor, int]]:
    return [(each, outer) for each, outer in pairs if each is not None]


def _names(group: Group) -> list[str]:
    return [group.name, *(part.name for part in group.parts)]


def _fits(group: Group, patterns: Iterable[str]) -> bool:
    return any(fnmatch.filter(_names(group), pattern) for pattern in patterns)
