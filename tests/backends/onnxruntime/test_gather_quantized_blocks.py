"""Tables of few bits become GatherBlockQuantized: the same rows to the bit, the bytes that the file held."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.backends.onnxruntime.rules.gather_quantized_blocks import GatherQuantizedBlocks
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.tests.backends.few_bits import dequantized
from tersor.tests.support import apply, misses, on_onnxruntime

TABLE = np.random.default_rng(4).standard_normal((20, 100)).astype(np.float32)
IDS = {"ids": np.array([[3, 19], [0, 7]])}


def table(bits: int = 4, group: int = 32, *, symmetric: bool = True, width: int = 100) -> ir.Model:
    made = graph("y = Gather(t, ids)", inputs={"ids": "int64[batch, sequence]"}, t=TABLE[:, :width])
    apply(QuantizeWeights(bits=bits, group=group, symmetric=symmetric, embeddings=True, smallest=1), made)
    return made


@pytest.mark.parametrize(
    ("bits", "group", "symmetric"),
    [case for case in itertools.product((2, 4, 8), (0, 16, 64), (True, False)) if case != (8, 0, True)],
)
def test_the_rows_are_those_of_the_dequantized_table(bits: int, group: int, symmetric: bool) -> None:
    model = table(bits, group, symmetric=symmetric)
    wanted = runner(model.clone())(IDS)["y"]
    apply(GatherQuantizedBlocks(), model)
    assert [node.op_type for node in model.graph] == ["GatherBlockQuantized"]
    np.testing.assert_array_equal(on_onnxruntime(model, IDS)[0], wanted)
    np.testing.assert_array_equal(runner(model)(IDS)["y"], wanted)


@pytest.mark.parametrize(("bits", "group", "symmetric"), list(itertools.product((3, 5, 6, 7), (0, 16), (True, False))))
def test_widths_without_a_kernel_are_widened_at_load(bits: int, group: int, symmetric: bool) -> None:
    model = table(bits, group, symmetric=symmetric)
    wanted = runner(model.clone())(IDS)["y"]
    assert LOWERING.apply(model, Context()).matches
    (lookup,) = (node for node in model.graph if node.op_type == "GatherBlockQuantized")
    assert lookup.attributes["bits"].as_int() == (4 if bits == 3 else 8)
    np.testing.assert_array_equal(on_onnxruntime(model, IDS)[0], wanted)
    stored = model.graph.initializers["y/DequantizeLinear_bits"].const_value
    assert stored is not None
    assert stored.nbytes == bits * TABLE.size // 8


def test_the_table_takes_its_bits() -> None:
    model = table()
    apply(GatherQuantizedBlocks(), model)
    held = {name: value.const_value.nbytes for name, value in model.graph.initializers.items()}
    assert held == {"y/DequantizeLinear_packed": 20 * 100 // 2, "y/DequantizeLinear_scales": 20 * 4 * 4}


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (table(3, 16, width=99), "bits"),
        (table(4, 8), "block"),
        (table(8, 0), "rows"),
        (graph("y = Gather(t, ids)", inputs={"ids": "int64[batch]"}, t=TABLE), "table"),
        (dequantized(1, "y = Gather(d, ids)", inputs={"ids": "int64[batch]"}, shape=(4, 8)), "scales"),
        (
            dequantized(0, "y = Gather{axis=1}(d, ids)", inputs={"ids": "int64[batch]"}, shape=(4, 8), dtype=np.uint8),
            "table",
        ),
    ],
    ids=["three bits", "block of 8", "int8 rows", "floats", "by column", "columns looked up"],
)
def test_left_alone(model: ir.Model, rule: str) -> None:
    assert {miss.rule for miss in misses(GatherQuantizedBlocks(), model)} == {rule}
