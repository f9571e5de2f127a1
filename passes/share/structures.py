"""How a few layers of one role can share bases, what each way costs, and what it loses.

layers x members       q0 k0 v0 | q1 k1 v1

one basis of all       {q0 k0 v0 q1 k1 v1}          one of each member        {q0 q1} {k0 k1} {v0 v1}
one of each layer      {q0 k0 v0} {q1 k1 v1}        one of each weight        {q0} {k0} {v0} {q1} {k1} {v1}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ...ir.site import Site
from ..base import Miss
from ..numerics.arrays import Floats
from ..numerics.bases import Bases, bases
from ..ranks import Way, apart, fastest, grid, ways
from .roles import Layer

#: Of the ranks of a basis, and of the ways to give several bases ranks of their own, so many are weighed at most: there
#: are four structures of a window.
_WEIGHED = 62
#: Numbers that bases hold which are kept from when ranks are weighed to when they are taken.
_KEPT = 1 << 27


@dataclass(frozen=True)
class Costs:
    """What an error of a weight costs: the Gram matrix of its inputs, and that of its outputs' derivatives."""

    inputs: Mapping[ir.Value, Floats] = field(default_factory=dict)
    outputs: Mapping[ir.Value, Floats] = field(default_factory=dict)
    damping: float = 0.0
    _known: dict[tuple[ir.Value, ...], Bases] = field(default_factory=dict, repr=False)

    def bases(self, weights: Sequence[Site]) -> Bases:
        """Bases that sites share."""
        key = tuple(site.weight for site in weights)
        if key in self._known:
            return self._known[key]
        found = bases(
            [site.dense() for site in weights],
            inputs=[self.inputs[site.weight] for site in weights] if self.inputs else None,
            outputs=[self.outputs[site.weight] for site in weights] if self.outputs else None,
            damping=self.damping,
        )
        if found.numbers + sum(each.numbers for each in self._known.values()) <= _KEPT:
            self._known[key] = found
        return found


@dataclass(frozen=True)
class Shared(Way):
    """How a window is computed: the rank of each basis of one of its structures."""

    structure: int = 0


#: Layers, and of each the sites, that share a basis.
Piece = tuple[Layer, ...]

#: Why a piece stays as it is that would be slower on the target at a rank.
Slow = Callable[[Piece, int], Miss | None]


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
    def kept(self) -> Shared:
        """The weights as they are."""
        return Shared((None,) * len(self.structures[0]), self.whole, 0.0)

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

    def pieces(self, way: Shared) -> Iterator[tuple[Piece, int | None]]:
        """What shares a basis, and the rank of that."""
        return zip(self.structures[way.structure], way.ranks, strict=True)

    def at(self, rank: int, slow: Slow) -> tuple[Shared, dict[Piece, Miss]]:
        """Each member with a basis of this rank, or as it is, and why: no fewer numbers, or slower."""
        missed: dict[Piece, Miss] = {}
        for piece in self.structures[0]:
            miss = slow(piece, rank) if _pays(piece, rank) else Miss("rank", str(rank), FEWER)
            if miss is not None:
                missed[piece] = miss
        ranks = tuple(None if piece in missed else rank for piece in self.structures[0])
        return Shared(ranks, sum(map(_size, self.structures[0], ranks)), 0.0), missed

    def ways(self, costs: Costs, slow: Slow) -> tuple[list[Shared], Miss | None]:
        """The weights as they are, first, and of every structure the best ranks; and why there is none, if so."""
        known: dict[Piece, list[Way] | Miss] = {}
        found = [self.kept]
        for number, structure in enumerate(self.structures):
            for piece in structure:
                if piece not in known:
                    known[piece] = self._alone(piece, costs, slow)
            able = [_as_they_are(piece) if isinstance(each := known[piece], Miss) else each for piece in structure]
            made = able[0] if len(able) == 1 else apart(able, _WEIGHED)
            found += [Shared(way.ranks, way.cost, way.loss, number) for way in made]
        missed = [each for each in known.values() if isinstance(each, Miss)]
        none = missed[0] if len(missed) == len(known) else None
        return [found[0], *(way for way in found if way.cost < self.whole)], none

    def _alone(self, piece: Piece, costs: Costs, slow: Slow) -> list[Way] | Miss:
        """The weights as they are, first, and a basis of each rank that takes fewer numbers and no longer."""
        lost = costs.bases([site for layer in piece for site in layer]).lost.sum(0)
        every = grid(self.multiple, len(lost) - 1, _WEIGHED)
        able = ways(lost, every, _size(piece, None), lambda rank: _size(piece, rank))
        ranks = [rank for way in able for rank in way.ranks if rank is not None]
        if not ranks:
            return Miss("rank", f"full rank {len(lost) - 1}", FEWER)
        most = fastest(ranks, lambda rank: slow(piece, rank))
        return most if isinstance(most, Miss) else [way for way in able if (way.ranks[0] or 0) <= most]


#: What is needed of a rank.
FEWER = "a rank at which the factors have fewer numbers, or a smaller ratio"


def _as_they_are(piece: Piece) -> list[Way]:
    return [Way((None,), _size(piece, None), 0.0)]


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
