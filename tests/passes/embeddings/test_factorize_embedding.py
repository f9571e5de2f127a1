"""Tables as products of thinner matrices: what lookups and heads read then, what stays, and how close answers are."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.level import Level, Signature, violations
from tersor.ir.text import graph, lines
from tersor.passes.base import Context, Miss
from tersor.passes.embeddings.embedding_pass import Stand
from tersor.passes.embeddings.factorize_embedding import FactorizeEmbedding
from tersor.passes.lookups import tables
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.tests.passes.corpus_factorize import low_rank
from tersor.tests.passes.embeddings import words
from tersor.tests.passes.embeddings.words import IDS, WIDTH, WORDS, calibrated, check_backend, check_half, normal
from tersor.tests.support import ROUNDED, apply, distance, inside_if, misses, on_onnxruntime

#: Of rank 4.
T = low_rank(WORDS, WIDTH, 4)
HARD = normal(WORDS, WIDTH)


def made(**options: object) -> FactorizeEmbedding:
    return FactorizeEmbedding(smallest=1, **options)  # type: ignore[arg-type]


def lookup(table: np.ndarray = T) -> ir.Model:
    return graph("y = Gather(t, ids)", inputs=IDS, t=table)


def tied(table: np.ndarray = T) -> ir.Model:
    return graph(
        "e = Gather(t, ids)", "h = Tanh(e)", "u = Transpose{perm=[1, 0]}(t)", "l = MatMul(h, u)", "a = Add(l, b)",
        "y = Softmax(a)", inputs=IDS, t=table, b=normal(len(table)),
    )  # fmt: skip


def untied(table: np.ndarray = T) -> ir.Model:
    return graph(
        "e = Gather(t, ids)", "h = Tanh(e)", "y = MatMul(h, w)", inputs=IDS, t=HARD, w=np.ascontiguousarray(table.T)
    )


def fed(*ids: int) -> dict[str, np.ndarray]:
    return {"ids": np.array([ids], np.int64)}


def zipf(count: int = 4000, words: int = WORDS) -> dict[str, np.ndarray]:
    """Ids that are rarer the greater they are, but for every seventh, which are never seen."""
    rng = np.random.default_rng(0)
    drawn = np.minimum(rng.zipf(1.3, 4 * count), words) - 1
    return {"ids": drawn[drawn % 7 != 6][:count].reshape(1, -1)}


def stands_for(model: ir.Model, ids: np.ndarray | None = None) -> np.ndarray:
    """What a lookup gives for each word."""
    every = np.arange(WORDS)[None] if ids is None else ids
    (found,) = on_onnxruntime(model, {"ids": every})
    return found[0]


def nbytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for name, value in model.graph.initializers.items() if name.startswith("t_"))


# rewrites


def test_a_lookup_of_a_product() -> None:
    assert apply(made(method="low-rank", rank=4), lookup()) == [
        "y/Gather = Gather{axis=0}(t_left, ids)", "y = MatMul(y/Gather, t_right)",
    ]  # fmt: skip


def test_a_tied_head_reads_the_same_product() -> None:
    model = tied()
    found = apply(made(method="low-rank", rank=4), model)
    assert found == [
        "e/Gather = Gather{axis=0}(t_left, ids)", "e = MatMul(e/Gather, t_right)", "h = Tanh(e)",
        "l/Transpose = Transpose{perm=[1, 0]}(t_left)", "l/Transpose_1 = Transpose{perm=[1, 0]}(t_right)",
        "l/MatMul = MatMul(h, l/Transpose_1)", "l = MatMul(l/MatMul, l/Transpose)", "a = Add(l, b)", "y = Softmax(a)",
    ]  # fmt: skip
    assert sorted(model.graph.initializers) == ["b", "t_left", "t_right"]


def test_lookups_in_two_blocks() -> None:
    found = apply(made(blocks=2, refine=0, ratio=0.5), lookup())
    assert found == [
        "y/Gather = Gather{axis=0}(t_place, ids)", "y/Cast = Cast{to=6}(y/Gather)",
        "y/Sub = Sub(y/Cast, y/bound)", "y/Clip = Clip(y/Sub, y/bound_1, y/bound_2)",
        "y/Gather_1 = Gather{axis=0}(t_left0, y/Clip)",
        "y/Sub_1 = Sub(y/Cast, y/bound_3)", "y/Clip_1 = Clip(y/Sub_1, y/bound_4, y/bound_5)",
        "y/Gather_2 = Gather{axis=0}(t_left1, y/Clip_1)",
        "y/Concat = Concat{axis=-1}(y/Gather_1, y/Gather_2)", "y = MatMul(y/Concat, t_right)",
    ]  # fmt: skip


def test_scores_in_blocks_keep_the_order_of_the_words() -> None:
    model = tied(HARD)
    context = calibrated(zipf())
    after = model.clone()
    made(ratio=0.6, blocks=3, metric="none").apply(after, context)
    assert violations(after, Level.SEMANTIC, signature=Signature.of(model)) == []
    word = np.arange(WORDS)[None]
    dense = table_after(HARD, ratio=0.6, blocks=3, metric="none")
    scores = np.tanh(dense[word]).astype(np.float64) @ dense.T + normal(WORDS)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    (found,) = on_onnxruntime(after, {"ids": word})
    assert distance([found], [scores / scores.sum(-1, keepdims=True)]) < ROUNDED[np.float32]


def table_after(table: np.ndarray, **options: object) -> np.ndarray:
    model = lookup(table)
    made(**options).apply(model, calibrated(zipf()))
    return stands_for(model)


#: Options under which a table of rank 4 loses nothing.
EXACT: dict[str, dict[str, object]] = {
    "low-rank": {"method": "low-rank", "rank": 4},
    "by ratio": {"method": "low-rank", "ratio": 0.3},
    "one block": {"blocks": 1, "ratio": 0.5},
    "blocks": {"ratio": 0.5},
    "as they are": {"blocks": 6, "ratio": 0.75},
}
MODELS: dict[str, Callable[[], ir.Model]] = {
    "lookup": lookup,
    "tied": tied,
    "int32": lambda: graph("y = Gather(t, ids)", inputs={"ids": "int32[batch]"}, t=T),
    "one id": lambda: graph("y = Gather(t, ids)", inputs={"ids": "int64[]"}, t=T),
    "gemm": lambda: graph(
        "e = Gather(t, ids)", "y = Gemm{transB=1, alpha=0.5}(e, t, b)", inputs={"ids": "int64[n]"}, t=T, b=normal(WORDS)
    ),
    "in a branch": lambda: inside_if(lookup()),
}


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", EXACT)
def test_a_table_of_few_features_loses_nothing(options: str, name: str, data: bool) -> None:
    model = MODELS[name]()
    shape = {"batch": (5,), "n": (5,)}.get(str((model.graph.inputs[-1].shape or ("",))[0]), ())
    ids = np.random.default_rng(0).integers(-WORDS, WORDS, shape if name in ("int32", "gemm", "one id") else (3, 40))
    dtype = np.int32 if name == "int32" else np.int64
    feeds = {"cond": np.array(True), "ids": ids.astype(dtype)}
    feeds = {value.name: feeds[value.name] for value in model.graph.inputs}
    after = model.clone()
    outcome = made(**EXACT[options]).apply(after, calibrated(feeds) if data else Context())
    assert outcome.matches == 1
    assert nbytes(after) < T.nbytes
    assert violations(after, Level.SEMANTIC, signature=Signature.of(model)) == []
    assert compare(model, after, feeds).within(ROUNDED[np.float32])
    assert distance(on_onnxruntime(after, feeds), on_onnxruntime(model, feeds)) < ROUNDED[np.float32]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("options", EXACT)
def test_every_backend_runs_what_is_made(options: str, backend: str) -> None:
    check_backend(made(**EXACT[options]), backend)


def test_words_that_are_read_more_are_closer() -> None:
    counts = np.bincount(zipf()["ids"][0], minlength=WORDS)
    for options in ({"method": "low-rank", "ratio": 0.4}, {"ratio": 0.4}):
        weighed, plain = (
            (np.square(table_after(HARD, weight=weight, **options) - HARD).sum(1) * counts).sum()
            for weight in ("auto", "none")
        )
        assert weighed < plain


def test_the_ratio_is_of_bytes() -> None:
    for method in ("low-rank", "blocks"):
        for ratio in (0.2, 0.5, 0.8):
            model = lookup(HARD)
            assert made(method=method, ratio=ratio).apply(model, calibrated(zipf())).matches
            assert 0.5 * ratio < nbytes(model) / HARD.nbytes <= ratio


def test_more_bytes_are_closer() -> None:
    for method in ("low-rank", "blocks"):
        errors = [
            float(np.square(table_after(HARD, method=method, ratio=ratio, weight="none") - HARD).sum())
            for ratio in (0.2, 0.4, 0.6, 0.8)
        ]
        assert errors == sorted(errors, reverse=True)


def test_half_precision_stays_half() -> None:
    model = graph(
        "t32 = Cast{to=1}(t)", "y = Gather(t32, ids)", "u = Transpose{perm=[1, 0]}(t32)", "z = MatMul(y, u)",
        inputs=IDS, outputs=["z"], t=T.astype(np.float16),
    )  # fmt: skip
    before = model.clone()
    assert made(ratio=0.6).apply(model, Context()).matches == 1
    stored = [value.dtype for name, value in model.graph.initializers.items() if name.startswith(("t_left", "t_right"))]
    assert set(stored) == {ir.DataType.FLOAT16}
    # rounding of the factors
    assert compare(before, model, fed(3, 4, -5)).within(16 * 2.0**-11)


def test_a_head_in_blocks_of_half_precision() -> None:
    """Tied or its own, scores are those of the factors within what rounding both products leaves."""
    for dtype in (np.float16, ml_dtypes.bfloat16):
        check_half(made(ratio=0.5), dtype)
    table, heads = HARD.astype(np.float16), normal(WORDS, WIDTH, seed=3).astype(np.float16)
    model = graph(
        "e = Gather(t, ids)", "y = MatMul(e, w)", inputs=IDS, outputs=["e", "y"], t=table, w=heads.T.copy(),
    )  # fmt: skip
    planned = list(made(ratio=0.5, heads="all").planned(model.clone(), Context()))
    assert made(ratio=0.5, heads="all").apply(model, Context()).matches == 2
    stored = {value.dtype for name, value in model.graph.initializers.items() if "left" in name or "right" in name}
    assert stored == {ir.DataType.FLOAT16}
    word = {"ids": np.arange(WORDS)[None]}
    rows, scores = on_onnxruntime(model, word)
    first, second = (each.lookup.dense().astype(np.float64) for _, each in planned if isinstance(each, Stand))
    expected = [first[word["ids"]], rows.astype(np.float64) @ second.T]
    assert distance([rows, scores], expected) < float(np.finfo(np.float16).eps)


def test_a_head_of_its_own_follows_where_it_is_asked() -> None:
    model, feeds = untied(), zipf(200)
    before = model.clone()
    outcome = made(method="low-rank", rank=4, heads="all", ignore=("t",)).apply(model, calibrated(feeds))
    assert outcome.matches == 1
    assert sorted(model.graph.initializers) == ["t", "w_left", "w_right"]
    assert compare(before, model, feeds).within(ROUNDED[np.float32])


def test_scores_of_a_head_are_closest_for_what_it_reads() -> None:
    """A head that is fed a few directions is closer by calibration than its weight alone says."""
    features = normal(WORDS, 3, seed=5) @ normal(3, WIDTH, seed=6)
    model = graph("e = Gather(t, ids)", "y = MatMul(e, w)", inputs=IDS, t=features, w=np.ascontiguousarray(HARD.T))
    lost = []
    for weight in ("auto", "none"):
        after = model.clone()
        made(method="low-rank", rank=3, heads="all", only=("w",), weight=weight, power=0.1).apply(
            after, calibrated(zipf(500))
        )
        lost.append(compare(model, after, zipf(500)).relative_l2)
    assert lost[0] < 0.1 * lost[1]


def test_a_table_before_a_wide_layer_is_no_factor() -> None:
    model = graph(
        "e = Gather(t, ids)", "m = MatMul(e, w)", "y = Add(m, b)", inputs=IDS, t=T, w=normal(WIDTH, 48), b=normal(48)
    )
    assert made(method="low-rank", rank=4).apply(model, Context()).matches == 1


def test_findings_tell_what_was_chosen() -> None:
    told = [
        made(**options).apply(lookup(), context).findings[0].chosen
        for options, context in (
            ({"method": "low-rank", "rank": 4}, Context()),
            ({"blocks": 2, "refine": 0, "ratio": 0.5}, calibrated(zipf())),
        )
    ]
    assert told[0] == "rank 4 of 16; 26.6 % of the bytes; error 0.0 %, all words count the same"
    assert told[1].startswith("blocks of 128 x ") and told[1].endswith("by frequency")


def test_factors_can_be_quantized() -> None:
    for options in ({"method": "low-rank", "rank": 4}, {"ratio": 0.5}):
        model, feeds = lookup(), fed(1, 2, 3)
        before = model.clone()
        made(**options).apply(model, Context())
        assert QuantizeDynamic(embeddings=True, smallest=1).apply(model, Context()).matches
        assert compare(before, model, feeds).within(0.1)


# leaves alone

LEFT: dict[str, tuple[Callable[[], ir.Model], dict[str, object], str]] = {
    **{name: words.LEFT[name] for name in words.LEFT if name != "no room"},
    "rank above full": (lookup, {"method": "low-rank", "rank": WIDTH + 1}, "rank"),
    "full rank": (lookup, {"method": "low-rank", "rank": WIDTH}, "bytes"),
    "no room": (lookup, {"method": "low-rank", "ratio": 0.05}, "ratio"),
    "no room for blocks": (lookup, {"ratio": 0.1}, "ratio"),
    "narrow": (lambda: lookup(normal(WORDS, 1)), {}, "ratio"),
    "factored": (
        lambda: graph("e = Gather(t, ids)", "y = MatMul(e, w)", inputs=IDS, t=T, w=normal(WIDTH, 3 * WIDTH)), {},
        "factored",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_leaves_alone(name: str) -> None:
    model, options, rule = LEFT[name]
    found: list[Miss] = misses(FactorizeEmbedding(**{"smallest": 1, **options}), model())  # type: ignore[arg-type]
    assert [miss.rule for miss in found] == [rule]
    before = model()
    after = before.clone()
    FactorizeEmbedding(**{"smallest": 1, **options}).apply(after, Context())  # type: ignore[arg-type]
    assert lines(after) == lines(before)


def test_does_not_factor_what_it_made() -> None:
    for options in ({"method": "low-rank", "rank": 8}, {"ratio": 0.7}, {"ratio": 0.7, "heads": "all"}):
        for model in (lookup(HARD), tied(HARD), untied(HARD)):
            step = made(**options)
            assert step.apply(model, Context()).matches
            again = step.apply(model, Context())
            assert again.matches == 0
            assert {finding.miss.rule for finding in again.findings if finding.miss is not None} <= {"factored"}


def test_frequencies_need_data() -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        made(weight="frequency").apply(lookup(), Context())
    assert made(weight="frequency").explain(lookup(), Context()).misses == ()
    assert made(weight="frequency", ratio=0.5).apply(lookup(), calibrated(zipf())).matches == 1


def test_a_head_stays_where_it_would_be_slower() -> None:
    slower = Miss("speed", "0.9 of the speed", "faster")
    asked = list[str]()

    def pays(step: object, model: ir.Model, found: object) -> Miss:
        asked.append(getattr(found, "name", ""))
        return slower

    model = graph(
        "e = Gather(t, ids)", "o = Gather(p, ids)", "u = Transpose{perm=[1, 0]}(t)", "l = MatMul(o, u)",
        "y = Softmax(l)", "z = Tanh(e)",
        inputs=IDS, outputs=["y", "z"], t=T, p=HARD,
    )  # fmt: skip
    outcome = made().apply(model, Context(pays=pays))
    assert [finding.miss for finding in outcome.findings] == [slower, None]
    assert len(asked) == 1, "lookups alone are not asked about"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 4}, "method=blocks does not take rank=4"),
        ({"method": "low-rank", "rank": 0}, "rank of at least 1"),
        ({"method": "low-rank", "rank": 4, "ratio": 0.5}, "ratio or rank"),
        ({"method": "low-rank", "blocks": 4}, "method=low-rank does not take blocks=4"),
        ({"method": "low-rank", "refine": 4}, "method=low-rank does not take refine=4"),
        ({"blocks": 0}, "blocks of at least 1"),
        ({"refine": -1}, "refine of at least 0"),
        ({"ratio": 0.0}, "ratio between 0 and 1"),
        ({"ratio": 1.0}, "ratio between 0 and 1"),
        ({"smoothing": 0.0}, "smoothing above 0"),
        ({"power": -1.0}, "power of at least 0"),
    ],
)
def test_refuses_options_that_say_nothing(options: dict[str, object], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        made(**options)


# holds numerically


def test_the_tables_are_those_of_the_method() -> None:
    model = lookup(HARD)
    made(method="low-rank", rank=5, weight="none").apply(model, Context())
    values = np.linalg.svd(HARD.astype(np.float64), compute_uv=False)
    lost = np.square(stands_for(model).astype(np.float64) - HARD).sum()
    assert lost == pytest.approx(np.square(values[5:]).sum(), rel=ROUNDED[np.float32])


def test_padding_and_unseen_words_behave() -> None:
    table = HARD.copy()
    table[0] = 0
    for options in ({"method": "low-rank", "ratio": 0.4}, {"ratio": 0.4}):
        found = table_after(table, **options)
        assert not found[0].any()
        unseen = np.arange(6, WORDS, 7)
        assert np.linalg.norm(found[unseen]) <= np.linalg.norm(table[unseen])
        assert np.linalg.norm(found[unseen]) > 0.1 * np.linalg.norm(table[unseen])


def test_tables_keep_their_names() -> None:
    model = tied()
    made(ratio=0.5).apply(model, Context())
    assert {table.weight.name for table in tables(model)} == {f"t_left{at}" for at in range(4)}
