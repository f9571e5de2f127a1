"""LaCo's equation on blocks whose nodes are in any order: W_l + sum of (W_(l + k) - W_l)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.block import Block
from tersor.ir.constants import constant_of
from tersor.ir.text import graph
from tersor.passes.prune.collapse import collapse, twins
from tersor.tests.passes.corpus_attention import X, normal
from tersor.tests.support import ROUNDED

#: What rounding to float32 leaves of sums of a few weights below 8.
CLOSE = 8 * ROUNDED[np.float32]


def block(model: ir.Model, index: int, start: str, end: str, nodes: range) -> Block:
    named = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs) if value is not None}
    return Block(index, 0, tuple(list(model.graph)[nodes.start : nodes.stop]), named[start], named[end], "")


def chain(*bodies: str, count: int = 3) -> tuple[ir.Model, dict[int, Block]]:
    """Blocks of two nodes each: a product with w and a sum, the others as `bodies` spell them."""
    spelled = [bodies[at] if at < len(bodies) else bodies[-1] for at in range(count)]
    text: list[str] = []
    stream = "x"
    for at, body in enumerate(spelled):
        text += [line.format(at=at, x=stream) for line in body.split("; ")]
        stream = f"s{at}"
    weights = {f"w{at}": normal(32, 32 + at)[:, :32] for at in range(count)}
    biases = {f"b{at}": normal(2, 32)[at % 2] + at for at in range(count)}
    model = graph(*text, f"y = Identity(s{count - 1})", inputs=X, **weights, **biases)
    ends = ["x", *(f"s{at}" for at in range(count))]
    each = [len(body.split("; ")) for body in spelled]
    at = [sum(each[:number]) for number in range(count)]
    made = {
        number: block(model, number, ends[number], ends[number + 1], range(at[number], at[number] + each[number]))
        for number in range(count)
    }
    return model, made


PLAIN = "p{at} = MatMul({x}, w{at}); q{at} = Add(p{at}, b{at}); s{at} = Add({x}, q{at})"
TURNED = "p{at} = MatMul({x}, w{at}); q{at} = Add(b{at}, p{at}); s{at} = Add(q{at}, {x})"


def held(model: ir.Model, name: str) -> np.ndarray:
    found = constant_of(model.graph.initializers[name])
    assert found is not None
    return found.astype(np.float64)


@pytest.mark.parametrize("bodies", [(PLAIN,), (PLAIN, TURNED), (TURNED, PLAIN, TURNED)])
@pytest.mark.parametrize("gone", [(1,), (2,), (1, 2)])
def test_what_goes_is_added_as_the_equation_says(bodies: tuple[str, ...], gone: tuple[int, ...]) -> None:
    model, known = chain(*bodies)
    base = {1: 0, 2: 0 if 1 in gone else 1}
    wanted = {f"{kind}{at}": held(model, f"{kind}{at}") for kind in "wb" for at in range(3)}
    for number in gone:
        for kind in "wb":
            first = held(model, f"{kind}{base[number]}")
            wanted[f"{kind}{base[number]}"] = wanted[f"{kind}{base[number]}"] + held(model, f"{kind}{number}") - first
    assert collapse(known, [0, 1, 2], gone) == dict.fromkeys(gone, True)
    for name, array in wanted.items():
        np.testing.assert_allclose(held(model, name), array, rtol=0, atol=CLOSE, err_msg=name)


def test_what_goes_before_the_first_that_stays_is_added_to_none() -> None:
    model, known = chain(PLAIN)
    before = held(model, "w1")
    assert collapse(known, [0, 1, 2], [0]) == {0: False}
    np.testing.assert_array_equal(held(model, "w1"), before)


@pytest.mark.parametrize(
    "other",
    [
        "p{at} = MatMul({x}, w{at}); q{at} = Sub(p{at}, b{at}); s{at} = Add({x}, q{at})",
        "p{at} = MatMul({x}, w{at}); q{at} = Add(p{at}, p{at}); s{at} = Add({x}, q{at})",
        "p{at} = Gelu({x}); q{at} = Add(p{at}, b{at}); s{at} = Add({x}, q{at})",
        "p{at} = MatMul({x}, {x}); q{at} = Add(p{at}, b{at}); s{at} = Add({x}, q{at})",
    ],
)
def test_blocks_that_compute_something_else_are_no_twins(other: str) -> None:
    model, known = chain(PLAIN, other, count=2)
    before = held(model, "w0")
    assert twins(known[0], known[1]) is None
    assert collapse(known, [0, 1], [1]) == {1: False}
    np.testing.assert_array_equal(held(model, "w0"), before)


def test_twins_are_found_through_sums_that_are_turned() -> None:
    _, known = chain(PLAIN, TURNED, count=2)
    pairs = twins(known[0], known[1])
    assert pairs is not None
    names = {(mine[0].inputs[mine[1]].name, theirs[0].inputs[theirs[1]].name) for mine, theirs in pairs.items()}  # type: ignore[union-attr]
    assert names == {("w0", "w1"), ("b0", "b1")}
