"""How much worse a model answers than its original, without labels: the mean drop over the rows of its outputs.

    cosine   1 - cos(y, y')                    of rows of features: hidden states, sentence embeddings
    kl       sum p log(p / p')                 of logits: p = softmax(y)

A row is the features of a real token; padding never counts. Of an output with one feature all tokens together are a
row. Near the original either drop is a square: with y' = y + d,

    drop = |B.T d|^2 / 2 + ..        cosine   B = (I - u u.T) / |y|,  u = y / |y|
                                     kl       B = diag(sqrt p) - p sqrt(p).T          B B.T = diag(p) - p p.T
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..ir.content import Element, dimensions
from ..ir.errors import ModelError, OptionError, nearest
from ..ir.feeds import Array, Feeds
from .padding import Padding

Floats = NDArray[np.float64]
Form = Literal["cosine", "kl"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Drop:
    """The drop over some outputs of a model, whose sizes are known as far as `outputs` has them."""

    form: Form
    outputs: Mapping[str, tuple[Element, ...] | None]
    padding: Padding = field(repr=False)

    @classmethod
    def of(cls, model: ir.Model, form: Form = "cosine", names: Iterable[str] = ()) -> Drop:
        """Over the outputs of these names, all of floats where none is given.

        Raises OptionError for a name that is no output, and where there is none of floats.
        """
        known = {value.name or "": value for value in model.graph.outputs}
        for name in names:
            if name not in known:
                raise OptionError(f"the model has no output {name!r}; {nearest(name, known)}")
        chosen = {name: known[name] for name in names} or {
            name: value for name, value in known.items() if value.dtype is None or value.dtype in _FLOATS
        }
        if not chosen:
            raise OptionError(f"the model has no output of floats to measure a drop on, only {', '.join(known)}")
        sizes = {name: dimensions(value) for name, value in chosen.items()}
        return cls(
            form, {name: None if dims is None else tuple(dims) for name, dims in sizes.items()}, Padding.of(model)
        )

    def measure(self, original: Mapping[str, Array], found: Mapping[str, Array], feeds: Feeds) -> tuple[float, int]:
        """The drops of the rows added up, and how many rows there are."""
        total, count = 0.0, 0
        for name in self.outputs:
            before, after = self.rows(name, original[name], feeds), self.rows(name, found[name], feeds)
            if before.shape != after.shape:
                raise ModelError(f"the output {name!r} changed its shape from {before.shape} to {after.shape}")
            total += float(_FORMS[self.form](before, after).sum())
            count += len(before)
        return total, count

    def rows(self, name: str, array: Array, feeds: Feeds) -> Floats:
        """The rows of an output, [rows, features]."""
        flat = array.reshape(-1, width(array.shape)).astype(np.float64)
        found = flat[self.places(name, array.shape, feeds)]
        return found.reshape(1, -1) if found.shape[1] == 1 else found

    def places(self, name: str, shape: tuple[int, ...], feeds: Feeds) -> NDArray[np.int64]:
        """Which rows of an output, flattened to [rows, features], count."""
        lead = shape[:-1]
        index = np.arange(int(np.prod(lead, dtype=np.int64))).reshape(*lead, 1)
        kept = self.padding.rows(index, self.outputs[name] if lead else None, feeds)
        return kept[:, 0].astype(np.int64)


def width(shape: tuple[int, ...]) -> int:
    """Features of an output of this shape."""
    return shape[-1] if shape else 1


def cosine(before: Floats, after: Floats) -> Floats:
    """1 - cosine of each row, [rows]; 0 where both are zero, 1 where one is.

    >>> cosine(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [2.0, 2.0]])).tolist()
    [1.0, 0.0]
    """
    # 1 - cos == |u - v|^2 / 2 for rows of length one, without the cancellation
    units = [_unit(rows) for rows in (before, after)]
    drops: Floats = ((units[0] - units[1]) ** 2).sum(-1) / 2
    lengths = [(unit**2).sum(-1) for unit in units]
    drops[(lengths[0] > 0) != (lengths[1] > 0)] = 1.0
    return drops


def kl(before: Floats, after: Floats) -> Floats:
    """The Kullback-Leibler divergence of each row's softmax from the original's, [rows], in nats.

    >>> kl(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])).tolist()
    [0.0]
    """
    first, second = _log_softmax(before), _log_softmax(after)
    divergence: Floats = (np.exp(first) * (first - second)).sum(-1)
    return np.maximum(divergence, 0.0)


def _unit(rows: Floats) -> Floats:
    length: Floats = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit


def _log_softmax(rows: Floats) -> Floats:
    shifted: Floats = rows - rows.max(-1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs


_FORMS: Mapping[Form, Callable[[Floats, Floats], Floats]] = {"cosine": cosine, "kl": kl}
