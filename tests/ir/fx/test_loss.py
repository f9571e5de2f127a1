from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.loss import nll_loss, softmax_cross_entropy_loss
from tersor.ir.text import graph
from torch.nn import functional

Check = Callable[..., dict[str, np.ndarray]]
RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((3, 5, 2)).astype(np.float32)
LABELS = RNG.integers(0, 5, (3, 2))
WEIGHTS = RNG.random(5).astype(np.float32)


@pytest.mark.parametrize("opset", [12, 13, 22])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [None, 1, -7])
def test_likelihood_as_torch_has_it(opset: int, reduction: str, weighted: bool, ignored: int | None) -> None:
    labels = np.where(LABELS == 1, ignored, LABELS) if ignored is not None else LABELS
    attributes = f"reduction='{reduction}'" + (f", ignore_index={ignored}" if ignored is not None else "")
    line = f"y = NegativeLogLikelihoodLoss{{{attributes}}}(x, t{', w' if weighted else ''})"
    inputs = {"x": "float[3, 5, 2]", "t": "int64[3, 2]", **({"w": "float[5]"} if weighted else {})}
    feeds = {"x": SCORES, "t": labels, **({"w": WEIGHTS} if weighted else {})}
    found = Interpreter(to_fx(graph(line, inputs=inputs, opset=opset))).run(feeds)["y"]
    wanted = functional.nll_loss(
        torch.from_numpy(SCORES),
        torch.from_numpy(labels),
        torch.from_numpy(WEIGHTS) if weighted else None,
        reduction=reduction,
        ignore_index=-100 if ignored is None else ignored,
    )
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)


@pytest.mark.parametrize("attributes", ["", "{reduction='none'}", "{reduction='sum', ignore_index=2}"])
def test_cross_entropy_with_log_probabilities(check: Check, attributes: str) -> None:
    feeds = {"x": SCORES, "t": LABELS.astype(np.int32), "w": WEIGHTS}
    line = f"(y, p) = SoftmaxCrossEntropyLoss{attributes}(x, t, w)"
    found = check(line, x="float[3, 5, 2]", t="int32[3, 2]", w="float[5]", opset=13, feeds=feeds)
    np.testing.assert_allclose(np.exp(found["p"]).sum(1), 1, rtol=1e-5)


def test_an_unknown_reduction_is_refused() -> None:
    line = "y = NegativeLogLikelihoodLoss{reduction='median'}(x, t)"
    with pytest.raises(ModelError, match="reduction is 'median'; expected one of mean, none, sum"):
        to_fx(graph(line, inputs={"x": "float[2, 3]", "t": "int64[2]"}))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_gradients(reduction: str) -> None:
    x = torch.from_numpy(SCORES).double().requires_grad_()
    weight = torch.from_numpy(WEIGHTS).double().requires_grad_()
    labels = torch.from_numpy(LABELS)

    def likelihood(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return nll_loss(x, labels, w, ignore_index=2, reduction=reduction)

    def entropy(x: torch.Tensor, w: torch.Tensor) -> object:
        return softmax_cross_entropy_loss(x, labels, w, reduction=reduction, outputs=2)

    assert torch.autograd.gradcheck(likelihood, (x, weight))
    assert torch.autograd.gradcheck(entropy, (x, weight))


def test_an_ignored_label_has_no_gradient_even_at_minus_infinity() -> None:
    x = torch.tensor([[-torch.inf, 0.0], [-1.0, -0.5]], requires_grad=True)
    nll_loss(x, torch.tensor([0, 1]), ignore_index=0).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0], [0, -1]]


def test_export_keeps_the_batch_open() -> None:
    line = "(y, p) = SoftmaxCrossEntropyLoss{ignore_index=-1}(x, t, w)"
    module = to_fx(graph(line, inputs={"x": "float[b, 5]", "t": "int64[b]", "w": "float[5]"}))
    batch = torch.export.Dim("b", min=1)
    given = (torch.randn(4, 5), torch.tensor([0, 1, -1, 4]), torch.rand(5))
    program = torch.export.export(module, given, dynamic_shapes=({0: batch}, {0: batch}, None))
    loss, probabilities = program.module()(torch.randn(9, 5), torch.zeros(9, dtype=torch.int64), torch.rand(5))
    assert loss.shape == ()
    assert probabilities.shape == (9, 5)
