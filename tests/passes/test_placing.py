"""From a site's stored weight to a matrix [in, out], and a structured weight back into the graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.level import Level, violations
from tersor.ir.runner import runner
from tersor.ir.site import Site, sites
from tersor.ir.text import graph, lines
from tersor.passes.edit import declare_functions
from tersor.passes.numerics.grid import Scheme, nearest
from tersor.passes.numerics.product import product
from tersor.passes.placing import Structured, matrix, put
from tersor.passes.quantize.methods.binary import binary_weight
from tersor.passes.quantize.methods.floats import float8
from tersor.passes.quantize.methods.hqq import hqq
from tersor.passes.quantize.methods.lqer import lqer
from tersor.passes.quantize.methods.ternary import trained_ternary
from tersor.tests.passes.quantize.holding import HELD, normal
from tersor.tests.support import parse

#: Every structured weight, of a matrix [in, out]; `Codebook` alone cannot be turned.
WEIGHTS: dict[str, Callable[[np.ndarray], Structured]] = {
    "8 bits": lambda weight: nearest(weight, Scheme(bits=8)),
    "4 bits by group": lambda weight: nearest(weight, Scheme(bits=4, group=16)),
    "4 bits by group, with zero points": lambda weight: nearest(weight, Scheme(bits=4, group=16, symmetric=False)),
    "3 bits by group that does not divide": lambda weight: nearest(weight, Scheme(bits=3, group=7)),
    "affine": lambda weight: hqq(weight, Scheme(bits=4, group=7, symmetric=False)),
    "float8": lambda weight: float8(weight, axis=1),
    "planes": binary_weight,
    "codebook": trained_ternary,
    "vectors": lambda weight: product(weight, bits=4, width=4),
    "corrected": lambda weight: lqer(weight, nearest(weight, Scheme(bits=4, group=16)), rank=2),
}
#: Weights that `sites` sees through.
SEEN = ("8 bits", "4 bits by group", "4 bits by group, with zero points", "float8")
#: Weights whose `dense` numpy can compute in bfloat16.
NARROW = ("8 bits", "4 bits by group", "affine", "float8", "planes", "codebook", "vectors")
#: A site of each kind, straight and turned.
SOME = ("matmul", "matmul, bfloat16", "gemm, transB", "pointwise", "conv-transpose, groups", "table", "lstm")
W = normal(48, 32)


def taken(model: ir.Model) -> list[Site]:
    """The first site of each weight."""
    return list({site.weight: site for site in reversed(sites(model))}.values())[::-1]


def put_all(model: ir.Model, make: Callable[[np.ndarray], Structured]) -> None:
    for site in taken(model):
        put(site, make(matrix(site)))
    declare_functions(model)


@pytest.mark.parametrize("name", HELD)
def test_the_matrix_is_the_weight_as_in_and_out(name: str) -> None:
    held = HELD[name]
    for site, weight in zip(taken(held.model), held.matrices.values(), strict=True):
        np.testing.assert_array_equal(matrix(site), weight)
        assert matrix(site).dtype == weight.dtype


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (form, name)
        for form in WEIGHTS
        for name in (HELD if form in ("4 bits by group", "planes", "codebook") else SOME)
        if "bfloat16" not in name or form in NARROW
    ],
)
def test_the_model_answers_as_one_that_holds_the_new_weight(form: str, name: str) -> None:
    held = HELD[name]
    model = held.model
    put_all(model, WEIGHTS[form])
    wanted = {each: WEIGHTS[form](weight).dense() for each, weight in held.matrices.items()}
    # a product of another layout adds in another order
    narrow = held.weights["w"].dtype.itemsize == 2 and held.reads is None
    assert held.compared(model, wanted).within(1e-3 if narrow else 1e-6)


@pytest.mark.parametrize(
    ("form", "name"),
    [(form, name) for form in SEEN for name in HELD if "bfloat16" not in name or form in NARROW],
)
def test_what_was_put_is_found_again(form: str, name: str) -> None:
    held = HELD[name]
    model = held.model
    before = sites(model)
    put_all(model, WEIGHTS[form])
    after = sites(model)
    for old, new in zip(before, after, strict=True):
        for what in ("kind", "name", "node", "activation", "in_features", "out_features", "bias", "flipped", "axis"):
            assert getattr(old, what) == getattr(new, what)
        assert old.view.shape == new.view.shape
    for site, weight in zip(taken(model), held.matrices.values(), strict=True):
        np.testing.assert_array_equal(matrix(site), WEIGHTS[form](weight).dense())
        assert matrix(site).dtype == weight.dtype


@pytest.mark.parametrize("name", HELD)
def test_a_weight_can_be_given_the_other_way_around(name: str) -> None:
    held, scheme = HELD[name], Scheme(bits=8)
    model = held.model
    for site in taken(model):
        put(site, nearest(np.ascontiguousarray(matrix(site).T), scheme), turned=True)
    for site, weight in zip(taken(model), held.matrices.values(), strict=True):
        np.testing.assert_array_equal(matrix(site), nearest(weight.T, scheme).dense().T)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("form", WEIGHTS)
def test_only_a_codebook_needs_a_node_that_turns_it(form: str, name: str, turned: bool) -> None:
    model = HELD[name].model
    reads = {}
    for site in taken(model):
        reads[site.weight.name] = HELD[name].flat[site.weight.name][1]
        put(site, WEIGHTS[form](matrix(site).T if turned else matrix(site)), turned=turned)
    transposes = sum(node.op_type == "Transpose" for node in model.graph)
    assert transposes == (sum(turns != turned for turns in reads.values()) if form in ("codebook", "vectors") else 0)


def test_the_nodes_on_the_way_go_with_the_weight() -> None:
    model = HELD["matmul, cast and turned"].model
    put_all(model, WEIGHTS["4 bits by group"])
    assert lines(model) == [
        "y/DequantizeLinear = DequantizeLinear{axis=0, block_size=16}(w_quantized, w_scale)",
        "y = MatMul(x, y/DequantizeLinear)",
    ]


def test_the_type_is_that_which_the_node_reads_where_none_was_inferred() -> None:
    model = graph("c = Cast{to=1}(w)", "y = MatMul(x, c)", w=normal(32, 48).astype(np.float16))
    (site,) = sites(model)
    put(site, WEIGHTS["8 bits"](matrix(site)))
    (node,) = [node for node in model.graph if node.op_type == "MatMul"]
    assert node.inputs[1].dtype == ir.DataType.FLOAT
    assert model.graph.initializers["w_scale"].dtype == ir.DataType.FLOAT


def test_a_weight_of_another_type_is_cast_to_what_the_node_reads() -> None:
    model = HELD["matmul, half"].model
    (site,) = sites(model)
    put(site, WEIGHTS["planes"](matrix(site).astype(np.float32)))
    declare_functions(model)
    (node,) = [node for node in model.graph if node.op_type == "MatMul"]
    assert node.inputs[1].producer().op_type == "Cast"
    assert node.inputs[1].dtype == ir.DataType.FLOAT16
    assert runner(model)({"x": np.ones((2, 32), np.float16)})["y"].dtype == np.float16


def test_all_that_reads_the_weight_reads_what_was_put() -> None:
    text = ("t = Transpose{perm=[1, 0]}(w)", "y = MatMul(x, t)", "h = Relu(x)", "z = MatMul(h, t)")
    model = graph(*text, inputs={"x": "float[b, 32]"}, outputs=["y", "z"], w=W)
    *_, last = sites(model)
    put(last, WEIGHTS["8 bits"](matrix(last)))
    assert violations(model, Level.SEMANTIC) == []
    assert [node.op_type for node in model.graph].count("DequantizeLinear") == 1
    feeds, wanted = {"x": normal(3, 32)}, WEIGHTS["8 bits"](W.T).dense()
    found = runner(model)(feeds)
    for name, rows in (("y", feeds["x"]), ("z", np.maximum(feeds["x"], 0))):
        np.testing.assert_allclose(found[name], rows @ wanted, rtol=0, atol=1e-4)


#: One branch multiplies by a weight outside, turned outside; the other by a weight of its own.
BRANCHES = """main (bool c, float[B, 2] x) => (float[B, 3] y) <float[3, 2] w = {5.0, -2.0, 0.3, 1.0, -7.0, 4.0}> {
  t = Transpose <perm = [1, 0]> (w)
  y = If (c) <
    then_branch = first () => (float[B, 3] a) { a = MatMul (x, t) },
    else_branch = second () => (float[B, 3] b) <float[3, 2] v = {1.0, 2.0, -3.0, 0.1, 9.0, 0.5}> {
      b = Gemm <transB = 1> (x, v)
    }
  >
}"""


@pytest.mark.parametrize("form", WEIGHTS)
def test_weights_in_and_outside_of_branches(form: str) -> None:
    model, rows = parse(BRANCHES), np.array([[1.0, 2.0], [-0.5, 3.0]], np.float32)
    dense = {site.name: WEIGHTS[form](matrix(site)).dense() for site in sites(model)}
    put_all(model, WEIGHTS[form])
    assert violations(model, Level.SEMANTIC) == []
    assert [node.op_type for node in model.graph] == ["If"]
    for chosen, name in ((True, "w"), (False, "v")):
        found = runner(model)({"c": np.array(chosen), "x": rows})["y"]
        # sums of two products
        np.testing.assert_allclose(found, rows @ dense[name], rtol=4 * np.finfo(np.float32).eps)
