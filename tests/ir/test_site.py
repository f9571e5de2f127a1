"""Every spelling of a weight site gives the same view, and the view computes what the nodes compute."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tersor.ir.site import Kind, Site, sites
from tersor.ir.text import graph

Array = NDArray[np.float32]

IN, OUT = 6, 4
RNG = np.random.default_rng(0)
W = RNG.standard_normal((IN, OUT)).astype(np.float32)
B = RNG.standard_normal(OUT).astype(np.float32)
SCALE = np.float32(0.25)
QUANTIZED = RNG.integers(-128, 128, (IN, OUT)).astype(np.int8)
DEQUANTIZED = QUANTIZED.astype(np.float32) * SCALE


@dataclass(frozen=True)
class Spelling:
    """One way to write y = x W + b."""

    name: str
    lines: tuple[str, ...]
    weight: Array = field(default_factory=lambda: W)
    stored: object = None
    bias: Array | None = None
    x: str = "float[5, 6]"
    axis: int = -1
    transposed: bool = False
    root: str = "w"
    constants: tuple[tuple[str, object], ...] = ()

    def model(self) -> onnx_ir.Model:
        stored = {self.root: self.weight if self.stored is None else self.stored}
        biases = {} if self.bias is None else {"b": self.bias}
        return graph(*self.lines, inputs={"x": self.x}, outputs=["y"], **biases, **dict(self.constants) | stored)


SPELLINGS = [
    Spelling("MatMul", ("y = MatMul(x, w)",)),
    Spelling("MatMul and Add", ("m = MatMul(x, w)", "y = Add(m, b)"), bias=B),
    Spelling("Add with the bias first", ("m = MatMul(x, w)", "y = Add(b, m)"), bias=B),
    Spelling("bias with leading ones", ("m = MatMul(x, w)", "y = Add(m, b)"), bias=B.reshape(1, 4)),
    Spelling("weight with a leading one", ("y = MatMul(x, w)",), stored=W.reshape(1, IN, OUT), x="float[2, 5, 6]"),
    Spelling("Identity", ("v = Identity(w)", "y = MatMul(x, v)")),
    Spelling("Cast", ("v = Cast{to=FLOAT}(w)", "y = MatMul(x, v)"), stored=W.astype(np.float64)),
    Spelling(
        "Transpose", ("v = Transpose{perm=[1, 0]}(w)", "m = MatMul(x, v)", "y = Add(m, b)"),
        stored=W.T.copy(), bias=B, transposed=True,
    ),
    Spelling("Gemm", ("y = Gemm(x, w, b)",), bias=B),
    Spelling("Gemm transB", ("y = Gemm{transB=1}(x, w, b)",), stored=W.T.copy(), bias=B, transposed=True),
    Spelling("Gemm alpha beta", ("y = Gemm{alpha=0.5, beta=2.0}(x, w, b)",), bias=B),
    Spelling("Gemm transA", ("y = Gemm{transA=1}(x, w)",), x="float[6, 5]", axis=0),
    Spelling("Gemm then Add", ("m = Gemm(x, w)", "y = Add(m, b)"), bias=B),
    Spelling(
        "weight on the left", ("m = MatMul(w, x)", "y = Add(m, b)"),
        stored=W.T.copy(), bias=B.reshape(4, 1), x="float[2, 6, 3]", axis=-2, transposed=True,
    ),
    Spelling(
        "1x1 Conv", ("y = Conv(x, w, b)",),
        stored=W.T.copy().reshape(OUT, IN, 1, 1), bias=B, x="float[2, 6, 3, 3]", axis=1, transposed=True,
    ),
    Spelling(
        "1x1 Conv then Add", ("m = Conv(x, w)", "y = Add(m, b)"),
        stored=W.T.copy().reshape(OUT, IN, 1), bias=B.reshape(1, 4, 1), x="float[2, 6, 3]", axis=1, transposed=True,
    ),
    Spelling(
        "DequantizeLinear", ("v = DequantizeLinear(w, s)", "y = MatMul(x, v)"),
        weight=DEQUANTIZED, stored=QUANTIZED, constants=(("s", SCALE),),
    ),
    Spelling(
        "DequantizeLinear per channel and Transpose",
        ("v = DequantizeLinear{axis=0}(w, s, z)", "t = Transpose{perm=[1, 0]}(v)", "y = MatMul(x, t)"),
        weight=(QUANTIZED.astype(np.float32) - 3) * np.arange(1, 5, dtype=np.float32), stored=QUANTIZED.T.copy(),
        transposed=True, constants=(("s", np.arange(1, 5, dtype=np.float32)), ("z", np.full(4, 3, np.int8))),
    ),
    Spelling(
        "DequantizeLinear per block", ("v = DequantizeLinear{axis=0, block_size=3}(w, s)", "y = MatMul(x, v)"),
        weight=QUANTIZED * np.repeat(np.arange(1, 9, dtype=np.float32).reshape(2, 4), 3, 0), stored=QUANTIZED,
        constants=(("s", np.arange(1, 9, dtype=np.float32).reshape(2, 4)),),
    ),
]  # fmt: skip


def evaluate(model: onnx_ir.Model, **feeds: NDArray[np.generic]) -> list[Array]:
    proto = onnx_ir.to_proto(model)
    assert isinstance(proto, onnx.ModelProto)
    return list(ReferenceEvaluator(proto).run(None, feeds))


def only(model: onnx_ir.Model) -> Site:
    (site,) = sites(model)
    return site


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.name)
def test_a_linear_layer_however_spelled(spelling: Spelling) -> None:
    model = spelling.model()
    site = only(model)
    assert (site.kind, site.in_features, site.out_features) == (Kind.LINEAR, IN, OUT)
    assert (site.activation.name, site.output.name, site.axis) == ("x", "y", spelling.axis)
    assert (site.weight.name, site.transposed) == (spelling.root, spelling.transposed)
    assert (site.bias is not None) == (spelling.bias is not None)
    assert site.dense().shape == (IN, OUT)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.name)
def test_the_view_computes_what_the_nodes_compute(spelling: Spelling) -> None:
    model = spelling.model()
    site = only(model)
    shape = [int(dim) for dim in model.graph.inputs[0].shape or ()]
    x = RNG.standard_normal(shape).astype(np.float32)
    bias = site.bias_array()
    dense = np.moveaxis(x, site.axis, -1) @ site.dense() + (0 if bias is None else bias)
    (wanted,) = evaluate(model, x=x)
    found = np.moveaxis(dense, -1, site.output_axis)
    # a dot product of k float32 terms is off by at most k eps |x| |w|
    bound = IN * np.finfo(np.float32).eps * np.abs(x).max() * np.abs(site.dense()).max() * IN
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("name", ["MatMul", "Transpose", "Gemm transB", "weight on the left", "1x1 Conv", "Identity"])
def test_dense_is_no_copy(name: str) -> None:
    site = only(next(spelling for spelling in SPELLINGS if spelling.name == name).model())
    assert site.weight.const_value is not None
    assert np.shares_memory(site.dense(), site.weight.const_value.numpy())


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("y = MatMul(x, z)",), "no constant"),
        (("y = MatMul(w, v)", "u = Relu(x)"), "two constants: to be folded"),
        (("v3 = Relu(w)", "y = MatMul(x, v3)"), "a weight that is computed"),
        (("y = MatMul(x, experts)",), "one matrix for each element of a batch"),
        (("y = MatMul(x, vector)",), "a dot product"),
        (("y = Gather(x, [0, 2])",), "an activation is indexed"),
        (("y = Gather(w, [0, 2])", "u = Relu(x)"), "constant indices: to be folded"),
        (("y = Gather(numbers, i)", "u = Relu(x)"), "a table of integers holds no weights"),
        (("y = com.example.MatMul(x, w)",), "an op of another domain"),
    ],
)
def test_leaves_alone(lines: tuple[str, ...], why: str) -> None:
    constants = {"w": W, "v": W.T, "experts": np.ones((3, IN, OUT), np.float32), "vector": np.ones(IN, np.float32)}
    constants["numbers"] = np.ones((3, 2), np.int64)
    used = {name: array for name, array in constants.items() if any(f"{name}" in line for line in lines)}
    model = graph(*lines, inputs={"x": "float[5, 6]", "i": "int64[n]", "z": "float[6, 4]"}, **used)
    assert sites(model) == [], why


@pytest.mark.parametrize(
    ("lines", "outputs", "bias"),
    [
        (("m = MatMul(x, w)", "y = Add(m, b)", "z = Relu(m)"), ["y", "z"], B),
        (("m = MatMul(x, w)", "y = Add(m, b)"), ["m", "y"], B),
        (("m = MatMul(x, w)", "y = Add(m, b)"), ["y"], np.ones((5, 1), np.float32)),
        (("m = MatMul(x, w)", "y = Mul(m, b)"), ["y"], B),
        (("m = MatMul(x, w)", "y = Add(m, x2)"), ["y"], None),
    ],
    ids=["read elsewhere", "an output", "a column, not a row", "a product", "no constant"],
)
def test_what_is_added_is_no_bias(lines: tuple[str, ...], outputs: list[str], bias: Array | None) -> None:
    biases = {} if bias is None else {"b": bias}
    model = graph(*lines, inputs={"x": "float[5, 6]", "x2": "float[5, 4]"}, outputs=outputs, w=W, **biases)
    site = only(model)
    assert site.bias is None and site.bias_array() is None and site.output.name == "m"


def test_a_convolution_is_unfolded() -> None:
    kernel = RNG.standard_normal((8, 2, 3)).astype(np.float32)
    site = only(graph("y = Conv{group=2}(x, k, b)", inputs={"x": "float[1, 4, 9]"}, k=kernel, b=np.ones(8, np.float32)))
    assert (site.kind, site.in_features, site.out_features, site.axis) == (Kind.CONV, 6, 8, 1)
    np.testing.assert_array_equal(site.dense()[:, 5], kernel[5].reshape(-1))


def test_a_transposed_convolution_keeps_the_input_channels_first() -> None:
    kernel = RNG.standard_normal((4, 2, 3)).astype(np.float32)
    site = only(graph("y = ConvTranspose(x, k)", inputs={"x": "float[1, 4, 9]"}, k=kernel))
    assert (site.kind, site.in_features, site.out_features) == (Kind.CONV, 4, 6)
    np.testing.assert_array_equal(site.dense(), kernel.reshape(4, 6))


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_gates_by_direction(op: str, gates: int) -> None:
    hidden = 5
    w, r = (RNG.standard_normal((2, gates * hidden, width)).astype(np.float32) for width in (IN, hidden))
    b = RNG.standard_normal((2, 2 * gates * hidden)).astype(np.float32)
    text = f'(y, h) = {op}{{hidden_size={hidden}, direction="bidirectional"}}(x, w, r, b)'
    found = sites(graph(text, inputs={"x": "float[7, 1, 6]"}, w=w, r=r, b=b))
    assert [site.kind for site in found] == [Kind.RECURRENT_INPUT] * 2 + [Kind.RECURRENT_HIDDEN] * 2
    assert [site.name for site in found] == ["w.input", "w.input.reverse", "r.hidden", "r.hidden.reverse"]
    assert [site.activation.name for site in found] == ["x", "x", "y", "y"]
    np.testing.assert_array_equal(found[1].dense(), w[1].T)
    np.testing.assert_array_equal(found[2].dense(), r[0].T)
    for site, half in zip(found, (0, 0, 1, 1), strict=True):
        rows = slice(half * gates * hidden, (half + 1) * gates * hidden)
        bias = site.bias_array()
        assert bias is not None
        np.testing.assert_array_equal(bias, b[site.direction, rows])
    assert all(site.tied == () for site in found)  # the directions read different slices


def test_the_gates_compute_the_first_step() -> None:
    hidden = 3
    w, r = (RNG.standard_normal((1, hidden, width)).astype(np.float32) for width in (IN, hidden))
    b = RNG.standard_normal((1, 2 * hidden)).astype(np.float32)
    model = graph(f"y = RNN{{hidden_size={hidden}}}(x, w, r, b)", inputs={"x": "float[1, 2, 6]"}, w=w, r=r, b=b)
    first, second = sites(model)
    x = RNG.standard_normal((1, 2, IN)).astype(np.float32)
    biases = [site.bias_array() for site in (first, second)]
    assert biases[0] is not None and biases[1] is not None
    (wanted,) = evaluate(model, x=x)
    np.testing.assert_allclose(np.tanh(x[0] @ first.dense() + biases[0] + biases[1]), wanted[0, 0], rtol=1e-5)


def test_an_embedding_tied_to_the_output_layer() -> None:
    table = RNG.standard_normal((11, IN)).astype(np.float32)
    model = graph(
        "x = Gather(embed, ids)", "t = Transpose{perm=[1, 0]}(embed)", "logits = MatMul(x, t)",
        inputs={"ids": "int64[n]"}, embed=table,
    )  # fmt: skip
    embedding, head = sites(model)
    assert (embedding.kind, embedding.in_features, embedding.out_features) == (Kind.EMBEDDING, 11, IN)
    assert (embedding.name, embedding.tied) == ("embed:embedding", ("embed:linear",))
    assert (head.name, head.tied) == ("embed:linear", ("embed:embedding",))
    assert head.weight is embedding.weight and head.transposed and not embedding.transposed
    np.testing.assert_array_equal(head.dense(), table.T)


@pytest.mark.parametrize(
    ("weight", "bias", "name"),
    [
        ("encoder.0.query.weight", "encoder.0.query.bias", "encoder.0.query"),
        ("encoder.0.query.weight.T", "b", "encoder.0.query"),
        ("val_60", "encoder.0.query.bias", "encoder.0.query"),
        ("onnx::MatMul_12", "b", "onnx::MatMul_12"),
    ],
)
def test_names_come_from_the_initializers(weight: str, bias: str, name: str) -> None:
    model = graph("m = MatMul(x, w)", "y = Add(m, b)", inputs={"x": "float[5, 6]"}, w=W, b=B)
    for old, new in (("w", weight), ("b", bias)):
        model.graph.initializers[old].name = new
    assert only(model).name == name


def test_names_are_unique() -> None:
    model = graph("a = MatMul(x, w)", "c = MatMul(a, v)", "d = MatMul(c, w)", inputs={"x": "float[5, 6]"}, w=W, v=W.T)
    assert [site.name for site in sites(model)] == ["w:linear", "v", "w:linear#2"]


def test_weights_in_branches_and_in_constant_nodes() -> None:
    model = onnx_ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[2, 2] x, bool c) => (float[2, 2] y) <float[2, 2] outer = {1.0, 2.0, 3.0, 4.0}> {
            inner = Constant<value = float[2, 2] {4.0, 3.0, 2.0, 1.0}>()
            h = MatMul(x, inner)
            y = If(c) <then_branch = t () => (float[2, 2] a) { a = MatMul(h, outer) },
                       else_branch = e () => (float[2, 2] b) { b = Gemm<transB = 1>(h, outer) }>
        }
    """)
    found = sites(model)
    assert [site.name for site in found] == ["inner", "outer:linear", "outer:linear#2"]
    np.testing.assert_array_equal(found[0].dense(), [[4, 3], [2, 1]])
    np.testing.assert_array_equal(found[2].dense(), [[1, 3], [2, 4]])
    assert found[1].tied == ("outer:linear#2",)


def test_weights_in_a_model_local_function() -> None:
    model = onnx_ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23, "tersor" : 1]>
        g (float[2, 2] x) => (float[2, 2] y) { y = tersor.Layer(x) }
        <domain: "tersor", opset_import: ["" : 23]>
        Layer (a) => (b) {
            w = Constant<value = float[2, 2] {1.0, 2.0, 3.0, 4.0}>()
            b = MatMul(a, w)
        }
    """)
    assert [(site.name, site.in_features) for site in sites(model)] == [("w", 2)]


def test_sites_know_their_block() -> None:
    lines = [line for at in range(3) for line in (f"m{at} = MatMul(x{at}, w{at})", f"x{at + 1} = Add(x{at}, m{at})")]
    square = {f"w{at}": np.eye(4, dtype=np.float32) for at in range(3)}
    model = graph(
        *lines, "y = MatMul(x3, head)", inputs={"x0": "float[n, 4]"}, **square, head=np.ones((4, 2), np.float32)
    )
    assert [(site.name, site.block) for site in sites(model)] == [("w0", 0), ("w1", 1), ("w2", 2), ("head", None)]
