"""Ops on strings. A tensor of strings is an object array of `str`, on the host whatever the device is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as oir
import torch

from ..dtypes import to_numpy, to_torch
from ..edge import strings
from ..lowering import Lowering, Table, merged, standard
from .regex import compiled
from .tfidf import tf_idf_vectorizer


def string_concat(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # numpy gives a bare str where both are scalars
    return np.asarray(a + b, dtype=object)


def string_split(
    x: np.ndarray, *, delimiter: str = "", maxsplit: int | None = None, outputs: int
) -> np.ndarray | tuple[np.ndarray, torch.Tensor]:
    """The parts on a new last axis, filled up with empty strings, and their numbers; no delimiter is white space."""
    parts = [text.split(delimiter or None, -1 if maxsplit is None else maxsplit) for text in x.ravel().tolist()]
    counts = np.array([len(row) for row in parts], dtype=np.int64)
    longest = int(counts.max(initial=0))
    found = np.full((len(parts), longest), "", dtype=object)
    for row, texts in zip(found, parts, strict=True):
        row[: len(texts)] = texts
    split = found.reshape(*x.shape, longest)
    return split if outputs == 1 else (split, torch.from_numpy(counts.reshape(x.shape)))


_CASES: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}


def string_normalizer(
    x: np.ndarray,
    *,
    stopwords: tuple[str, ...] = (),
    is_case_sensitive: int = 0,
    case_change_action: str = "NONE",
    locale: str = "",
) -> np.ndarray:
    """The elements that are no stop words, in another case; one empty string where none is left.

    Cases are Unicode's, whatever the locale. Raises ValueError for another shape than [C] and [1, C].
    """
    if x.ndim not in (1, 2) or (x.ndim == 2 and x.shape[0] != 1):
        raise ValueError(f"the shape is {list(x.shape)}; expected [C] or [1, C]")
    if case_change_action not in _CASES:
        raise ValueError(f"case_change_action is {case_change_action!r}; ONNX has {', '.join(_CASES)}")
    fold = _CASES["NONE" if is_case_sensitive else "LOWER"]
    stops = {fold(word) for word in stopwords}
    kept = [text for text in x.ravel().tolist() if fold(text) not in stops]
    change = _CASES[case_change_action]
    found = strings(np.array([change(text) for text in kept] or [""], dtype=object))
    return found if x.ndim == 1 else found.reshape(1, -1)


def regex_full_match(x: np.ndarray, *, pattern: str = "") -> torch.Tensor:
    matches = compiled(pattern).fullmatch
    found = np.array([matches(text) is not None for text in x.ravel().tolist()], dtype=np.bool_)
    return torch.from_numpy(found.reshape(x.shape))


def equal(a: np.ndarray, b: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(a == b, dtype=np.bool_))


def cast(
    x: np.ndarray | torch.Tensor, *, to: int, saturate: int = 1, round_mode: str = "up"
) -> np.ndarray | torch.Tensor:
    """Numbers as text, the shortest that reads back as the same; text as numbers, floats to integers by truncation.

    Raises ValueError for text that is no number.
    """
    dtype = oir.DataType(to)
    if isinstance(x, torch.Tensor):
        return _written(x)
    if dtype is oir.DataType.STRING:
        return x
    kind = dtype.numpy()
    texts: list[str] = x.ravel().tolist()
    whole = np.issubdtype(kind, np.integer)
    numbers = np.array([_integer(text) for text in texts] if whole else [float(text) for text in texts])
    if dtype is oir.DataType.BOOL:
        numbers = numbers != 0
    return to_torch(numbers.astype(kind).reshape(x.shape))


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))


def _written(x: torch.Tensor) -> np.ndarray:
    array = to_numpy(x)
    if array.dtype == np.bool_:
        return np.where(array, "1", "0").astype(object)
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    return strings(array.astype(np.str_))


def cast_like(
    x: np.ndarray | torch.Tensor,
    like: np.ndarray | torch.Tensor,
    *,
    saturate: int = 1,
    round_mode: str = "up",
) -> np.ndarray | torch.Tensor:
    if isinstance(like, torch.Tensor):
        return cast(x, to=oir.DataType.from_numpy(to_numpy(like).dtype).value)
    return cast(x, to=oir.DataType.STRING.value)


def unique(
    x: np.ndarray, *, axis: int | None = None, sorted: int = 1, outputs: int
) -> np.ndarray | tuple[np.ndarray | torch.Tensor, ...]:
    """Values, first place of each, inverse, counts; by value, or by first place where not `sorted`."""
    values, first, inverse, counts = np.unique(
        x.astype(np.str_), return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first)
        values, first, counts = np.take(values, order, 0 if axis is None else axis), first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    found = strings(values)
    return found if outputs == 1 else (found, *map(torch.from_numpy, (first, inverse, counts)))


def shape(x: np.ndarray, *, start: int = 0, end: int | None = None) -> list[int]:
    return list(x.shape)[slice(start, end)]


def size(x: np.ndarray) -> int:
    return x.size


STRINGS: Table = merged(
    standard(
        {
            "StringConcat": Lowering(function=string_concat, strings=True),
            "StringSplit": Lowering(function=string_split, many=True, strings=True),
            "RegexFullMatch": regex_full_match,
        },
        since=20,
    ),
    standard({"StringNormalizer": Lowering(function=string_normalizer, strings=True)}, since=10),
    standard({"TfIdfVectorizer": tf_idf_vectorizer}, since=9),
)
OVERRIDES: Table = standard(
    {
        "Cast": cast,
        "CastLike": cast_like,
        "Equal": equal,
        "Shape": Lowering(function=shape, host=oir.DataType.INT64),
        "Size": Lowering(function=size, host=oir.DataType.INT64),
        "Unique": Lowering(function=unique, many=True, strings=True),
    }
)
"""Ops that do something else with strings than with numbers."""
