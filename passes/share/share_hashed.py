"""Let weights share numbers: found by k-means, or dealt out by a hash.

    before           y = x @ W                                          z = y @ V
    after, kmeans    y = x @ Transpose(Gather(table, indices))          z = y @ Transpose(Gather(table, others))
    after, hashed    y = x @ Transpose(HashedWeight(values, keys))      z = y @ Transpose(HashedWeight(values, others))

Lossy. With `kmeans` the weights of a tensor, of one role in all layers or of the whole model share one table, stored
once; each output's weights are scaled to one size first where several tensors share (`scale`). With `hashed` nothing is
stored but the numbers: where each weight finds its own is computed from row and column when a runtime loads the model
(`share.hashing`). Data say what an error of each input's weights costs; without, all cost the same. Weights that were
trained apart have nothing in common with those they share a number with: hashed to K numbers, n weights keep about
K / n of their squares, so that such a model is a starting point for training (`contract`: it is over it otherwise),
while k-means at 4 bits loses next to nothing. Left alone: weights read in two ways, small, not finite, computed or
quantized already, that would take more bytes than before or less than a bit each, and sites that the options leave out.

Sources: Chen et al., Compressing Neural Networks with the Hashing Trick, 2015; Han et al., Deep Compression, 2016,
section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Kind, Site
from ..base import Context, Contract, Lossy, Miss, Outcome
from ..choosing import Verdict, outcome
from ..edit import Array, Tape, declare_functions
from ..numerics.arrays import Floats
from ..numerics.kmeans import Seeding, kmeans
from ..placing import matrix, put
from ..seen import inputs
from ..weight_pass import WeightPass, taken
from ..weights import Codebook
from .hashing import MOST, Hashed, keys, places
from .methods.hashed import Part, hashed
from .roles import role_of

#: Bits of an index, and of what a number takes by the hash, unless told.
_BITS, _RATIO = 4, 0.25


@dataclass(frozen=True, kw_only=True)
class ShareHashed(WeightPass):
    """weights as numbers that several share, by k-means or by a hash

    method: `kmeans` finds the numbers that weights share by Lloyd's iteration and stores which has which; `hashed`
        deals them out by a hash of row and column and stores the numbers alone, for a model that is trained afterwards.
    ratio: bytes as a share of those before. kmeans: of so many whole bits as that allows; hashed: 0.25 unless told.
    bits: kmeans: what an index takes, 1 to 8; 4 unless told.
    scope: what shares: the weights of a `tensor`, those of one `role` in all layers, or of the whole `model`.
    scale: one number for each output, by which its weights are divided first. `auto` where several tensors share.
    seeding: kmeans: first numbers `linear` or by `density` along the range of the weights, or drawn (`k-means++`).
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "share-hashed"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    method: Literal["kmeans", "hashed"] = "kmeans"
    ratio: float | None = None
    bits: int | None = None
    scope: Literal["tensor", "role", "model"] = "role"
    scale: Literal["auto", "outputs", "none"] = "auto"
    seeding: Seeding | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise OptionError(f"{self.name}: expected a ratio above 0 and less than 1, found {self.ratio:g}")
        if self.method == "hashed" and (self.bits is not None or self.seeding is not None):
            raise OptionError(f"{self.name}: hashed does not take bits or seeding; it takes ratio, scope and scale")
        if self.bits is not None and self.ratio is not None:
            raise OptionError(f"{self.name}: expected a ratio or bits, found both")
        if self.bits is not None and not 1 <= self.bits <= 8:
            raise OptionError(f"{self.name}: expected 1 to 8 bits, found {self.bits}")
        if self.method == "kmeans" and self.ratio is not None and self.ratio * 32 < 1:
            raise OptionError(
                f"{self.name}: a ratio of {self.ratio:g} is less than a bit of 32 for each weight; "
                "method=hashed takes it"
            )

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self.verdicts(model, context)
        chosen = taken(verdicts)
        cost = self._costs(model, chosen, context)
        left: dict[ir.Value, Miss] = {}
        told: dict[ir.Value, str] = {}
        for sharing in self._sharing(model, chosen):
            if self.method == "kmeans" and self._bits(sharing[0]) < 1:
                need = f"one at least, a ratio of {1 / _width(sharing[0]):g}; method=hashed takes less"
                miss = Miss("bits", f"a ratio of {self.ratio:g} of {_width(sharing[0])} bits", need)
                left |= {site.weight: miss for site in sharing}
                continue
            made = self._made(sharing, cost, context.seed)
            shared = _shared_bytes(made)
            size, before = sum(each.bytes for each in made) - shared * (len(made) - 1), _bytes(sharing)
            if size >= before:
                miss = Miss("bytes", str(size), f"fewer than the {before} of the weights that share")
                left |= {site.weight: miss for site in sharing}
                continue
            held = _Once()
            for site, each in zip(sharing, made, strict=True):
                put(site, _Sharing(each, held), turned=True)
            with_others = f", shared by {len(made)} weights" if len(made) > 1 else ""
            told |= {site.weight: _told(each) + with_others for site, each in zip(sharing, made, strict=True)}
        declare_functions(model)
        final: list[Verdict] = [(site, miss or left.get(site.weight)) for site, miss in verdicts]
        return outcome(final, told, ignore=self.ignore)

    def _sharing(self, model: ir.Model, chosen: Sequence[Site]) -> list[list[Site]]:
        """Sites whose weights share numbers: of one type and one graph, where they are stored."""
        roles = role_of(model, chosen) if self.scope == "role" else [()] * len(chosen)
        found: dict[object, list[Site]] = {}
        for number, (site, role) in enumerate(zip(chosen, roles, strict=True)):
            own = number if self.scope == "tensor" else role
            found.setdefault((own, matrix(site).dtype, site.node.graph), []).append(site)
        return list(found.values())

    def _costs(self, model: ir.Model, chosen: Sequence[Site], context: Context) -> Mapping[ir.Value, Floats]:
        """The mean of the Gram matrices of what is known of inputs, about one in the mean for each weight."""
        if context.calibration is None:
            return {}
        read = [site for site in chosen if site.kind is not Kind.EMBEDDING]
        found = {weight: seen.gram for weight, seen in inputs(model, read, context).items()} if read else {}
        level = {weight: float(np.diagonal(gram).mean()) for weight, gram in found.items()}
        return {weight: gram / level[weight] for weight, gram in found.items() if level[weight] > 0}

    def _made(self, sharing: Sequence[Site], cost: Mapping[ir.Value, Floats], seed: int) -> Sequence[Codebook | Hashed]:
        """What the weights become, [out, in]."""
        scaled = self.scale == "outputs" or (self.scale == "auto" and len(sharing) > 1)
        weights = [np.ascontiguousarray(matrix(site).T) for site in sharing]
        scales = [_scale(weight) if scaled else None for weight in weights]
        grams = [_fitting(cost.get(site.weight), weight) for site, weight in zip(sharing, weights, strict=True)]
        return (
            self._hashed(weights, scales, grams, seed)
            if self.method == "hashed"
            else self._clustered(weights, scales, grams, self._bits(sharing[0]), seed)
        )

    def _bits(self, site: Site) -> int:
        """What an index into the numbers of such a weight takes."""
        return self.bits or (_BITS if self.ratio is None else min(int(self.ratio * _width(site)), 8))

    def _hashed(
        self, weights: Sequence[Array], scales: Sequence[Array | None], grams: Sequence[Floats | None], seed: int
    ) -> list[Hashed]:
        total = sum(weight.size for weight in weights)
        count = min(max(round((self.ratio or _RATIO) * total), 1), MOST)
        drawn = [keys(seed, number) for number in range(len(weights))]
        found = hashed(
            [
                Part(weight, places(weight.shape[0], weight.shape[1], count, chosen), scale, gram)
                for weight, chosen, scale, gram in zip(weights, drawn, scales, grams, strict=True)
            ],
            count,
        )
        values: Array = found.astype(weights[0].dtype)
        return [
            Hashed(values, (weight.shape[0], weight.shape[1]), chosen, scale)
            for weight, chosen, scale in zip(weights, drawn, scales, strict=True)
        ]

    def _clustered(
        self,
        weights: Sequence[Array],
        scales: Sequence[Array | None],
        grams: Sequence[Floats | None],
        bits: int,
        seed: int,
    ) -> list[Codebook]:
        points, counts = list[Array](), list[Floats]()
        for weight, scale, gram in zip(weights, scales, grams, strict=True):
            wide = np.asarray(weight, np.float32)
            over = np.ones((len(wide), 1)) if scale is None else np.asarray(scale, np.float64)
            points.append((wide / over).astype(np.float32).reshape(-1))
            diagonal = np.ones(wide.shape[1]) if gram is None else np.diagonal(gram)
            # (w - s c)^2 == s^2 (w / s - c)^2
            counts.append((diagonal * over**2).reshape(-1))
        plain = all(scale is None for scale in scales) and all(gram is None for gram in grams)
        weighed = None if plain else np.concatenate(counts)[None]
        found = kmeans(
            np.concatenate(points)[None], bits=bits, seeding=self.seeding or "linear", importance=weighed, seed=seed
        )
        ends = np.cumsum([weight.size for weight in weights])[:-1]
        books = found.books.astype(weights[0].dtype)
        return [
            Codebook(index.reshape(1, *weight.shape), books, (weight.shape[0], weight.shape[1]), bits, scale=scale)
            for index, weight, scale in zip(np.split(found.indices.reshape(-1), ends), weights, scales, strict=True)
        ]


class _Once:
    """The numbers that several weights read, stored with the first."""

    value: ir.Value | None = None


@dataclass(frozen=True)
class _Sharing:
    """A weight whose numbers are stored once for all that share them."""

    weight: Codebook | Hashed
    held: _Once

    def dense(self) -> Array:
        """The weight it stands for."""
        return self.weight.dense()

    @property
    def bytes(self) -> int:
        """Bytes that it takes as stored, without others."""
        return self.weight.bytes

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """The nodes that compute the weight, reading the numbers that are there."""
        value = self.weight.emit(tape, name)
        ending = "_values" if isinstance(self.weight, Hashed) else "_codebook"
        (own,) = (each for each in tape.weights if each.name == f"{name}{ending}")
        if self.held.value is None:
            self.held.value = own
        else:
            own.replace_all_uses_with(self.held.value)
            tape.weights.remove(own)
        return value


def _scale(weight: Array) -> Array:
    """The root mean square of each row, [rows, 1]; one for a row of zeros."""
    size = np.sqrt(np.mean(np.square(weight, dtype=np.float64), axis=1, keepdims=True))
    found: Array = size.astype(weight.dtype)
    # what is too small for the type is no scale
    return np.where(found.astype(np.float64) > 0, found, np.ones_like(found))


def _fitting(gram: Floats | None, weight: Array) -> Floats | None:
    """A Gram matrix where it is of the columns of the weight."""
    return gram if gram is not None and len(gram) == weight.shape[1] else None


def _width(site: Site) -> int:
    """Bits of a number of a weight."""
    return matrix(site).itemsize * 8


def _bytes(sharing: Sequence[Site]) -> int:
    tensors = [site.weight.const_value for site in sharing]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _shared_bytes(made: Sequence[Codebook | Hashed]) -> int:
    """Of the numbers that are stored once."""
    first = made[0]
    return int(first.values.nbytes if isinstance(first, Hashed) else first.books.nbytes)


def _told(made: Codebook | Hashed) -> str:
    if isinstance(made, Hashed):
        return f"hashed to {len(made.values):,} numbers"
    return f"indices of {made.bits} bits into {made.books.shape[1]} numbers"
