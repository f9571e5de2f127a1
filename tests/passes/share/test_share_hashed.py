"""Weights that share numbers, by k-means or a hash: what they answer, what is stored once, what is left."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, Signature, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context, Outcome
from tersor.passes.numerics.kmeans import kmeans
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.share.hashing import Hashed, keys, places
from tersor.passes.share.methods.hashed import Part, hashed
from tersor.passes.share.share_hashed import ShareHashed
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_share import shared_basis
from tersor.tests.passes.quantize.holding import HELD, LEFT, normal
from tersor.tests.support import ROUNDED, apply, distance, holds, installed, misses, on_onnxruntime

#: Kinds of sites that options take in, and no weights too small.
ALL = {"smallest": 1, "embeddings": True, "convolutions": True}


def shared(made: ShareHashed, model: ir.Model, context: Context | None = None) -> Outcome:
    signature = Signature.of(model)
    found = made.apply(model, context or Context())
    assert violations(model, Level.SEMANTIC, signature=signature) == []
    return found


def clustered(weight: np.ndarray) -> np.ndarray:
    return kmeans(weight.T.astype(np.float32), bits=4).dense().astype(weight.dtype).T


def dealt(weight: np.ndarray) -> np.ndarray:
    turned, count, chosen = weight.T, round(0.3 * weight.size), keys(0, 0)
    values = hashed([Part(turned, places(*turned.shape, count, chosen))], count).astype(weight.dtype)
    return Hashed(values, turned.shape, chosen).dense().T


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("method", ["kmeans", "hashed"])
def test_every_kind_of_site_answers_as_the_shared_numbers_do(name: str, method: str) -> None:
    held = HELD[name]
    model = held.model
    if method == "kmeans":
        made, found = ShareHashed(scope="tensor", **ALL), clustered  # type: ignore[arg-type]
    else:
        made, found = ShareHashed(method="hashed", ratio=0.3, scope="tensor", **ALL), dealt  # type: ignore[arg-type]
    assert shared(made, model).matches
    comparison = held.compared(model, {name: found(matrix) for name, matrix in held.matrices.items()})
    assert comparison.relative_l2 <= 1e-2 if "half" in name or "bfloat16" in name else comparison.relative_l2 <= 1e-5


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_every_runtime_finds_the_same_places(backend: str) -> None:
    for name in ("matmul", "table", "lstm", "conv"):
        model = HELD[name].model
        shared(ShareHashed(method="hashed", ratio=0.2, **ALL), model)  # type: ignore[arg-type]
        feeds = random_feeds(model, seed=1)
        expected = runner(model)(feeds)
        target = installed(backend)
        run_pipeline(target.pipeline(), model, verify=Verify.OFF)
        found = target.compile(model).run(feeds)
        assert distance([found[each] for each in expected], list(expected.values())) <= ROUNDED[np.float32]


def test_the_graph_reads_as_the_docstring_draws_it() -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 32]"}, w=normal(32, 48))
    assert apply(ShareHashed(method="hashed"), model) == [
        "y/HashedWeight = tersor.HashedWeight(w_values, y/size, y/size_1, y/keys)",
        "y/Transpose = Transpose{perm=[1, 0]}(y/HashedWeight)",
        "y = MatMul(x, y/Transpose)",
    ]


@pytest.mark.parametrize("method", ["kmeans", "hashed"])
@pytest.mark.parametrize(("scope", "tables"), [("tensor", 4), ("role", 2), ("model", 1)])
def test_numbers_are_stored_once_for_all_that_share(method: str, scope: str, tables: int) -> None:
    model = shared_basis()
    before = [lines(model), sum(value.const_value.nbytes for value in model.graph.initializers.values())]
    assert shared(ShareHashed(method=method, scope=scope, smallest=1), model).matches == 4  # type: ignore[arg-type]
    ending = "_codebook" if method == "kmeans" else "_values"
    held = [value for value in model.graph.initializers.values() if (value.name or "").endswith(ending)]
    assert len(held) == tables
    assert sum(len(value.uses()) for value in held) == 4
    assert sum(value.const_value.nbytes for value in model.graph.initializers.values()) < before[1]


def test_what_is_told_is_what_is_stored() -> None:
    model = shared_basis()
    found = shared(ShareHashed(method="hashed", ratio=0.5, smallest=1), model)
    assert {finding.chosen for finding in found.findings} == {"hashed to 2,048 numbers, shared by 2 weights"}
    model = shared_basis()
    found = shared(ShareHashed(bits=3, scope="model", smallest=1), model)
    assert {finding.chosen for finding in found.findings} == {"indices of 3 bits into 8 numbers, shared by 4 weights"}


@pytest.mark.parametrize(("ratio", "bits"), [(0.04, 1), (0.1, 3), (0.125, 4), (0.9, 8)])
def test_a_ratio_is_as_many_whole_bits_as_it_allows(ratio: float, bits: int) -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 64]"}, w=normal(64, 64))
    (finding,) = shared(ShareHashed(ratio=ratio), model).findings
    assert finding.chosen == f"indices of {bits} bits into {1 << bits} numbers"


def test_more_numbers_lose_less() -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 64]"}, w=normal(64, 64))
    feeds = random_feeds(model, seed=0)
    expected = on_onnxruntime(model, feeds)
    sizes = ([{"bits": bits} for bits in (2, 4, 6)], [{"method": "hashed", "ratio": r} for r in (0.1, 0.3, 0.6)])
    for options in sizes:
        lost = []
        for each in options:
            made = model.clone()
            shared(ShareHashed(**each), made)  # type: ignore[arg-type]
            lost.append(distance([runner(made)(feeds)["y"]], expected))
        assert lost == sorted(lost, reverse=True)


@pytest.mark.parametrize("method", ["kmeans", "hashed"])
def test_data_say_what_an_error_costs(method: str) -> None:
    # what loud inputs meet is small, and all else large
    loud = np.arange(64)[:, None] < 8
    weight = np.where(loud, 0.1, 1).astype(np.float32) * normal(64, 64)
    model = graph("y = MatMul(x, w)", inputs={"x": "float[200, 64]"}, w=weight)
    scales = np.where(loud[:, 0], 20, 0.1).astype(np.float32)
    feeds = {"x": normal(200, 64) * scales}
    expected = runner(model)(feeds)["y"]
    lost = []
    for context in (Context(calibration=Calibration([feeds])), Context()):
        made = model.clone()
        options = {"bits": 3} if method == "kmeans" else {"ratio": 0.3}
        shared(ShareHashed(method=method, **options), made, context)  # type: ignore[arg-type]
        lost.append(float(np.square(runner(made)(feeds)["y"] - expected).sum()))
    assert lost[0] < 0.5 * lost[1]


def test_outputs_of_other_sizes_share_one_table_by_their_scales() -> None:
    weights = {f"w{at}": normal(32, 32) * 10.0**at for at in range(3)}
    text = [f"y{at} = MatMul(x, w{at})" for at in range(3)]
    model = graph(*text, inputs={"x": "float[7, 32]"}, outputs=["y0", "y1", "y2"], **weights)
    feeds = random_feeds(model, seed=0)
    expected = runner(model)(feeds)
    lost = {}
    for scale in ("none", "auto"):
        made = model.clone()
        shared(ShareHashed(scope="model", scale=scale), made)  # type: ignore[arg-type]
        found = runner(made)(feeds)
        lost[scale] = distance(list(found.values()), list(expected.values()))
    assert lost["auto"] < 0.2 < lost["none"]


@pytest.mark.parametrize("method", ["kmeans", "hashed"])
@pytest.mark.parametrize(("model", "options", "rule"), LEFT.values(), ids=LEFT)
def test_leaves_alone(model: ir.Model, options: Mapping[str, object], rule: str, method: str) -> None:
    found = misses(ShareHashed(method=method, **options), model)  # type: ignore[arg-type]
    assert found and {miss.rule for miss in found} == {rule}


def test_a_table_that_takes_more_than_the_weight_is_a_miss() -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 8]"}, w=normal(8, 8))
    before = lines(model)
    (finding,) = shared(ShareHashed(bits=8, smallest=1), model).findings
    assert finding.miss is not None and finding.miss.rule == "bytes"
    assert lines(model) == before


def test_less_than_a_bit_of_sixteen_is_a_miss() -> None:
    model = graph(
        "h = MatMul(x, w)", "y = Cast{to=1}(h)", "z = MatMul(y, v)", inputs={"x": "float16[batch, 64]"},
        w=normal(64, 64).astype(np.float16), v=normal(64, 64),
    )  # fmt: skip
    half, full = shared(ShareHashed(ratio=0.04), model.clone()).findings
    assert half.miss is not None and half.miss.rule == "bits" and "0.0625" in half.miss.need
    assert full.chosen == "indices of 1 bits into 2 numbers"
    half, _ = shared(ShareHashed(ratio=0.07), model).findings
    assert half.chosen == "indices of 1 bits into 2 numbers"


def test_a_second_application_finds_nothing() -> None:
    for method in ("kmeans", "hashed"):
        model = shared_basis()
        made = ShareHashed(method=method, smallest=1)  # type: ignore[arg-type]
        shared(made, model)
        before = lines(model)
        assert not shared(made, model).matches
        assert lines(model) == before


def test_another_seed_is_another_hash() -> None:
    made, weight = [], normal(32, 48)
    for seed in (0, 0, 1):
        model = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 32]"}, w=weight)
        shared(ShareHashed(method="hashed"), model, Context(seed=seed))
        made.append(model.graph.initializers["w_values"].const_value.numpy())
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_kmeans_holds_its_contract() -> None:
    holds(ShareHashed(smallest=1), shared_basis())


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"bits": 0},
        {"bits": 9},
        {"bits": 4, "ratio": 0.2},
        {"method": "hashed", "bits": 4},
        {"method": "hashed", "seeding": "linear"},
        {"ratio": 0.01},
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="share-hashed: "):
        ShareHashed(**options)  # type: ignore[arg-type]
