"""Which sites are taken on: patterns over names, kinds and blocks; why the others stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.site import Kind, sites
from tersor.ir.text import graph
from tersor.passes.base import Context, Miss, Pass
from tersor.passes.choosing import Choice, left_out, names, outcome, together
from tersor.passes.edit import declare_functions
from tersor.passes.numerics.grid import Scheme, nearest
from tersor.passes.placing import matrix, put
from tersor.passes.prune.prune_magnitude import PruneMagnitude
from tersor.passes.prune.prune_obs import PruneObs
from tersor.passes.prune.prune_wanda import PruneWanda
from tersor.passes.quantize.cast import Cast
from tersor.passes.quantize.mix_precision import MixPrecision
from tersor.passes.quantize.quantize_binary import QuantizeBinary
from tersor.passes.quantize.quantize_codebook import QuantizeCodebook
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.quantize.smooth_activations import SmoothActivations
from tersor.passes.statistics import Calibration
from tersor.passes.weight_pass import WeightPass
from tersor.tests.passes.quantize.holding import HELD, normal
from tersor.tests.support import misses, parse

X = {"x": "float[batch, 32]"}
W = normal(32, 48)
ALL = Choice(kinds=tuple(Kind), smallest=1)
#: Two that fit a site of `stack()`, kinds that it might have, and two that fit nothing.
PATTERNS = ("layers.0.u*", "block:0", "kind:conv", "kind:attention", "layers.7.*", "kind:tabel")


def stack(blocks: int = 3) -> ir.Model:
    """Blocks of two layers each, and a table before them."""
    lines, weights, fed = ["s0 = Gather(table, ids)"], {"table": normal(64, 32)}, "s0"
    for number in range(blocks):
        lines += [
            f"a{number} = MatMul({fed}, layers.{number}.up.weight)",
            f"r{number} = Relu(a{number})",
            f"b{number} = MatMul(r{number}, layers.{number}.down.weight)",
            f"s{number + 1} = Add({fed}, b{number})",
        ]
        weights |= {f"layers.{number}.up.weight": normal(32, 48), f"layers.{number}.down.weight": normal(48, 32)}
        fed = f"s{number + 1}"
    return graph(*lines, inputs={"ids": "int64[batch, time]"}, **weights)


def chosen(choice: Choice, model: ir.Model) -> list[str]:
    return [site.name for site in sites(model) if choice.verdict(site) is None]


def missed(choice: Choice, model: ir.Model) -> list[Miss]:
    return [miss for miss in map(choice.verdict, sites(model)) if miss is not None]


@pytest.mark.parametrize(
    "pass_",
    [
        QuantizeWeights(ignore=PATTERNS),
        QuantizeCodebook(ignore=PATTERNS),
        QuantizeBinary(ignore=PATTERNS),
        QuantizeDynamic(ignore=PATTERNS),
        QuantizeStatic(ignore=PATTERNS),
        Cast(ignore=PATTERNS),
        SmoothActivations(ignore=PATTERNS),
        MixPrecision(ignore=PATTERNS),
        PruneMagnitude(ignore=PATTERNS),
        PruneWanda(ignore=PATTERNS),
        PruneObs(ignore=PATTERNS),
    ],
    ids=lambda each: each.name,
)
def test_a_pattern_that_spares_nothing_is_told(pass_: Pass) -> None:
    context = Context(calibration=Calibration([{"ids": np.arange(12).reshape(2, 6)}]))
    for found in (pass_.explain(stack(3), context), pass_.apply(stack(3), context)):
        told = [each.place for each in found.findings if each.place.startswith("ignore=")]
        assert told == ["ignore=layers.7.*", "ignore=kind:tabel"]
        assert all(
            each.miss is not None and each.miss.rule == "ignore" for each in found.findings if each.place in told
        )


def test_attentions_are_spared_by_patterns_too() -> None:
    model = graph("y = Attention(q, k, v)", inputs=dict.fromkeys("qkv", "float[2, 4, 8, 16]"))
    name = next(node for node in model.graph if node.op_type == "Attention").name
    for pattern, told in ((name or "y", []), ("other", ["ignore=other"])):
        found = QuantizeStatic(attention=True, ignore=(pattern,)).explain(model, Context())
        assert [each.place for each in found.findings if each.place.startswith("ignore=")] == told


@pytest.mark.parametrize("name", HELD)
def test_every_kind_and_spelling_is_taken_on(name: str) -> None:
    choice, model = replace(ALL, tied=True), HELD[name].model
    assert not [miss for _, miss in together((site, choice.verdict(site)) for site in sites(model)) if miss]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("table",), ["table"]),
        (("layers.1.*",), ["layers.1.up", "layers.1.down"]),
        (("*.down", "table"), ["table", "layers.0.down", "layers.1.down", "layers.2.down"]),
        (("block:1",), ["layers.1.up", "layers.1.down"]),
        (("block:[02]",), ["layers.0.up", "layers.0.down", "layers.2.up", "layers.2.down"]),
        (("block:*",), [f"layers.{number}.{layer}" for number in range(3) for layer in ("up", "down")]),
        (("kind:embedding",), ["table"]),
        (("kind:lin*",), [f"layers.{number}.{layer}" for number in range(3) for layer in ("up", "down")]),
        (("Table", "layers", "block:", "kind:"), []),
    ],
)
def test_patterns_choose_by_name_kind_and_block(patterns: tuple[str, ...], expected: list[str]) -> None:
    model = stack()
    every = [site.name for site in sites(model)]
    assert chosen(Choice(kinds=tuple(Kind), only=patterns), model) == expected
    assert chosen(Choice(kinds=tuple(Kind), ignore=patterns), model) == [name for name in every if name not in expected]
    left = {site.name: left_out(names(site), patterns, ()) for site in sites(model)}
    assert [name for name, miss in left.items() if miss is None] == expected


def test_what_is_ignored_stays_though_it_is_asked_for() -> None:
    choice = Choice(kinds=tuple(Kind), only=("layers.*",), ignore=("block:0", "*.up"))
    assert chosen(choice, stack()) == ["layers.1.down", "layers.2.down"]


def test_both_directions_and_both_weights_of_a_recurrence_have_names() -> None:
    model = HELD["lstm"].model
    assert chosen(Choice(kinds=tuple(Kind), smallest=1, only=("kind:recurrent-*",)), model) == chosen(ALL, model)
    assert chosen(Choice(kinds=tuple(Kind), smallest=1, only=("*.reverse",)), model) == [
        "w.input.reverse",
        "r.hidden.reverse",
    ]


def overridden() -> ir.Model:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    model.graph.inputs.append(model.graph.initializers["w"])
    return model


def shown() -> ir.Model:
    """A weight that is an output too."""
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    model.graph.outputs.append(model.graph.initializers["w"])
    return model


def stored() -> ir.Model:
    """A weight in eight bits."""
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    (site,) = sites(model)
    put(site, nearest(matrix(site), Scheme(bits=8)))
    declare_functions(model)
    return model


def constant() -> ir.Model:
    """A weight that a node holds."""
    return parse(
        """main (float[B, 2] x) => (float[B, 3] y) {
             w = Constant <value = float[2, 3] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> ()
             y = MatMul (x, w)
           }"""
    )


LARGE = np.where(W > 2, np.float32(1e6), W)
TURN = "t = Transpose{perm=[1, 0]}(w)"


@pytest.mark.parametrize(
    ("model", "rule", "value"),
    [
        pytest.param(overridden(), "weight", "w", id="an input may take its place"),
        pytest.param(constant(), "weight", "w", id="held by a node"),
        pytest.param(stored(), "quantized", "w_quantized", id="quantized already"),
        pytest.param(
            graph("y = MatMul(x, w)", inputs={"x": "double[b, 32]"}, w=W.astype(np.float64)),
            "dtype", "double", id="stored in double",
        ),
        pytest.param(
            graph("c = Cast{to=11}(w)", "y = MatMul(x, c)", inputs={"x": "double[b, 32]"}, w=W),
            "dtype", "double", id="read in double",
        ),
        pytest.param(
            graph("c = Cast{to=7}(w)", "y = MatMul(x, c)", inputs={"x": "int64[b, 32]"}, w=W),
            "dtype", "int64", id="read in integers",
        ),
        pytest.param(graph("y = MatMul(x, w)", inputs=X, w=np.where(W > 2, np.nan, W)), "finite", "w", id="nan"),
        pytest.param(graph("y = MatMul(x, w)", inputs=X, w=np.where(W > 2, -np.inf, W)), "finite", "w", id="infinite"),
        pytest.param(
            graph("c = Cast{to=10}(w)", "y = MatMul(x, c)", inputs={"x": "float16[b, 32]"}, w=LARGE),
            "finite", "w", id="infinite in half precision",
        ),
        pytest.param(shown(), "tied", "w", id="an output"),
        pytest.param(graph("y = MatMul(x, w)", "z = Relu(w)", inputs=X, w=W), "tied", "w", id="read elsewhere"),
        pytest.param(
            graph(TURN, "y = MatMul(x, t)", "z = Relu(t)", inputs={"x": "float[b, 48]"}, w=W),
            "tied", "w", id="read elsewhere turned",
        ),
        pytest.param(
            graph(TURN, "y = MatMul(x, t)", inputs={"x": "float[b, 48]"}, outputs=["y", "t"], w=W),
            "tied", "w", id="an output turned",
        ),
        pytest.param(graph("y = MatMul(x, w)", inputs=X, w=normal(32, 1)), "size", "32 weights", id="few"),
    ],
)  # fmt: skip
def test_left_alone(model: ir.Model, rule: str, value: str) -> None:
    found = missed(Choice(kinds=tuple(Kind), smallest=6 if rule == "weight" else 64), model)
    assert [(miss.rule, miss.value) for miss in found] == [(rule, value)]


def test_tied_sites_name_each_other() -> None:
    model = graph("a = MatMul(x, w)", "y = MatMul(a, w)", inputs=X, w=normal(32, 32))
    first, second = sites(model)
    assert [miss.value for miss in missed(ALL, model)] == [second.name, first.name]


def test_a_table_is_tied_to_the_head_that_reads_it_turned() -> None:
    model = graph(
        "e = Gather(w, ids)", TURN, "y = MatMul(e, t)", inputs={"ids": "int64[batch, time]"}, w=normal(64, 32)
    )
    assert {miss.rule for miss in missed(ALL, model)} == {"tied"}


def test_every_site_is_in_the_outcome() -> None:
    model, choice = stack(), Choice(kinds=(Kind.LINEAR,), ignore=("block:0",))
    found = outcome([(site, choice.verdict(site)) for site in sites(model)])
    assert [finding.miss.rule if finding.miss else "" for finding in found.findings] == [
        "kind",
        *["ignore"] * 2,
        *[""] * 4,
    ]
    assert found.matches == 4


STORING = (
    QuantizeWeights(bits=3, embeddings=True, smallest=1),
    QuantizeWeights(bits=5, symmetric=False, embeddings=True, smallest=1),
    QuantizeWeights(bits=4, algorithm="hqq", embeddings=True, smallest=1),
    QuantizeBinary(embeddings=True, smallest=1),
    QuantizeCodebook(embeddings=True, smallest=1),
    QuantizeCodebook(codebook="kmeans", embeddings=True, smallest=1),
)


@pytest.mark.parametrize("made", STORING, ids=str)
def test_what_any_pass_has_stored_is_quantized_already(made: WeightPass) -> None:
    model = stack(1)
    count = len(sites(model))
    made.apply(model, Context())
    again = QuantizeWeights(embeddings=True, smallest=1)
    assert [miss.rule for miss in misses(again, model)] == ["quantized"] * count
    left_out = misses(replace(again, embeddings=False, ignore=("*.down*",)), model)
    assert sorted(miss.rule for miss in left_out) == ["ignore", "kind", "quantized"]


def test_a_weight_that_nodes_compute_wants_folding() -> None:
    model = graph("v = Mul(w, s)", "y = MatMul(x, v)", inputs=X, w=W, s=np.float32(2))
    assert [miss.rule for miss in misses(QuantizeWeights(), model)] == ["weight"]
