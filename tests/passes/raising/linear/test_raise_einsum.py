"""Einsums of two operands as the products that they are, and those that are none."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.site import sites
from tersor.ir.text import graph, lines
from tersor.passes.raising.linear.raise_einsum import RaiseEinsum
from tersor.tests.support import apply, holds, inside_if, misses


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def einsum(equation: str, x: str, y: str) -> ir.Model:
    return graph(f"z = Einsum{{equation='{equation}'}}(x, y)", inputs={"x": f"float[{x}]", "y": f"float[{y}]"})


def weighted(equation: str, x: str, w: np.ndarray) -> ir.Model:
    return graph(f"z = Einsum{{equation='{equation}'}}(x, w)", inputs={"x": f"float[{x}]"}, w=w)


def ops(found: list[str]) -> str:
    return " ".join(line.split(" = ")[1].split("(")[0].split("{")[0] for line in found)


HELD = [
    (einsum("ij,jk->ik", "a, 4", "4, b"), "MatMul"),
    (einsum("ij,kj->ik", "a, 4", "b, 4"), "Transpose MatMul"),
    (einsum("ij,jk->ki", "a, 4", "4, b"), "MatMul Transpose"),
    (einsum("bhid,bhjd->bhij", "b, 2, i, 4", "b, 2, j, 4"), "Transpose MatMul"),
    (einsum("bind,bjnd->bnij", "b, i, 2, 4", "b, j, 2, 4"), "Transpose Transpose MatMul"),
    (einsum("bnij,bjnd->bind", "b, 2, i, j", "b, j, 2, 4"), "Transpose MatMul Transpose"),
    (einsum("ibnd,jbnd->bnij", "i, b, 2, 4", "j, b, 2, 4"), "Transpose Transpose MatMul"),
    (einsum("bij,bj->bi", "b, i, 5", "b, 5"), "Reshape MatMul Reshape"),
    (einsum("i,i->", "5", "5"), "Reshape Reshape MatMul Reshape"),
    (einsum("bsd,dk->bsk", "b, s, 4", "4, 3"), "MatMul"),
    (einsum("bsnd,ndh->bsh", "b, s, 2, 4", "2, 4, 6"), "Reshape Reshape MatMul"),
    (einsum("bnid,njd->bnij", "b, 2, 3, 4", "2, 5, 4"), "Transpose Reshape Transpose MatMul Reshape Transpose"),
    (weighted("bsd,dhe->bshe", "b, s, 4", normal(4, 2, 3)), "MatMul Reshape"),
    (weighted("bshe,hed->bsd", "b, s, 2, 3", normal(2, 3, 4)), "Reshape MatMul"),
    (weighted("bsd,hd->bsh", "b, s, 4", normal(6, 4)), "MatMul"),
]


@pytest.mark.parametrize(("made", "expected"), HELD, ids=[lines(case[0])[0] for case in HELD])
def test_products(made: ir.Model, expected: str) -> None:
    holds(RaiseEinsum(), made, {"b": 2} if "b" in str(made.graph.inputs) else None)
    assert ops(apply(RaiseEinsum(), made.clone())) == expected


def test_a_linear_layer_is_a_site() -> None:
    made = weighted("bsd,dhe->bshe", "b, s, 4", normal(4, 2, 3))
    apply(RaiseEinsum(), made)
    (site,) = sites(made)
    np.testing.assert_array_equal(site.dense(), normal(4, 2, 3).reshape(4, 6))


def test_in_branches() -> None:
    found = apply(RaiseEinsum(), inside_if(einsum("bsd,dk->bsk", "b, s, 4", "4, 3")))
    assert sum("MatMul" in line for line in found) == 2


REFUSED = [
    ("equation", graph("z = Einsum{equation='ij->ji'}(x)", inputs={"x": "float[2, 3]"})),
    ("equation", einsum("...i,ij->...j", "a, 4", "4, b")),
    ("equation", einsum("ij,jk", "a, 4", "4, b")),
    ("equation", einsum("ii,ij->ij", "4, 4", "4, b")),
    ("equation", einsum("iij,jk->ik", "4, 4, 5", "5, b")),
    ("equation", einsum("ij,jkk->ik", "a, 5", "5, 4, 4")),
    ("equation", einsum("ij,jk->i", "a, 4", "4, b")),
    ("equation", einsum("i,j->ij", "a", "b")),
    ("equation", einsum("ij,ij->ij", "a, b", "a, b")),
    ("sizes", einsum("ij,jk->ik", "a, 1", "4, b")),
    ("sizes", einsum("ij,jk->ik", "a, m", "n, b")),
    ("sizes", einsum("ij,jk->ik", "a, ?", "?, b")),
    ("sizes", einsum("ij,jk->ik", "a, 0", "0, b")),
    ("sizes", einsum("bijk,bjkl->bil", "b, i, m, n", "b, m, n, l")),
    ("sizes", einsum("bik,bkjl->bijl", "b, i, 4", "b, 4, m, n")),
    ("sizes", einsum("bnid,njd->bnij", "b, 2, i, 4", "2, 5, 4")),
    ("rank", graph("z = Einsum{equation='ij,jk->ik'}(x, y)")),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseEinsum(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseEinsum(), made) == before
