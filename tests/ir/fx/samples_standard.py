"""Samples of the standard ops that are functions of floats: arithmetic, selection, reductions."""

from __future__ import annotations

import numpy as np
from tersor.tests.ir.fx.samples import IMAGE, Sample, X, ints, sample

_UNARY = (
    *(
        "Abs",
        "Acos",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Cos",
        "Cosh",
        "Elu",
        "Celu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
    ),
    *("HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Swish", "Tan", "Tanh"),
)

ELEMENTWISE: tuple[Sample, ...] = (
    *(sample(f"y = {op}(x)", x=X, opset=24) for op in _UNARY),
    *(sample(f"y = {op}(a, b)", a=X, b="double[3] 1.1..1.9") for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(sample(f"y = {op}(a, b, c)", a=X, b="double[3]", c="double[1] 2..2") for op in ("Sum", "Mean")),
    *(sample(f"y = {op}(x)", x="double[2, 3] 1.2..2") for op in ("Acosh", "Log", "Sqrt")),
    sample("y = Gelu{approximate='tanh'}(x)", x=X),
    sample("y = SwiGLU(g, x)", g=X, x=X, opset=28),
    sample("y = PRelu(x, s)", x=X, s="double[3]"),
    sample("y = Pow(x, e)", x="double[2, 3] 0.5..2", e="double[3]"),
    sample("y = Pow(x, 3.0)", x=X),
    sample("y = Mod{fmod=1}(x, b)", x=X, b="double[3] 1.3..1.9"),
    sample("y = Clip(x, l, u)", x=X, l="double[] -0.5..-0.5", u="double[] 0.5..0.5"),
    sample("y = Clip{min=-0.5, max=0.5}(x)", x=X, opset=8),
    sample("y = Where(c, a, b)", c="bool[2, 3]", a=X, b="double[3]"),
    sample("y = ThresholdedRelu{alpha=0.1}(x)", x=X),
    sample("y = Shrink{lambd=0.15, bias=0.1}(x)", x=X),
    sample("y = Cast{to=DOUBLE}(x)", x=X),
    sample("y = CastLike(x, l)", x=X, l="double[1]"),
)

SHAPES: tuple[Sample, ...] = (
    sample("y = Reshape(x, [3, -1])", x=X),
    sample("y = Transpose{perm=[1, 0]}(x)", x=X),
    sample("y = Flatten(x)", x="double[2, 1, 3]"),
    sample("y = Squeeze(x, [1])", x="double[2, 1, 3]"),
    sample("y = Unsqueeze(x, [0, -1])", x=X),
    sample("y = Concat{axis=1}(a, b)", a=X, b="double[2, 1]"),
    sample("(a, b) = Split{axis=1}(x, [1, 2])", x=X),
    sample("y = Slice(x, [2, 0], [-4, 2], [1, 0], [-1, 1])", x=X),
    sample("y = Expand(x, [2, 2, 3])", x="double[1, 3]"),
    sample("y = Tile(x, [2, 2])", x=X),
    *(sample(f"y = Pad{{mode='{mode}'}}(x, [0, 1, 0, 2])", x=X) for mode in ("constant", "edge", "reflect", "wrap")),
    sample("y = Pad(x, [1, -1, 0, 0], v)", x=X, v="double[]"),
    sample("y = Trilu{upper=0}(x)", x="double[3, 3]"),
    sample("y = DepthToSpace{blocksize=2}(x)", x="double[1, 4, 1, 2]"),
    sample("y = SpaceToDepth{blocksize=2}(x)", x="double[1, 1, 2, 4]"),
    sample("y = ReverseSequence{batch_axis=0, time_axis=1}(x, n)", x=X, n=ints(2, 3)),
)

SELECTION: tuple[Sample, ...] = (
    sample("y = Gather{axis=1}(x, i)", x=X, i=ints(2, -1, 0)),
    sample("y = GatherElements{axis=1}(x, i)", x=X, i=np.array([[0, 0], [2, -1]])),
    sample("y = GatherND(x, i)", x=X, i=np.array([[0, 1], [1, -1]])),
    sample("y = Scatter{axis=1}(x, i, u)", x=X, i=np.array([[2], [0]]), u="double[2, 1]", opset=9),
    *(
        sample(
            f"y = ScatterElements{{axis=1, reduction='{how}'}}(x, i, u)", x=X, i=np.array([[2], [0]]), u="double[2, 1]"
        )
        for how in ("none", "add", "mul", "max", "min")
    ),
    *(
        sample(f"y = ScatterND{{reduction='{how}'}}(x, i, u)", x=X, i=np.array([[1]]), u="double[1, 3]")
        for how in ("none", "add", "mul", "max", "min")
    ),
    sample("y = TensorScatter(p, u, w)", p="double[1, 1, 4, 2]", u="double[1, 1, 2, 2]", w=ints(1), opset=24),
    sample("y = OneHot(i, d, v)", i=ints(0, 2), d=ints(3), v="double[2]"),
    sample("y = CumSum{exclusive=1, reverse=1}(x, 1)", x=X),
    sample("y = CumProd(x, 1)", x=X, opset=26),
    sample("(y, i) = TopK(x, [2])", x=X),
    sample("y = Compress{axis=1}(x, c)", x=X, c=np.array([True, False, True])),
    sample("(y, i, j, n) = Unique(x)", x="double[4]"),
    sample("y = Range(a, 3.4, d)", a="double[] 0.5..0.5", d="double[] 1..1"),
)

_REDUCTIONS = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Sum", "SumSquare")
REDUCTIONS: tuple[Sample, ...] = (
    *(sample(f"y = Reduce{op}(x, [1])", x=X) for op in (*_REDUCTIONS, "Prod")),
    *(sample(f"y = Reduce{op}{{keepdims=0}}(x)", x=X) for op in (*_REDUCTIONS, "Prod")),
    *(sample(f"y = Reduce{op}{{axes=[0], keepdims=0}}(x)", x=X, opset=11) for op in _REDUCTIONS),
    sample("y = ReduceLogSum(x, [1])", x="double[2, 3] 0.5..2"),
)

PRODUCTS: tuple[Sample, ...] = (
    sample("y = MatMul(x, w)", x="double[2, 2, 3]", w="double[3, 2]"),
    sample(
        "y = Gemm{transA=1, transB=1, alpha=0.5, beta=2.0}(a, b, c)", a="double[3, 2]", b="double[4, 3]", c="double[4]"
    ),
    sample("y = Det(x)", x="double[2, 3, 3]"),
    sample("y = Einsum{equation='bij,bjk->ik'}(a, b)", a="double[2, 2, 3]", b="double[2, 3, 2]"),
    sample("y = Conv{pads=[1, 0, 0, 1], strides=[2, 1]}(x, w, b)", x=IMAGE, w="double[2, 2, 2, 2]", b="double[2]"),
    sample("y = Conv{group=2}(x, w)", x="double[1, 2, 4]", w="double[2, 1, 2]"),
    sample(
        "y = ConvTranspose{strides=[2], output_padding=[1]}(x, w, b)",
        x="double[1, 2, 3]",
        w="double[2, 1, 2]",
        b="double[1]",
    ),
)

NORMS: tuple[Sample, ...] = (
    sample("y = LayerNormalization(x, s, b)", x=X, s="double[3]", b="double[3]"),
    sample("(y, m, d) = LayerNormalization{axis=0}(x, s)", x=X, s="double[2, 3]"),
    sample("y = RMSNormalization(x, s)", x=X, s="double[3]"),
    sample(
        "y = BatchNormalization(x, s, b, m, v)",
        x="double[2, 3, 2]",
        s="double[3]",
        b="double[3]",
        m="double[3]",
        v="double[3] 0.5..1",
    ),
    sample(
        "(y, a, c) = BatchNormalization{training_mode=1}(x, s, b, m, v)",
        x="double[2, 3, 2]",
        s="double[3]",
        b="double[3]",
        m="double[3]",
        v="double[3] 0.5..1",
    ),
    sample(
        "y = BatchNormalization(x, s, b, m, v)",
        x="double[2, 3, 2]",
        s="double[3]",
        b="double[3]",
        m="double[3]",
        v="double[3] 0.5..1",
        opset=9,
    ),
    sample("y = InstanceNormalization(x, s, b)", x="double[2, 2, 3]", s="double[2]", b="double[2]"),
    sample(
        "y = GroupNormalization{num_groups=2}(x, s, b)", x="double[1, 4, 3]", s="double[4]", b="double[4]", opset=21
    ),
    sample(
        "y = GroupNormalization{num_groups=2}(x, s, b)", x="double[1, 4, 3]", s="double[2]", b="double[2]", opset=18
    ),
    sample("y = LpNormalization{p=2}(x)", x=X),
    sample("y = LpNormalization{p=1, axis=0}(x)", x=X),
    sample("y = MeanVarianceNormalization{axes=[0, 2]}(x)", x="double[2, 2, 3]"),
    sample("y = LRN{size=3}(x)", x="double[1, 4, 2]"),
    *(
        sample(f"y = {op}{{axis=1}}(x)", x="double[2, 2, 3]", opset=n)
        for op in ("Softmax", "LogSoftmax")
        for n in (11, 13)
    ),
)

STANDARD = (*ELEMENTWISE, *SHAPES, *SELECTION, *REDUCTIONS, *PRODUCTS, *NORMS)
