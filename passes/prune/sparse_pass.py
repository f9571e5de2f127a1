"""What passes that set single weights to zero share: pattern, sparsity, and how what is left is stored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import onnx_ir as ir

from ...ir.constants import tensor_of
from ...ir.errors import OptionError
from ...ir.site import Site
from ..base import Context, Miss, Outcome
from ..choosing import Verdict, outcome
from ..edit import Array, declare_functions
from ..placing import matrix, put
from ..seen import Seen, inputs
from ..weight_pass import WeightPass, taken
from ..weights import Masked
from .methods.patterns import Bools, Pattern

#: Where neither the option nor the pattern says.
_SPARSITY = 0.5


@dataclass(frozen=True, kw_only=True)
class SparsePass(WeightPass):
    """sparsity: the share of weights that become zero, at least 0 and less than 1; 0.5 unless told, or what N:M says.

    pattern: where zeros lie, as `prune.methods.patterns` spells it.
    storage: `mask` stores what is kept and a mask, where that is smaller; `dense` zeros and all, for passes behind.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..`.
    """

    sparsity: float | None = None
    pattern: str = "free"
    storage: Literal["mask", "dense"] = "mask"

    def __post_init__(self) -> None:
        try:
            pattern = Pattern.of(self.pattern)
        except ValueError as error:
            raise OptionError(f"{self.name}: {error}") from error
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise OptionError(
                f"{self.name}: expected a sparsity of at least 0 and less than 1, found {self.sparsity:g}; at 1 "
                "nothing is left of a layer: drop-layers and drop-sublayers take whole ones"
            )
        if pattern.sparsity is not None and self.sparsity not in (None, pattern.sparsity):
            raise OptionError(
                f"{self.name}: the pattern {self.pattern} has a sparsity of {pattern.sparsity:g}, found "
                f"sparsity={self.sparsity:g}; leave it out, or give another pattern"
            )
        if pattern.bank and self._share and not 0 < round(self._share * pattern.bank) < pattern.bank:
            raise OptionError(
                f"{self.name}: expected a sparsity by which a bank of {pattern.bank} loses some and keeps some, found "
                f"{self._share:g}"
            )

    @abstractmethod
    def pruned(self, model: ir.Model, part: Sequence[Site], context: Context) -> Mapping[ir.Value, Array]:
        """By weight, the matrix [in, out] with zeros of sites that are pruned on the same statistics."""

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self.verdicts(model)
        if not self._share:
            none = Miss("sparsity", "0", "a share of weights that become zero")
            return outcome([(site, miss or none) for site, miss in verdicts], ignore=self.ignore)
        told: dict[ir.Value, str] = {}
        left: dict[ir.Value, Miss] = {}
        for part in self._parts(taken(verdicts)):
            found = self.pruned(model, part, context)
            for site in part:
                verdict = self._stored(site, found[site.weight])
                if isinstance(verdict, Miss):
                    left[site.weight] = verdict
                else:
                    told[site.weight] = verdict
            declare_functions(model)
        final: list[Verdict] = [(site, miss or left.get(site.weight)) for site, miss in verdicts]
        return outcome(final, told, ignore=self.ignore)

    def verdicts(self, model: ir.Model, context: Context | None = None) -> list[Verdict]:
        """Every weight site, and why it stays as it is; nobody is asked for its speed, which stays what it is."""
        return super().verdicts(model, None)

    def unfit(self, site: Site) -> Miss | None:
        shape = matrix(site).shape
        misfit = self._pattern.misfit((shape[0], shape[1]))
        return None if misfit is None else Miss("pattern", f"{self.pattern} on {list(shape)}", misfit)

    def _parts(self, chosen: Sequence[Site]) -> Iterator[Sequence[Site]]:
        """The sites that are pruned on the same statistics."""
        yield chosen

    @property
    def _pattern(self) -> Pattern:
        return Pattern.of(self.pattern)

    @property
    def _share(self) -> float:
        """The share of weights that go."""
        given = self._pattern.sparsity if self.sparsity is None else self.sparsity
        return _SPARSITY if given is None else given

    def _stored(self, site: Site, weight: Array) -> str | Miss:
        """Store what a site's weight has become; what was done, or why it stays."""
        given, stored = matrix(site), tensor_of(site.weight)
        assert stored is not None  # a site that was chosen is stored
        weight = weight.astype(stored.dtype.numpy())
        if not weight.any():
            return Miss("left", f"0 of {weight.size:,} weights", "a layer of which something is left")
        if (weight == given).all():
            return Miss("sparsity", f"{1 - _share(given):.1%} zeros", "weights of which more would become zero")
        zeros = f"{1 - _share(weight):.1%} zeros ({self.pattern})"
        if self.storage == "mask":
            masked = self._masked(weight)
            if masked.bytes < stored.nbytes:
                form = f"patterns of {masked.bits} bits" if masked.bits else "a mask"
                put(site, masked)
                return (
                    f"{zeros}, stored as kept numbers and {form}: {masked.bytes:,} of {stored.nbytes:,} bytes; "
                    "decoded to dense when it is loaded"
                )
            reason = f"stored dense: a mask and kept numbers would take {masked.bytes:,} of {stored.nbytes:,} bytes"
        else:
            reason = f"stored dense, {stored.nbytes:,} bytes"
        _write(site, weight)
        return f"{zeros}, {reason}; run dense"

    def _masked(self, weight: Array) -> Masked:
        """The weight [in, out] as it is stored."""
        pattern = self._pattern
        tall, wide = pattern.tile
        rows, columns = weight.shape
        mask: Bools = (weight.reshape(rows // tall, tall, columns // wide, wide) != 0).any((1, 3))
        kept, size = pattern.group
        if size:
            # a kept weight may be zero too
            mask = _filled(mask, kept, size)
        return Masked.of(weight, mask, tile=pattern.tile, group=pattern.group)


@dataclass(frozen=True, kw_only=True)
class InputsPass(SparsePass):
    """sequential: inputs are those behind the blocks before as these are pruned; else the original's, in one run."""

    sequential: bool = True

    @abstractmethod
    def by_inputs(self, weight: Array, seen: Seen | None) -> Array:
        """A matrix [in, out] with zeros, by what is known of its inputs; None where they are not seen."""

    def pruned(self, model: ir.Model, part: Sequence[Site], context: Context) -> Mapping[ir.Value, Array]:
        seen = inputs(model, part, context)
        return {site.weight: self.by_inputs(matrix(site), seen.get(site.weight)) for site in part}

    def _parts(self, chosen: Sequence[Site]) -> Iterator[Sequence[Site]]:
        return by_block(chosen) if self.sequential else iter([chosen])


def by_block(chosen: Sequence[Site]) -> Iterator[Sequence[Site]]:
    """The sites of each block, and those between two blocks."""
    for _, part in groupby(chosen, lambda site: site.block):
        yield list(part)


def _share(weight: Array) -> float:
    """The share of weights that are not zero."""
    return float(np.count_nonzero(weight)) / max(weight.size, 1)


def _filled(mask: Bools, kept: int, size: int) -> Bools:
    """The mask with exactly `kept` of every `size` rows of a column set: as many more as are short of it."""
    apart = mask.reshape(-1, size, mask.shape[1])
    first = np.argsort(~apart, axis=1, kind="stable")[:, :kept]
    found = np.zeros_like(apart)
    np.put_along_axis(found, first, True, axis=1)
    return found.reshape(mask.shape)


def _write(site: Site, weight: Array) -> None:
    """Store a matrix [in, out] where and as the site's weight is stored."""
    stored = tensor_of(site.weight)
    assert stored is not None
    array = stored.numpy().copy()
    places = matrix(site, np.arange(array.size).reshape(array.shape))
    array.reshape(-1)[places.reshape(-1)] = weight.reshape(-1)
    site.weight.const_value = ir.Tensor(array, name=site.weight.name)
