"""What is kept beside the factors, and what the target says of ranks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.base import Candidate, Context, Miss, Pass, Several
from tersor.passes.budget import costs_by_name
from tersor.passes.factorize.factorize_linear import FactorizeLinear
from tersor.tests.passes.corpus_attention import X, normal
from tersor.tests.passes.corpus_factorize import low_rank, low_rank_layers
from tersor.tests.passes.factorize.linear import SPELLINGS, calibrated, error, spelled, told


class TestSpeed:
    """What the target says of ranks."""

    @staticmethod
    def limit(most: int, asked: list[tuple[int, int]] | None = None) -> Context:
        def pays(made: Pass, model: ir.Model, candidate: Candidate) -> Miss | None:
            assert isinstance(made, FactorizeLinear)
            assert isinstance(candidate, Several)
            if asked is not None:
                asked.append((made.rank, len(candidate.nodes)))
            return Miss("speed", f"rank {made.rank}", "a faster one") if (made.rank or 0) > most else None

        return Context(pays=pays)

    def test_no_rank_is_slower_than_the_whole(self) -> None:
        model = low_rank_layers()
        asked: list[tuple[int, int]] = []
        FactorizeLinear(ratio=0.9, multiple=1, smallest=1).apply(model, self.limit(5, asked))
        lefts = [value for name, value in model.graph.initializers.items() if name.endswith("_left")]
        assert lefts
        assert max(value.shape[-1] for value in lefts) <= 5
        assert {count for _, count in asked} == {1, 3}

    def test_a_weight_that_no_rank_makes_faster_stays_and_says_so(self) -> None:
        model = low_rank_layers()
        before = lines(model)
        outcome = FactorizeLinear(ratio=0.5, multiple=1, smallest=1).apply(model, self.limit(0))
        assert lines(model) == before
        assert set(told(outcome).values()) == {"speed: rank 1; needed a faster one"}

    def test_one_of_several_siblings_may_be_the_one_that_is_faster(self) -> None:
        """Together and each but one slower."""

        def pays(made: Pass, model: ir.Model, candidate: Candidate) -> Miss | None:
            fast = candidate.node.outputs[0].name == "v" and len(candidate.nodes) == 1
            return None if fast else Miss("speed", "slow", "a faster one")

        model = low_rank_layers()
        made = FactorizeLinear(ratio=0.8, multiple=1, smallest=1, only=("w[qkv]",))
        found = told(made.apply(model, Context(pays=pays)))
        assert [found[name].split(" ")[0] for name in ("wq", "wk", "wv")] == ["budget:", "budget:", "rank"]

    def test_what_is_split_is_timed_as_it_will_be(self) -> None:
        asked: list[tuple[str, ...]] = []

        def pays(made: Pass, model: ir.Model, candidate: Candidate) -> Miss | None:
            asked.append(tuple(node.op_type for node in candidate.nodes))
            return None

        FactorizeLinear(ratio=0.5, joint="apart", smallest=1, only=("wi",)).apply(low_rank_layers(), Context(pays=pays))
        assert set(asked) == {("MatMul", "Add", "Split")}

    def test_a_rank_that_is_told_is_asked_about_too(self) -> None:
        model = spelled("matmul")
        outcome = FactorizeLinear(rank=4, smallest=1).apply(model, self.limit(3))
        assert told(outcome) == {"w": "speed: rank 4; needed a faster one"}


class TestResiduals:
    def test_a_diagonal_beside_the_factors(self) -> None:
        diagonal = np.linspace(1, 2, 32).astype(np.float32)
        plain = graph(
            "p = MatMul(x, w)", "y = Add(p, b)", inputs=X, w=low_rank(32, 32, 3) + np.diag(diagonal), b=normal(32)
        )
        lost = {}
        for residual in ("none", "diagonal"):
            model = plain.clone()
            FactorizeLinear(rank=3, residual=residual, repair=False, smallest=1).apply(model, Context())
            lost[residual] = error(plain, model)
        assert lost["diagonal"] < 0.2 * lost["none"]
        assert [node.op_type for node in model.graph] == ["MatMul", "MatMul", "Mul", "Add", "Add"]

    @pytest.mark.parametrize("name", SPELLINGS)
    @pytest.mark.parametrize("residual", ["sparse", "quantized"])
    def test_what_is_stored_beside_the_factors_is_added_up(self, name: str, residual: str) -> None:
        plain = spelled(name)
        lost = {}
        for each in ("none", residual):
            model = plain.clone()
            keep = 0.2 if each == "sparse" else None
            made = FactorizeLinear(rank=6, residual=each, keep=keep, repair=False, smallest=1)
            assert made.apply(model, Context()).matches == 1
            lost[each] = error(plain, model)
        assert lost[residual] < 0.8 * lost["none"]

    @pytest.mark.parametrize("residual", ["sparse", "quantized"])
    def test_bytes_are_kept_below(self, residual: str) -> None:
        plain = graph(
            "p = MatMul(x, v)", "r = Relu(p)", "y = MatMul(r, w)", inputs=X, v=normal(32, 64), w=normal(64, 48)
        )
        model = plain.clone()
        FactorizeLinear(ratio=0.6, residual=residual, multiple=1, smallest=1).apply(model, calibrated(model))
        stored = [sum(costs_by_name(each, "bytes").values()) for each in (plain, model)]
        assert 0.3 < stored[1] / stored[0] <= 0.6
