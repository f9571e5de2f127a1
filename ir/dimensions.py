"""Named dynamic dimensions and the sizes each may take.

A model's inputs name their dynamic dimensions (`[batch, sequence]`); what sizes a name may take is kept in the model's
metadata, so that it survives saving: `tersor.dimensions` holds JSON `{"sequence": [2, 512], "batch": [1, null]}`, both
ends included, `null` for no upper end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import onnx_ir

from .errors import ModelError, nearest

#: The metadata key of a model under which the ranges are kept.
KEY = "tersor.dimensions"

#: From the smallest to the largest size that is allowed; None is no upper end.
Range = tuple[int, int | None]


def names(model: onnx_ir.Model) -> tuple[str, ...]:
    """The named dynamic dimensions of the model's inputs, in order of appearance."""
    found: dict[str, None] = {}
    for value in model.graph.inputs:
        for dim in value.shape or ():
            if isinstance(dim, onnx_ir.SymbolicDim) and dim.value is not None:
                found[dim.value] = None
    return tuple(found)


def ranges(model: onnx_ir.Model) -> dict[str, Range]:
    """The stored range of each dimension that has one. Raises ModelError where the metadata is not what we write."""
    text = model.metadata_props.get(KEY)
    if text is None:
        return {}
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise ModelError(f"metadata {KEY!r}: expected JSON like {{'batch': [1, null]}}, found {text!r}") from error
    if not isinstance(stored, dict):
        raise ModelError(f"metadata {KEY!r}: expected a mapping of names to [smallest, largest], found {text!r}")
    return {str(name): _range(str(name), pair) for name, pair in stored.items()}


def set_ranges(model: onnx_ir.Model, mapping: Mapping[str, Range]) -> None:
    """Store the range of each dimension in `mapping`; what is stored for other names stays.

    Raises ModelError for a range that is empty or negative, and for a name that no input of the model has.
    """
    known = names(model)
    for name in mapping:
        if name not in known:
            hint = nearest(name, known) if known else "the model has no dynamic dimension"
            raise ModelError(f"dimension {name!r} is in no input's shape: {hint}")
    merged = ranges(model) | {name: _range(name, pair) for name, pair in mapping.items()}
    if merged:
        model.metadata_props[KEY] = json.dumps({name: list(pair) for name, pair in sorted(merged.items())})


def rename(model: onnx_ir.Model, mapping: Mapping[str, str]) -> None:
    """Give dimensions other names wherever they stand, in expressions and ranges too."""
    word = re.compile(r"[A-Za-z_]\w*")

    def renamed(text: str) -> str:
        return mapping.get(text) or word.sub(lambda found: mapping.get(found[0], found[0]), text)

    values = [value for graph in model.graphs() for value in (*graph.inputs, *graph.initializers.values())]
    for value in (*values, *(value for node in model.graph.all_nodes() for value in node.outputs)):
        if value.shape is not None:
            dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
            value.shape = onnx_ir.Shape([renamed(dim) if isinstance(dim, str) else dim for dim in dims])
    before = ranges(model)
    if before:
        model.metadata_props[KEY] = json.dumps({renamed(name): list(pair) for name, pair in sorted(before.items())})


def check_sizes(sizes: Mapping[str, int], allowed: Mapping[str, Range]) -> None:
    """Raise ModelError, naming all of them, when a size in `sizes` is outside of its range in `allowed`."""
    wrong = [
        f"{name} is {size}, allowed is {describe(allowed[name])}"
        for name, size in sizes.items()
        if name in allowed and not _inside(size, allowed[name])
    ]
    if wrong:
        raise ModelError(f"dynamic dimension out of its range: {'; '.join(wrong)}")


def describe(pair: Range) -> str:
    """A range for people.

    >>> describe((2, 512)), describe((1, None)), describe((4, 4))
    ('2..512', '1 or more', '4')
    """
    low, high = pair
    if high is None:
        return f"{low} or more"
    return str(low) if low == high else f"{low}..{high}"


def clip(size: int, pair: Range) -> int:
    """The size in the range that is nearest to `size`.

    >>> clip(8, (1, None)), clip(8, (16, 32)), clip(8, (1, 4))
    (8, 16, 4)
    """
    low, high = pair
    return max(low, size if high is None else min(size, high))


def _inside(size: int, pair: Range) -> bool:
    low, high = pair
    return low <= size and (high is None or size <= high)


def _range(name: str, pair: object) -> Range:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ModelError(f"dimension {name!r}: expected (smallest, largest or None), found {pair!r}")
    low, high = pair
    if not _is_size(low) or not (high is None or _is_size(high)):
        raise ModelError(f"dimension {name!r}: sizes are whole numbers from 0 up, found {pair!r}")
    if high is not None and high < low:
        raise ModelError(f"dimension {name!r}: the range {low}..{high} is empty, the smallest size comes first")
    return low, high


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
