"""A site's stored weight as the matrix [in, out] that methods work on, and the way back into the graph."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol, runtime_checkable

import onnx_ir as ir

from ..ir.site import Kind, Site
from .edit import Array, Tape, reroute_all, sweep
from .weights import Quantized


class Structured(Protocol):
    """What `passes.weights` holds: numbers that stand for a weight."""

    def dense(self) -> Array:
        """The weight it stands for."""

    @property
    def bytes(self) -> int:
        """Bytes that it takes as stored."""

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """Record the nodes that compute the weight."""


@runtime_checkable
class Turnable(Structured, Protocol):
    """What can be stored the other way around, without a node that turns it."""

    def transposed(self) -> Structured:
        """The same numbers, [out, in] for [in, out]."""


def matrix(site: Site, stored: Array | None = None) -> Array:
    """The weight as its node reads it, [in, out]; a view of what is stored where the node reads that.

    stored: what to see that way instead, of the shape that the weight is stored in, such as a gradient.

    A table is [width, rows], so that each row has its own scales. A convolution is unfolded to [channels * kernel,
    out]. Both directions of a recurrent weight stand side by side, [in, directions * gates * hidden].
    """
    array = site.view.array() if stored is None else site.view.moved(stored)
    flat = array.reshape(len(array), -1) if _convolves(site) else array.reshape(-1, array.shape[-1])
    return flat.T if _turned(site) else flat


def put(site: Site, weight: Structured, *, turned: bool = False) -> None:
    """Let all that reads the weight as the site does read `weight`, [in, out], or [out, in] where it is `turned`."""
    tape, shape, dtype = Tape(), site.view.shape, _dtype(site)
    if _turned(site) != turned and isinstance(weight, Turnable):
        weight, turned = weight.transposed(), not turned
    if _turned(site) == turned and isinstance(weight, Quantized):
        weight = _laid(weight, shape)
    value = weight.emit(tape, site.weight.name or "weight")
    if value.dtype not in (None, dtype):
        value = tape("Cast", value, to=dtype)
    if _turned(site) != turned:
        value = tape("Transpose", value, perm=[1, 0])
    if len(shape) != 2 and not (isinstance(weight, Quantized) and weight.values.shape == shape):
        value = tape("Reshape", value, tape.constant(list(shape), "shape"))
    value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
    reroute_all(tape, site.read.consumers(), site.read, value)
    sweep(site.view.path[-1:])


def _laid(weight: Quantized, shape: tuple[int, ...]) -> Quantized:
    """A matrix in the shape that its node reads, where one axis of that has all the scales; else as it is."""
    if len(shape) == 2 or weight.block:
        return weight
    if weight.axis is None:
        return replace(weight, values=weight.values.reshape(shape))
    rows, columns = weight.values.shape
    first = weight.axis % 2 == 0
    axis = next((index for index, size in enumerate(shape) if size != 1), 0) if first else len(shape) - 1
    beside = math.prod(shape[axis + 1 :]) if first else math.prod(shape[:axis])
    if shape[axis] != (rows if first else columns) or beside != (columns if first else rows):
        return weight
    return replace(weight, values=weight.values.reshape(shape), axis=axis)


def _convolves(site: Site) -> bool:
    return site.node.op_type in ("Conv", "ConvTranspose")


def _turned(site: Site) -> bool:
    """Whether the node reads [out, in]."""
    return site.flipped if site.kind is Kind.LINEAR else site.node.op_type != "ConvTranspose"


def _dtype(site: Site) -> ir.DataType:
    """What the node reads the weight in, where nobody has inferred it too."""
    return site.read.dtype or ir.DataType.from_numpy(site.view.array().dtype)
