"""Tables by codes: what lookups and heads read then, what stays, and how close answers are."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.text import graph, lines
from tersor.passes.base import Context, Miss
from tersor.passes.embeddings.code_embedding import CodeEmbedding
from tersor.passes.pipeline import Pipeline
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
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


def made(**options: object) -> CodeEmbedding:
    return CodeEmbedding(**{"smallest": 1, **options})  # type: ignore[arg-type]


#: By what each method and each way to store codes is run.
OPTIONS: dict[str, dict[str, object]] = {
    "product": {"ratio": 0.3},
    "bytes": {"entries": 32, "width": 4},
    "four bits": {"entries": 16, "width": 3},
    "two bits": {"entries": 4, "width": 5},
    "residual": {"method": "residual", "ratio": 0.3},
    "whole rows": {"method": "residual", "entries": 16, "width": 0, "stages": 3},
    "sparse": {"method": "sparse", "ratio": 0.5},
    "atoms": {"method": "sparse", "atoms": 40, "nonzeros": 3},
}


# rewrites


def test_a_lookup_of_codes() -> None:
    assert apply(made(entries=32, width=4), lookup()) == [
        "y/Gather = Gather{axis=0}(t_codes, ids)", "y/Cast = Cast{to=6}(y/Gather)",
        "y/Add = Add(y/Cast, y/starts)", "y/Gather_1 = Gather{axis=0}(t_books, y/Add)",
        "y = Reshape(y/Gather_1, y/shape)",
    ]  # fmt: skip


def test_a_lookup_of_codes_of_four_bits() -> None:
    assert apply(made(entries=16, width=4), lookup()) == [
        "y/Gather = Gather{axis=0}(t_codes, ids)", "y/Unsqueeze = Unsqueeze(y/Gather, y/axes)",
        "y/BitwiseAnd = BitwiseAnd(y/Unsqueeze, y/masks)",
        "y/BitShift = BitShift{direction=RIGHT}(y/BitwiseAnd, y/shifts)", "y/Reshape = Reshape(y/BitShift, y/shape)",
        "y/Cast = Cast{to=6}(y/Reshape)", "y/Add = Add(y/Cast, y/starts)",
        "y/Gather_1 = Gather{axis=0}(t_books, y/Add)", "y = Reshape(y/Gather_1, y/shape_1)",
    ]  # fmt: skip


def test_a_lookup_of_vectors_that_add_up() -> None:
    found = apply(made(method="residual", entries=16, width=0, stages=2), lookup())
    assert found[-2:] == [
        "y/Reshape_1 = Reshape(y/Gather_1, y/shape_1)",
        "y = ReduceSum{keepdims=0}(y/Reshape_1, y/axes_1)",
    ]


def test_a_lookup_of_atoms() -> None:
    assert apply(made(method="sparse", atoms=40, nonzeros=3), lookup()) == [
        "y/Gather = Gather{axis=0}(t_codes, ids)", "y/Gather_1 = Gather{axis=0}(t_shares, ids)",
        "y/Cast = Cast{to=1}(y/Gather_1)", "y/Cast_1 = Cast{to=6}(y/Gather)",
        "y/Gather_2 = Gather{axis=0}(t_atoms, y/Cast_1)", "y/Unsqueeze = Unsqueeze(y/Cast, y/axes)",
        "y/MatMul = MatMul(y/Unsqueeze, y/Gather_2)", "y = Squeeze(y/MatMul, y/axes_1)",
    ]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_no_table_is_made_for_a_head(options: str) -> None:
    model = tied()
    assert made(**OPTIONS[options]).apply(model, Context()).matches == 1
    assert [node.op_type for node in model.graph].count("Scan") == 1
    for node in model.graph:
        for value in node.outputs:
            shape = [] if value.shape is None or value.dtype is not ir.DataType.FLOAT else list(value.shape)
            assert sorted(map(str, shape)) != sorted([str(WORDS), str(WIDTH)]), value.name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", OPTIONS)
def test_answers_are_those_of_the_table_that_stands_there(options: str, name: str) -> None:
    check_answers(made(**OPTIONS[options]), name)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("options", OPTIONS)
def test_every_backend_runs_what_is_made(options: str, backend: str) -> None:
    check_backend(made(**OPTIONS[options]), backend)


def test_codes_of_two_bytes() -> None:
    table = np.repeat(normal(300, 8), 3, axis=0)
    made_of = stand(made(entries=300, width=8, ratio=None), table)
    assert np.allclose(made_of.dense(), table, atol=1e-5)
    model = lookup(table)
    made(entries=300, width=8).apply(model, Context())
    assert model.graph.initializers["t_codes"].dtype is ir.DataType.UINT16


@pytest.mark.parametrize("options", OPTIONS)
def test_half_precision_stays_half(options: str) -> None:
    check_half_tables(made(**{name: 0.7 if name == "ratio" else each for name, each in OPTIONS[options].items()}))


def test_positions_are_no_codes() -> None:
    model = graph(
        "p = Gather{axis=1}(positions, ids)", "y = Gather(t, p)", inputs={"ids": "int64[time]"},
        t=T, positions=np.arange(WORDS)[None],
    )  # fmt: skip
    assert made(ratio=0.3).apply(model, Context()).matches == 1


def test_a_head_of_its_own_follows_where_it_is_asked() -> None:
    model = untied()
    assert made(ratio=0.3, heads="all", ignore=("t",)).apply(model, Context()).matches == 1
    assert sorted(model.graph.initializers)[:3] == ["t", "w_books", "w_codes"]
    assert made(ratio=0.3).apply(untied(), Context()).matches == 1


# leaves alone


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("method", ["product", "residual", "sparse"])
def test_leaves_alone(method: str, name: str) -> None:
    model, options, rule = LEFT[name]
    step = made(**{"method": method, "ratio": 0.4, **options})
    found: list[Miss] = misses(step, model())
    assert [miss.rule for miss in found] == [rule]
    before = model()
    after = before.clone()
    step.apply(after, Context())
    assert lines(after) == lines(before)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"entries": 300, "width": 16}, "words"),
        ({"method": "sparse", "atoms": 300, "nonzeros": 2}, "words"),
        ({"method": "sparse", "atoms": 4, "nonzeros": 5}, "nonzeros"),
        ({"entries": 16, "width": 17}, "width"),
        ({"entries": 256, "width": 1}, "bytes"),
        ({"entries": 256, "width": 4, "ratio": 0.5}, "ratio"),
        ({"method": "residual", "entries": 256, "stages": 9, "ratio": 0.5}, "ratio"),
        ({"method": "sparse", "nonzeros": 16, "ratio": 0.1}, "ratio"),
    ],
)
def test_leaves_what_does_not_fit(options: dict[str, object], rule: str) -> None:
    assert [miss.rule for miss in misses(made(**options), lookup())] == [rule]


def test_a_vocabulary_smaller_than_every_book_stays() -> None:
    assert [miss.rule for miss in misses(made(ratio=0.9), lookup(normal(3, 16)))] == ["words"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"ratio": 0.0}, "between 0 and 1"), ({"ratio": 1.0}, "between 0 and 1"),
        ({"entries": 1}, "entries of at least 2"), ({"entries": 1 << 17}, "at most 65536"),
        ({"width": -1}, "width of at least 0"), ({"iterations": -1}, "iterations of at least 0"),
        ({"stages": 2}, "method=product does not take stages=2"),
        ({"method": "residual", "stages": 0}, "stages of at least 1"),
        ({"method": "residual", "beam": 0}, "beam of at least 1"),
        ({"method": "sparse", "entries": 4}, "it takes atoms, nonzeros"),
        ({"method": "sparse", "nonzeros": 0}, "nonzeros of at least 1"),
        ({"smoothing": 0.0}, "smoothing above 0"), ({"power": -1.0}, "power of at least 0"),
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
    for method in ("product", "residual"):
        step = CodeEmbedding(method=method)  # type: ignore[arg-type]
        model = words_of_few_parts()
        before = model.clone()
        report = run_pipeline(Pipeline(steps=(step,)), model, calibrated(feeds), verify=Verify.EACH)
        assert report.passes[0].changed
        assert stored(model) <= before.graph.initializers["t"].const_value.nbytes / 8
        assert compare(before, model, feeds).within(1e-3)


def test_a_table_of_few_parts_loses_nothing() -> None:
    table = np.tile(normal(16, WIDTH), (16, 1))
    for options in ({"entries": 16, "width": 4}, {"method": "residual", "entries": 16, "width": 0, "stages": 2}):
        model, feeds = tied(table), {"ids": np.arange(WORDS)[None]}
        before = model.clone()
        assert made(**options).apply(model, Context()).matches
        assert compare(before, model, feeds).within(ROUNDED[np.float32])


@pytest.mark.parametrize("method", ["product", "residual", "sparse"])
def test_the_ratio_is_of_bytes_and_more_are_closer(method: str) -> None:
    table, errors = normal(1024, 24), []
    for ratio in (0.15, 0.3, 0.6):
        found = stand(made(method=method, ratio=ratio), table)
        assert 0.5 * ratio < found.bytes / table.nbytes <= ratio
        errors.append(float(np.square(table - found.dense()).sum()))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    "sizes",
    [
        {"entries": 16, "width": 4}, {"entries": 256, "width": 4}, {"entries": 4, "width": 1},
        {"method": "residual", "entries": 16, "width": 8, "stages": 3},
        {"method": "residual", "entries": 64, "width": 0, "stages": 2},
        {"method": "sparse", "atoms": 40, "nonzeros": 3}, {"method": "sparse", "atoms": 200, "nonzeros": 1},
        {"method": "sparse", "nonzeros": 2}, {"method": "sparse", "atoms": 20},
    ],
)  # fmt: skip
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.2, 0.4, 0.9])
def test_the_ratio_holds_whatever_sizes_are_given(ratio: float, sizes: dict[str, object]) -> None:
    check_ratio(made(ratio=ratio, **sizes))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {"entries": 16, "width": 1}, {"method": "residual", "entries": 16, "width": 1, "stages": 2},
        {"method": "sparse", "atoms": 60, "nonzeros": 20},
    ],
)  # fmt: skip
def test_scores_of_many_parts_add_up_in_half_precision(options: dict[str, object], dtype: type) -> None:
    check_half(made(**options), dtype)


def test_words_that_are_read_more_are_closer() -> None:
    counts = np.bincount(zipf()["ids"][0], minlength=WORDS)
    for options in ({"ratio": 0.2}, {"method": "residual", "ratio": 0.2}):
        weighed, plain = (
            (np.square(stand(made(weight=weight, **options), T, calibrated(zipf())).dense() - T).sum(1) * counts).sum()
            for weight in ("auto", "none")
        )
        assert weighed < plain


def test_the_seed_is_that_of_the_context() -> None:
    first, again, other = (stand(made(ratio=0.3), T, Context(seed=seed)).dense() for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_findings_tell_what_was_chosen() -> None:
    told = made(entries=16, width=4).explain(lookup(), Context()).findings[0].chosen
    assert told.startswith("4 runs of 4 columns, books of 16; 9.4 % of the bytes; error ")
    assert told.endswith("all words count the same")
    told = made(method="sparse", atoms=40, nonzeros=3).apply(lookup(), calibrated(zipf())).findings[0].chosen
    assert told.startswith("3 of 40 atoms; ") and told.endswith("by frequency")


def test_layers_beside_codes_can_be_quantized() -> None:
    model, feeds = untied(), {"ids": np.array([[1, 2, 3]])}
    assert made(entries=64, width=8).apply(model, Context()).matches
    before = model.clone()
    assert QuantizeDynamic(smallest=1).apply(model, Context()).matches
    assert compare(before, model, feeds).within(0.05)
