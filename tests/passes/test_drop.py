"""How much worse answers are: against the formulas, without padding; and what it cannot be measured on."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.text import graph
from tersor.passes.drop import Drop, cosine, kl

RNG = np.random.default_rng(8)
BEFORE, AFTER = RNG.standard_normal((2, 4, 6))
EPS = np.finfo(np.float64).eps


def test_cosine_is_one_minus_the_cosine_of_each_row() -> None:
    wanted = [1 - (a @ b) / math.sqrt((a @ a) * (b @ b)) for a, b in zip(BEFORE, AFTER, strict=True)]
    np.testing.assert_allclose(cosine(BEFORE, AFTER), wanted, rtol=0, atol=20 * EPS)
    np.testing.assert_allclose(cosine(BEFORE, 7 * BEFORE), 0, atol=20 * EPS)


def test_small_drops_keep_their_digits() -> None:
    turned = np.array([[1.0, 1e-9]])
    assert cosine(np.array([[1.0, 0.0]]), turned)[0] == pytest.approx(0.5e-18, rel=1e-6)


def test_rows_of_zeros_are_like_themselves_only() -> None:
    zero, other = np.zeros((1, 3)), np.ones((1, 3))
    assert cosine(zero, zero)[0] == 0.0
    assert cosine(zero, other)[0] == cosine(other, zero)[0] == 1.0


def test_kl_is_the_divergence_of_the_softmax() -> None:
    p, q = (np.exp(rows) / np.exp(rows).sum(1, keepdims=True) for rows in (BEFORE, AFTER))
    np.testing.assert_allclose(kl(BEFORE, AFTER), (p * np.log(p / q)).sum(1), rtol=0, atol=50 * EPS)
    assert kl(BEFORE + 700, AFTER + 1e3) == pytest.approx(kl(BEFORE, AFTER))


def _masked() -> ir.Model:
    """Hidden states of tokens, of which a mask says which are real."""
    return graph(
        "t = Gather(table, ids)", "far = Cast{to=1}(mask)", "less = Sub(one, far)", "wide = Mul(less, big)",
        "open = Unsqueeze(wide, axes)", "s = Add(t, open)", "y = Mul(s, half)",
        inputs={"ids": "int64[batch, sequence]", "mask": "int64[batch, sequence]"},
        table=RNG.standard_normal((9, 4)).astype(np.float32), one=1.0, big=-10000.0, half=0.5, axes=np.array([2]),
    )  # fmt: skip


def test_padding_does_not_count() -> None:
    drop = Drop.of(_masked())
    feeds = {"ids": np.zeros((2, 3), np.int64), "mask": np.array([[1, 1, 0], [1, 0, 0]])}
    before = RNG.standard_normal((2, 3, 4))
    after = np.where(feeds["mask"][..., None], before, 0.0)
    total, count = drop.measure({"y": before}, {"y": after}, feeds)
    assert count == 3
    assert total < 20 * EPS
    assert drop.measure({"y": before}, {"y": -before}, feeds)[0] == pytest.approx(6.0)


def test_outputs_of_one_feature_are_a_row_together() -> None:
    drop = Drop.of(graph("y = Relu(x)", inputs={"x": "float[batch, 1]"}))
    total, count = drop.measure({"y": np.array([[3.0], [4.0]])}, {"y": np.array([[4.0], [3.0]])}, {})
    assert count == 1
    assert total == pytest.approx(1 - 24 / 25)


def test_integers_are_no_answers() -> None:
    both = graph("y = Relu(x)", "n = ArgMax(x)", inputs={"x": "float[batch, 4]"}, outputs=["y", "n"])
    assert set(Drop.of(both).outputs) == {"y"}
    with pytest.raises(OptionError, match="no output of floats"):
        Drop.of(graph("n = ArgMax(x)", inputs={"x": "float[batch, 4]"}))


def test_outputs_are_chosen_by_name() -> None:
    both = graph("y = Relu(x)", "z = Neg(x)", inputs={"x": "float[batch, 4]"}, outputs=["y", "z"])
    assert set(Drop.of(both, "kl", ["z"]).outputs) == {"z"}
    with pytest.raises(OptionError, match="no output 'zz'"):
        Drop.of(both, names=["zz"])


def test_a_shape_that_changed_is_an_error() -> None:
    drop = Drop.of(graph("y = Relu(x)", inputs={"x": "float[batch, 4]"}))
    with pytest.raises(ModelError, match="changed its shape"):
        drop.measure({"y": np.ones((2, 4))}, {"y": np.ones((2, 3))}, {})
