"""What is asked of passes can be said, and weights of others are put where ours were."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.benchmarks.sparse_quality import CHOICE, OURS, PATTERNS, SIZES, Task, _put
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.pipeline import Pipeline


@pytest.mark.parametrize("label", PATTERNS)
@pytest.mark.parametrize("name", [name for name, text in OURS.items() if "scope" not in text])
def test_every_row_is_a_pass(name: str, label: str) -> None:
    text = OURS[name].replace("SHARE", PATTERNS[label][0]).replace("CHOICE", CHOICE)
    (made,) = Pipeline.of(text).steps
    assert made.options()["only"] == ("block:*",)


@pytest.mark.parametrize("text", [text for text in SIZES.values() if text])
def test_every_size_is_a_pass(text: str) -> None:
    assert Pipeline.of(text.replace("OPTIONS", "embeddings=true")).steps


@pytest.mark.parametrize("line", ["y = MatMul(x, w)", "y = Gemm{transB=1}(x, w)"])
def test_a_weight_is_put_as_it_is_stored(line: str) -> None:
    rng = np.random.default_rng(0)
    model = graph(line, inputs={"x": "float[n, 8]"}, w=rng.standard_normal((8, 8)).astype(np.float32))
    (site,) = sites(model)
    wanted = rng.standard_normal((8, 8)).astype(np.float32)
    _put(site, wanted)
    np.testing.assert_array_equal(next(iter(sites(model))).dense(), wanted)


def test_the_divergence_of_a_run_from_itself_is_zero() -> None:
    task = Task("BabyLlama", graph("y = Neg(x)", inputs={"x": "float[n]"}), [], [])
    logits = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    odds = task.end(logits, {})
    assert odds.shape == (6, 5)
    np.testing.assert_allclose(np.exp(odds).sum(-1), 1)
    assert task.distance(odds, odds) == 0
    assert task.distance(odds, odds[::-1]) > 0
