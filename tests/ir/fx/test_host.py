"""Shape arithmetic on Python ints: what contradicts is refused as it is on tensors, what could grow goes to tensors."""

from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

CONTRADICTIONS = {
    "y = Add([1, 2], [1, 2, 3])": r"axes of lengths \[2, 3\] do not broadcast",
    "y = Reshape([1, 2, 3, 4], [3])": r"4 elements do not fill the shape \[3\]",
    "y = Reshape([1, 2, 3, 4], [3, -1])": r"4 elements do not fill the shape \[3, 1\]",
    "y = Expand([1, 2], [3])": r"axes of lengths \[2, 3\] do not broadcast",
    "y = Squeeze([1, 2, 3], [0])": r"3 elements do not fill the shape \[\]",
    "(y, z) = Split([1, 2, 3], [1, 1])": r"the sizes \[1, 1\] do not make up the axis of length 3",
    "(y, z) = Split([1, 2, 3], [4, -1])": r"the sizes \[4, -1\] do not make up the axis of length 3",
    "y = Concat{axis=0}([1, 2, 3], 1)": r"the inputs have the ranks \[1, 0\]; expected one",
    "y = Tile([1, 2], [2, 2])": "2 repeats for rank 1; expected one for each axis",
}


@pytest.mark.parametrize("line", CONTRADICTIONS)
def test_constants_that_contradict_are_refused(line: str) -> None:
    with pytest.raises(ModelError, match=f"at y.*: {CONTRADICTIONS[line]}"):
        to_fx(graph(line))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("y = Add(s, t)", r"Add at y cannot run on \(\[2, 3\], \[1, 2, 3\]\): axes of lengths"),
        ("y = Gather{axis=1}(s, 0)", "axis 1 is out of range for rank 1"),
        ("y = Slice(s, [0], [1], [-2])", "axis -2 is out of range for rank 1"),
        ("y = Unsqueeze(s, [3])", "axis 3 is out of range for rank 2"),
        ("y = ReduceSum(s, [1])", "axis 1 is out of range for rank 1"),
        ("y = Concat{axis=1}(s, t)", "axis 1 is out of range for rank 1"),
    ],
)
def test_sizes_that_contradict_are_refused_when_they_are_known(line: str, message: str) -> None:
    module = to_fx(graph("s = Shape(x)", "t = Shape(z)", line))
    with pytest.raises(ModelError, match=message):
        Interpreter(module).run({"x": np.ones((2, 3), np.float32), "z": np.ones((1, 2, 3), np.float32)})


@pytest.mark.parametrize("make", ["Range (zero, end, one)", "ConstantOfShape <value = int64[1] {1}> (ends)"])
def test_what_a_loop_s_index_makes_long_is_held_to_the_limit(make: str) -> None:
    text = f"""
    <ir_version: 10, opset_import: ["" : 21]>
    g (int64 first, int64 n) => (int64 sum) {{
        yes = Constant <value = bool {{1}}> ()
        zero = Constant <value_int = 0> ()
        one = Constant <value_int = 1> ()
        row = Constant <value_ints = [-1]> ()
        factor = Constant <value_int = 100000000000> ()
        sum = Loop (n, yes, first) <
            body = b (int64 i, bool c, int64 a) => (d, after) {{
                end = Mul (i, factor)
                ends = Reshape (end, row)
                r = {make}
                part = ReduceSum <keepdims = 0> (r)
                after = Add (a, part)
                d = Identity (c)
            }}
        >
    }}
    """
    module = Interpreter(to_fx(onnx_ir.from_onnx_text(text)))
    assert module.run({"first": np.array(7), "n": np.array(1)})["sum"] == 7
    with pytest.raises(ModelError, match="over the limit of 8 GiB"):
        module.run({"first": np.array(7), "n": np.array(2)})


def test_sizes_wrap_around_as_their_type_does() -> None:
    model = graph(
        "s = Shape(x)",
        "t = Cast{to=INT32}(s)",
        "y = Add(t, most)",
        "p = Mul(s, [9223372036854775807])",
        "z = Mul(p, [9223372036854775807])",
        outputs=["y", "p", "z"],
        most=np.full(1, 2**31 - 1, np.int32),
    )
    found = Interpreter(to_fx(model)).run({"x": np.ones((2, 3), np.float32)})
    assert found["y"].tolist() == [-(2**31) + 1, -(2**31) + 2]
    assert found["p"].tolist() == [-2, 2**63 - 3]
    assert found["z"].tolist() == [2, 3]
