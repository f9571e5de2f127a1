"""FlexAttention (ai.onnx.preview 1): attention with two places where the model puts a graph of its own.

Shapes: query [batch, heads, sequence, head], key and value [batch, key heads, total, head]; the graphs map
[batch, heads, sequence, total] to the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as oir
import torch

from ...text import place
from ..dtypes import torch_dtype
from ..flow.control import EmitNodes, Form
from ..lowering import Key
from ..scope import Held, OnDevice, Scope
from .attention import attend, grouped


def flex_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None = None
) -> torch.Tensor:
    """Without graphs it is plain attention."""
    return attend(query, key, value, None, scale=scale)


def flex_scores(
    query: torch.Tensor, key: torch.Tensor, *, scale: float | None = None, precision: int | None = None
) -> torch.Tensor:
    """query key^T * scale, in the softmax's precision: at least float32 where none is given."""
    root = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = grouped(query * root, (key * root).transpose(-1, -2))
    if precision is not None:
        return scores.to(torch_dtype(precision))
    return scores if scores.dtype is torch.float64 else scores.float()


def flex_softmax(scores: torch.Tensor) -> torch.Tensor:
    return torch.softmax(scores, -1)


def flex_result(chances: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return grouped(chances, value.to(chances.dtype)).to(value.dtype)


def emit_flex(node: oir.Node, scope: Scope, emit: EmitNodes) -> Sequence[Held]:
    """The graphs are written in line."""
    body, name, source = scope.body, scope.name(node.outputs[0]), place(node)
    query, key, value = (body.tensor(scope.get(entry)) for entry in node.inputs if entry is not None)
    attributes = node.attributes
    scale = {"scale": attributes["scale"].as_float()} if "scale" in attributes else {}
    if not {"score_mod", "prob_mod", "softmax_precision"} & set(attributes):
        return [OnDevice(body.call(flex_attention, (query, key, value), name, source, keywords=scale))]

    def through(modifier: str, held: OnDevice) -> OnDevice:
        if modifier not in attributes:
            return held
        graph, inner = attributes[modifier].as_graph(), scope.inside()
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ValueError(f"{modifier} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, expected 1")
        inner.values[graph.inputs[0]] = held
        emit(graph, inner)
        return OnDevice(body.tensor(inner.get(graph.outputs[0])))

    precision = {"precision": attributes["softmax_precision"].as_int()} if "softmax_precision" in attributes else {}
    keywords = {**scale, **precision}
    scores = body.call(flex_scores, (query, key), f"{name}/scores", source, tap=False, keywords=keywords)
    changed = through("score_mod", OnDevice(scores))
    chances = body.call(flex_softmax, (changed.node,), f"{name}/chances", source, tap=False)
    changed = through("prob_mod", OnDevice(chances))
    return [OnDevice(body.call(flex_result, (changed.node, value), name, source))]


FLEX: dict[Key, Form] = {("ai.onnx.preview", "FlexAttention", 1): emit_flex}
