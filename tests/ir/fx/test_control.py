"""If, Loop, Scan, constants and model-local functions."""

from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx

HEADER = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>'


def parse(text: str) -> onnx_ir.Model:
    return onnx_ir.from_onnx_text(f"{HEADER}\n{text}")


BRANCHES = parse("""
g (float[N, M] x, bool c) => (float[?, ?] y, int64[?] s) {
    k = Constant <value_floats = [2.0]> ()
    h = Relu (x)
    y, s = If (c) <
        then_branch = t () => (ty, ts) { ty = Mul (h, k)  ts = Shape (ty) },
        else_branch = e () => (ey, es) { eh = Transpose (x)  ey = Neg (eh)  es = Shape (ey) }
    >
}
""")


@pytest.mark.parametrize("condition", [True, False])
def test_if_runs_one_branch_with_what_it_captures(condition: bool) -> None:
    x = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
    found = Interpreter(to_fx(BRANCHES)).run({"x": x, "c": np.array(condition)})
    np.testing.assert_array_equal(found["y"], 2 * np.maximum(x, 0) if condition else -x.T)
    assert found["s"].tolist() == ([2, 3] if condition else [3, 2])


def test_taps_reach_into_the_branch_that_ran() -> None:
    seen: list[str] = []
    feeds = {"x": np.ones((2, 3), np.float32), "c": np.array(False)}
    Interpreter(to_fx(BRANCHES)).run(feeds, taps=lambda name, _: seen.append(name))
    assert seen == ["x", "c", "h", "eh", "ey", "es", "y", "s"]


def test_a_known_condition_leaves_only_its_branch() -> None:
    model = parse("""
    g (float[N] x) => (float[?] y) {
        c = Constant <value = bool {0}> ()
        y = If (c) <
            then_branch = t () => (ty) { ty = Relu (x) },
            else_branch = e () => (ey) { ey = Neg (x) }
        >
    }
    """)
    module = to_fx(model)
    assert [node.meta.get("onnx_name") for node in module.graph.nodes][:-1] == ["x", "y"]
    assert module(torch.ones(2)).tolist() == [-1, -1]


def test_a_condition_on_a_rank_is_no_tensor() -> None:
    model = parse("""
    g (float[N, 1] x) => (y) {
        two = Constant <value_int = 2> ()
        s = Shape (x)
        n = Size (s)
        c = Equal (n, two)
        axes = Constant <value_ints = [-1]> ()
        y = If (c) <
            then_branch = t () => (ty) { ty = Squeeze (x, axes) },
            else_branch = e () => (ey) { ey = Identity (x) }
        >
    }
    """)
    module = to_fx(model)
    program = torch.export.export(module, (torch.ones(4, 1),), dynamic_shapes=({0: torch.export.Dim("n")},))
    assert program.module()(torch.ones(7, 1)).shape == (7,)


def test_loop_carries_and_scans() -> None:
    model = parse("""
    g (float[2] x, int64 n) => (float[2] last, float[?, 2] all) {
        yes = Constant <value = bool {1}> ()
        ten = Constant <value_floats = [10.0]> ()
        last, all = Loop (n, yes, x) <
            body = b (int64 i, bool c, float[2] a) => (d, out, row) {
                f = Cast <to = 1> (i)
                out = Add (a, f)
                row = Mul (out, ten)
                d = Identity (c)
            }
        >
    }
    """)
    found = Interpreter(to_fx(model)).run({"x": np.zeros(2, np.float32), "n": np.array(4)})
    assert found["last"].tolist() == [6, 6]
    assert found["all"][:, 0].tolist() == [0, 10, 30, 60]


def test_loop_stops_on_its_condition() -> None:
    model = parse("""
    g (float x, float limit) => (float last) {
        yes = Constant <value = bool {1}> ()
        last = Loop (, yes, x) <
            body = b (int64 i, bool c, float a) => (d, out) { out = Add (a, a)  d = Less (out, limit) }
        >
    }
    """)
    feeds = {"x": np.float32(1), "limit": np.float32(50)}
    assert Interpreter(to_fx(model)).run(feeds)["last"] == 64


def test_scan_along_axes_and_backward() -> None:
    model = parse("""
    g (float[2] s, float[2, 3] x) => (float[2] last, float[3, 2] sums) {
        last, sums = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
            body = b (float[2] a, float[2] c) => (out, row) { out = Add (a, c)  row = Identity (out) }
        > (s, x)
    }
    """)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = Interpreter(to_fx(model)).run({"s": np.zeros(2, np.float32), "x": x})
    np.testing.assert_array_equal(found["sums"], np.cumsum(x[:, ::-1], 1).T)


FUNCTIONS = """
g (float[N] x) => (float[N] y) { h = own.scaled <factor = 3.0> (x)  y = own.twice (h) }
<domain: "own", opset_import: ["" : 21, "own" : 1]>
twice (a) => (b) { t = own.scaled (a)  b = Add (t, a) }
<domain: "own", opset_import: ["" : 21]>
scaled <factor: float = 1.0> (a, bias) => (b) { k = Constant <value_float: float = @factor> ()  b = Mul (a, k) }
"""


def test_functions_are_inlined_with_their_attributes() -> None:
    module = to_fx(parse(FUNCTIONS))
    assert module(torch.tensor([1.0, 2.0])).tolist() == [6, 12]
    seen: list[str] = []
    Interpreter(module).run({"x": np.ones(2, np.float32)}, taps=lambda name, _: seen.append(name))
    assert seen[:2] == ["x", "h"]
    assert seen[-1] == "y"
    assert len(set(seen)) == len(seen)


def test_what_a_call_leaves_out_is_left_out_in_the_branches_of_the_function_too() -> None:
    text = """
    g (float[N] x, bool c) => (float[N] y) { y = own.bounded (x, c) }
    <domain: "own", opset_import: ["" : 21]>
    bounded (a, c, least, most) => (b) {
        b = If (c) <then_branch = t () => (p) { p = Clip (a, least, most) }, else_branch = e () => (m) { m = Neg (a) }>
    }
    """
    module = to_fx(parse(text))
    assert module(torch.tensor([1.0, -2.0]), torch.tensor(True)).tolist() == [1, -2]


def test_a_function_that_calls_itself_is_refused() -> None:
    text = """
    g (float[N] x) => (float[N] y) { y = own.again (x) }
    <domain: "own", opset_import: ["own" : 1]>
    again (a) => (b) { b = own.again (a) }
    """
    with pytest.raises(ModelError, match=r"function own\.again calls itself"):
        to_fx(parse(text))


def test_an_unsorted_graph_is_refused() -> None:
    model = parse("g (float[N] x) => (float[N] y) { h = Relu (x)  y = Neg (h) }")
    first, second = list(model.graph)
    model.graph.remove([first])
    second.append(first)
    with pytest.raises(ModelError, match="value 'h' is read before any node computes it"):
        to_fx(model)


def test_rows_that_no_loop_s_end_is_in_sight_of_are_held_to_the_limit() -> None:
    text = """
    g (float[N] x, int64 n) => (float[K, N] y) {
        t = Constant <value = bool {1}> ()
        y = Loop (n, t) <body = b (int64 i, bool c) => (d, r) { d = Identity (c)  r = Neg (x) }>
    }
    """
    interpreter = Interpreter(to_fx(parse(text)), limit=1 << 16)
    x = np.ones(1024, np.float32)
    assert interpreter.run({"x": x, "n": np.array(16)})["y"].shape == (16, 1024)
    seen: list[str] = []
    with pytest.raises(ModelError, match=r"128 KiB for the shape \[32, 1024\] is over the limit of 64 KiB"):
        interpreter.run({"x": x, "n": np.array(2**62)}, taps=lambda name, _: seen.append(name))
    assert seen.count("r") == 32
    with pytest.raises(ModelError, match=r"for the shape \[256, 512\] is over the limit of 64 KiB"):
        interpreter.run({"x": x[:0], "n": np.array(2**62)})
