"""Words that share vectors: what lookups and heads read then, what stays, and how close answers are."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.text import lines
from tersor.passes.base import Context, Miss
from tersor.passes.embeddings.code_embedding import CodeEmbedding
from tersor.passes.embeddings.embedding_pass import EmbeddingPass
from tersor.passes.embeddings.factorize_embedding import FactorizeEmbedding
from tersor.passes.embeddings.share_embedding import ShareEmbedding
from tersor.passes.pipeline import Pipeline
from tersor.passes.run import Verify, run_pipeline
from tersor.tests.passes.corpus_share import words_of_few_parts
from tersor.tests.passes.embeddings.words import (
    LEFT,
    MODELS,
    WIDTH,
    WORDS,
    T,
    calibrated,
    check_answers,
    check_backend,
    check_half,
    check_half_tables,
    check_ratio,
    lookup,
    normal,
    stand,
    stored,
    tied,
    untied,
    zipf,
)  # fmt: skip
from tersor.tests.support import ROUNDED, apply, misses


def made(**options: object) -> ShareEmbedding:
    return ShareEmbedding(**{"smallest": 1, **options})  # type: ignore[arg-type]


OPTIONS: dict[str, dict[str, object]] = {
    "slim": {"ratio": 0.3},
    "two bytes": {"pool": 400, "width": 1},
    "by chance": {"pool": 40, "width": 3, "assign": "random"},
    "sum": {"method": "lightrnn", "width": 0},
    "concat": {"method": "lightrnn", "width": 6, "join": "concat"},
    "runs": {"method": "lightrnn", "ratio": 0.6},
    "sparse": {"method": "sparse", "ratio": 0.5},
    "nonnegative": {"method": "sparse", "common": 40, "nonzeros": 3, "nonnegative": True},
    "reference": {"method": "reference", "ratio": 0.4},
    "references": {"method": "reference", "common": 9, "pool": 16, "width": 3},
    "references alone": {"method": "reference", "common": 0, "pool": 16, "width": 4},
}
METHODS = ("slim", "lightrnn", "sparse", "reference")


# rewrites


def test_a_lookup_of_one_pool() -> None:
    assert apply(made(pool=32, width=4), lookup()) == [
        "y/Gather = Gather{axis=0}(t_codes, ids)", "y/Cast = Cast{to=6}(y/Gather)",
        "y/Gather_1 = Gather{axis=0}(t_books, y/Cast)", "y = Reshape(y/Gather_1, y/shape)",
    ]  # fmt: skip


def test_a_lookup_of_rows_and_columns() -> None:
    model = lookup()
    assert apply(made(method="lightrnn", width=0), model) == [
        "y/Gather = Gather{axis=0}(t_codes, ids)", "y/Unsqueeze = Unsqueeze(y/Gather, y/axes)",
        "y/BitwiseAnd = BitwiseAnd(y/Unsqueeze, y/masks)",
        "y/BitShift = BitShift{direction=RIGHT}(y/BitwiseAnd, y/shifts)", "y/Reshape = Reshape(y/BitShift, y/shape)",
        "y/Cast = Cast{to=6}(y/Reshape)", "y/Add = Add(y/Cast, y/starts)",
        "y/Gather_1 = Gather{axis=0}(t_books, y/Add)", "y/Reshape_1 = Reshape(y/Gather_1, y/shape_1)",
        "y = ReduceSum{keepdims=0}(y/Reshape_1, y/axes_1)",
    ]  # fmt: skip
    # 16 rows and 16 columns, four bits each
    assert stored(model) == WORDS + 32 * WIDTH * 4


def test_a_lookup_of_references() -> None:
    found = apply(made(method="reference", common=9, pool=17, width=4), lookup())
    assert found[:4] == [
        "y/Gather = Gather{axis=0}(t_places, ids)", "y/Cast = Cast{to=6}(y/Gather)",
        "y/Min = Min(y/Cast, y/last)", "y/Gather_1 = Gather{axis=0}(t_own, y/Min)",
    ]  # fmt: skip
    assert found[-1] == "y = Where(y/Less, y/Squeeze, y/Reshape)"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", OPTIONS)
def test_answers_are_those_of_the_table_that_stands_there(options: str, name: str) -> None:
    check_answers(made(**OPTIONS[options]), name)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("options", OPTIONS)
def test_every_backend_runs_what_is_made(options: str, backend: str) -> None:
    check_backend(made(**OPTIONS[options]), backend)


@pytest.mark.parametrize(
    "step",
    [
        made(pool=199, width=2), CodeEmbedding(smallest=1, entries=67, width=4),
        CodeEmbedding(smallest=1, method="residual", entries=67, width=16, stages=2),
    ],
)  # fmt: skip
def test_products_of_many_entries_are_made_part_by_part(step: EmbeddingPass) -> None:
    """No array has parts, entries and tokens at once: it would be larger than the scores."""
    model = tied()
    assert step.apply(model, Context()).matches == 1
    for value in (value for node in model.graph for value in node.outputs):
        assert value.shape is not None
        held = [dim for dim in value.shape if isinstance(dim, int)]
        assert value.shape.is_static() or np.prod(held) <= WORDS, value.name


@pytest.mark.parametrize("first", ["code", "share", "factorize"])
@pytest.mark.parametrize("second", ["code", "share", "factorize"])
def test_what_stands_for_a_table_is_taken_for_none(first: str, second: str) -> None:
    steps: dict[str, EmbeddingPass] = {
        "code": CodeEmbedding(smallest=1, ratio=0.5, heads="all"),
        "share": made(ratio=0.5, heads="all"),
        "factorize": FactorizeEmbedding(smallest=1, ratio=0.5, heads="all"),
    }
    for model in (lookup(), tied(), untied()):
        assert steps[first].apply(model, Context()).matches
        before = lines(model)
        again = steps[second].apply(model, Context())
        assert {finding.miss.rule for finding in again.findings if finding.miss is not None} == {"factored"}
        assert lines(model) == before


def test_no_two_words_share_a_cell() -> None:
    model = lookup()
    made(method="lightrnn", width=0).apply(model, Context())
    codes = model.graph.initializers["t_codes"].const_value.numpy()
    assert len(np.unique(codes)) == WORDS


def test_a_head_of_its_own_follows_where_it_is_asked() -> None:
    for method in METHODS:
        model = untied()
        assert made(method=method, ratio=0.5, heads="all").apply(model, Context()).matches == 2
        assert not {"t", "w"} & set(model.graph.initializers)


def test_words_that_are_read_most_keep_their_vectors() -> None:
    often = np.argsort(-np.bincount(zipf()["ids"][0], minlength=WORDS), kind="stable")
    for options in (
        {"method": "reference", "common": 20, "pool": 16, "width": 4},
        {"method": "sparse", "common": 20, "nonzeros": 3},
    ):
        table = stand(made(**options), T, calibrated(zipf())).dense()
        assert np.array_equal(table[often[:20]], T[often[:20]])
        assert not np.isclose(table[often[20:]], T[often[20:]]).all(1).any()


# leaves alone


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("method", METHODS)
def test_leaves_alone(method: str, name: str) -> None:
    model, options, rule = LEFT[name]
    step = made(**{"method": method, "ratio": 0.6, **options})
    found: list[Miss] = misses(step, model())
    assert [miss.rule for miss in found] == [rule]
    before = model()
    after = before.clone()
    step.apply(after, Context())
    assert lines(after) == lines(before)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"pool": 300, "width": 16}, "words"),
        ({"pool": 16, "width": 17}, "width"),
        ({"pool": 200, "width": 16, "ratio": 0.5}, "ratio"),
        ({"method": "lightrnn", "width": 0, "ratio": 0.1}, "ratio"),
        ({"method": "lightrnn", "width": 17}, "width"),
        ({"method": "sparse", "common": 257, "nonzeros": 1}, "words"),
        ({"method": "sparse", "common": 3, "nonzeros": 4}, "nonzeros"),
        ({"method": "sparse", "common": 250, "nonzeros": 4}, "bytes"),
        ({"method": "reference", "common": 257}, "words"),
        ({"method": "reference", "common": 255, "pool": 4, "width": 4}, "words"),
        ({"method": "reference", "common": 9, "pool": 256, "width": 16}, "bytes"),
    ],
)
def test_leaves_what_does_not_fit(options: dict[str, object], rule: str) -> None:
    assert [miss.rule for miss in misses(made(**options), lookup())] == [rule]


def test_a_few_words_have_no_rows_and_columns() -> None:
    assert [miss.rule for miss in misses(made(method="lightrnn", width=0), lookup(normal(3, 16)))] == ["words"]
    assert [miss.rule for miss in misses(made(method="lightrnn", width=0), lookup(normal(64, 1)))] == ["words"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"ratio": -0.5}, "between 0 and 1"), ({"pool": 1}, "pool of at least 2"), ({"pool": 1 << 17}, "65536"),
        ({"width": 0}, "width of at least 1"), ({"method": "lightrnn", "width": -1}, "width of at least 0"),
        ({"join": "sum"}, "method=slim does not take join=sum"),
        ({"method": "sparse", "pool": 4}, "it takes common, nonzeros, nonnegative"),
        ({"method": "sparse", "common": 0}, "common of at least 1"),
        ({"method": "reference", "common": -1}, "common of at least 0"),
        ({"method": "sparse", "nonzeros": 0}, "nonzeros of at least 1"),
        ({"iterations": -1}, "iterations of at least 0"),
    ],
)  # fmt: skip
def test_refuses(options: dict[str, object], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        made(**options)


def test_frequencies_need_data() -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        made(weight="frequency").apply(lookup(), Context())


# holds numerically


def test_the_corpus_holds_its_contract() -> None:
    feeds = {"ids": np.random.default_rng(0).integers(0, 2048, (4, 16))}
    for method in ("slim", "reference"):
        model = words_of_few_parts()
        step = ShareEmbedding(method=method)  # type: ignore[arg-type]
        before = model.clone()
        report = run_pipeline(Pipeline(steps=(step,)), model, calibrated(feeds), verify=Verify.EACH)
        assert report.passes[0].changed
        assert stored(model) <= before.graph.initializers["t"].const_value.nbytes / 8
        assert compare(before, model, feeds).within(1e-3)


def test_what_is_shared_already_loses_nothing() -> None:
    parts = normal(24, 4)
    table = parts[np.random.default_rng(0).integers(0, 24, (WORDS, 4))].reshape(WORDS, WIDTH)
    for options in ({"pool": 24, "width": 4}, {"method": "reference", "common": 0, "pool": 24, "width": 4}):
        model, feeds = tied(table), {"ids": np.arange(WORDS)[None]}
        before = model.clone()
        assert made(**options).apply(model, Context()).matches
        assert compare(before, model, feeds).within(ROUNDED[np.float32])


@pytest.mark.parametrize("method", METHODS)
def test_the_ratio_is_of_bytes_and_more_are_closer(method: str) -> None:
    table, errors = normal(1024, 24), []
    for ratio in (0.15, 0.3, 0.6):
        found = stand(made(method=method, ratio=ratio), table)
        assert 0.3 * ratio < found.bytes / table.nbytes <= ratio
        errors.append(float(np.square(table - found.dense()).sum()))
    assert errors == sorted(errors, reverse=True)


def test_words_that_are_read_more_are_closer() -> None:
    counts = np.bincount(zipf()["ids"][0], minlength=WORDS)
    for method in METHODS:
        weighed, plain = (
            (
                np.square(stand(made(method=method, weight=weight, ratio=0.4), T, calibrated(zipf())).dense() - T).sum(
                    1
                )
                * counts
            ).sum()
            for weight in ("auto", "none")
        )
        assert weighed < plain, method


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_half(dtype: type) -> None:
    for options in ({"ratio": 0.6}, {"method": "reference", "ratio": 0.6}, {"method": "lightrnn", "width": 0}):
        model = lookup(T.astype(dtype))
        assert made(**options).apply(model, Context()).matches == 1
        kept = model.graph.initializers.items()
        stored_in = {value.dtype for name, value in kept if name in ("t_books", "t_own")}
        assert stored_in == {ir.DataType.from_numpy(np.dtype(dtype))}


# a code of two bytes is no less than a number of two
@pytest.mark.parametrize("options", [name for name in OPTIONS if name != "two bytes"])
def test_tables_in_half_precision_that_are_read_in_single(options: str) -> None:
    check_half_tables(made(**{name: 0.7 if name == "ratio" else each for name, each in OPTIONS[options].items()}))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {"pool": 16, "width": 1}, {"method": "lightrnn", "width": 2},
        {"method": "sparse", "common": 60, "nonzeros": 20},
        {"method": "reference", "common": 5, "pool": 16, "width": 1},
    ],
)  # fmt: skip
def test_scores_of_many_parts_add_up_in_half_precision(options: dict[str, object], dtype: type) -> None:
    check_half(made(**options), dtype)


@pytest.mark.parametrize(
    "sizes",
    [
        {"pool": 40, "width": 4}, {"pool": 100, "width": 16}, {"pool": 300, "width": 1},
        {"method": "lightrnn", "width": 0}, {"method": "lightrnn", "width": 5, "join": "concat"},
        {"method": "sparse", "common": 40, "nonzeros": 3}, {"method": "sparse", "common": 200, "nonzeros": 1},
        {"method": "reference", "common": 9, "pool": 16, "width": 4},
        {"method": "reference", "common": 60, "pool": 16, "width": 4},
    ],
)  # fmt: skip
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.2, 0.4, 0.9])
def test_the_ratio_holds_whatever_sizes_are_given(ratio: float, sizes: dict[str, object]) -> None:
    check_ratio(made(ratio=ratio, **sizes))


def test_what_many_sums_take_is_told() -> None:
    (miss,) = misses(made(method="sparse", common=250), lookup())
    # 250 words of 16 numbers, one index and coefficient for each word
    assert (miss.rule, miss.value, miss.need.split()[2]) == ("ratio", "2,048 bytes", "16,768")


def test_findings_tell_what_was_chosen() -> None:
    told = made(method="lightrnn", width=0).apply(lookup(), Context()).findings[0].chosen
    assert told.startswith("1 table of words, 16 rows and as many columns; 14.1 % of the bytes; error ")
    told = made(method="reference", common=9, pool=16, width=4).explain(lookup(), Context()).findings[0].chosen
    assert told.startswith("9 words of their own, 4 blocks of 16 references; ")
