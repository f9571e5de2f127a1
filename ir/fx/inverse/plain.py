"""The torch functions and methods that users put between our nodes most often, as ONNX ops."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx
from torch.nn import functional

from .table import Call, UnwritableError, schema_of

_BINARY: Mapping[object, str] = {
    **dict.fromkeys((operator.add, torch.add, "add"), "Add"),
    **dict.fromkeys((operator.sub, torch.sub, "sub"), "Sub"),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), "Mul"),
    **dict.fromkeys((operator.matmul, torch.matmul, "matmul"), "MatMul"),
    **dict.fromkeys((operator.pow, torch.pow, "pow"), "Pow"),
}
_UNARY: Mapping[object, str] = {
    **dict.fromkeys((torch.relu, functional.relu, "relu"), "Relu"),
    **dict.fromkeys((torch.sigmoid, functional.sigmoid, "sigmoid"), "Sigmoid"),
    **dict.fromkeys((torch.tanh, functional.tanh, "tanh"), "Tanh"),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), "Neg"),
    **dict.fromkeys((operator.abs, torch.abs, "abs"), "Abs"),
    **dict.fromkeys((torch.exp, "exp"), "Exp"),
    **dict.fromkeys((torch.log, "log"), "Log"),
    **dict.fromkeys((torch.sqrt, "sqrt"), "Sqrt"),
    **dict.fromkeys((torch.clone, "clone", "detach", "contiguous"), "Identity"),
}


def known(node: fx.Node, opsets: Mapping[str, int]) -> Call:
    """The op that a call of a well-known torch function is. Raises UnwritableError for any other."""
    target = node.target
    op, arity = (_BINARY[target], 2) if target in _BINARY else (_UNARY.get(target), 1)
    if op is None:
        name = target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))
        raise UnwritableError(f"{node.op} {name} is no op of the tables")
    if len(node.args) != arity or any(value is not False for value in node.kwargs.values()):
        raise UnwritableError(
            f"{op} takes {arity} tensor{'s' if arity > 1 else ''}, the call at {node.name} has other arguments"
        )
    return Call("", op, tuple(node.args), (), 1, schema_of("", op, opsets))
