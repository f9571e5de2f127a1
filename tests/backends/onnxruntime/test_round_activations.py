"""Products with weights of few bits that round their activations, by option: off by that rounding, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.backend import OnnxRuntime
from tersor.backends.onnxruntime.rules.round_activations import RoundActivations
from tersor.ir.errors import OptionError
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.tests.support import apply, distance, misses, on_onnxruntime

RNG = np.random.default_rng(5)
W = RNG.standard_normal((128, 64)).astype(np.float32)
X = {"x": RNG.standard_normal((6, 128)).astype(np.float32)}


def lowered(bits: int, activations: str) -> ir.Model:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 128]"}, w=W)
    apply(QuantizeWeights(bits=bits), model)
    replace(OnnxRuntime(), activations=activations).pipeline().apply(model, Context())
    return model


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_activations_are_rounded_to_eight_bits_where_that_is_asked_for(bits: int) -> None:
    exact, rounded = (lowered(bits, activations) for activations in ("float", "int8"))
    wanted = runner(lowered(bits, "float"))(X)["y"]
    levels = [node.attributes["accuracy_level"].as_int() for node in rounded.graph if node.op_type == "MatMulNBits"]
    assert levels == [4]
    eps = np.finfo(np.float32).eps
    assert distance(on_onnxruntime(exact, X), [wanted]) < 128 * eps
    # a step of a block is at most its largest number, a few deviations, over 127; half a step at most is lost
    assert distance(on_onnxruntime(rounded, X), [wanted]) < 4 / 127 / 2


@pytest.mark.parametrize(("model", "rule"), [(lowered(2, "float"), "bits"), (lowered(4, "int8"), "level")])
def test_left_alone(model: ir.Model, rule: str) -> None:
    assert [miss.rule for miss in misses(RoundActivations(), model)] == [rule]


def test_other_activations_are_refused() -> None:
    with pytest.raises(OptionError, match="float or int8, found 'int4'"):
        OnnxRuntime(activations="int4")  # type: ignore[arg-type]
