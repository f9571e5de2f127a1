"""Heads out of attention, with shared keys, caches, and attention that is not one op."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.axes import kept
from tersor.ir.constants import constant_of
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.prune.prune_heads import PruneHeads
from tersor.passes.prune.units import units
from tersor.passes.statistics import Calibration
from tersor.tests.support import ROUNDED

RNG = np.random.default_rng(7)
X = {"x": "float[batch, sequence, 16]"}
SIZES = {"batch": 6, "sequence": 12}


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def attention(heads: int = 6, key_heads: int = 6) -> ir.Model:
    return graph(
        "q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)",
        f"a = Attention{{q_num_heads={heads}, kv_num_heads={key_heads}}}(q, k, v)",
        "o = MatMul(a, wo)", "p = Add(o, b)", "y = Add(x, p)",
        inputs=X, wq=weight(16, 4 * heads), wk=weight(16, 4 * key_heads), wv=weight(16, 4 * key_heads),
        wo=weight(4 * heads, 16), b=weight(1, 16)[0],
    )  # fmt: skip


def cached() -> ir.Model:
    past = "float[batch, 4, past, 4]"
    return graph(
        "q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)",
        "a, pk, pv = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, _, ik, iv)", "y = MatMul(a, wo)",
        inputs=X | {"ik": past, "iv": past}, outputs=["y", "pk", "pv"],
        wq=weight(16, 16), wk=weight(16, 16), wv=weight(16, 16), wo=weight(16, 16),
    )  # fmt: skip


def calibrated(model: ir.Model) -> Context:
    return Context(calibration=Calibration([random_feeds(model, SIZES, seed=seed) for seed in range(6)]))


def error(one: ir.Model, other: ir.Model) -> float:
    feeds = random_feeds(one, SIZES, seed=99)
    first, second = (runner(model)(feeds)["y"] for model in (one, other))
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def numbers(model: ir.Model) -> tuple[int, int]:
    node = next(node for node in model.graph if node.op_type == "Attention")
    return node.attributes["q_num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()


@pytest.mark.parametrize(("heads", "key_heads", "left"), [(6, 6, (4, 4)), (6, 3, (4, 2))])
def test_heads_go_with_the_queries_that_share_them(heads: int, key_heads: int, left: tuple[int, int]) -> None:
    plain = attention(heads, key_heads)
    model = plain.clone()
    assert PruneHeads(ratio=1 / 3).apply(model, calibrated(model)).matches == 1
    assert numbers(model) == left
    assert error(plain, model) < 0.6
    unfitted = plain.clone()
    PruneHeads(ratio=1 / 3, repair=False).apply(unfitted, calibrated(model))
    assert error(plain, model) < error(plain, unfitted)


@pytest.mark.parametrize("score", ["obs", "magnitude", "inorm", "onorm", "activation", "taylor", "fisher"])
def test_silent_heads_go_first_and_nothing_changes(score: str) -> None:
    plain = attention()
    (group,) = [each for each in units(plain) if each.heads]
    mask = np.array([True, False, True, True, False, True])
    for value, _ in group.group.weights:
        array = constant_of(value)
        assert array is not None
        array = array.copy()
        for at, axis in enumerate(group.found.axes[value]):
            array[(slice(None),) * at + (~kept(axis, {group.axis: mask}),)] = 0
        value.const_value = ir.tensor(array, name=value.name)
    model = plain.clone()
    made = PruneHeads(ratio=1 / 3, score=score, repair=False)  # type: ignore[arg-type]
    assert made.apply(model, calibrated(model)).matches == 1
    assert numbers(model) == (4, 4)
    assert error(plain, model) < ROUNDED[np.float32]


def test_confidence_keeps_the_heads_that_attend_to_something() -> None:
    plain = attention()
    query = constant_of(plain.graph.initializers["wq"])
    assert query is not None
    # a head whose scores are all alike attends to everything
    query = query * np.repeat([8, 0, 8, 8, 0, 8], 4).astype(np.float32)
    plain.graph.initializers["wq"].const_value = ir.tensor(query, name="wq")
    model = plain.clone()
    PruneHeads(ratio=1 / 3, score="confidence", repair=False).apply(model, calibrated(model))
    left = constant_of(model.graph.initializers["wq"])
    np.testing.assert_array_equal(left, query[:, np.repeat([True, False, True, True, False, True], 4)])


def rotated() -> ir.Model:
    """Heads that nothing but a rotation counts."""
    return graph(
        "v = MatMul(x, w)", "r = RotaryEmbedding{num_heads=4}(v, cos, sin)", "y = MatMul(r, o)",
        inputs={"x": "float[batch, 5, 16]"}, w=weight(16, 16), o=weight(16, 16),
        cos=np.ones((1, 5, 2), np.float32).repeat(6, 0), sin=np.zeros((6, 5, 2), np.float32),
    )  # fmt: skip


def test_confidence_is_of_attention() -> None:
    model = rotated()
    with pytest.raises(OptionError, match=r"probabilities of attention as one op.*RotaryEmbedding"):
        PruneHeads(score="confidence").apply(
            model, Context(calibration=Calibration([random_feeds(model, {"batch": 6})]))
        )


@pytest.mark.parametrize("key_heads", [6, 3])
def test_confidence_of_attention_by_four_axes(key_heads: int) -> None:
    def split(name: str, heads: int) -> list[str]:
        return [f"{name}h = Reshape({name}, [0, 0, {heads}, 4])", f"{name}t = Transpose{{perm=[0, 2, 1, 3]}}({name}h)"]

    model = graph(
        "q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)",
        *split("q", 6), *split("k", key_heads), *split("v", key_heads), "a = Attention(qt, kt, vt)",
        "t = Transpose{perm=[0, 2, 1, 3]}(a)", "f = Reshape(t, [0, 0, 24])", "y = MatMul(f, wo)",
        inputs=X, wq=weight(16, 24), wk=weight(16, 4 * key_heads), wv=weight(16, 4 * key_heads), wo=weight(24, 16),
    )  # fmt: skip
    assert PruneHeads(ratio=1 / 3, score="confidence").apply(model, calibrated(model)).matches == 1
    left = constant_of(model.graph.initializers["wk"])
    assert left is not None
    assert left.shape == (16, 4 * key_heads * 2 // 3)


def test_a_cache_holds_heads() -> None:
    model = cached()
    before = lines(model)
    outcome = PruneHeads(ratio=0.5).apply(model, Context())
    (miss,) = (finding.miss for finding in outcome.findings)
    assert miss is not None
    assert (miss.rule, miss.need.endswith("prune it as it is without a cache")) == ("held", True)
    assert lines(model) == before


def test_attention_that_was_not_raised_is_told_of() -> None:
    model = graph(
        "q = MatMul(x, w)", "t = Transpose{perm=[0, 2, 1]}(x)", "s = MatMul(q, t)", "p = Softmax{axis=-1}(s)",
        "y = MatMul(p, x)", inputs=X, w=weight(16, 16),
    )  # fmt: skip
    (finding,) = PruneHeads(ratio=0.5).apply(model, Context()).findings
    assert finding.miss is not None
    assert finding.miss.rule == "attention"
