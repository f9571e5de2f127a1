"""A group that nothing holds computes what it did with zeros once it is cut; what would not is held.

Each case: lines, the sizes of the groups that are free, and what it is about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from tersor.ir.axes import dependencies
from tersor.ir.text import graph
from tersor.tests.ir.axes.support import Run, assert_free_groups_can_be_cut, cuttable, reference

RNG = np.random.default_rng(0)


def weight(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """x is [n, 5], w [5, 8], v [8, 3], unless said otherwise."""

    name: str
    lines: str
    free: tuple[int, ...]
    weights: tuple[tuple[str, object], ...] = ()
    x: str = "float[n, 5]"
    run: Run = reference

    def model(self) -> ir.Model:
        lines = [line.strip() for line in self.lines.split(";")]
        given = {"w": W, "v": V, **dict(self.weights)}
        used = {name: array for name, array in given.items() if any(_reads(line, name) for line in lines)}
        return graph(*lines, inputs={"x": self.x}, outputs=["y"], **used)


def _reads(line: str, name: str) -> bool:
    return name in line.split("=", 1)[1].replace("(", ",").replace(")", ",").replace(" ", "").split(",")


W, V = weight(5, 8), weight(8, 3)
#: What is behind a, [n, 8]: read by nothing but weights, or added up as it is.
READ, SUMMED = "y = MatMul(b, v)", "y = ReduceSum{keepdims=0}(b, [-1])"
MADE = "a = MatMul(x, w)"


def chain(*middle: str, end: str = READ) -> str:
    return "; ".join((MADE, *middle, end))


ELEMENTWISE = [
    # what is zero where its weights are may be added up
    *(Case(f"{op}, summed", chain(f"b = {op}(a)", end=SUMMED), (8,)) for op in ("Relu", "Tanh", "Gelu", "Erf", "Abs")),
    # what is not is held, and free where weights read it
    *(Case(f"{op}, summed", chain(f"b = {op}(a)", end=SUMMED), ()) for op in ("Sigmoid", "Exp", "Cos", "Softplus")),
    *(Case(f"{op}, read", chain(f"b = {op}(a)"), (8,)) for op in ("Sigmoid", "Exp", "Cos", "Softplus")),
    Case("a bias of its own", chain("b = Add(a, c)", end=SUMMED), (8,), (("c", weight(8)),)),
    Case("a bias that all share", chain("b = Add(a, c)", end=SUMMED), (), (("c", weight(1)),)),
    Case("a bias that all share, in a Gemm", f"b = Gemm(x, w, c); {SUMMED}", (), (("c", weight(1)),)),
    Case("a factor that all share", chain("b = Mul(a, c)", end=SUMMED), (8,), (("c", weight(1)),)),
    Case("a gate that is never zero", chain("s = Sigmoid(a)", "b = Mul(a, s)", end=SUMMED), (8,)),
    Case("two gates that are never zero", chain("s = Sigmoid(a)", "b = Mul(s, s)", end=SUMMED), ()),
    Case("the larger of it and a scalar", chain("b = Max(a, c)", end=SUMMED), (), (("c", 0.5),)),
    Case("the larger of it and a weight", chain("b = Max(a, c)", end=SUMMED), (8,), (("c", weight(8)),)),
    Case("clipped around zero", chain("b = Clip(a, c, d)", end=SUMMED), (8,), (("c", -1.0), ("d", 1.0))),
    Case("clipped above zero", chain("b = Clip(a, c, d)", end=SUMMED), (), (("c", 0.5), ("d", 1.0))),
    Case("clipped from one side", chain("b = Clip(a, c)", end=SUMMED), (8,), (("c", 0.0),)),
    Case("squared", chain("b = Pow(a, c)", end=SUMMED), (8,), (("c", 2.0),)),
    Case("to the power of zero", chain("b = Pow(a, c)", end=SUMMED), (), (("c", 0.0),)),
    Case("a power of two", chain("b = Pow(c, a)", end=SUMMED), (), (("c", 2.0),)),
    Case("a slope for each", chain("b = PRelu(a, c)", end=SUMMED), (8,), (("c", weight(8)),)),
    Case("divided by one for all", chain("b = Div(a, c)", end=SUMMED), (8,), (("c", 3.0),)),
    Case(
        "either of two",
        chain("t = MatMul(x, u)", "g = Greater(a, t)", "b = Where(g, a, t)", end=SUMMED),
        (8,),
        (("u", weight(5, 8)),),
    ),
    Case("it or a scalar", chain("g = Greater(a, c)", "b = Where(g, a, c)", end=SUMMED), (), (("c", 0.5),)),
    Case("compared", chain("g = Equal(a, c)", "b = Cast{to=1}(g)", end=SUMMED), (), (("c", weight(8)),)),
    Case("rounded by Cast", chain("i = Cast{to=7}(a)", "b = Cast{to=1}(i)", end=SUMMED), (8,)),
    Case("the type of another", chain("b = CastLike(a, x)", end=SUMMED), (8,)),
    Case(
        "the type of it",
        "a = MatMul(x, w); l = CastLike(x, a); t = MatMul(l, u); s = MatMul(a, v); y = Add(s, t)",
        (8,),
        (("u", weight(5, 3)),),
    ),
    Case("subtracted", chain("b = Sub(c, a)", end=SUMMED), (8,), (("c", weight(8)),)),
    Case(
        "a product with itself, turned",
        chain("s = Sigmoid(a)", "t = Transpose(s)", end="y = MatMul(s, t)"),
        (),
    ),
    Case(
        "two factors without weights",
        chain("s = Sigmoid(a)", "b = Unsqueeze(s, [1])", end='y = Einsum{equation="nij,nj->ni"}(b, s)'),
        (),
    ),
]

REDUCED = [
    *(
        Case(f"{op} over it", chain(f"y = {op}{{keepdims=0}}(a, [-1])", end="")[:-2], free)
        for op, free in (
            ("ReduceSum", (8,)),
            ("ReduceSumSquare", (8,)),
            ("ReduceL1", (8,)),
            ("ReduceL2", (8,)),
            ("ReduceMean", ()),
            ("ReduceMax", ()),
            ("ReduceMin", ()),
            ("ReduceProd", ()),
            ("ReduceLogSumExp", ()),
            ("ReduceLogSum", ()),
        )
    ),
    Case("a mean over others", chain("b = ReduceMean{keepdims=1}(a, [0])"), (8,)),
    Case("the largest of all", chain("y = ReduceMax{keepdims=0}(a)", end="")[:-2], ()),
    Case("no axes, nothing to do", chain("b = ReduceMax{noop_with_empty_axes=1}(a)"), (8,)),
    Case("Softmax over it", chain("b = Softmax{axis=-1}(a)"), ()),
    Case("Softmax over others", chain("b = Softmax{axis=0}(a)"), (8,)),
    Case("Softmax over others, summed", chain("b = Softmax{axis=0}(a)", end=SUMMED), ()),
    Case("CumSum over it", chain("b = CumSum(a, c)"), (), (("c", np.array(1)),)),
    Case("CumSum over others", chain("b = CumSum(a, c)", end=SUMMED), (8,), (("c", np.array(0)),)),
    Case("normalized over", chain("b = LayerNormalization{axis=-1}(a, g)"), (), (("g", weight(8)),)),
    Case(
        "normalized within heads, with a bias",
        "a = MatMul(x, w); r = Reshape(a, [0, 4, 2]); n = LayerNormalization{axis=-1}(r, g, h);"
        "y = ReduceSum{keepdims=0}(n, [1])",
        (),
        (("g", weight(2)), ("h", weight(2))),
    ),
    Case(
        "normalized within heads, without a bias",
        "a = MatMul(x, w); r = Reshape(a, [0, 4, 2]); n = RMSNormalization{axis=-1}(r, g);"
        "y = ReduceSum{keepdims=0}(n, [1])",
        (4,),
        (("g", weight(2)),),
    ),
    Case("of unit length", chain("b = LpNormalization{axis=-1}(a)"), ()),
    Case("topped", chain("k, i = TopK(a, [3])", end="y = MatMul(k, u)"), (), (("u", weight(3, 3)),)),
]

LAYOUT = [
    Case(
        "a slice from behind",
        chain("b = Slice(a, [-8], [-2], [-1])", end="y = MatMul(b, u)"),
        (2, 6),
        (("u", weight(6, 3)),),
    ),
    Case("a slice backwards", chain("b = Slice(a, [-1], [-100], [-1], [-1])"), ()),
    Case(
        "one place for axes and starts",
        chain("b = Slice(a, c, d, c)", end="y = MatMul(b, u)"),
        (7,),
        (("c", np.array([1])), ("d", np.array([8])), ("u", weight(7, 3))),
    ),
    Case(
        "every other one, from behind",
        chain("b = Slice(a, [-7], [99], [-1], [2])", end="y = MatMul(b, u)"),
        (4,),
        (("u", weight(4, 3)),),
    ),
    Case(
        "every third one",
        chain("b = Slice(a, [0], [99], [-1], [3])", end="y = MatMul(b, u)"),
        (),
        (("u", weight(3, 3)),),
    ),
    Case(
        "uneven pieces",
        chain(
            "b, c, d = Split{axis=-1, num_outputs=3}(a)", "e = MatMul(b, u)", "f = MatMul(d, t)", end="y = Add(e, f)"
        ),
        (2, 3, 3),
        (("u", weight(3, 3)), ("t", weight(2, 3))),
    ),
    Case(
        "two splits without sizes",
        "a = MatMul(x, w); b, c = Split{axis=-1, num_outputs=2}(a); d, e = Split{axis=-1, num_outputs=2}(a);"
        "f = Mul(b, c); g = Mul(d, e); h = Add(f, g); y = MatMul(h, u)",
        (4,),
        (("u", weight(4, 3)),),
    ),
    Case(
        "one value joined twice",
        chain("b = Concat{axis=-1}(a, a)", end="y = MatMul(b, u)"),
        (8,),
        (("u", weight(16, 3)),),
    ),
    Case("one value joined with its gate", chain("s = Sigmoid(a)", "b = Concat{axis=-1}(a, s)", end=SUMMED), ()),
    Case("repeated by Tile", chain("b = Tile(a, [1, 2])", end="y = MatMul(b, u)"), (8,), (("u", weight(16, 3)),)),
    Case("spread by Expand", chain("r = Unsqueeze(a, [1])", "e = Expand(r, [4, 8])", end="y = MatMul(e, v)"), (8,)),
    Case("spread to fewer axes", chain("e = Expand(a, [8])", end="y = MatMul(e, v)"), (8,)),
    Case("spread to a one", chain("e = Expand(a, [1, 1])", end="y = MatMul(e, v)"), (8,)),
    Case("spread to a size that is computed", chain("s = Shape(a)", "e = Expand(a, s)", end="y = MatMul(e, v)"), ()),
    Case(
        "spread, then added up",
        chain(
            "s = ReduceSum{keepdims=1}(a, [-1])",
            "e = Expand(s, [1, 4])",
            "m = Add(e, c)",
            end="y = ReduceSum{keepdims=0}(m, [-1])",
        ),
        (8,),
        (("c", weight(4)),),
    ),
    Case(
        "a size that another weight has",
        chain("s = Shape{end=1}(x)", "k = Shape{start=1}(u)", "t = Concat{axis=0}(s, k)", "b = Reshape(a, t)"),
        # rows that nobody reads
        (7,),
        (("u", weight(7, 8)),),
    ),
    Case(
        "numbers of a shape that are multiplied with, too",
        chain("b = Reshape(a, s)", "e = MatMul(b, v)", "f = Cast{to=1}(s)", "g = MatMul(f, u)", end="y = Add(e, g)"),
        (8,),
        (("s", np.array([-1, 8])), ("u", weight(2, 3))),
    ),
    Case("a size that goes into an answer", chain("s = Shape{start=1}(a)", "f = Cast{to=1}(s)", "b = Mul(a, f)"), ()),
    Case(
        "a size that is not read",
        chain(
            "s = Shape(a)",
            "g = Gather(s, c)",
            "u = Unsqueeze(g, [0])",
            "t = Concat{axis=0}(u, [2], [4])",
            "b = Reshape(a, t)",
            end="y = ReduceSum{keepdims=0}(b, [1, 2])",
        ),
        (2, 4),
        (("c", np.array(0)),),
    ),
    Case(
        "a target of two numbers",
        chain(
            "s = Shape{end=1}(x)",
            "t = Concat{axis=0}(s, c)",
            "b = Reshape(a, t)",
            end="y = ReduceSum{keepdims=0}(b, [1, 2])",
        ),
        (2, 4),
        (("c", np.array([4, 2])),),
    ),
    Case(
        "rows by number",
        "b = Gather(t, i); y = MatMul(b, v)",
        (8,),
        (("t", weight(6, 8)), ("i", np.array([1, 4]))),
        "float[1]",
    ),
    Case(
        "units by number",
        chain("b = Gather{axis=1}(a, i)", end="y = MatMul(b, u)"),
        (3,),
        (("i", np.array([1, 4, 6])), ("u", weight(3, 3))),
    ),
    Case(
        "beside units by number",
        chain("r = Reshape(a, [0, 4, 2])", "b = Gather{axis=1}(r, i)", end="y = MatMul(b, u)"),
        (2,),
        (("i", np.array(2)), ("u", weight(2, 3))),
    ),
    Case(
        "units by computed number",
        chain("k = ArgMax{axis=1}(x)", "b = Gather{axis=1}(a, k)", end="y = ReduceSum{keepdims=0}(b, [1, 2])"),
        (),
    ),
    Case("shifted by Pad", chain("b = Pad(a, [0, 1, 0, -1])"), ()),
    Case("padded elsewhere", chain("b = Pad(a, [1, 0, 0, 0])", end=SUMMED), (8,)),
    Case("padded elsewhere with ones", chain("b = Pad(a, [1, 0, 0, 0], c)", end=SUMMED), (), (("c", 1.0),)),
    Case("padded elsewhere with ones, read", chain("b = Pad(a, [1, 0, 0, 0], c)"), (8,), (("c", 1.0),)),
    Case("padded along some axes", chain("b = Pad(a, [1, 0], c, [0])", end=SUMMED), (8,), (("c", 0.0),)),
    Case("transposed twice", chain("t = Transpose(a)", "b = Transpose(t)"), (8,)),
    Case("of a rank without an axis", chain("b = Flatten{axis=1}(a)"), (8,)),
    Case(
        "made from a number",
        "z = ConstantOfShape(s); a = MatMul(x, w); b = Add(a, z); y = MatMul(b, v)",
        (8,),
        (("s", np.array([8])),),
    ),
    Case("a triangle of it", chain("b = Trilu(a)"), ()),
    Case(
        "read twice",
        "a = MatMul(x, w); b = MatMul(a, v); c = Transpose(w); d = MatMul(a, c); "
        "e = Relu(d); f = MatMul(e, u); y = Add(b, f)",
        (8,),
        (("u", weight(5, 3)),),
    ),
]

CASES = [*ELEMENTWISE, *REDUCED, *LAYOUT]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_free_is_as_good_as_zero(case: Case) -> None:
    groups = [(group.size, list(map(str, group.holds))) for group in dependencies(case.model()).groups]
    found = dependencies(case.model())
    assert sorted(group.size for group in found.groups if cuttable(group)) == sorted(case.free), groups
    assert_free_groups_can_be_cut(case.model, run=case.run)
