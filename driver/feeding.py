"""Feeds for the commands that run models: the user's data, else seeded random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir

from ..backends.base import Interface
from ..ir.dimensions import check_sizes, ranges
from ..ir.errors import OptionError, nearest
from ..ir.feeds import Feeds, random_feeds
from ..ir.shapes import dimension_names
from .data import batches

#: Random batches where there is no data.
RANDOM_BATCHES = 3


def feeds_for(
    model: onnx_ir.Model, data: str | None, dimensions: Mapping[str, int] | None = None, seed: int = 0
) -> Sequence[Feeds]:
    """Batches for `model`: what `load_data` reads from `data`, or random ones with the given dimensions.

    Raises OptionError for dimensions that the model has not, or that come with data, which has sizes of its own, and
    ModelError for sizes out of their range.
    """
    if data is not None:
        if dimensions:
            raise OptionError("dimensions are for random feeds; data brings its own sizes: leave one of them out")
        return batches(data, Interface.of(model))[0]
    check_dimensions(model, dimensions or {})
    return [random_feeds(model, dimensions, seed=seed + index) for index in range(RANDOM_BATCHES)]


def check_dimensions(model: onnx_ir.Model, dimensions: Mapping[str, int]) -> None:
    """Raise OptionError for a dimension that no input of the model has, ModelError for a size out of its range."""
    known = dimension_names(model)
    for name in dimensions:
        if name not in known:
            hint = nearest(name, known) if known else "its inputs have fixed sizes"
            raise OptionError(f"the model has no dimension {name!r}; {hint}")
    check_sizes(dimensions, ranges(model))
