"""Mends what torch's exporter is known to write wrongly. Seen with torch 2.13 and onnxscript 0.7.2."""

from __future__ import annotations

import onnx_ir


def part_names(model: onnx_ir.Model) -> None:
    """Rename computed values that have the name of a weight: the exporter numbers its own (`val_19`) without looking
    whether a weight of the module is called so, and its optimizer then stops."""
    taken = set(model.graph.initializers)
    taken.update(str(value.name) for node in model.graph.all_nodes() for value in node.outputs)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name in model.graph.initializers:
                number = 1
                while f"{value.name}_{number}" in taken:
                    number += 1
                value.name = f"{value.name}_{number}"
                taken.add(value.name)


def mend(model: onnx_ir.Model) -> None:
    """Mend the model in place; a model without the known faults is unchanged."""
    _widen_rotary_caches(model)


def _widen_rotary_caches(model: onnx_ir.Model) -> None:
    """Give the caches of RotaryEmbedding the batch size of x.

    Without position ids the operator wants cos and sin as [batch, sequence, half a head]; the exporter leaves the
    [1, sequence, half a head] that broadcast before it fused the operator, so that only a batch of 1 runs.
    """
    done: dict[tuple[onnx_ir.Value, onnx_ir.Value], onnx_ir.Value] = {}
    for node in list(model.graph):
        if node.op_type != "RotaryEmbedding" or node.domain != "" or len(node.inputs) != 3:
            continue
        x = node.inputs[0]
        for index in (1, 2):
            cache = node.inputs[index]
            if x is None or cache is None or _first(cache) == _first(x) is not None:
                continue
            if (x, cache) not in done:
                done[x, cache] = _widened(model.graph, node, x, cache)
            node.replace_input_with(index, done[x, cache])


def _first(value: onnx_ir.Value) -> int | str | None:
    if value.shape is None or not value.shape.rank():
        return None
    dim = value.shape[0]
    return dim if isinstance(dim, int) else dim.value


def _widened(graph: onnx_ir.Graph, before: onnx_ir.Node, x: onnx_ir.Value, cache: onnx_ir.Value) -> onnx_ir.Value:
    name = f"{x.name}_{cache.name}"
    ones = onnx_ir.Value(name=f"{name}_ones", const_value=onnx_ir.tensor([1, 1], name=f"{name}_ones"))
    ones.type, ones.shape = onnx_ir.TensorType(onnx_ir.DataType.INT64), onnx_ir.Shape([2])
    graph.register_initializer(ones)
    batch = onnx_ir.node("Shape", [x], attributes={"start": 0, "end": 1}, name=f"{name}_batch")
    shape = onnx_ir.node("Concat", [batch.outputs[0], ones], attributes={"axis": 0}, name=f"{name}_shape")
    expand = onnx_ir.node("Expand", [cache, shape.outputs[0]], name=f"{name}_expand")
    graph.insert_before(before, [batch, shape, expand])
    for node in (batch, shape, expand):
        node.outputs[0].name = f"{node.name}_out"
    wide = expand.outputs[0]
    wide.type = cache.type
    if cache.shape is not None and x.shape is not None and cache.shape.rank() == 3:
        wide.shape = onnx_ir.Shape([x.shape[0], cache.shape[1], cache.shape[2]])
    return wide
