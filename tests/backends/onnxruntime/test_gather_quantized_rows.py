"""Rows looked up before they are dequantized."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.gather_quantized_rows import GatherQuantizedRows
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

RNG = np.random.default_rng(0)
TABLE = RNG.integers(-127, 128, (32, 8), dtype=np.int8)
SCALE = RNG.uniform(0.01, 1.0, 32).astype(np.float32)
IDS = {"i": "int64[batch, sequence]"}
STORED = "d = DequantizeLinear{axis=0}(t, s)"


def lookup(stored: str = STORED, gather: str = "y = Gather(d, i)", *more: str, **changes: object) -> ir.Model:
    read = " ".join((stored, gather, *more)).replace("(", " ").replace(",", " ").replace(")", " ").split()
    inputs = {name: str(kind) for name, kind in changes.items() if isinstance(kind, str)} | IDS
    constants = {"t": TABLE, "s": SCALE} | {
        name: value for name, value in changes.items() if not isinstance(value, str)
    }
    used = {name: value for name, value in constants.items() if name in read and name not in inputs}
    return graph(stored, gather, *more, inputs={name: kind for name, kind in inputs.items() if name in read}, **used)


@pytest.mark.parametrize("stored", [STORED, "d = DequantizeLinear{axis=-2}(t, s)"])
@pytest.mark.parametrize("gather", ["y = Gather(d, i)", "y = Gather{axis=0}(d, i)", "y = Gather{axis=-2}(d, i)"])
def test_rewrites(stored: str, gather: str) -> None:
    assert apply(GatherQuantizedRows(), lookup(stored, gather)) == [
        "y/Gather = Gather(t, i)",
        "y/Cast = Cast{to=1}(y/Gather)",
        "y/Gather_1 = Gather(s, i)",
        "y/Unsqueeze = Unsqueeze(y/Gather_1, y/last)",
        "y = Mul(y/Cast, y/Unsqueeze)",
    ]


def test_rewrites_in_the_precision_of_the_scale() -> None:
    model = lookup(s=SCALE.astype(np.float16))
    assert "y/Cast = Cast{to=10}(y/Gather)" in apply(GatherQuantizedRows(), model)


def test_rewrites_one_of_two_readers() -> None:
    found = apply(GatherQuantizedRows(), lookup(STORED, "y = Gather(d, i)", "z = Neg(d)"))
    assert found[0] == STORED and found[-2].startswith("y = Mul") and found[-1] == "z = Neg(d)"


def test_rewrites_in_branches() -> None:
    assert sum(" = Mul(" in line for line in apply(GatherQuantizedRows(), inside_if(lookup()))) == 2


REFUSED = [
    ("table", graph("y = Gather(x, i)", inputs=IDS | {"x": "float[32, 8]"})),
    ("table", graph("y = Gather(x, i)", inputs=IDS, x=TABLE)),
    ("table", lookup(STORED, "y = Gather{axis=1}(d, i)")),
    ("table", lookup("d = my.DequantizeLinear{axis=0}(t, s)")),
    ("zero point", lookup("d = DequantizeLinear{axis=0}(t, s, n)", n=np.ones(32, np.int8))),
    ("zero point", lookup(t="int8[32, 8]")),
    ("scale", lookup("d = DequantizeLinear{axis=1}(t, s)", s=SCALE[:8])),
    ("scale", lookup("d = DequantizeLinear(t, s)", s=SCALE[:8])),
    ("scale", lookup("d = DequantizeLinear(t, s)", s=np.float32(0.5))),
    ("scale", lookup("d = DequantizeLinear{axis=0, block_size=2}(t, s)", s=np.ones((16, 8), np.float32))),
    ("rank", lookup(t=TABLE.reshape(32, 4, 2))),
    ("rank", lookup(t=TABLE[:, 0].copy())),
]


@pytest.mark.parametrize(("rule", "model"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, model: ir.Model) -> None:
    (miss,) = misses(GatherQuantizedRows(), model)
    assert miss.rule == rule, miss
    before = lines(model)
    assert apply(GatherQuantizedRows(), model) == before


@pytest.mark.parametrize(
    "model", [lookup(), lookup(s=SCALE.astype(np.float16)), lookup(STORED, "y = Gather(d, i)", "z = Neg(y)")]
)
@pytest.mark.parametrize("ids", [[[0]], [[31, -1, 5], [0, 0, -32]]])
def test_onnxruntime_computes_the_same(model: ir.Model, ids: list[list[int]]) -> None:
    given = {"i": np.array(ids)}
    after = model.clone()
    GatherQuantizedRows().apply(after, Context())
    assert distance(on_onnxruntime(after, given), on_onnxruntime(model, given)) == 0.0


def test_holds() -> None:
    assert holds(GatherQuantizedRows(), lookup()) == 0.0
