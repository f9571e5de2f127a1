"""Layers that share weights: in groups, after neurons and heads are put in one order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.block import blocks
from tersor.ir.compare import compare
from tersor.ir.constants import constant_of
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, Signature, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context, Outcome
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.report import Size
from tersor.passes.share.grouping import by_output
from tersor.passes.share.share_layers import ShareLayers
from tersor.passes.share.stacks import stacks
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_share import equal_layers, layer, layers, similar_layers
from tersor.tests.support import ROUNDED, holds, misses


def data(model: ir.Model, count: int = 3) -> Context:
    return Context(calibration=Calibration([random_feeds(model, seed=seed) for seed in range(count)]))


def share(made: ShareLayers, model: ir.Model, context: Context | None = None) -> Outcome:
    signature = Signature.of(model)
    outcome = made.apply(model, context or Context())
    assert violations(model, made.level, signature=signature) == []
    return outcome


def weights(model: ir.Model, name: str) -> list[str]:
    """What each block reads as its weight of that name."""
    reads = {"wq": "q", "up": "p", "ub": "h", "g": "n", "down": "d", "wo": "o", "db": "e"}[name]
    node = {value.name: node for node in model.graph for value in node.outputs}
    found = [node[f"{reads}{at}"].inputs[1] for at in range(len(blocks(model)))]
    return [value.name or "" for value in found if value is not None]


def error(one: ir.Model, other: ir.Model) -> float:
    return compare(one, other, random_feeds(one, seed=9)).worst.relative_l2


def two_stacks() -> ir.Model:
    """Three blocks that end in Relu, and three that end in Tanh, as an encoder and a decoder."""
    text, found, stream = list[str](), dict[str, np.ndarray](), "x"
    rng = np.random.default_rng(0)
    for at in range(6):
        text += [
            f"n{at} = LayerNormalization{{axis=-1}}({stream}, g{at}, b{at})", f"p{at} = MatMul(n{at}, u{at})",
            f"h{at} = Add(p{at}, c{at})", f"r{at} = {'Relu' if at < 3 else 'Tanh'}(h{at})",
            f"d{at} = MatMul(r{at}, v{at})", f"e{at} = Add(d{at}, f{at})", f"s{at} = Add({stream}, e{at})",
        ]  # fmt: skip
        stream = f"s{at}"
        found |= {f"u{at}": rng.standard_normal((32, 48)) / 6, f"v{at}": rng.standard_normal((48, 32)) / 6}
        found |= {f"{name}{at}": rng.standard_normal(size) for name, size in (("b", 32), ("c", 48), ("f", 32))}
        found |= {f"g{at}": np.ones(32)}
    return graph(
        *text, f"y = Identity({stream})", inputs={"x": "float[batch, sequence, 32]"},
        **{name: array.astype(np.float32) for name, array in found.items()},
    )  # fmt: skip


def weights_of(model: ir.Model) -> list[str]:
    """The matrices that products read."""
    return [node.inputs[1].name or "" for node in model.graph if node.op_type == "MatMul" and node.inputs[1]]


class TestRewrites:
    def test_all_share_one(self) -> None:
        model = similar_layers()
        before = Size.of(model).bytes
        outcome = share(ShareLayers(keep="none"), model)
        assert outcome.matches == 3
        assert weights(model, "wq") == ["wq0"] * 3
        assert weights(model, "g") == ["g0"] * 3
        assert Size.of(model).bytes == before / 3

    def test_groups_of_neighbours(self) -> None:
        model = layers(*(layer(at, noise=0.1) for at in range(4)))
        share(ShareLayers(groups=2), model)
        assert weights(model, "up") == ["up0", "up0", "up2", "up2"]

    @pytest.mark.parametrize(
        ("what", "shared", "own"), [("attention", ("wq", "wo"), ("up", "down")), ("ffn", ("up", "down"), ("wq", "wo"))]
    )
    def test_one_part(self, what: str, shared: tuple[str, ...], own: tuple[str, ...]) -> None:
        model = similar_layers()
        share(ShareLayers(what=what, keep="none"), model)  # type: ignore[arg-type]
        assert all(len(set(weights(model, name))) == 1 for name in shared)
        assert all(len(set(weights(model, name))) == 3 for name in own)

    def test_one_part_after_the_other_is_all(self) -> None:
        parts, whole = similar_layers(), similar_layers()
        share(ShareLayers(what="ffn"), parts)
        share(ShareLayers(what="attention"), parts)
        share(ShareLayers(), whole)
        assert Size.of(parts).bytes == Size.of(whole).bytes

    @pytest.mark.parametrize(
        ("keep", "own"), [("vectors", {"g", "ub"}), ("norms", {"g"}), ("biases", {"ub"}), ("none", set())]
    )
    def test_what_layers_keep(self, keep: str, own: set[str]) -> None:
        model = similar_layers()
        share(ShareLayers(keep=keep), model)  # type: ignore[arg-type]
        assert {name for name in ("g", "ub", "up") if len(set(weights(model, name))) == 3} == own

    def test_the_mean_and_the_first(self) -> None:
        found = [layer(at, noise=0.1) for at in range(2)]
        for merge, expected in (("mean", (found[0]["up"] + found[1]["up"]) / 2), ("first", found[0]["up"])):
            model = layers(*found)
            share(ShareLayers(merge=merge, align=False), model)  # type: ignore[arg-type]
            array = constant_of(model.graph.initializers["up0"])
            assert array == pytest.approx(expected, rel=ROUNDED[np.float32])

    def test_neurons_and_heads_in_one_order(self) -> None:
        """Blocks that are one another's permutation become one, and answer as before."""
        model = layers(*(layer(at, turned=True) for at in range(3)))
        before = model.clone()
        outcome = share(ShareLayers(keep="none"), model)
        assert Size.of(model).bytes == Size.of(before).bytes / 3
        assert error(before, model) < ROUNDED[np.float32]
        told = [finding.chosen for finding in outcome.findings]
        assert any("heads moved" in each and "neurons moved" in each for each in told)

    def test_alignment_helps(self) -> None:
        losses = []
        for align in (True, False):
            model = similar_layers()
            share(ShareLayers(align=align), model)
            losses.append(error(similar_layers(), model))
        assert losses[0] < losses[1] / 3

    def test_queries_go_with_the_head_of_keys_that_they_share(self) -> None:
        rng = np.random.default_rng(0)
        block = {
            "q": rng.standard_normal((32, 32)),
            "k": rng.standard_normal((32, 16)),
            "v": rng.standard_normal((32, 16)),
        }
        out = rng.standard_normal((32, 32))
        text, found, stream = list[str](), dict[str, np.ndarray](), "x"
        for at in range(2):
            # key head 0 has queries 0 and 1, key head 1 has queries 2 and 3
            wide, narrow = np.roll(np.arange(32), 16 * at), np.roll(np.arange(16), 8 * at)
            found |= {
                f"q{at}w": block["q"][:, wide],
                f"k{at}w": block["k"][:, narrow],
                f"v{at}w": block["v"][:, narrow],
            }
            found |= {f"o{at}w": 0.1 * out[wide]}
            text += [f"{name}{at} = MatMul({stream}, {name}{at}w)" for name in "qkv"]
            text += [f"a{at} = Attention{{q_num_heads=4, kv_num_heads=2}}(q{at}, k{at}, v{at})"]
            text += [f"o{at} = MatMul(a{at}, o{at}w)", f"s{at} = Add({stream}, o{at})"]
            stream = f"s{at}"
        model = graph(
            *text, f"y = Neg({stream})", inputs={"x": "float[batch, sequence, 32]"},
            **{name: array.astype(np.float32) for name, array in found.items()},
        )  # fmt: skip
        before = model.clone()
        share(ShareLayers(), model)
        assert Size.of(model).bytes == Size.of(before).bytes / 2
        assert error(before, model) < ROUNDED[np.float32]

    @pytest.mark.parametrize("choose", ["alignment", "cka"])
    def test_groups_end_where_layers_differ_most(self, choose: str) -> None:
        """The first of five layers, not the third, is the one unlike the others."""
        quiet = {name: array if name in "gb" else array * np.float32(0.01) for name, array in layer().items()}
        loud = {name: np.roll(array, 3, 0) * np.float32(1 if name in "gb" else 6) for name, array in layer().items()}
        model = layers(quiet, loud, *(quiet for _ in range(3)))
        share(ShareLayers(groups=2, choose=choose), model, data(model))  # type: ignore[arg-type]
        expected = {"alignment": ["up0", "up0", "up2", "up2", "up2"], "cka": ["up0", "up1", "up1", "up1", "up1"]}
        assert weights(model, "up") == expected[choose]

    def test_what_is_kept_is_fitted_to_the_original(self) -> None:
        losses = []
        for repair in (True, False):
            model = layers(*(layer(at, noise=0.3) for at in range(3)))
            before = model.clone()
            outcome = share(ShareLayers(repair=repair), model, data(model))
            losses.append(error(before, model))
            assert any("repaired" in finding.chosen for finding in outcome.findings) == repair
        assert losses[0] < losses[1]

    def test_a_second_stack_is_fitted_to_the_original_too(self) -> None:
        model = two_stacks()
        before, context = model.clone(), data(model)
        outcome = share(ShareLayers(), model, context)
        assert sum("repaired" in finding.chosen for finding in outcome.findings) == 6
        assert context.calibration is not None
        means = [
            np.mean([runner(each)(feeds)["y"].reshape(-1, 32).mean(0) for feeds in context.calibration.batches], 0)
            for each in (before, model)
        ]
        # a bias that ends in the last sum gives that the mean that it had
        assert means[1] == pytest.approx(means[0], rel=1e-4, abs=1e-4)

    def test_outputs_of_every_stack_are_compared_before_any_is_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where groups of a second stack end does not hang on what became of the first."""
        seen = []

        def watched(model: ir.Model, outputs: Sequence[ir.Value], calibration: Calibration) -> np.ndarray:
            seen.append(len(set(weights_of(model))))
            found: np.ndarray = by_output(model, outputs, calibration)
            return found

        model = two_stacks()
        monkeypatch.setattr("tersor.passes.share.share_layers.by_output", watched)
        share(ShareLayers(groups=2, choose="cka"), model, data(model))
        assert seen == [12, 12]

    def test_a_layer_that_is_alone_in_its_group_is_fitted_and_says_so(self) -> None:
        found = [layer(at, noise=0.3) for at in range(3)]
        model = layers(*found)
        outcome = share(ShareLayers(groups=2, align=False), model, data(model))
        assert [finding.chosen for finding in outcome.findings][2].startswith("alone in its group, ")
        assert "repaired" in outcome.findings[2].chosen and outcome.findings[2].miss is None
        assert not np.array_equal(constant_of(model.graph.initializers["g2"]), found[2]["g"])

    def test_a_layer_in_front_of_all_that_share_stays(self) -> None:
        quiet = {name: array if name in "gb" else array * np.float32(0.01) for name, array in layer().items()}
        loud = {name: np.roll(array, 3, 0) * np.float32(1 if name in "gb" else 6) for name, array in layer().items()}
        model = layers(quiet, loud, loud)
        outcome = share(ShareLayers(groups=2, choose="cka"), model, data(model))
        assert [finding.miss and finding.miss.rule for finding in outcome.findings] == ["group", None, None]
        assert constant_of(model.graph.initializers["g0"]) == pytest.approx(quiet["g"], rel=0)

    def test_layers_that_share_already_become_a_loop(self) -> None:
        model = similar_layers()
        share(ShareLayers(keep="none"), model)
        before = model.clone()
        outcome = share(ShareLayers(keep="none", depth="loop"), model)
        assert [finding.chosen for finding in outcome.findings] == ["3 trips"]
        assert [node.op_type for node in model.graph] == ["Loop", "Neg"]
        assert error(before, model) < ROUNDED[np.float32]

    def test_a_constant_that_others_read_stays_theirs(self) -> None:
        model = layers(*(layer(at, noise=0.1) for at in range(2)))
        value, before = model.graph.initializers["ub0"], layer(0, noise=0.1)["ub"]
        tail = ir.node("Identity", [value], num_outputs=1)
        tail.outputs[0].name, tail.outputs[0].type, tail.outputs[0].shape = "z", value.type, value.shape
        model.graph.append(tail)
        model.graph.outputs.append(tail.outputs[0])
        share(ShareLayers(keep="none", align=False), model)
        assert constant_of(model.graph.initializers["ub0"]) == pytest.approx(before)
        assert len(set(weights(model, "ub"))) == 1

    def test_as_a_loop(self) -> None:
        unrolled, looped = (layers(*(layer(at, noise=0.1) for at in range(4))) for _ in range(2))
        share(ShareLayers(groups=2, keep="none"), unrolled)
        share(ShareLayers(groups=2, keep="none", depth="loop"), looped)
        assert [node.op_type for node in looped.graph] == ["Loop", "Loop", "Neg"]
        assert error(unrolled, looped) < ROUNDED[np.float32]

    def test_equal_layers_exactly(self) -> None:
        model = equal_layers()
        share(ShareLayers(), model)
        assert error(equal_layers(), model) == 0.0

    def test_half_precision(self) -> None:
        found = [{name: array.astype(np.float16) for name, array in layer(at, noise=0.1).items()} for at in range(2)]
        model = layers(*found)
        share(ShareLayers(align=False), model)
        array = constant_of(model.graph.initializers["up0"])
        assert array is not None and array.dtype == np.float16


class TestLeavesAlone:
    def test_no_blocks(self) -> None:
        model = graph("y = MatMul(x, w)", inputs={"x": "float[n, 2]"}, w=np.eye(2, dtype=np.float32))
        assert [miss.rule for miss in misses(ShareLayers(), model)] == ["blocks"]

    def test_blocks_that_differ_in_an_attribute(self) -> None:
        model = layers(*(layer(at) for at in range(3)), epsilons=[1e-5, 1e-5, 1e-6])
        found = [miss for miss in misses(ShareLayers(), model) if miss.rule == "attributes"]
        assert len(found) == 1
        assert "epsilon=" in found[0].value and "LayerNormalization" in found[0].value

    def test_two_layers_alone_that_differ_in_an_attribute(self) -> None:
        model = layers(layer(0), layer(1), epsilons=[1e-5, 1e-6])
        assert [miss.rule for miss in misses(ShareLayers(), model)] == ["attributes"]

    def test_weights_that_are_not_finite(self) -> None:
        found = [layer(at, noise=0.1) for at in range(3)]
        found[1]["up"][3, 4] = np.nan
        model = layers(*found)
        outcome = share(ShareLayers(keep="none"), model)
        assert [(finding.place, finding.miss.rule) for finding in outcome.findings if finding.miss] == [
            ("block 1", "finite")
        ]
        assert weights(model, "wq") == ["wq0", "wq1", "wq0"]

    def test_weights_that_are_outputs(self) -> None:
        model = layers(layer(0), layer(1, noise=0.1))
        model.graph.outputs.append(model.graph.initializers["up1"])
        assert "output" in [miss.rule for miss in misses(ShareLayers(), model)]

    def test_quantized_weights(self) -> None:
        model = layers(*(layer(at, noise=0.1) for at in range(2)))
        QuantizeWeights(smallest=1).apply(model, Context())
        found = misses(ShareLayers(), model)
        assert "constant" in [miss.rule for miss in found]
        assert any("before they are quantized" in miss.need for miss in found)

    @pytest.mark.parametrize(("groups", "rule"), [(3, "groups"), (9, "groups"), (1, "shared")])
    def test_nothing_to_share(self, groups: int, rule: str) -> None:
        model = similar_layers()
        if rule == "shared":
            share(ShareLayers(), model)
        assert [miss.rule for miss in misses(ShareLayers(groups=groups), model)] == [rule]

    def test_a_part_that_there_is_none_of(self) -> None:
        text = [f"h{at} = MatMul(s{at}, w{at})\nr{at} = Relu(h{at})\ns{at + 1} = Add(s{at}, r{at})" for at in range(3)]
        lines = [line for each in text for line in each.split("\n")]
        arrays = {f"w{at}": np.eye(4, dtype=np.float32) + at for at in range(3)}
        model = graph(*lines, "y = Neg(s3)", inputs={"s0": "float[n, 4]"}, **arrays)
        assert [miss.rule for miss in misses(ShareLayers(what="attention"), model)] == ["what"]

    def test_a_layer_that_is_alone_in_its_group(self) -> None:
        model = similar_layers()
        outcome = share(ShareLayers(groups=2), model)
        assert [finding.miss.rule for finding in outcome.findings if finding.miss] == ["group"]

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            ({"groups": 0}, "at least 1"),
            ({"choose": "cka"}, "groups"),
            ({"choose": "alignment"}, "groups"),
            ({"depth": "loop"}, "keep=none"),
            ({"depth": "loop", "keep": "none", "what": "ffn"}, "what=all"),
        ],
    )
    def test_options(self, options: dict[str, object], why: str) -> None:
        with pytest.raises(OptionError, match=why):
            ShareLayers(**options)  # type: ignore[arg-type]

    def test_cka_needs_data(self) -> None:
        with pytest.raises(OptionError, match="calibration data"):
            ShareLayers(choose="cka", groups=2).apply(similar_layers(), Context())

    def test_heads_that_a_cache_has_keep_their_order(self) -> None:
        model = layers(*(layer(at, turned=True) for at in range(2)), beside=["k0", "k1"])
        (stack,) = stacks(model, "all", "none")
        assert [family.heads for family in stack.families(model)] == [False]


@pytest.mark.parametrize("made", [ShareLayers(), ShareLayers(what="attention"), ShareLayers(keep="none", depth="loop")])
def test_holds(made: ShareLayers) -> None:
    holds(made, similar_layers())
    assert made.level is Level.SEMANTIC
