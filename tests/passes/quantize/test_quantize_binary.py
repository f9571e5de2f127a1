"""Sums of scaled signs and three levels: what every kind of site answers, what is stored, what is left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.runner import runner
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.pipeline import Pipeline
from tersor.passes.quantize.methods.binary import binary_connect, binary_weight
from tersor.passes.quantize.methods.multibinary import alternating, greedy, refined
from tersor.passes.quantize.methods.ternary import ternary, trained_ternary
from tersor.passes.quantize.quantize_binary import QuantizeBinary
from tersor.passes.weights import Codebook, Planes, Quantized
from tersor.tests.passes.quantize.holding import HELD, LEFT, normal
from tersor.tests.support import apply, distance, misses, on_onnxruntime

X = {"x": "float[batch, 32]"}
W = normal(32, 48)

#: Options of the pass, and what it must store for a weight [in, out].
ALGORITHMS: dict[str, tuple[dict[str, object], Callable[[np.ndarray], Planes | Quantized | Codebook]]] = {
    "bwn": ({"algorithm": "bwn"}, binary_weight),
    "binary-connect": ({"algorithm": "binary-connect"}, binary_connect),
    "greedy": ({"algorithm": "greedy", "planes": 2}, lambda weight: greedy(weight, 2)),
    "refined": ({"algorithm": "refined", "planes": 4}, lambda weight: refined(weight, 4)),
    "alternating": ({}, lambda weight: alternating(weight, 3)),
    "ternary": ({"algorithm": "ternary"}, ternary),
    "ternary, groups": ({"algorithm": "ternary", "group": 5}, lambda weight: ternary(weight, group=5)),
    "ternary, paper": ({"algorithm": "ternary", "exact": False}, lambda weight: ternary(weight, exact=False)),
    "trained-ternary": ({"algorithm": "trained-ternary"}, trained_ternary),
    "trained-ternary, outputs": (
        {"algorithm": "trained-ternary", "group": 0},
        lambda weight: trained_ternary(weight, group=0),
    ),
    "trained-ternary, groups": (
        {"algorithm": "trained-ternary", "group": 9, "threshold": 0.05},
        lambda weight: trained_ternary(weight, group=9, threshold=0.05),
    ),
}
KINDS = ("matmul", "matmul, half", "gemm, transB", "conv, groups", "conv-transpose", "table", "lstm", "gru")
MULTIPLE = ("greedy", "refined", "alternating")


def binary(algorithm: str, **options: object) -> QuantizeBinary:
    return QuantizeBinary(smallest=1, **(ALGORITHMS[algorithm][0] | options))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_kind_of_site_reads_what_the_algorithm_gives(algorithm: str, name: str) -> None:
    held = HELD[name]
    model = held.model
    apply(binary(algorithm, **({held.option: True} if held.option else {})), model)
    wanted = {each: ALGORITHMS[algorithm][1](matrix).dense() for each, matrix in held.matrices.items()}
    # the weights are the same in every bit: only the order of sums in a product of another layout can differ
    assert held.compared(model, wanted).within(1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_onnxruntime_reads_what_is_stored(algorithm: str) -> None:
    model, x = graph("y = MatMul(x, w)", inputs=X, w=W), np.random.default_rng(1).standard_normal((3, 32))
    apply(binary(algorithm), model)
    weight = ALGORITHMS[algorithm][1](W).dense()
    wanted = x.astype(np.float32).astype(np.float64) @ weight.astype(np.float64)
    assert distance(on_onnxruntime(model, {"x": x.astype(np.float32)}), [wanted]) < 32 * np.finfo(np.float32).eps


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_stored_takes_the_bytes_of_the_method(algorithm: str) -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    apply(binary(algorithm), model)
    weights = {name: value for name, value in model.graph.initializers.items() if name.startswith("w_")}
    assert sum(value.const_value.nbytes for value in weights.values()) == ALGORITHMS[algorithm][1](W).bytes


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_folding_constants_does_not_unpack(algorithm: str) -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    apply(binary(algorithm), model)
    largest = max(value.const_value.nbytes for value in model.graph.initializers.values())
    FoldConstants().apply(model, Context())
    assert max(value.const_value.nbytes for value in model.graph.initializers.values()) == largest


def test_planes_are_signs_that_choose_a_scale_or_less_it() -> None:
    assert apply(QuantizeBinary(planes=2), graph("y = MatMul(x, w)", inputs=X, w=W)) == [
        "y/UnpackBits = tersor.UnpackBits(w_plane0_bits, y/shape)",
        "y/Cast = Cast{to=9}(y/UnpackBits)",
        "y/Neg = Neg(w_plane0_scale)",
        "y/Where = Where(y/Cast, w_plane0_scale, y/Neg)",
        "y/UnpackBits_1 = tersor.UnpackBits(w_plane1_bits, y/shape_1)",
        "y/Cast_1 = Cast{to=9}(y/UnpackBits_1)",
        "y/Neg_1 = Neg(w_plane1_scale)",
        "y/Where_1 = Where(y/Cast_1, w_plane1_scale, y/Neg_1)",
        "y/Add = Add(y/Where, y/Where_1)",
        "y = MatMul(x, y/Add)",
    ]


def test_the_error_falls_with_planes_and_with_better_algorithms() -> None:
    """On a weight as trained ones are: a few directions, long tails, outputs of unlike size."""
    rng = np.random.default_rng(3)
    weight = rng.standard_t(5, (96, 8)) @ rng.standard_normal((8, 64)) + rng.standard_t(5, (96, 64))
    weight = (weight * rng.lognormal(0, 0.5, 64)).astype(np.float32)
    model = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 96]"}, w=weight)
    feeds = {"x": rng.standard_normal((64, 96)).astype(np.float32)}

    def loss(**options: object) -> float:
        made = model.clone()
        apply(QuantizeBinary(**options), made)
        return compare(runner(model), runner(made), [feeds]).relative_l2

    greedily, fitted, best = ([loss(algorithm=name, planes=planes) for planes in (1, 2, 3, 4)] for name in MULTIPLE)
    for losses in (greedily, fitted, best):
        assert losses == sorted(losses, reverse=True)
    assert greedily[0] == fitted[0] == best[0] == loss(algorithm="bwn") < loss(algorithm="binary-connect")
    for less, more in ((best, fitted), (fitted, greedily)):
        assert all(a < b for a, b in zip(less[1:], more[1:], strict=True))
    three = loss(algorithm="ternary")
    assert best[1] < three < loss(algorithm="ternary", exact=False) < best[0]
    assert loss(algorithm="ternary", group=16) < three
    assert loss(algorithm="trained-ternary", group=0) < three
    whole = loss(algorithm="trained-ternary")
    assert three < whole < loss(algorithm="trained-ternary", threshold=0.05)


_PLAIN = HELD["matmul"].model
OTHERS_LEFT: dict[str, tuple[ir.Model, Mapping[str, object], str]] = LEFT | {
    "a scale for each weight": (_PLAIN, {"algorithm": "ternary", "group": 1}, "bytes"),
    "more levels than weights": (_PLAIN, {"algorithm": "trained-ternary", "group": 2}, "bytes"),
    "a scale for each weight of both directions": (
        HELD["lstm"].model,
        {"algorithm": "ternary", "group": 1},
        "bytes",
    ),
}


@pytest.mark.parametrize("name", OTHERS_LEFT)
def test_left_alone(name: str) -> None:
    model, options, rule = OTHERS_LEFT[name]
    assert {miss.rule for miss in misses(QuantizeBinary(**options), model)} == {rule}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["matmul", "table", "conv", "lstm"])
def test_what_is_quantized_already_stays(name: str, algorithm: str) -> None:
    model, made = HELD[name].model, binary(algorithm, embeddings=True, convolutions=True)
    before = apply(made, model)
    assert apply(made, model) == before
    assert all(site.weight.name not in HELD[name].weights for site in sites(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planes": 0}, "quantize-binary: expected 1 to 4 planes, found 0"),
        ({"planes": 5}, "quantize-binary: expected 1 to 4 planes, found 5"),
        ({"group": 16}, "the algorithm alternating does not take group=16; it takes planes"),
        ({"algorithm": "greedy", "exact": True}, "the algorithm greedy does not take exact=True; it takes planes"),
        ({"algorithm": "bwn", "planes": 2}, "the algorithm bwn does not take planes=2; it takes none of planes, group"),
        ({"algorithm": "binary-connect", "group": 8}, "the algorithm binary-connect does not take group=8"),
        ({"algorithm": "ternary", "planes": 1}, "ternary does not take planes=1; it takes group and exact"),
        ({"algorithm": "ternary", "threshold": 0.1}, "ternary does not take threshold=0.1; it takes group and exact"),
        ({"algorithm": "trained-ternary", "exact": True}, "does not take exact=True; it takes group and threshold"),
        ({"algorithm": "ternary", "group": -1}, "expected a group of at least one input, or 0 .*, found -1"),
        ({"algorithm": "trained-ternary", "threshold": 1.0}, "expected a threshold from 0 to below 1, found 1.0"),
        ({"algorithm": "trained-ternary", "threshold": float("nan")}, "expected a threshold .*, found nan"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        QuantizeBinary(**options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_options_go_through_text(algorithm: str) -> None:
    pipeline = Pipeline(steps=(binary(algorithm),))
    assert Pipeline.of(pipeline.text()) == pipeline
