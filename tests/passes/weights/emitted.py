"""A model whose only output is a structured weight, as `emit` writes it."""

from __future__ import annotations

import onnx_ir as ir
from tersor.passes.edit import Tape
from tersor.passes.quantize.placing import Structured


def model_of(weight: Structured) -> ir.Model:
    """The weight is the output `y`."""
    tape = Tape()
    result = weight.emit(tape, "w")
    result.name = "y"
    for number, value in enumerate(tape.constants):
        value.name = f"constant_{number}"
    stored = [*tape.weights, *tape.constants]
    body = ir.Graph([], [result], nodes=tape.nodes, initializers=stored, opset_imports={"": 23, "tersor": 1}, name="g")
    model = ir.Model(body, ir_version=10)
    for function in tape.functions:
        function.declare(model)
    return model
