"""Weights of few bits as torch computes with them soonest, and no larger than they were stored.

    integers of 2 to 7 bits      packed to bytes again, in runs (`bits`): torch has no type for them
    gather(decoded table, ids)   the rows are gathered first, then decoded
    x @ ((W8 - zero) * scale)    (x @ (W8 - zero)) * scale, where each output has one scale

Exact but for the order of the last product. For a module that is to be run or compiled: what it was made from is told
from a draft that was taken before (`inverse/note.py`), no longer from it. Left alone: weights that are computed from
inputs, tables looked up along another axis than their first, and activations that are quantized themselves, which have
kernels of their own (`qdq`).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as oir
import torch
from torch import fx

from ..dtypes import FLOAT8
from ..ops.casts import cast
from ..ops.elementwise import where
from ..ops.index import constant_of_shape, gather
from ..ops.linear import gemm
from ..ops.quant import dequantize
from ..ops.shape import expand, reshape, slice_
from .bits import bits_of, pack, unpack, widen
from .constants import Constants, inputs
from .weights import Rewriter, attribute_of, bound, drop_unread, finish

Tensor = torch.Tensor
_NARROW = (oir.DataType.INT2, oir.DataType.UINT2, oir.DataType.INT4, oir.DataType.UINT4)
_BYTES = (torch.int8, torch.uint8)
#: Fewer integers than this stay as they are.
_LEAST = 256


def pack_weights(module: fx.GraphModule) -> int:
    """Rewrite in place; how many tensors were packed, tables gathered first and products scaled last."""
    done = 0
    for step in (_packed, _cut, _gathered, _scaled, _decoded):
        # each sees the graph that the one before left
        constants = Constants(module)
        done += sum(step(module, constants, node) for node in list(module.graph.nodes))
    if done:
        finish(module)
        drop_unread(module)
    return done


def decoded(
    values: Tensor, scale: Tensor, zero: Tensor | None, *, axis: int, block_size: int, dtype: torch.dtype
) -> Tensor:
    """(values - zero) * scale: scales are one, one for each index along an axis, or, with a block size, one for each
    run along it, the last of which may be shorter; a zero point may be one for all."""
    place, wide = axis % max(values.dim(), 1), torch.float64 if dtype is torch.float64 else torch.float32
    less = None if values.is_floating_point() else zero
    by: Tensor | None
    if not block_size:
        by, less = (_along(each, values.dim(), place) for each in (scale, less))
    elif values.shape[place] % block_size == 0:
        shape = values.shape
        values = values.reshape(*shape[:place], -1, block_size, *shape[place + 1 :])
        by, less = (each if each is None or not each.dim() else each.unsqueeze(place + 1) for each in (scale, less))
        assert by is not None
        return (widen(values, less, wide) * by.to(wide)).to(dtype).reshape(shape)
    else:
        by, less = (
            each if each is None or not each.dim() else repeated(each, place, block_size, values)
            for each in (scale, less)
        )
    assert by is not None
    return (widen(values, less, wide) * by.to(wide)).to(dtype)


def _along(parameter: Tensor | None, rank: int, axis: int) -> Tensor | None:
    if parameter is None or parameter.dim() == 0:
        return parameter
    return parameter.reshape([-1 if place == axis else 1 for place in range(rank)])


def repeated(parameter: Tensor, axis: int, block: int, like: Tensor) -> Tensor:
    """Each number of an axis `block` times, as far as `like` goes."""
    # by indices: of numbers that were repeated and then cut off, Inductor (torch 2.13) reads the wrong ones
    return parameter.index_select(axis, torch.arange(like.shape[axis], device=like.device) // block)


def columns(parameter: Tensor, *, block: int, size: int) -> Tensor:
    """[rows, runs, 1] as [rows, size], each number for `block` columns."""
    flat = parameter.squeeze(-1)
    return flat.index_select(1, torch.arange(size, device=flat.device) // block)


def as_indexed(rows: Tensor, ids: Tensor) -> Tensor:
    """Rows [n, ..] in the shape of the n indices that they are for."""
    return rows.reshape(*ids.shape, *rows.shape[1:])


def _packed(module: fx.GraphModule, constants: Constants, node: fx.Node) -> bool:
    """Integers that torch holds in more bits than they need, or unpacks from planes of bits."""
    if node not in constants or not _is_wasteful(module, constants, node):
        return False
    codes = constants.value(node)
    assert isinstance(codes, Tensor)
    write, bits, leaf = Rewriter(module, node), bits_of(codes), _leaf(node)
    if bits == 8:
        if node.op == "get_attr":
            return False
        write.replace(write.own(codes.contiguous(), leaf, "codes"))
        return True
    packed, signed = write.own(pack(codes, bits), leaf, "packed"), codes.dtype is torch.int8
    module.meta.setdefault("packed", {})[str(packed.target)] = (bits, codes.shape[-1], signed)
    write.replace(write.call(unpack, packed, bits=bits, size=codes.shape[-1], signed=signed))
    return True


def _is_wasteful(module: fx.GraphModule, constants: Constants, node: fx.Node) -> bool:
    if node.op == "get_attr":
        _, dtype = module.meta["stored"].get(str(node.target), ("", None))
        found = attribute_of(module, node)
        return dtype in _NARROW and isinstance(found, Tensor) and found.dim() > 0 and found.numel() >= _LEAST
    made = constants.meta(node)
    if made is None or made.dtype not in _BYTES or not made.dim() or made.numel() < _LEAST or not inputs(node):
        return False
    # the last of the nodes that compute with bytes
    following = [constants.meta(user) if user in constants else None for user in node.users]
    return any(each is None or each.dtype not in _BYTES for each in following)


def _cut(module: fx.GraphModule, constants: Constants, node: fx.Node) -> bool:
    """Numbers of runs spread over columns, of which the last run has fewer."""
    flat = node.args[0] if node.target is slice_ and node in constants else None
    wide = flat.args[0] if isinstance(flat, fx.Node) and flat.target is reshape else None
    if not isinstance(wide, fx.Node) or wide.target is not expand:
        return False
    held, many, made = constants.meta(inputs(wide)[0]), constants.meta(wide), constants.meta(node)
    assert held is not None and many is not None and made is not None  # constants are tensors here
    if many.dim() != 3 or held.shape != (*many.shape[:2], 1) or made.shape[:1] != many.shape[:1] or made.dim() != 2:
        return False
    write = Rewriter(module, node)
    write.replace(write.call(columns, inputs(wide)[0], block=many.shape[2], size=made.shape[1]))
    return True


def _decoded(module: fx.GraphModule, constants: Constants, node: fx.Node) -> bool:
    """A dequantization of what is stored, by runs seen as an axis of their own."""
    if node.op != "call_function" or node.target is not dequantize or node not in constants:
        return False
    given, made = bound(node, ("x", "scale", "zero")), constants.meta(node)
    if made is None or _is_read_quantized(node):
        return False
    axis, block = given.get("axis", 1), given.get("block_size", 0)
    write = Rewriter(module, node)
    parts = (given["x"], given["scale"], _point(constants, write, given) or given.get("zero"))
    write.replace(write.call(decoded, *parts, axis=axis, block_size=block, dtype=made.dtype))
    return False


def _is_read_quantized(node: fx.Node) -> bool:
    """Whether a weight meets activations that are quantized too."""
    reads = [each for user in node.users for each in user.all_input_nodes if each is not node]
    return any(each.target is dequantize for each in reads)


def _leaf(node: fx.Node) -> fx.Node:
    """The first stored tensor that a constant is made from."""
    while node.op != "get_attr":
        node = inputs(node)[0]
    return node


def _gathered(module: fx.GraphModule, constants: Constants, node: fx.Node) -> bool:
    """A lookup in a table that is decoded."""
    if node.op != "call_function" or node.target is not gather:
        return False
    given = bound(node, ("data", "indices"))
    table, ids = given["data"], given["indices"]
    if not isinstance(table, fx.Node) or not isinstance(ids, fx.Node) or given.get("axis", 0) != 0:
        return False
    made = constants.meta(table) if table in constants and table.op != "get_attr" and ids not in constants else None
    if made is None or not made.dim():
        return False
    rows = _Rows(constants, Rewriter(module, node), ids, made.shape[0])
    if not rows.can(table):
        return False
    rows.write.replace(rows.write.call(as_indexed, rows.of(table), ids))
    return True


class _Rows:
    """The rows that a lookup asks for, of a table [size, ..] and of all that it is computed from."""

    def __init__(self, constants: Constants, write: Rewriter, ids: fx.Node, size: int) -> None:
        self.write, self._constants, self._size = write, constants, size
        self._ids = ids
        self._flat: fx.Node | None = None
        self._made: dict[fx.Node, fx.Node] = {}

    def can(self, node: fx.Node) -> bool:
        """Whether each row of a constant depends on the same rows of what it is computed from."""
        made = self._constants.meta(node)
        if made is None or not made.dim() or made.shape[0] != self._size:
            return False
        if node.op == "get_attr":
            return True
        given = self._split(node)
        return given is not None and all(self.can(each) for each in given)

    def of(self, node: fx.Node) -> fx.Node:
        """The rows of a constant, [n, ..]."""
        if node not in self._made:
            self._made[node] = self._rows(node)
        return self._made[node]

    def _rows(self, node: fx.Node) -> fx.Node:
        if node.op == "get_attr":
            if self._flat is None:
                self._flat = self.write.call(torch.reshape, self._ids, (-1,))
            return self.write.call(gather, node, self._flat)
        made = self._constants.meta(node)
        assert made is not None  # it was asked for before
        if node.target is dequantize:
            given = bound(node, ("x", "scale", "zero"))
            x, scale, zero = (given.get(name) for name in ("x", "scale", "zero"))
            parts = [self._part(x, node), self._part(scale, node), self._part(zero, node)]
            parts[2] = _point(self._constants, self.write, given) or parts[2]
            block = given.get("block_size", 0)
            return self.write.call(decoded, *parts, axis=1 if block else 0, block_size=block, dtype=made.dtype)
        if node.target is reshape:
            return self.write.call(torch.reshape, self.of(inputs(node)[0]), (-1, *made.shape[1:]))
        if node.target is expand:
            return self.write.call(_expanded, self.of(inputs(node)[0]), *made.shape[1:])
        args = [self._part(each, node) for each in node.args]
        return self.write.call(node.target, *args, **node.kwargs)  # type: ignore[arg-type]

    def _part(self, value: object, node: fx.Node) -> object:
        split = self._split(node) or []
        return self.of(value) if isinstance(value, fx.Node) and value in split else value

    def _split(self, node: fx.Node) -> list[fx.Node] | None:
        """What of a node's inputs is taken by rows; None where rows of the result need more than rows of these."""
        reads, made = inputs(node), self._constants.meta(node)
        if made is None:
            return None
        if node.target is dequantize:
            return self._dequantized(node, made)
        if node.target is gather:
            # a codebook stays whole, its indices have rows
            return [reads[1]] if node.kwargs.get("axis", 0) == 0 and len(reads) > 1 else None
        if node.target in (reshape, expand):
            like = self._constants.meta(reads[0])
            if like is None or not like.dim() or {like.shape[0], made.shape[0]} != {self._size}:
                return None
            return reads if node.target is reshape or self._has(like, made) else None
        if node.target is slice_:
            axes = node.args[3] if len(node.args) > 3 else node.kwargs.get("axes")
            return reads if isinstance(axes, list | tuple) and all(int(str(each)) > 0 for each in axes) else None
        if node.target is columns:
            return reads
        if node.target in (unpack, cast) or node.target in _POINTWISE:
            found = [
                each for each in reads if (like := self._constants.meta(each)) is not None and self._has(like, made)
            ]
            small = [like for each in reads if each not in found and (like := self._constants.meta(each)) is not None]
            fit = all(each.dim() < made.dim() or each.shape[0] == 1 for each in small)
            return found if found and fit and len(found) + len(small) == len(reads) else None
        return None

    def _has(self, part: Tensor, made: Tensor) -> bool:
        return part.dim() == made.dim() and part.shape[0] == self._size

    def _dequantized(self, node: fx.Node, made: Tensor) -> list[fx.Node] | None:
        given = bound(node, ("x", "scale", "zero"))
        values, scale, zero = given["x"], given["scale"], given.get("zero")
        axis, block = int(str(given.get("axis", 1))), int(str(given.get("block_size", 0)))
        like = self._constants.meta(scale) if isinstance(scale, fx.Node) else None
        if like is None or made.dim() != 2 or not isinstance(values, fx.Node):
            return None
        if not block and like.numel() == 1:
            return [values]
        if axis % 2 != (1 if block else 0):
            return None
        return [each for each in (values, scale, zero) if isinstance(each, fx.Node) and not _is_uniform(each)]


def _point(constants: Constants, write: Rewriter, given: Mapping[str, object]) -> fx.Node | None:
    """The one number that all zero points of a dequantization are, where they are made rather than stored."""
    values, zero = given["x"], given.get("zero")
    if not isinstance(zero, fx.Node) or not isinstance(values, fx.Node) or not _is_uniform(zero):
        return None
    points = constants.value(zero)
    assert isinstance(points, Tensor)
    return write.own(points.flatten()[0].clone(), _leaf(values), "zero")


def _is_uniform(node: fx.Node) -> bool:
    """Whether a node makes the same number everywhere, as it does zero points that need not be stored."""
    return node.target is constant_of_shape


def _expanded(rows: Tensor, *sizes: int) -> Tensor:
    return rows.expand(-1, *sizes)


_POINTWISE = (torch.mul, torch.add, torch.sub, torch.neg, where)


def _scaled(module: fx.GraphModule, constants: Constants, node: fx.Node) -> bool:
    """A product with a dequantized matrix that has one scale, or one for each output."""
    if node.op != "call_function" or node.target not in (torch.matmul, gemm):
        return False
    given = bound(node, ("a", "b", "c"))
    x, weight, turned = given["a"], given["b"], bool(given.get("trans_b", 0))
    if given.get("trans_a", 0) or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
        return False
    if not isinstance(weight, fx.Node) or weight.target is not dequantize or weight not in constants:
        return False
    if not isinstance(x, fx.Node) or x in constants or x.target is dequantize:
        return False
    parts = bound(weight, ("x", "scale", "zero"))
    values, scale, zero = parts["x"], parts["scale"], parts.get("zero")
    assert isinstance(values, fx.Node)
    assert isinstance(scale, fx.Node)
    codes, by = constants.meta(values), constants.meta(scale)
    if (
        codes is None
        or by is None
        or codes.dim() != 2
        or codes.dtype not in (*_BYTES, *FLOAT8)
        or by.dtype is not torch.float32
    ):
        return False
    if parts.get("block_size", 0) or (by.numel() > 1 and int(str(parts.get("axis", 1))) % 2 != (0 if turned else 1)):
        return False
    write, bias = Rewriter(module, node), given.get("c")
    wide = write.call(widen, values, None, by.dtype)
    if zero is not None:
        offset = constants.value(zero) if isinstance(zero, fx.Node) else None
        if not isinstance(offset, Tensor):
            return False
        if bool(offset.any()):
            spread = zero if not turned or offset.numel() == 1 else write.call(torch.unsqueeze, zero, 1)
            wide = write.call(widen, values, spread, by.dtype)
    y = write.call(torch.matmul, x, write.call(torch.t, wide) if turned else wide)
    added, held = (node, bias) if bias is not None else _bias(node, constants, codes.shape[0 if turned else 1])
    # x (W s) + b == b + (x W) s
    last = Rewriter(module, added)
    last.replace(last.call(torch.addcmul, held, y, scale) if held is not None else last.call(torch.mul, y, scale))
    return True


def _bias(node: fx.Node, constants: Constants, outputs: int) -> tuple[fx.Node, object]:
    """The node that adds a stored vector to a product that nobody else reads, and the vector; else the product."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is not None and user.target is torch.add and not user.kwargs:
        for product, bias in (user.args, user.args[::-1]):
            like = constants.meta(bias) if product is node and isinstance(bias, fx.Node) and bias in constants else None
            if like is not None and like.shape == (outputs,):
                return user, bias
    return node, None
