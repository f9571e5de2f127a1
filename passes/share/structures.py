"""How a few layers of one role can share bases, what each way costs, and what it loses.

layers x members       q0 k0 v0 | q1 k1 v1

one basis of all       {q0 k0 v0 q1 k1 v1}          one of each member        {q0 q1} {k0 k1} {v0 v1}
one of each layer      {q0 k0 v0} {q1 k1 v1}        one of each weight        {q0} {k0} {v0} {q1} {k1} {v1}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import onnx_ir as ir

from ...ir.site import Site
from ..numerics.arrays import Floats
from ..numerics.bases import Bases, bases
from ..numerics.knapsack import knapsack
from .roles import Layer

#: Of the ranks of a basis, and of the ways to give several bases ranks of their own, so many are weighed at most; and
#: entries of the table that the latter come from.
_RANKS, _WAYS, _CELLS = 62, 62, 1 << 20


@dataclass(frozen=True)
class Costs:
    """What an error of a weight costs: the Gram matrix of its inputs, and that of its outputs' derivatives."""

    inputs: Mapping[ir.Value, Floats] = field(default_factory=dict)
    outputs: Mapping[ir.Value, Floats] = field(default_factory=dict)
    damping: float = 0.0

    def bases(self, weights: Sequence[Site]) -> Bases:
        """Bases that sites share."""
        return bases(
            [site.dense() for site in weights],
            inputs=[self.inputs[site.weight] for site in weights] if self.inputs else None,
            outputs=[self.outputs[site.weight] for site in weights] if self.outputs else None,
            damping=self.damping,
        )


@dataclass(frozen=True)
class Way:
    """How a window is computed: by which structure, and the rank of each of its bases; None for weights that stay."""

    structure: int
    ranks: tuple[int | None, ...]
    size: int
    loss: float


#: Layers, and of each the sites, that share a basis.
Piece = tuple[Layer, ...]


@dataclass(frozen=True)
class Window:
    """Neighbouring layers of one role. multiple: what ranks are multiples of. alone: whether layers may share none."""

    layers: tuple[Layer, ...]
    multiple: int = 1
    alone: bool = True

    @property
    def whole(self) -> int:
        """Numbers of its weights."""
        return sum(_whole((layer,)) for layer in self.layers)

    @property
    def kept(self) -> Way:
        """The weights as they are."""
        return Way(0, (None,) * len(self.structures[0]), self.whole, 0.0)

    @property
    def structures(self) -> list[tuple[Piece, ...]]:
        """The ways to share, each once: a single layer shares with none, a single member of a layer neither."""
        layers, members = self.layers, range(len(self.layers[0]))
        found: list[tuple[Piece, ...]] = [
            tuple(tuple((layer[at],) for layer in layers) for at in members),
            (layers,),
        ]
        if self.alone:
            found.append(tuple((layer,) for layer in layers))
            found.append(tuple(((site,),) for layer in layers for site in layer))
        return list(dict.fromkeys(found))

    def pieces(self, way: Way) -> Iterator[tuple[Piece, int | None]]:
        """What shares a basis, and the rank of that."""
        return zip(self.structures[way.structure], way.ranks, strict=True)

    def at(self, rank: int) -> Way:
        """Each member with a basis of this rank; as it is where that would have as many numbers."""
        ranks = tuple(rank if _pays(piece, rank) else None for piece in self.structures[0])
        return Way(0, ranks, sum(map(_size, self.structures[0], ranks)), 0.0)

    def ways(self, costs: Costs) -> list[Way]:
        """The weights as they are, and of every structure the best ranks, from few numbers to many."""
        known: dict[Piece, list[Way]] = {}
        found = [self.kept]
        for number, structure in enumerate(self.structures):
            for piece in structure:
                if piece not in known:
                    known[piece] = self._alone(piece, costs)
            found += [
                Way(number, way.ranks, way.size, way.loss) for way in _beside([known[piece] for piece in structure])
            ]
        return [found[0], *(way for way in found if way.size < self.whole)]

    def _alone(self, piece: Piece, costs: Costs) -> list[Way]:
        """A basis of each rank, and the weights as they are."""
        lost = costs.bases([site for layer in piece for site in layer]).lost.sum(0)
        every = [rank for rank in range(1, len(lost)) if _pays(piece, rank)]
        ranks = [rank for rank in every if rank % self.multiple == 0] or every
        step = -(-len(ranks) // _RANKS)
        return [
            *(Way(0, (rank,), _size(piece, rank), float(lost[rank])) for rank in ranks[step - 1 :: max(step, 1)]),
            Way(0, (None,), _size(piece, None), 0.0),
        ]


def _beside(parts: Sequence[Sequence[Way]]) -> list[Way]:
    """The best ways of parts beside each other."""
    if len(parts) == 1:
        return list(parts[0])
    found = knapsack(
        [[way.size for way in each] for each in parts], [[way.loss for way in each] for each in parts], cells=_CELLS
    )
    drawn = found.columns[np.unique(np.linspace(0, len(found.columns) - 1, _WAYS).round().astype(np.int64))]
    made = []
    for column in drawn:
        taken = [each[at] for each, at in zip(parts, found.options(int(column)), strict=True)]
        ranks = tuple(chain.from_iterable(way.ranks for way in taken))
        made.append(Way(0, ranks, sum(way.size for way in taken), sum(way.loss for way in taken)))
    return made


def _whole(piece: Piece) -> int:
    """Numbers of the weights as they are."""
    return sum(site.in_features * site.out_features for layer in piece for site in layer)


def _size(piece: Piece, rank: int | None) -> int:
    """Numbers of a basis and of what each weight makes of it."""
    if rank is None:
        return _whole(piece)
    return rank * (piece[0][0].in_features + sum(site.out_features for layer in piece for site in layer))


def _pays(piece: Piece, rank: int) -> bool:
    """Whether a basis of this rank is one, and has fewer numbers than the weights."""
    site = piece[0][0]
    most = min(site.in_features, sum(site.out_features for layer in piece for site in layer))
    return rank <= most and _size(piece, rank) < _whole(piece)
