"""Weights as two thinner ones: every spelling, together and apart, within each budget, fitted and faster."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.cost import cost
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, violations
from tersor.ir.runner import runner
from tersor.ir.site import sites
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.drop import Drop
from tersor.passes.factorize.beside import Beside
from tersor.passes.factorize.costs import Counted
from tersor.passes.factorize.factorize_linear import FactorizeLinear
from tersor.passes.factorize.groups import groups
from tersor.passes.factorize.measure import Measure
from tersor.passes.factorize.planning import Planning
from tersor.passes.numerics.low_rank import spectrum
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_attention import X, normal
from tersor.tests.passes.corpus_factorize import low_rank, low_rank_layers
from tersor.tests.passes.factorize.linear import SINGLE, SIZES, SPELLINGS, calibrated, error, numbers, spelled, told
from tersor.tests.support import apply, distance, inside_if


class TestRewrites:
    @pytest.mark.parametrize("name", SPELLINGS)
    @pytest.mark.parametrize("data", [False, True], ids=["no data", "data"])
    def test_full_rank_is_the_identity(self, name: str, data: bool) -> None:
        plain = spelled(name)
        model = plain.clone()
        outcome = FactorizeLinear(rank=20, smallest=1).apply(model, calibrated(model) if data else Context())
        assert outcome.matches == 1
        assert len(sites(model)) == 2
        assert error(plain, model) <= SINGLE

    def test_two_products_stand_for_one(self) -> None:
        model = spelled("bias")
        assert apply(FactorizeLinear(rank=4, smallest=1), model) == [
            "p/MatMul = MatMul(x, w_left)", "p = MatMul(p/MatMul, w_right)", "y = Add(p, b)",
        ]  # fmt: skip

    def test_what_is_of_low_rank_stays_what_it_is(self) -> None:
        plain = low_rank_layers()
        model = plain.clone()
        outcome = FactorizeLinear(energy=1 - 1e-9, multiple=1, smallest=1).apply(model, Context())
        assert told(outcome)["wq"] == "rank 6 of 32, together with wk, wv"
        assert (told(outcome)["wo"], told(outcome)["wd"]) == ("rank 8 of 32", "rank 7 of 32")
        assert error(plain, model) <= SINGLE

    def test_siblings_share_features_where_that_costs_less(self) -> None:
        shared, own = normal(32, 6), normal(32, 18)
        for left, wanted in ((shared, 1), (own, 3)):
            parts = [left[:, :6] if wanted == 1 else left[:, 6 * at : 6 * at + 6] for at in range(3)]
            weights = {f"w{at}": (part @ normal(6 + at, 32)[:6]).astype(np.float32) for at, part in enumerate(parts)}
            text = [f"y{at} = MatMul(x, w{at})" for at in range(3)]
            plain = graph(*text, inputs=X, outputs=["y0", "y1", "y2"], **weights)
            model = plain.clone()
            FactorizeLinear(ratio=0.5, multiple=2, smallest=1).apply(model, calibrated(model))
            assert sum(name.endswith("_left") for name in model.graph.initializers) == wanted
            assert error(plain, model) <= 1e-4

    @pytest.mark.parametrize(("joint", "lefts"), [("together", 1), ("apart", 3)])
    def test_siblings_as_they_are_told(self, joint: str, lefts: int) -> None:
        model = low_rank_layers()
        made = FactorizeLinear(rank=6, joint=joint, smallest=1, only=("w[qkv]",))
        made.apply(model, Context())
        assert sum(name.endswith("_left") for name in model.graph.initializers) == lefts

    def test_a_weight_that_is_split_is_taken_apart_first(self) -> None:
        plain = low_rank_layers()
        model = plain.clone()
        made = FactorizeLinear(energy=1 - 1e-9, multiple=1, joint="apart", smallest=1, only=("wi",))
        assert told(made.apply(model, calibrated(model)))["wi"] == "rank 4 of 32, 9 of 32"
        assert not any(node.op_type == "Split" for node in model.graph)
        assert error(plain, model) <= SINGLE

    def test_parts_of_parts(self) -> None:
        plain = graph(
            "p = MatMul(x, w)", "(a, b) = Split{axis=-1, num_outputs=2}(p)", "q = MatMul(a, v)", "h = Add(q, c)",
            "(d, e) = Split{axis=-1, num_outputs=2}(h)", "y = Concat{axis=-1}(d, e, b)",
            inputs=X, w=normal(32, 48), v=normal(24, 64), c=normal(64),
        )  # fmt: skip
        for context in (Context(), calibrated(plain)):
            model = plain.clone()
            assert FactorizeLinear(rank=24, joint="apart", smallest=1).apply(model, context).matches == 2
            assert not any(node.op_type == "Split" for node in model.graph)
            assert error(plain, model) <= SINGLE

    @pytest.mark.parametrize("joint", ["together", "apart"])
    def test_layers_of_two_branches_share_nothing(self, joint: str) -> None:
        branches = [
            graph(f"y = MatMul(x, {name})", inputs=X, **{name: low_rank(32, 32 + at, 3)[:, :32]})
            for at, name in enumerate("vw")
        ]
        model = inside_if(*branches)
        assert FactorizeLinear(rank=3, joint=joint, smallest=1).apply(model, Context()).matches == 2
        assert violations(model, Level.SEMANTIC) == []
        for case in (True, False):
            feeds = {"x": random_feeds(branches[0], SIZES)["x"], "cond": np.array(case)}
            wanted = runner(branches[1 - case])({"x": feeds["x"]})["y"]
            np.testing.assert_allclose(next(iter(runner(model)(feeds).values())), wanted, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.parametrize("data", [False, True], ids=["no data", "data"])
    def test_types_stay(self, dtype: str, data: bool) -> None:
        kind = np.dtype(np.float16) if dtype == "float16" else np.dtype(ml_dtypes.bfloat16)
        weights = {"w": low_rank(32, 24, 4).astype(kind), "b": normal(24).astype(kind)}
        plain = graph("p = MatMul(x, w)", "y = Add(p, b)", inputs={"x": f"{dtype}[n, 32]"}, **weights)
        model = plain.clone()
        feeds = [{"x": normal(40 + seed, 32).astype(kind)} for seed in range(6)]
        context = Context(calibration=Calibration(feeds)) if data else Context()
        assert FactorizeLinear(rank=4, smallest=1).apply(model, context).matches == 1
        assert {value.dtype.name.lower() for value in model.graph.initializers.values()} == {dtype}
        found, wanted = (runner(each)(feeds[0])["y"].astype(np.float32) for each in (model, plain))
        assert distance([found], [wanted]) < (3e-3 if dtype == "float16" else 3e-2)


class TestBudgets:
    @pytest.mark.parametrize("ratio", [0.9, 0.6, 0.3])
    @pytest.mark.parametrize("scope", ["global", "layer"])
    @pytest.mark.parametrize("algorithm", ["svd", "scaled", "fisher", "whitened", "kronecker"])
    def test_numbers_are_kept_below(self, ratio: float, scope: str, algorithm: str) -> None:
        plain = low_rank_layers()
        model = plain.clone()
        made = FactorizeLinear(ratio=ratio, scope=scope, algorithm=algorithm, multiple=1, smallest=1, probes=8)
        made.apply(model, calibrated(model))
        assert 0.5 * ratio < numbers(model) / numbers(plain) <= ratio

    def test_flops_are_kept_below(self) -> None:
        plain = low_rank_layers()
        model = plain.clone()
        FactorizeLinear(budget="0.5 flops", multiple=1, smallest=1).apply(model, calibrated(model))
        spent = []
        for each in (plain, model):
            nodes = {site.node for site in sites(each)}
            spent.append(sum(one.flops.constant or 0 for one in cost(each, SIZES).nodes if one.node in nodes))
        assert 0.4 < spent[1] / spent[0] <= 0.5

    def test_bytes_are_kept_below(self) -> None:
        plain = low_rank_layers()
        model = plain.clone()
        FactorizeLinear(budget="0.5 bytes", multiple=1, smallest=1).apply(model, calibrated(model))
        floats = [
            [value for value in each.graph.initializers.values() if value.dtype.is_floating_point()]
            for each in (plain, model)
        ]
        stored = [sum(value.const_value.nbytes for value in each) for each in floats]
        assert 0.4 < stored[1] / stored[0] <= 0.5

    def test_ranks_are_those_of_the_least_loss_there_is(self) -> None:
        model = graph(
            "p = MatMul(x, a)", "r = Relu(p)", "(d, e) = Split{axis=-1, num_outputs=2}(r)", "f = MatMul(x, g)",
            "q = MatMul(d, b)", "(h, i) = Split{axis=-1, num_outputs=2}(q)", "y = Concat{axis=-1}(h, i, e, f)",
            inputs=X, a=normal(32, 24), b=normal(12, 40), g=normal(32, 8),
        )  # fmt: skip
        made = FactorizeLinear(ratio=0.6, multiple=4, smallest=1)
        every = groups(sites(model))
        measure = Measure.of(model, every, "auto", calibrated(model), drop="cosine", probes=16, compared=True)
        costs = Counted.of_model(model, every, (), "weights", Beside())
        planning = Planning(made, model, Context(), measure, made.limit(), costs)
        lists = [planning.ways(group) for group in every]
        room = 0.6 * sum(group.numbers for group in every)
        able = [ways for ways in product(*lists) if sum(way.cost for way in ways) <= room]
        least = min(sum(way.loss for way in ways) for ways in able)
        assert sum(way.loss for _, way in planning.run(every).taken) == pytest.approx(least)

    @pytest.mark.parametrize("residual", ["none", "diagonal", "sparse", "quantized"])
    def test_a_second_run_takes_nothing_more(self, residual: str) -> None:
        for budget in ("", "0.6 bytes", *(["0.6 flops"] if residual in ("none", "diagonal") else [])):
            model = low_rank_layers()
            context = calibrated(model)
            made = FactorizeLinear(budget=budget, residual=residual, multiple=1, smallest=1)
            made.apply(model, context)
            once = lines(model)
            outcome = made.apply(model, context)
            assert lines(model) == once
            assert outcome.matches == 0

    def test_a_latency_is_kept_by_what_was_timed(self) -> None:
        plain = low_rank_layers()
        model = plain.clone()
        asked: list[int] = []

        def latency(part: ir.Model, feeds: Mapping[str, np.ndarray]) -> float:
            asked.append(numbers(part))
            return 1e-6 * numbers(part)

        made = FactorizeLinear(budget="0.5 latency", multiple=1, smallest=1)
        made.explain(model, calibrated(model, latency=latency))
        assert lines(model) == lines(plain)
        made.apply(model, calibrated(model, latency=latency))
        # three siblings whole, one of them, and a half of what is split
        assert {3 * 32 * 32, 32 * 32, 32 * 48} <= set(asked)
        # three siblings through one feature, together and one apart
        assert {32 + 3 * 32, 2 * 32} <= set(asked)
        assert 0.4 < numbers(model) / numbers(plain) <= 0.5
        again = model.clone()
        assert made.apply(again, calibrated(model, latency=latency)).matches == 0

    def test_a_latency_needs_a_target_and_data(self) -> None:
        model = low_rank_layers()
        with pytest.raises(OptionError, match="budget of latency is one of a target"):
            FactorizeLinear(budget="0.5 latency", smallest=1).apply(model, calibrated(model))

    def test_a_budget_that_cannot_be_kept_is_refused(self) -> None:
        model = low_rank_layers()
        with pytest.raises(OptionError, match=r"cannot be kept: going as far as the options allow leaves 0\.\d+ of it"):
            FactorizeLinear(ratio=0.01, smallest=1).apply(model, Context())

    def test_energy_is_kept(self) -> None:
        model = spelled("matmul")
        weight = SPELLINGS["matmul"][1]["w"]
        FactorizeLinear(energy=0.7, multiple=1, smallest=1).apply(model, Context())
        (left, right) = (model.graph.initializers[f"w_{end}"].const_value.numpy() for end in ("left", "right"))
        kept = [1 - np.sum((weight - left[:, :rank] @ right[:rank]) ** 2) / np.sum(weight**2) for rank in range(20)]
        rank = left.shape[1]
        assert kept[rank - 1] < 0.7 <= 1 - np.sum((weight - left @ right) ** 2) / np.sum(weight**2)


class TestLeavesAlone:
    def test_factors(self) -> None:
        model = spelled("bias")
        made = FactorizeLinear(rank=4, smallest=1)
        made.apply(model, Context())
        assert set(told(made.apply(model, Context())).values()) == {
            f"factored: {name}; needed a weight that is no factor already" for name in ("w_left", "w_right")
        }

    def test_a_layer_that_cannot_keep_its_share(self) -> None:
        model = graph(
            "p = MatMul(x, w)", "y = MatMul(p, v)", inputs=X, outputs=["p", "y"], w=normal(32, 64), v=normal(64, 3)
        )
        outcome = FactorizeLinear(scope="layer", ratio=0.3, multiple=1, smallest=1).apply(model, Context())
        assert told(outcome)["v"] == "ratio: 0.349 at the least rank; needed at most 0.3"
        assert told(outcome)["w"].startswith("rank ")

    def test_flops_that_only_one_of_two_branches_costs(self) -> None:
        branches = [
            graph("y = MatMul(x, v)", inputs=X, v=normal(32, 32)),
            graph("p = MatMul(x, w)", "y = MatMul(p, u)", inputs=X, w=normal(32, 64), u=normal(64, 32)),
        ]
        model = inside_if(*branches)
        outcome = FactorizeLinear(budget="0.6 flops", multiple=1, smallest=1).apply(model, Context())
        assert told(outcome)["v"].startswith("cost: none is counted")

    @pytest.mark.parametrize(
        ("text", "weights", "said"),
        [
            (["p = MatMul(x, w)", "q = Relu(p)", "y = MatMul(q, w)"], {"w": normal(32, 32)}, "tied: "),
            (["y = MatMul(x, w)"], {"w": normal(32, 1)}, "size: full rank 1"),
            (["y = MatMul(x, w)"], {"w": np.where(normal(32, 20) > 0.4, np.nan, 1).astype(np.float32)}, "finite: "),
            (["t = Transpose{perm=[0, 2, 1]}(x)", "y = Conv{group=2}(t, w)"], {"w": normal(32, 16, 1)}, "kind: conv"),
        ],
        ids=["tied", "narrow", "not finite", "groups"],
    )
    def test_what_has_no_ranks(self, text: list[str], weights: Mapping[str, np.ndarray], said: str) -> None:
        model = graph(*text, inputs=X, **weights)
        before = lines(model)
        outcome = FactorizeLinear(smallest=1).apply(model, Context())
        assert lines(model) == before
        assert all(str(finding.miss).startswith(said) for finding in outcome.findings)

    def test_a_rank_above_the_full_one(self) -> None:
        outcome = FactorizeLinear(rank=21, smallest=1).apply(spelled("matmul"), Context())
        assert told(outcome) == {"w": "rank: 21; needed a rank of at most 20, the full one"}

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"ratio": 0}, "ratio above 0"),
            ({"ratio": 1.5}, "ratio above 0"),
            ({"rank": 0}, "rank of at least 1"),
            ({"energy": 0}, "energy above 0"),
            ({"rank": 4, "budget": "0.5 flops"}, "one of ratio, budget, rank and energy"),
            ({"rank": 4, "scope": "layer"}, "scope=layer is of a ratio"),
            ({"budget": "half"}, "expected a budget such as"),
            ({"multiple": 0}, "multiple and probes"),
            ({"residual": "sparse", "keep": 0}, "keep a share"),
            ({"keep": 0.1}, "keep is of residual=sparse"),
            ({"residual": "quantized", "bits": 1}, "2 to 8 bits"),
            ({"residual": "sparse", "budget": "0.5 flops"}, "saves bytes alone"),
        ],
    )
    def test_options_that_mean_nothing(self, options: dict[str, object], said: str) -> None:
        with pytest.raises(OptionError, match=said):
            FactorizeLinear(**options)

    @pytest.mark.parametrize("algorithm", ["scaled", "fisher", "whitened", "kronecker"])
    def test_algorithms_that_need_data_say_so(self, algorithm: str) -> None:
        with pytest.raises(OptionError, match="calibration data are needed"):
            FactorizeLinear(algorithm=algorithm, smallest=1).apply(low_rank_layers(), Context())

    def test_explain_tells_the_ranks_and_leaves_the_model(self) -> None:
        model = low_rank_layers()
        before = lines(model)
        made = FactorizeLinear(ratio=0.5, multiple=1, smallest=1)
        found = made.explain(model, calibrated(model))
        assert lines(model) == before
        assert told(found) == told(made.apply(model, calibrated(model)))


class TestNumbers:
    def test_whitened_factors_are_those_of_the_inputs(self) -> None:
        model = spelled("matmul")
        context = calibrated(model)
        FactorizeLinear(algorithm="whitened", rank=5, repair=False, smallest=1).apply(model, context)
        rows = np.concatenate([feeds["x"].reshape(-1, 32) for feeds in context.calibration.batches]).astype(np.float64)
        wanted = spectrum(SPELLINGS["matmul"][1]["w"], inputs=rows.T @ rows, damping=1e-3).factors(5).dense()
        left, right = (model.graph.initializers[f"w_{end}"].const_value.numpy() for end in ("left", "right"))
        np.testing.assert_allclose(left @ right, wanted, rtol=0, atol=1e-5)

    def test_fitting_to_the_stream_gives_back_some_of_it(self) -> None:
        rng = np.random.default_rng(3)
        text, weights = [], {}
        for at in range(4):
            text += [f"p{at} = MatMul(h{at}, w{at})", f"b{at} = Add(p{at}, c{at})", f"r{at} = Gelu(b{at})",
                     f"h{at + 1} = Add(r{at}, h{at})"]  # fmt: skip
            weights |= {f"w{at}": rng.standard_normal((32, 32)).astype(np.float32) / 5, f"c{at}": normal(32)}
        plain = graph("h0 = Identity(x)", *text, "y = Identity(h4)", inputs=X, **weights)
        lost = {}
        for repair in (False, True):
            model = plain.clone()
            FactorizeLinear(rank=12, repair=repair, smallest=1).apply(model, calibrated(model))
            lost[repair] = error(plain, model)
        assert lost[True] < 0.95 * lost[False]

    def test_the_drop_that_is_predicted_is_the_one_there_is(self) -> None:
        rng = np.random.default_rng(5)
        model = graph(
            "p = MatMul(x, a)", "r = Gelu(p)", "y = MatMul(r, b)", inputs=X,
            a=rng.standard_normal((32, 48)).astype(np.float32) / 6, b=rng.standard_normal((48, 24)).astype(np.float32),
        )  # fmt: skip
        context = calibrated(model)
        cut = model.clone()
        outcome = FactorizeLinear(ratio=0.75, multiple=1, probes=64, repair=False, smallest=1).apply(cut, context)
        assert outcome.curve is not None
        drop, total, rows = Drop.of(model, "cosine"), 0.0, 0
        for feeds in context.calibration.batches:
            lost, count = drop.measure(runner(model)(feeds), runner(cut)(feeds), feeds)
            total, rows = total + lost, rows + count
        assert outcome.curve.chosen[1] == pytest.approx(total / rows, rel=0.5)

    def test_an_input_that_is_the_same_everywhere(self) -> None:
        plain = graph("p = MatMul(x, w)", "y = Add(p, b)", inputs=X, w=normal(32, 24), b=normal(24))
        feeds = [random_feeds(plain, {"batch": 16, "sequence": 50}, seed=seed) for seed in range(4)]
        for batch in feeds:
            batch["x"][..., ::3] = np.float32(0.1)
        model = plain.clone()
        assert FactorizeLinear(rank=20, smallest=1).apply(model, Context(calibration=Calibration(feeds))).matches == 1
        found, wanted = (runner(each)(feeds[0])["y"] for each in (model, plain))
        assert distance([found], [wanted]) < 0.2

    def test_biases_make_up_for_the_mean(self) -> None:
        plain = graph("p = MatMul(x, w)", "y = Add(p, b)", inputs=X, w=normal(32, 24), b=normal(24))
        feeds = [{"x": random_feeds(plain, SIZES, seed=seed)["x"] + 3} for seed in range(4)]
        model = plain.clone()
        FactorizeLinear(rank=4, smallest=1).apply(model, Context(calibration=Calibration(feeds)))
        means = [np.mean([runner(each)(one)["y"].mean((0, 1)) for one in feeds], 0) for each in (plain, model)]
        np.testing.assert_allclose(means[1], means[0], rtol=0, atol=1e-4)
