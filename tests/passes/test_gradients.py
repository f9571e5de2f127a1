"""Probes of the outputs against the exact second derivative of the drop, which torch computes in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.drop import Drop, Form
from tersor.passes.gradients import probes, reached

RNG = np.random.default_rng(2)
W, V = RNG.standard_normal((3, 4)), RNG.standard_normal((4, 3))
ROWS = [RNG.standard_normal((2, 3)).astype(np.float32) for _ in range(2)]
DRAWS = 1500


def _model() -> ir.Model:
    return graph(
        "h = MatMul(x, w)", "t = Tanh(h)", "y = MatMul(t, v)",
        inputs={"x": "float[batch, 3]"}, w=W.astype(np.float32), v=V.astype(np.float32),
    )  # fmt: skip


def _hessian(form: Form) -> np.ndarray:
    """Of the mean drop over all rows, by the weights of both layers in a line, at the original."""
    rows = torch.from_numpy(np.concatenate(ROWS).astype(np.float64))

    def answers(flat: torch.Tensor) -> torch.Tensor:
        return torch.tanh(rows @ flat[:12].reshape(3, 4)) @ flat[12:].reshape(4, 3)

    start = torch.from_numpy(np.concatenate([W.astype(np.float32), V.astype(np.float32)], axis=None).astype(np.float64))
    original = answers(start).detach()

    def drop(flat: torch.Tensor) -> torch.Tensor:
        now = answers(flat)
        if form == "cosine":
            return (1 - torch.cosine_similarity(original, now)).mean()
        logs = torch.log_softmax(original, -1), torch.log_softmax(now, -1)
        return (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()

    exact: Callable[..., torch.Tensor] = torch.autograd.functional.hessian
    return exact(drop, start).numpy()


@pytest.mark.parametrize("form", ["cosine", "kl"])
def test_products_of_probes_are_the_second_derivative_on_average(form: Form) -> None:
    model, exact = _model(), _hessian(form)
    weights = [model.graph.initializers[name] for name in ("w", "v")]
    total, rows = np.zeros_like(exact), 0
    for probe in probes(model, weights, [{"x": batch} for batch in ROWS], Drop.of(model, form), count=DRAWS):
        flat = np.concatenate([probe.gradients[weight].reshape(-1) for weight in weights]).astype(np.float64)
        total += np.outer(flat, flat)
        rows += probe.rows
    assert rows == 2 * DRAWS * 2
    # entries of one draw spread by about the largest of them; five deviations of their mean
    spread = 5 * np.abs(exact).max() * 3 / np.sqrt(DRAWS)
    np.testing.assert_allclose(total / rows, exact, rtol=0, atol=spread)
    assert np.trace(total / rows) == pytest.approx(np.trace(exact), rel=5 * 2 / np.sqrt(DRAWS))


def test_the_same_seed_draws_the_same() -> None:
    model = _model()
    weights = [model.graph.initializers["w"]]
    feeds, drop = [{"x": ROWS[0]}], Drop.of(model)
    first, again, other = (
        next(probes(model, weights, feeds, drop, seed=seed)).gradients[weights[0]] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_weights_that_no_output_depends_on_have_gradients_of_zeros() -> None:
    model = graph(
        "y = MatMul(x, w)", "z = MatMul(x, v)", "n = ArgMax(z)",
        inputs={"x": "float[batch, 3]"}, outputs=["y", "n"], w=W.astype(np.float32), v=W.astype(np.float32),
    )  # fmt: skip
    weights = [model.graph.initializers[name] for name in ("w", "v")]
    (probe,) = probes(model, weights, [{"x": ROWS[0]}], Drop.of(model))
    assert probe.gradients[weights[0]].any()
    assert not probe.gradients[weights[1]].any()
    assert probe.gradients[weights[1]].shape == (3, 4)


def test_rows_of_outputs_that_the_weights_do_not_move_count() -> None:
    model = graph(
        "y = MatMul(x, w)", "z = MatMul(x, v)", "n = ReduceSum(z, a)",
        inputs={"x": "float[batch, 3]"}, outputs=["y", "z", "n"],
        w=W.astype(np.float32), v=W.astype(np.float32), a=np.array([1]),
    )  # fmt: skip
    feeds, drop = {"x": ROWS[0]}, Drop.of(model)
    (probe,) = probes(model, [model.graph.initializers["w"]], [feeds], drop)
    answers = runner(model)(feeds)
    # two of either matrix, and all of an output with one feature
    assert probe.rows == drop.measure(answers, answers, feeds)[1] == 5


def test_a_weight_that_two_layers_read_is_pulled_at_by_both() -> None:
    square = RNG.standard_normal((3, 3)).astype(np.float32)
    lines, inputs = ("h = MatMul(x, {})", "t = Tanh(h)", "y = MatMul(t, {})"), {"x": "float[batch, 3]"}

    def drawn(*names: str) -> list[np.ndarray]:
        taken = iter(names)
        text = [line.format(next(taken)) if "{}" in line else line for line in lines]
        model = graph(*text, inputs=inputs, **dict.fromkeys(names, square))
        weights = [model.graph.initializers[name] for name in dict.fromkeys(names)]
        (probe,) = probes(model, weights, [{"x": ROWS[0]}], Drop.of(model))
        return [probe.gradients[weight] for weight in weights]

    (shared,), apart = drawn("w", "w"), drawn("w", "v")
    assert apart[0].any() and apart[1].any()
    np.testing.assert_allclose(shared, apart[0] + apart[1], rtol=1e-5)


def test_padding_pulls_at_nothing() -> None:
    model = graph(
        "t = Gather(table, ids)", "far = Cast{to=1}(mask)", "less = Sub(one, far)", "open = Unsqueeze(less, axes)",
        "s = Add(t, open)", "y = MatMul(s, w)",
        inputs={"ids": "int64[batch, sequence]", "mask": "int64[batch, sequence]"},
        table=RNG.standard_normal((9, 3)).astype(np.float32), w=W.astype(np.float32), one=1.0, axes=np.array([2]),
    )  # fmt: skip
    table = model.graph.initializers["table"]
    feeds = {"ids": np.array([[4, 5, 6]]), "mask": np.array([[1, 1, 0]])}
    (probe,) = probes(model, [table], [feeds], Drop.of(model))
    assert probe.rows == 2
    assert np.flatnonzero(probe.gradients[table].any(1)).tolist() == [4, 5]


def test_gradients_that_are_not_finite_are_an_error() -> None:
    model = graph(
        "r = Sqrt(x)",
        "h = MatMul(r, w)",
        "y = Sqrt(h)",
        inputs={"x": "float[batch, 3]"},
        w=np.zeros((3, 4), np.float32),
    )
    with pytest.raises(ModelError, match="gradient of the outputs by 'w' is not finite"):
        list(probes(model, [model.graph.initializers["w"]], [{"x": np.ones((1, 3), np.float32)}], Drop.of(model, "kl")))


def test_weights_of_the_main_graph_are_reached() -> None:
    model = _model()
    weights = [model.graph.initializers["w"], ir.Value(name="w")]
    assert reached(model, weights) == {weights[0]}
    strange = graph("y = com.microsoft.QuickGelu(x)", inputs={"x": "float[2]"})
    assert reached(strange, []) == set()
