"""Which rows of an activation are real tokens: padding never counts in a statistic.

    attention_mask [batch, sequence]   x [batch, sequence, hidden]   ->  x of the real tokens, [tokens, hidden]

What an input is for is read from the graph (`ir.roles`), and which axes of an activation are the mask's from their
named dimensions, or from their sizes where the model has fixed ones. An activation without those axes (a pooled
sentence) is real throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..ir.content import Element, dimensions, element
from ..ir.feeds import Array, Feeds
from ..ir.polynomial import Polynomial, product
from ..ir.roles import Mask, role_of
from ..ir.shapes import infer


@dataclass(frozen=True)
class Padding:
    """The masks among a model's inputs, [batch, sequence] each, by name."""

    masks: Mapping[str, tuple[Element, ...]]

    @classmethod
    def of(cls, model: ir.Model) -> Padding:
        """The masks of a model; none where no input of two axes is one."""
        shapes = infer(model)
        masks = {}
        for value in model.graph.inputs:
            dims = dimensions(value)
            if value.name and dims is not None and len(dims) == 2 and isinstance(role_of(value, model, shapes), Mask):
                masks[value.name] = tuple(dims)
        return cls(masks)

    def rows(self, array: Array, dims: Sequence[Element] | None, feeds: Feeds, axis: int = -1) -> Array:
        """The real tokens of an activation as rows, [tokens, features], the features being those of `axis`.

        dims: what is known about its sizes.
        """
        if array.ndim == 0:
            return array.reshape(1, 1)
        known: list[Element] = [None] * array.ndim if dims is None else list(dims)
        known.append(known.pop(axis))
        array = np.moveaxis(array, axis, -1)
        for name, sizes in self.masks.items():
            mask = np.asarray(feeds[name]) != 0
            kept = _kept(array, known, mask, sizes)
            if kept is not None:
                return kept
        return array.reshape(-1, array.shape[-1])


def _kept(array: Array, dims: Sequence[Element], mask: NDArray[np.bool_], sizes: tuple[Element, ...]) -> Array | None:
    """The rows of `array` that a mask keeps, None where the mask is not about its axes."""
    lead = array.shape[:-1]
    batches = [axis for axis, dim in enumerate(dims[:-1]) if _same(dim, sizes[0]) and lead[axis] == mask.shape[0]]
    tokens = [axis for axis, dim in enumerate(dims[:-1]) if _among(dim, sizes[1]) and lead[axis] <= mask.shape[1]]
    pairs = [(batch, token) for batch in batches for token in tokens if batch != token]
    if pairs:
        # of keys behind a cache the last are the ones that are computed here
        part = mask[:, mask.shape[1] - lead[pairs[0][1]] :]
        return np.moveaxis(array, pairs[0], (0, 1))[part].reshape(-1, array.shape[-1])
    if len(lead) == 1 and lead[0] == mask.size and _same(dims[0], _joined(sizes)):
        return array[mask.reshape(-1)]
    return None


def _same(dim: Element, other: Element) -> bool:
    return dim is not None and dim == other


def _among(dim: Element, masked: Element) -> bool:
    """Whether an axis is the mask's, or the new part of it: `sequence` of `past + sequence`."""
    return _same(dim, masked) or (
        isinstance(dim, str) and isinstance(masked, str) and dim in Polynomial.parse(masked).names
    )


def _joined(sizes: tuple[Element, ...]) -> Element:
    """How many rows there are where batch and sequence are one axis."""
    known = [
        Polynomial.parse(size) if isinstance(size, str) else Polynomial.of(size) for size in sizes if size is not None
    ]
    return element(product(known)) if len(known) == len(sizes) else None
