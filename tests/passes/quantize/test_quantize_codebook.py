"""Weights as indices into few numbers or vectors: what every kind of site answers, what is stored, what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.numerics.kmeans import kmeans
from tersor.passes.numerics.product import product, residual
from tersor.passes.quantize.methods.balanced import balanced
from tersor.passes.quantize.methods.floats import adaptivfloat
from tersor.passes.quantize.methods.gobo import gobo
from tersor.passes.quantize.methods.log2 import log2
from tersor.passes.quantize.methods.normal_float import normal_float
from tersor.passes.quantize.methods.word2bits import word2bits
from tersor.passes.quantize.quantize_codebook import QuantizeCodebook
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.weights import Codebook
from tersor.tests.passes.quantize.holding import HELD, LEFT, normal
from tersor.tests.support import apply, distance, misses, on_onnxruntime

X = {"x": "float[batch, 32]"}
W = normal(32, 48)

#: Options of the pass, and what it must store for a weight [out, in].
CODEBOOKS: dict[str, tuple[dict[str, object], Callable[[np.ndarray], Codebook]]] = {
    "kmeans": ({"codebook": "kmeans"}, kmeans),
    "kmeans, groups": (
        {"codebook": "kmeans", "bits": 2, "group": 5, "seeding": "density"},
        lambda weight: kmeans(weight, bits=2, group=5, seeding="density"),
    ),
    "kmeans, drawn": (
        {"codebook": "kmeans", "bits": 3, "seeding": "k-means++"},
        lambda weight: kmeans(weight, bits=3, seeding="k-means++"),
    ),
    "nf4": ({}, normal_float),
    "nf4, blocks": (
        {"bits": 3, "block": 5, "double": True},
        lambda weight: normal_float(weight, bits=3, block=5, double=True),
    ),
    "nf4, whole rows": ({"block": 0}, lambda weight: normal_float(weight, block=0)),
    "log2": ({"codebook": "log2"}, log2),
    "log2, rows": (
        {"codebook": "log2", "bits": 3, "rows": True, "search": True},
        lambda weight: log2(weight, bits=3, rows=True, search=True),
    ),
    "balanced": ({"codebook": "balanced"}, balanced),
    "balanced, means": (
        {"codebook": "balanced", "bits": 5, "levels": "means", "cut": "mean"},
        lambda weight: balanced(weight, bits=5, levels="means", cut="mean"),
    ),
    "gobo": ({"codebook": "gobo", "threshold": -3.0}, lambda weight: gobo(weight, threshold=-3.0)),
    "gobo, sigmas": ({"codebook": "gobo", "bits": 4, "sigmas": 2.0}, lambda weight: gobo(weight, bits=4, sigmas=2.0)),
    "product": ({"codebook": "product", "bits": 4}, lambda weight: product(weight, bits=4)),
    "product, tables": (
        {"codebook": "product", "bits": 3, "width": 5, "shared": False},
        lambda weight: product(weight, bits=3, width=5, shared=False),
    ),
    "residual": ({"codebook": "residual", "bits": 2}, lambda weight: residual(weight, bits=2, width=4)),
    "residual, whole rows": (
        {"codebook": "residual", "bits": 1, "stages": 3, "width": 0},
        lambda weight: residual(weight, bits=1, stages=3),
    ),
    "word2bits": ({"codebook": "word2bits"}, word2bits),
    "word2bits, tensor": (
        {"codebook": "word2bits", "bits": 2, "fit": "tensor"},
        lambda weight: word2bits(weight, bits=2, fit="tensor"),
    ),
    "word2bits, trained": ({"codebook": "word2bits", "fit": "none"}, lambda weight: word2bits(weight, fit="none")),
    "adaptivfloat": (
        {"codebook": "adaptivfloat", "bits": 6, "exponent": 4},
        lambda weight: adaptivfloat(weight, bits=6, exponent=4),
    ),
}


def made(codebook: str, **options: object) -> QuantizeCodebook:
    return QuantizeCodebook(smallest=1, **(CODEBOOKS[codebook][0] | options))


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_every_kind_of_site_reads_what_the_method_gives(codebook: str, name: str) -> None:
    held, method = HELD[name], CODEBOOKS[codebook][1]
    model = held.model
    apply(made(codebook, **({held.option: True} if held.option else {})), model)
    wanted = {each: method(matrix.T).dense().T for each, matrix in held.matrices.items()}
    # the weights are the same in every bit: only the order of sums in a product of another layout can differ
    assert held.compared(model, wanted).within(1e-6)


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_onnxruntime_reads_what_is_stored(codebook: str) -> None:
    model, x = graph("y = MatMul(x, w)", inputs=X, w=W), normal(3, 32)
    apply(made(codebook), model)
    wanted = x.astype(np.float64) @ CODEBOOKS[codebook][1](W.T).dense().T.astype(np.float64)
    # sums of 32 products
    assert distance(on_onnxruntime(model, {"x": x}), [wanted]) < 32 * np.finfo(np.float32).eps


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_what_is_stored_takes_the_bytes_of_the_method(codebook: str) -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    apply(made(codebook), model)
    weights = [value for name, value in model.graph.initializers.items() if name.startswith("w_")]
    assert sum(value.const_value.nbytes for value in weights) == CODEBOOKS[codebook][1](W.T).bytes


def test_four_bits_are_looked_up() -> None:
    assert apply(QuantizeCodebook(codebook="kmeans"), graph("y = MatMul(x, w)", inputs=X, w=W)) == [
        "y/Cast = Cast{to=2}(w_indices)",
        "y/Cast_1 = Cast{to=6}(y/Cast)",
        "y/Gather = Gather{axis=0}(w_codebook, y/Cast_1)",
        "y/Transpose = Transpose{perm=[1, 0]}(y/Gather)",
        "y = MatMul(x, y/Transpose)",
    ]


def test_a_weight_that_is_read_as_outputs_by_inputs_is_not_turned() -> None:
    lines = apply(QuantizeCodebook(), graph("y = Gemm{transB=1}(x, w)", inputs=X, w=W.T.copy()))
    assert not any("Transpose" in line for line in lines)


def test_the_seed_is_that_of_the_context() -> None:
    models = [graph("y = MatMul(x, w)", inputs=X, w=W) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        QuantizeCodebook(codebook="product", bits=4).apply(model, Context(seed=seed))
    books = [model.graph.initializers["w_codebook"].const_value.numpy() for model in models]
    assert np.array_equal(books[0], books[1])
    assert not np.array_equal(books[0], books[2])


def test_the_error_falls_with_bits() -> None:
    model, feeds = graph("y = MatMul(x, w)", inputs=X, w=W), {"x": normal(64, 32)}

    def loss(**options: object) -> float:
        quantized = model.clone()
        apply(QuantizeCodebook(**options), quantized)
        return compare(runner(model), runner(quantized), [feeds]).relative_l2

    for codebook in ("kmeans", "nf4", "balanced", "gobo", "adaptivfloat"):
        assert loss(codebook=codebook, bits=6) < loss(codebook=codebook, bits=4), codebook
    # log2 only reaches further down: steps near the largest weights stay as they are
    assert loss(codebook="log2", bits=4) < loss(codebook="log2", bits=2)
    assert loss(codebook="kmeans") < loss(codebook="log2")
    assert loss(codebook="residual", bits=4, stages=3) < loss(codebook="residual", bits=4, stages=1)


_PLAIN = HELD["matmul"].model
OTHERS_LEFT: dict[str, tuple[ir.Model, Mapping[str, object], str]] = LEFT | {
    "as many vectors as rows, and then some": (_PLAIN, {"codebook": "residual", "width": 0}, "bytes"),
    "more numbers than weights": (_PLAIN, {"codebook": "kmeans", "group": 1, "bits": 8}, "bytes"),
    # at this scale the density of every weight is below the threshold
    "outliers alone": (graph("y = MatMul(x, w)", inputs=X, w=30 * W), {"codebook": "gobo"}, "bytes"),
    "vectors as long as the rows": (HELD["lstm"].model, {"codebook": "product", "width": 32}, "bytes"),
}


@pytest.mark.parametrize("name", OTHERS_LEFT)
def test_left_alone(name: str) -> None:
    model, options, rule = OTHERS_LEFT[name]
    assert {miss.rule for miss in misses(QuantizeCodebook(**options), model)} == {rule}


@pytest.mark.parametrize("codebook", CODEBOOKS)
@pytest.mark.parametrize("name", ["matmul", "table", "conv", "lstm"])
def test_what_is_quantized_already_stays(name: str, codebook: str) -> None:
    model, quantize = HELD[name].model, made(codebook, embeddings=True, convolutions=True)
    before = apply(quantize, model)
    assert apply(quantize, model) == before
    assert apply(QuantizeWeights(smallest=1, embeddings=True, convolutions=True), model) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook": "huffman"}, r"expected a codebook of nf4, .*, found huffman"),
        (
            {"codebook": "kmeans", "width": 4},
            "kmeans does not take width=4; it takes bits, group, seeding",
        ),
        ({"group": 64}, "the codebook nf4 does not take group=64; it takes bits, block, double"),
        ({"codebook": "log2", "block": 0}, "the codebook log2 does not take block=0; it takes bits, rows, search"),
        ({"codebook": "balanced", "rows": False}, "the codebook balanced does not take rows=False"),
        ({"codebook": "product", "stages": 2}, "the codebook product does not take stages=2"),
        ({"codebook": "residual", "shared": True}, "the codebook residual does not take shared=True"),
        ({"codebook": "word2bits", "exponent": 2}, "the codebook word2bits does not take exponent=2"),
        ({"codebook": "kmeans", "bits": 0}, "quantize-codebook: kmeans: expected 1 to 8 bits, found 0"),
        ({"codebook": "kmeans", "bits": 9}, "quantize-codebook: kmeans: expected 1 to 8 bits, found 9"),
        ({"bits": 1}, "nf4: expected 2 to 8 bits, found 1"),
        ({"block": -1}, "nf4: expected a block"),
        ({"codebook": "word2bits", "bits": 3}, "word2bits: expected 1 or 2 bits, found 3"),
        ({"codebook": "product", "width": 0}, "product: expected at least one column"),
        ({"codebook": "residual", "stages": 0}, "residual: expected at least one stage, found 0"),
        ({"codebook": "adaptivfloat", "bits": 4, "exponent": 4}, "adaptivfloat: expected 1 to 3 bits of exponent"),
        ({"codebook": "gobo", "threshold": -3.0, "sigmas": 3.0}, "expected threshold or sigmas, found both"),
        ({"codebook": "kmeans", "group": -1}, "expected a group"),
        ({"codebook": "kmeans", "seeding": "random"}, "expected the seeding"),
        ({"codebook": "balanced", "cut": "mode"}, "expected uniform or means, and median or mean"),
        ({"codebook": "word2bits", "fit": "columns"}, "expected none, tensor or rows"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        QuantizeCodebook(**options)
