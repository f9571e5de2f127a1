"""Weights that are read in the branches of an If."""

from __future__ import annotations

import onnx_ir as ir
from tersor.tests.support import inside_if


def branched(model: ir.Model) -> ir.Model:
    """The body of a model with the weight `w` in both branches of an If, of which the second has one of its own."""
    made = inside_if(model)
    (chosen,) = (node for node in made.graph if node.op_type == "If")
    weight = made.graph.initializers["w"]
    assert weight.const_value is not None
    array = weight.const_value.numpy().copy()
    copy = ir.Value(name="other", type=weight.type, shape=weight.shape, const_value=ir.Tensor(array, name="other"))
    made.graph.register_initializer(copy)
    for node in chosen.attributes["else_branch"].as_graph():
        for index, value in enumerate(node.inputs):
            if value is weight:
                node.replace_input_with(index, copy)
    return made
