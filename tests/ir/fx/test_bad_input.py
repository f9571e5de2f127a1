"""Graphs that no runtime could run: a `ModelError` that says where, at emission or at the run, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnx_ir
import pytest
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

ONES = np.ones((2, 3), np.float32)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """onnx's shape inference, which `graph` asks, logs what it thinks of these graphs."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def refused(model: onnx_ir.Model, where: str) -> str:
    """The message of the ModelError that emitting or running raises; it names the node."""
    feeds = {value.name or "": ONES for value in model.graph.inputs}
    with pytest.raises(ModelError) as caught:
        Interpreter(to_fx(model)).run(feeds)
    assert where in str(caught.value)
    return str(caught.value)


SIZES = {
    "y = Reshape(x, [-2, 3])": {},
    "y = Reshape(x, [-1, -1])": {},
    "y = Reshape(x, [7])": {},
    "y = Reshape(x, [0, 0, 0, 0])": {},
    "y = Expand(x, [-1, 3])": {},
    "y = Expand(x, [2, 7])": {},
    "y = ConstantOfShape([-3])": {},
    "y = ConstantOfShape([100000000, 100000000])": {},
    "y = Tile(x, [-1, 1])": {},
    "y = Tile(x, [2])": {},
    "y = Tile(x, [100000000, 100000000])": {},
    "y = Range(0, 10, 0)": {},
    "y = Range(0, 100000000000, 1)": {},
    "(y, z) = Split{axis=0}(x, [1, 5])": {},
    "(y, z) = Split{axis=0}(x, [-1, 3])": {},
    "y = Slice(x, [0], [1], [0], [0])": {},
    "y = Slice(x, [0, 0], [1], [0])": {},
    "y = Pad(x, [1, 1])": {},
    "y = Pad(x, [-9, 0, 0, 0])": {},
    "y = Squeeze(x, [0])": {},
    "y = TopK(x, [99])": {},
    "(y, z) = TopK(x, [-1])": {},
    "y = OneHot(i, [-3], v)": {"i": np.zeros(2, np.int64), "v": ones(2)},
    "y = MatMul(x, w)": {"w": ones(5, 5)},
    "y = Gemm(x, w)": {"w": ones(5, 5)},
    "y = Add(x, w)": {"w": ones(4)},
    "y = Concat{axis=0}(x, w)": {"w": ones(5, 5)},
    "y = LayerNormalization(x, w)": {"w": ones(5)},
    "y = DequantizeLinear{axis=0}(q, s)": {"q": np.zeros((2, 3), np.int8), "s": ones(7)},
    "y = Einsum{equation='ij,jk->ik'}(x, x)": {},
}
AXES = {
    "y = Concat{axis=7}(x, x)": {},
    "y = Softmax{axis=5}(x)": {},
    "y = Softmax{axis=-3}(x)": {},
    "y = Gather{axis=3}(x, [0])": {},
    "y = GatherElements{axis=-3}(x, i)": {"i": np.zeros((2, 3), np.int64)},
    "y = Transpose{perm=[0, 0]}(x)": {},
    "y = Transpose{perm=[]}(x)": {},
    "y = Transpose{perm=[0, 5]}(x)": {},
    "y = Squeeze(x, [4])": {},
    "y = Unsqueeze(x, [9])": {},
    "y = Unsqueeze(x, [0, 0])": {},
    "y = Flatten{axis=4}(x)": {},
    "(y, z) = Split{axis=4, num_outputs=2}(x)": {},
    "y = Slice(x, [0], [1], [5])": {},
    "y = ReduceSum{keepdims=0}(x, [7])": {},
    "y = ReduceMean(x, [0, 0])": {},
    "y = ArgMax{axis=6}(x)": {},
    "y = CumSum(x, 5)": {},
    "y = LayerNormalization{axis=9}(x, w)": {"w": ones(3)},
    "y = QuantizeLinear{axis=9}(x, w, z)": {"w": ones(3), "z": np.zeros(3, np.int8)},
    "y = Compress{axis=4}(x, c)": {"c": np.ones(2, bool)},
    "y = Unique{axis=4}(x)": {},
    "y = ReverseSequence{batch_axis=7}(x, l)": {"l": np.array([1, 1])},
}
INDICES = {
    "y = Gather(x, [9])": {},
    "y = Gather(x, i)": {"i": np.full(100, 9)},
    "y = GatherElements(x, i)": {"i": np.full((70, 3), 9)},
    "y = ScatterND(x, i, u)": {"i": np.array([[9]]), "u": ones(1, 3)},
    # place 5 of the six that there are, were it not beyond its axis
    "y = ScatterND{reduction=mul}(x, i, u)": {"i": np.array([[0, 5]]), "u": ones(1)},
    "y = ScatterND{reduction=max}(x, i, u)": {"i": np.array([[1, -4]]), "u": ones(1)},
    "y = NegativeLogLikelihoodLoss(x, t)": {"t": np.array([9, 9])},
    "y = Div(i, j)": {"i": np.ones(70, np.int64), "j": np.zeros(70, np.int64)},
}
ATTRIBUTES = {
    "y = Cast{to=99}(x)": {},
    "y = Pad{mode=sideways}(x, [1, 1, 1, 1])": {},
    "y = ScatterElements{reduction=divide}(x, i, u)": {"i": np.array([[0]]), "u": ones(1, 1)},
    "y = Gelu{approximate=roughly}(x)": {},
    "y = LRN{size=-1}(x)": {},
    "y = Clip(x, w)": {"w": ones(3)},
    "y = Clip(x, _, w)": {"w": ones(100)},
    "y = Dropout(x, 2.0, yes)": {"yes": np.array(True)},
    "y = MelWeightMatrix(-4, 16, 800, 0.0, 100.0)": {},
    "y = MelWeightMatrix(4, -16, 800, 0.0, 100.0)": {},
    "y = MelWeightMatrix(4, 16, 0, 0.0, 100.0)": {},
    "y = ArgMax{axis=1}(e)": {"e": ones(2, 0)},
    "y = QuantizeLinear{block_size=-2}(x, w)": {"w": ones(1, 3)},
    "y = com.microsoft.MatMulNBits{K=3, N=4, bits=0, block_size=0}(x, w, s)": {
        "w": np.ones((4, 1, 8), np.uint8),
        "s": ones(4),
    },
    "y = MatMul(x)": {},
    "y = Add(x, _)": {},
    "y = Relu(x, x, x)": {},
    "(y, z) = Relu(x)": {},
    "y = Where(x, x, x)": {},
}
IMAGES = {
    "y = Conv{group=-1}(u, w)": {"w": ones(2, 3, 3, 3)},
    "y = Conv{group=0}(u, w)": {"w": ones(2, 3, 3, 3)},
    "y = Conv{kernel_shape=[100000, 100000]}(u, w)": {"w": ones(2, 3, 3, 3)},
    "y = Conv{kernel_shape=[5, 5], pads=[2, 2, 2, 2]}(u, w)": {"w": ones(1, 1, 3, 3)},
    "y = ConvTranspose{kernel_shape=[5, 5]}(u, w)": {"w": ones(1, 1, 3, 3)},
    "y = Conv{dilations=[4611686018427387904, 1], pads=[1, 1, 1, 1]}(u, w)": {"w": ones(1, 1, 3, 3)},
    "y = Conv{strides=[0, 0]}(u, w)": {"w": ones(1, 1, 1, 1)},
    "y = Conv{dilations=[-1, 1]}(u, w)": {"w": ones(1, 1, 1, 1)},
    "y = Conv{pads=[-5, 0, 0, 0]}(u, w)": {"w": ones(1, 1, 1, 1)},
    "y = Conv{auto_pad=NEVER}(u, w)": {"w": ones(1, 1, 1, 1)},
    "y = MaxPool{kernel_shape=[0, 1]}(u)": {},
    "y = MaxPool{kernel_shape=[100000, 1]}(u)": {},
    "y = AveragePool{kernel_shape=[1, 1], strides=[-1, 1]}(u)": {},
    "y = Resize(u, _, [1.0, 1.0, 1e10, 1e10])": {},
    "y = Resize(u, _, [1.0, 1.0, 1e9, 1e9])": {},
    "y = Resize(u, _, _, [1, 1, -4, 4])": {},
    "y = Resize(u, _, [1.0, 1.0, 0.0, 1.0])": {},
    "y = Resize(u, _, [1.0, 1.0, -2.0, 1.0])": {},
    "y = Resize{mode=linear}(u, _, [1.0, 1.0, 1.0, inf])": {},
    "y = EyeLike(u)": {},
    "y = Resize{mode=magic}(u, _, [1.0, 1.0, 2.0, 2.0])": {},
    "y = DepthToSpace{blocksize=0}(u)": {},
    "y = DepthToSpace{blocksize=3}(u)": {},
    "y = SpaceToDepth{blocksize=0}(u)": {},
    "y = InstanceNormalization(u, w, w)": {"w": ones(9)},
    "y = GroupNormalization{num_groups=0}(u, w, w)": {"w": ones(1)},
}
LAYERS = {
    "y = Attention{q_num_heads=0, kv_num_heads=0}(u, u, u)": {},
    "y = Attention{q_num_heads=2, kv_num_heads=2}(u, u, u)": {},
    "y = Attention{q_num_heads=-1, kv_num_heads=-1}(u, u, u)": {},
    "y = Attention(u, u, u)": {},
    "y = RotaryEmbedding{num_heads=0}(u, c, c)": {"c": ones(1, 2, 1)},
    "y = com.microsoft.MultiHeadAttention{num_heads=0}(u, u, u)": {},
    "(y, h) = LSTM{hidden_size=4, direction=sideways}(u, w, r)": {"w": ones(1, 16, 3), "r": ones(1, 16, 4)},
    "(y, h) = LSTM{hidden_size=-4}(u, w, r)": {"w": ones(1, 16, 3), "r": ones(1, 16, 4)},
    "(y, h) = GRU{hidden_size=4, activations=['Foo', 'Bar']}(u, w, r)": {"w": ones(1, 12, 3), "r": ones(1, 12, 4)},
}
Constants = dict[str, np.ndarray]
FLAT: dict[str, Constants] = {**SIZES, **AXES, **INDICES, **ATTRIBUTES}


@pytest.mark.parametrize("line", FLAT)
def test_a_node_that_cannot_run_is_named(line: str) -> None:
    refused(graph(line, inputs={"x": "float[2, 3]"}, **FLAT[line]), " at y")


@pytest.mark.parametrize("line", IMAGES)
def test_an_image_op_that_cannot_run_is_named(line: str) -> None:
    constants: Constants = IMAGES[line]
    refused(graph("u = Unsqueeze(x, [0, 1])", line, inputs={"x": "float[2, 3]"}, **constants), " at y")


@pytest.mark.parametrize("line", LAYERS)
def test_a_layer_that_cannot_run_is_named(line: str) -> None:
    constants: Constants = LAYERS[line]
    refused(graph("u = Unsqueeze(x, [0])", line, inputs={"x": "float[2, 3]"}, **constants), " at y")


def test_what_is_absurd_is_found_before_the_run() -> None:
    for line in ("y = Softmax{axis=5}(x)", "y = Expand(x, [-1, 3])", "y = Pad{mode=sideways}(x, [1, 1, 1, 1])"):
        with pytest.raises(ModelError, match="at y: the op cannot be read"):
            to_fx(graph(line, inputs={"x": "float[2, 3]"}))


HEADER = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>'


def parse(text: str) -> onnx_ir.Model:
    return onnx_ir.from_onnx_text(f"{HEADER}\n{text}")


RECURSIVE = {
    "directly": """
g (float[N] x) => (float[N] y) { y = own.a (x) }
<domain: "own", opset_import: ["own" : 1]>
a (p) => (q) { q = own.a (p) }
""",
    "mutually": """
g (float[N] x) => (float[N] y) { y = own.a (x) }
<domain: "own", opset_import: ["own" : 1]>
a (p) => (q) { q = own.b (p) }
<domain: "own", opset_import: ["own" : 1]>
b (p) => (q) { q = own.a (p) }
""",
    "in a subgraph": """
g (float[N] x, bool c) => (float[N] y) { y = own.a (x, c) }
<domain: "own", opset_import: ["" : 21, "own" : 1]>
a (p, c) => (q) {
    q = If (c) <
        then_branch = t () => (r) { r = own.a (p, c) },
        else_branch = e () => (s) { s = Relu (p) }
    >
}
""",
    "in a loop": """
g (float[N] x) => (float[N] y) {
    n = Constant <value_int = 2> ()
    y = Loop (n, , x) < body = b (int64 i, bool c, float[N] v) => (d, w) { w = own.a (v)  d = Identity (c) } >
}
<domain: "own", opset_import: ["" : 21, "own" : 1]>
a (p) => (q) { h = Relu (p)  q = own.a (h) }
""",
}


@pytest.mark.parametrize("name", RECURSIVE)
def test_a_function_that_reaches_itself_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"function own\.\w calls itself"):
        to_fx(parse(RECURSIVE[name]))


def test_functions_that_unfold_without_end_are_refused() -> None:
    doubling = "\n".join(
        f'<domain: "own", opset_import: ["own" : 1]>\nf{i} (p) => (q) {{ r = own.f{i - 1} (p)  q = own.f{i - 1} (r) }}'
        for i in range(1, 40)
    )
    first = '<domain: "own", opset_import: ["" : 21]>\nf0 (p) => (q) { q = Relu (p) }'
    with pytest.raises(ModelError, match=r"unfold to \d+ nodes"):
        to_fx(parse(f"g (float[N] x) => (float[N] y) {{ y = own.f39 (x) }}\n{first}\n{doubling}"))


def test_a_declared_shape_that_is_untrue_does_not_count() -> None:
    model = graph("h = Relu(x)", "y = MatMul(h, w)", inputs={"x": "float[2, 3]"}, w=ones(3, 3))
    (first, _) = model.graph
    first.outputs[0].shape = onnx_ir.Shape([7, 7])
    assert Interpreter(to_fx(model)).run({"x": ONES})["y"].shape == (2, 3)


def test_feeds_that_contradict_the_declared_shape_fail_where_it_matters() -> None:
    model = graph("h = Relu(x)", "y = MatMul(h, w)", inputs={"x": "float[2, 3]"}, w=ones(3, 3))
    with pytest.raises(ModelError, match="MatMul at y cannot run"):
        Interpreter(to_fx(model)).run({"x": ones(2, 5)})


def test_a_loop_whose_state_changes_shape_runs_as_onnx_says() -> None:
    model = parse("""
    g (float[N] x) => (float[?] y) {
        n = Constant <value_int = 2> ()
        y = Loop (n, , x) < body = b (int64 i, bool c, v) => (d, w) { w = Concat <axis = 0> (v, v)  d = Identity (c) } >
    }
    """)
    assert Interpreter(to_fx(model)).run({"x": ones(1)})["y"].shape == (4,)


def test_a_branch_that_cannot_run_says_which_node_in_it() -> None:
    model = parse("""
    g (float[N] x, bool c) => (float[N] y) {
        z = Constant <value_ints = [9]> ()
        y = If (c) <
            then_branch = t () => (r) { r = Gather (x, z) },
            else_branch = e () => (s) { s = Relu (x) }
        >
    }
    """)
    with pytest.raises(ModelError, match="Gather at r cannot run"):
        Interpreter(to_fx(model)).run({"x": ones(2), "c": np.array(True)})


def test_sizes_below_zero_that_are_fed_are_refused() -> None:
    model = graph("y = Expand(x, sizes)", inputs={"x": "float[2, 3]", "sizes": "int64[2]"})
    with pytest.raises(ModelError, match=r"Expand at y cannot run .* expected none below 0"):
        Interpreter(to_fx(model)).run({"x": ONES, "sizes": np.array([-1, 3])})


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_quotient_that_does_not_fit_wraps_around(dtype: type) -> None:
    least = np.iinfo(dtype).min
    model = graph("y = Div(a, b)", inputs={name: f"{np.dtype(dtype)}[3]" for name in "ab"})
    feeds = {"a": np.array([least, 7, least], dtype), "b": np.array([-1, -1, 2], dtype)}
    assert Interpreter(to_fx(model)).run(feeds)["y"].tolist() == [least, -7, least // 2]


ARITIES = {
    "f at .*: function own.f has 1 inputs, the call 2": "y = own.f (x, x)",
    "f at .*: function own.f has 1 outputs, the call 2": "y, z = own.f (x)",
    "If at .*: 1 outputs of a branch, expected 2": """
        y, z = If (c) < then_branch = t () => (r) { r = Relu (x) }, else_branch = e () => (s) { s = Neg (x) } >""",
    "Loop at .*: 2 inputs of the body, expected 3": """
        y = Loop (, c, x) < body = b (int64 i, bool d) => (e) { e = Identity (d) } >""",
    "Loop at .*: 1 outputs of the body, expected 2 or more": """
        y = Loop (, c, x) < body = b (int64 i, bool d, float[N] v) => (e) { e = Identity (d) } >""",
    "Scan at .*: num_scan_inputs is -5; expected 1 to 1": """
        y = Scan <num_scan_inputs = -5, body = b (float v) => (w) { w = Relu (v) }> (x)""",
    "Scan at .*: 2 inputs of the body, expected 1": """
        y = Scan <num_scan_inputs = 1, body = b (float u, float v) => (w) { w = Add (u, v) }> (x)""",
    "Scan at .*: no graph is given as body": "y = Scan <num_scan_inputs = 1> (x)",
    "Constant at .*: it has 0 attributes": "y = Constant ()",
}


@pytest.mark.parametrize("message", ARITIES)
def test_calls_and_bodies_that_do_not_fit_each_other_are_refused(message: str) -> None:
    model = parse(f"""
    g (float[N] x, bool c) => (y) {{ {ARITIES[message]} }}
    <domain: "own", opset_import: ["" : 21]>
    f (p) => (q) {{ q = Relu (p) }}
    """)
    with pytest.raises(ModelError, match=message):
        to_fx(model)


def test_an_empty_result_of_sizes_that_numpy_has_not_is_refused() -> None:
    model = graph("y = Reshape(x, s)", inputs={"x": "float[0]"}, s=np.array([0, 1 << 62]))
    with pytest.raises(ModelError, match=r"shape \[0, 4611686018427387904\] has no form in NumPy"):
        Interpreter(to_fx(model)).run({"x": np.zeros(0, np.float32)})
