from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.host import concat, gather, reshape, slice_, transpose
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]


@pytest.mark.parametrize("dims", [[0, -1], [2, 12], [-1], [3, 0, 2], [1, 2, 3, 4]])
def test_reshape(check: Check, dims: list[int]) -> None:
    dims = dims if dims != [3, 0, 2] else [4, 0, 2]
    check(f"y = Reshape(x, {dims})", x="float[2, 3, 4]")


def test_reshape_to_zero_size(check: Check) -> None:
    check("y = Reshape{allowzero=1}(x, [0, 5])", x="float[3, 0]")


@pytest.mark.parametrize(
    "bounds",
    [
        "[1], [3], [1]",
        "[-3], [-1], [2]",
        "[0], [9223372036854775807], [1], [2]",
        "[-1], [-9223372036854775807], [2], [-1]",
        "[3], [0], [2], [-2]",
        "[1, 3], [9, -10], [0, 2], [1, -1]",
        "[0], [0], [0]",
    ],
)
def test_slice(check: Check, bounds: str) -> None:
    check(f"y = Slice(x, {bounds})", x="float[3, 4, 5]")


def test_slice_had_attributes_before_opset_10(check: Check) -> None:
    check("y = Slice{starts=[1, 0], ends=[3, -1], axes=[0, 2]}(x)", x="float[3, 4, 5]", opset=7)


@pytest.mark.parametrize(("opset", "axes"), [(11, "{axes=[0, -1]}(x)"), (13, "(x, [0, -1])")])
def test_unsqueeze_and_squeeze(check: Check, opset: int, axes: str) -> None:
    check(
        f"h = Unsqueeze{axes}", f"y = Squeeze{axes.replace('(x', '(h')}", "z = Squeeze(h)", x="float[3, 2]", opset=opset
    )


@pytest.mark.parametrize(
    ("line", "opset"),
    [
        ("(a, b) = Split{axis=1}(x)", 13),
        ("(a, b) = Split{axis=1, split=[1, 3]}(x)", 11),
        ("(a, b) = Split{axis=-1}(x, [2, 3])", 13),
        ("(a, b, c) = Split{axis=2, num_outputs=3}(x)", 18),
    ],
)
def test_split(check: Check, line: str, opset: int) -> None:
    check(line, x="float[2, 4, 5]", opset=opset)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(check: Check, mode: str) -> None:
    check(f"y = Pad{{mode='{mode}'}}(x, [0, 2, 1, 1])", x="float[3, 4]")


def test_pad_with_a_value_on_some_axes_and_cropping(check: Check) -> None:
    check("y = Pad(x, [-1, 2], 1.5, [1])", x="float[3, 4]")
    check("y = Pad{pads=[1, 0, 0, 2], value=2.5}(x)", x="float[3, 4]", opset=7)


@pytest.mark.parametrize(
    "line",
    [
        "y = Transpose(x)",
        "y = Transpose{perm=[1, 0, 2]}(x)",
        "y = Flatten{axis=2}(x)",
        "y = Flatten{axis=0}(x)",
        "y = Flatten{axis=-1}(x)",
        "y = Expand(x, [5, 1, 3, 1])",
        "y = Tile(x, [1, 2, 3])",
        "y = Concat{axis=-1}(x, x)",
        "y = Trilu{upper=0}(x, 1)",
        "y = CumSum(x, 1)",
        "y = CumSum{exclusive=1, reverse=1}(x, -1)",
        "y = ReverseSequence{batch_axis=0, time_axis=1}(x, [1, 3])",
        "(v, i) = TopK{axis=1}(x, [2])",
        "(v, i) = TopK{axis=1, largest=0}(x, [2])",
    ],
)
def test_moves(check: Check, line: str) -> None:
    check(line, x="float[2, 3, 4]")


def test_equal_values_keep_their_order_in_top_k(check: Check) -> None:
    feeds = {"x": np.array([[1, 3, 3, 2, 3]], np.float32)}
    assert check("(v, i) = TopK(x, [3])", x="float[1, 5]", feeds=feeds)["i"].tolist() == [[1, 2, 4]]


@pytest.mark.parametrize(
    "lines",
    [
        ("y = Gather{axis=1}(x, [[0, -1], [2, 1]])",),
        ("y = Gather{axis=1}(x, -1)",),
        ("y = Gather(x, i)",),
        ("y = GatherElements{axis=2}(x, [[[0, -1], [1, 1], [3, 2]]])",),
        ("y = GatherND(x, [[0, 1], [1, -1]])",),
        ("y = GatherND{batch_dims=1}(x, [[1], [-1]])",),
        ("y = ScatterND(x, [[0, 1], [1, 2]], u)",),
        ("y = ScatterND{reduction='add'}(x, [[0, 1], [0, 1]], u)",),
        ("y = ScatterND{reduction='max'}(x, [[0, 1], [0, 1]], u)",),
        ("y = ScatterElements{axis=1}(x, [[[0, 1]], [[2, -1]]], e)",),
        ("y = ScatterElements{axis=1, reduction='mul'}(x, [[[0, 1]], [[2, -1]]], e)",),
        ("y = OneHot{axis=1}(i, 4, [0.5, 2.0])",),
        ("y = NonZero(x)",),
        ("y = Compress{axis=1}(x, c)",),
        ("(v, f, n, k) = Unique(i)",),
    ],
)
def test_index(check: Check, lines: tuple[str, ...]) -> None:
    text = " ".join(lines)
    types = {"x": "float[2, 3, 4]", "i": "int64[2]", "u": "float[2, 4]", "e": "float[2, 1, 2]"}
    feeds = {
        "x": np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 12,
        "i": np.array([1, 0]),
        "u": np.full((2, 4), 3.5, np.float32),
        "e": np.array([[[2.0, 3]], [[4, 5]]], np.float32),
    }
    used = {name for name in types if f"({name}" in text or f", {name}" in text}
    constants = {"c": np.array([True, False, True])}
    check(
        *lines,
        feeds={name: feeds[name] for name in used},
        constants=constants if "Compress" in text else None,
        **{name: types[name] for name in used},
    )


def test_range_and_constant_of_shape(check: Check) -> None:
    lines = ("y = Range(a, b, 2.0)", "s = Shape(x)", "z = ConstantOfShape(s)", "w = EyeLike{k=1}(x)")
    feeds = {"a": np.float32(1), "b": np.float32(8), "x": np.zeros((3, 4), np.float32)}
    check(*lines, a="float[]", b="float[]", x="float[3, 4]", feeds=feeds)


def test_shape_arithmetic_stays_python() -> None:
    model = graph(
        "s = Shape(x)",
        "b = Gather(s, 0)",
        "n = Gather(s, 1)",
        "m = Mul(n, 2)",
        "h = Div(m, 4)",
        "b1 = Unsqueeze(b, [0])",
        "h1 = Unsqueeze(h, [0])",
        "d = Concat{axis=0}(b1, h1, [-1])",
        "y = Reshape(x, d)",
    )
    module = to_fx(model)
    seen: dict[str, object] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            seen[n.name] = super().run_node(n)
            return seen[n.name]

    assert Watch(module).run(torch.zeros(3, 8)).shape == (3, 4, 2)
    assert [seen[name] for name in ("s", "b", "h", "d")] == [[3, 8], 3, 4, [3, 4, -1]]


def test_shapes_of_constants_fold_away() -> None:
    model = graph("s = Shape(w)", "n = Mul(s, [2, 1])", "y = Reshape(x, n)", w=np.zeros((3, 2), np.int64))
    assert [node.name for node in to_fx(model).graph.nodes] == ["x", "y", "output"]


def test_the_pads_of_old_exporters_need_two_axes(check: Check) -> None:
    # torch's TorchScript exporter turns its pads around: [0, 64] -> [0, 0, 0, 64]
    check(
        "s = Shape(given)",
        "n = Sub(4, s)",
        "z = ConstantOfShape(n)",
        "zi = Cast{to=int64}(z)",
        "p = Concat{axis=0}(given, zi)",
        "r = Reshape(p, [-1, 2])",
        "b = Slice(r, [-1], [-9223372036854775807], [0], [-1])",
        "t = Transpose{perm=[1, 0]}(b)",
        "q = Reshape(t, [-1])",
        "y = Pad{mode='reflect'}(x, q)",
        x="float[2, 5]",
        constants={"given": np.array([1, 2])},
    )


def test_a_shape_can_be_an_output_and_data(check: Check) -> None:
    found = check(
        "s = Shape(x)", "f = Cast{to=float}(s)", "y = Mul(f, 0.5)", "n = Size(x)", "m = Add(n, 1)", x="float[2, 3]"
    )
    assert found["y"].tolist() == [1.0, 1.5]


def test_expand_to_a_shape_with_minus_one_replaced(check: Check) -> None:
    lines = (
        "s = Shape(x)",
        "d = Concat{axis=0}([-1], s)",
        "e = Equal(d, [-1, -1, -1])",
        "w = Where(e, [1, 1, 1], d)",
        "y = Expand(x, w)",
    )
    check(*lines, x="float[3, 1]")


def test_int32_shapes_keep_their_type(check: Check) -> None:
    check("s = Shape(x)", "i = Cast{to=int32}(s)", "y = Add(i, one)", x="float[2, 3]", constants={"one": np.int32(1)})


def test_large_constants_are_data_not_shapes() -> None:
    table = np.arange(512)[None]
    model = graph("s = Shape{start=1, end=2}(x)", "y = Slice(ids, [0], s, [1])", ids=table)
    found = Interpreter(to_fx(model)).run({"x": np.zeros((2, 7), np.float32)})
    assert found["y"].tolist() == table[:, :7].tolist()


def test_host_ops_match_numpy() -> None:
    a = [[1, 2, 3], [4, 5, 6]]
    assert transpose(a, perm=(1, 0)) == np.array(a).T.tolist()
    assert reshape(a, [3, -1]) == np.reshape(a, (3, 2)).tolist()
    assert slice_(a, [-1], [-9], [1], [-2]) == np.array(a)[:, ::-2].tolist()
    assert concat(a, a, axis=1) == np.concatenate([a, a], 1).tolist()
    assert gather(a, [[0, -1]], axis=1) == np.array(a)[:, [[0, -1]]].tolist()


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_pads_below_zero_crop_before_the_rest_repeats(check: Check, mode: str) -> None:
    check(f"y = Pad{{mode='{mode}'}}(x, pads)", opset=19, x="float[3, 5]", constants={"pads": np.array([0, -1, 0, 2])})
