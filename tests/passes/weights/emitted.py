"""Models whose only output is a structured weight, as its nodes compute it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.ir.runner import runner
from tersor.passes.edit import Tape
from tersor.passes.placing import Structured
from tersor.tests.support import on_onnxruntime


def model_of(weight: Structured) -> ir.Model:
    """The weight is the output `y`."""
    tape = Tape()
    return taped(tape, weight.emit(tape, "w"))


def taped(tape: Tape, result: ir.Value) -> ir.Model:
    """The nodes of a tape, `result` the output `y`."""
    result.name = "y"
    for number, value in enumerate(tape.constants):
        value.name = f"constant_{number}"
    stored = [*tape.weights, *tape.constants]
    body = ir.Graph([], [result], nodes=tape.nodes, initializers=stored, opset_imports={"": 23, "tersor": 1}, name="g")
    model = ir.Model(body, ir_version=10)
    for function in tape.functions:
        function.declare(model)
    return model


def is_computed(weight: Structured) -> None:
    """The nodes of a weight compute, to the bit, what it stands for."""
    model = model_of(weight)
    np.testing.assert_array_equal(on_onnxruntime(model, {})[0], weight.dense())
    np.testing.assert_array_equal(runner(model)({})["y"], weight.dense())


def is_counted(weight: Structured) -> None:
    """Its bytes are those that its nodes store; shapes and bounds, a few numbers whatever its size, are not counted."""
    tape = Tape()
    weight.emit(tape, "w")
    assert weight.bytes == sum(value.const_value.nbytes for value in tape.weights if value.const_value is not None)
