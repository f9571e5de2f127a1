"""What passes did to models of 16-bit floats is held to what they promised in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import ContractError
from tersor.ir.text import graph
from tersor.passes.base import Exact
from tersor.passes.edit import Tape, replace
from tersor.passes.pipeline import Pipeline
from tersor.passes.run import Verify, run_pipeline
from tersor.tests.passes.test_run import MEASURED, RNG, DropBiases, promised

HALF = {"x": "float16[batch, 64]"}


def join_factors(model: ir.Model) -> None:
    """x * a * b -> x * (a b), a constant that is rounded to the type of the model."""
    first, second = model.graph[0], model.graph[1]
    held = [node.inputs[1].const_value.numpy().astype(np.float64) for node in (first, second)]  # type: ignore[union-attr]
    tape = Tape()
    factor = tape.constant((held[0] * held[1]).astype(np.float16), "factor")
    replace(tape, second.outputs, [tape("Mul", first.inputs[0], factor)])


def factors() -> ir.Model:
    a, b = (RNG.uniform(1, 2, 64).astype(np.float16) for _ in range(2))
    return graph("h = Mul(x, a)", "y = Mul(h, b)", inputs=HALF, a=a, b=b)


@pytest.mark.parametrize("verify", MEASURED)
def test_an_exact_pass_may_move_the_roundings_of_16_bits(verify: Verify) -> None:
    model = factors()
    report = run_pipeline(Pipeline(steps=(promised(Exact(), join_factors),)), model, verify=verify)
    # what is measured is the rounding of the constant alone
    assert 0 < (report.passes[-1].loss or 0.0) < 2.0**-11
    assert [node.op_type for node in model.graph] == ["Mul"]


@pytest.mark.parametrize("verify", MEASURED)
def test_what_changes_a_model_of_16_bits_is_still_caught(verify: Verify) -> None:
    model = graph("y = Add(x, b)", inputs=HALF, b=np.full(64, 0.01, np.float16))
    with pytest.raises(ContractError, match=r"drop-biases promised exact.*first diverging value: 'y'"):
        run_pipeline(Pipeline(steps=(DropBiases(),)), model, verify=verify)
