"""Weights of one role as combinations of one stored basis: what they answer, what is stored, what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, Signature, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Candidate, Context, Miss, Outcome, Pass
from tersor.passes.share.share_basis import ShareBasis
from tersor.passes.share.thinning import Thin
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_attention import X
from tersor.tests.passes.corpus_factorize import low_rank_layers
from tersor.tests.passes.corpus_share import shared_basis
from tersor.tests.support import ROUNDED, apply, distance, holds, inside_if, misses, on_onnxruntime

RNG = np.random.default_rng(0)
BASIS = RNG.standard_normal((32, 8)) / 6


def alike(columns: int = 48) -> np.ndarray:
    """A weight whose columns are combinations of the basis."""
    return (BASIS @ RNG.standard_normal((8, columns))).astype(np.float32)


def noise(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def calibrated(model: ir.Model, batches: int = 3) -> Context:
    return Context(calibration=Calibration([random_feeds(model, seed=seed) for seed in range(batches)]))


def shared(made: ShareBasis, model: ir.Model, context: Context | None = None) -> Outcome:
    signature = Signature.of(model)
    found = made.apply(model, context or Context())
    assert violations(model, Level.SEMANTIC, signature=signature) == []
    return found


def numbers(model: ir.Model) -> int:
    return sum(value.const_value.size for value in model.graph.initializers.values() if len(value.shape) > 1)


#: A chain of two layers of one shape, in every spelling of a linear layer; weights [in, out] are stored as told.
CHAINS: Mapping[str, tuple[tuple[str, ...], str, bool]] = {
    "matmul": (("a = MatMul(x, w)", "b = Tanh(a)", "y = MatMul(b, v)"), "float[batch, 32]", False),
    "gemm": (("a = Gemm{alpha=0.5}(x, w, c)", "b = Tanh(a)", "y = Gemm{beta=2.0}(b, v, d)"), "float[batch, 32]", False),
    "gemm, transB": (("a = Gemm{transB=1}(x, w)", "b = Tanh(a)", "y = Gemm{transB=1}(b, v)"), "float[batch, 32]", True),
    "gemm, transA": (
        ("a = Gemm{transA=1}(x, w)", "t = Transpose{perm=[1, 0]}(a)", "b = Tanh(t)", "y = Gemm{transA=1}(b, v, c)"),
        "float[32, batch]",
        False,
    ),
    "left": (("a = MatMul(w, x)", "b = Tanh(a)", "y = MatMul(v, b)"), "float[32, batch]", True),
    "pointwise": (("a = Conv(x, w, c)", "b = Tanh(a)", "y = Conv(b, v)"), "float[batch, 32, time]", True),
    "turned": (
        (
            "wt = Transpose{perm=[1, 0]}(w)", "a = MatMul(x, wt)", "b = Tanh(a)", "vt = Transpose{perm=[1, 0]}(v)",
            "y = MatMul(b, vt)",
        ),
        "float[batch, 32]",
        True,
    ),
    "leading ones": (("a = MatMul(x, w)", "b = Tanh(a)", "y = MatMul(b, v)"), "float[batch, 32]", False),
}  # fmt: skip


def chain(name: str, dtype: str = "float") -> ir.Model:
    text, x, turned = CHAINS[name]
    weights = {each: alike(32) for each in "wv"} | {each: noise(32) for each in "cd"}
    stored = {
        each: array.T.copy() if turned and array.ndim > 1 else array
        for each, array in weights.items()
        if each in " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    }
    if name == "pointwise":
        stored |= {each: stored[each][..., None] for each in "wv"}
    if name == "leading ones":
        stored |= {each: stored[each][None] for each in "wv"}
    kind = np.float16 if dtype == "float16" else np.float32
    return graph(
        *text, inputs={"x": x.replace("float", dtype)}, **{each: array.astype(kind) for each, array in stored.items()}
    )


@pytest.mark.parametrize("name", CHAINS)
def test_every_spelling_reads_one_stored_basis(name: str) -> None:
    model = chain(name)
    made = model.clone()
    found = shared(ShareBasis(rank=8, smallest=1), made)
    assert found.matches == 2
    held = [value for value in made.graph.initializers.values() if (value.name or "").endswith("_left")]
    assert len(held) == 1 and len(held[0].uses()) == 2
    feeds = random_feeds(model, seed=1)
    # the weights are combinations of eight columns, so that nothing is lost
    assert compare(runner(model), runner(made), [feeds]).relative_l2 <= ROUNDED[np.float32]
    assert distance(on_onnxruntime(made, feeds), on_onnxruntime(model, feeds)) <= ROUNDED[np.float32]


def test_the_graph_reads_as_the_docstring_draws_it() -> None:
    model = chain("matmul")
    assert apply(ShareBasis(rank=8, smallest=1), model) == [
        "a/MatMul = MatMul(x, w_left)",
        "a = MatMul(a/MatMul, w_right)",
        "b = Tanh(a)",
        "y/MatMul = MatMul(b, w_left)",
        "y = MatMul(y/MatMul, v_right)",
    ]


def test_half_floats_stay_so() -> None:
    model = chain("matmul", "float16")
    shared(ShareBasis(rank=8, smallest=1), model)
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.FLOAT16}


def test_twins_of_blocks_share_whatever_their_names() -> None:
    model = shared_basis()
    for number, value in enumerate(list(model.graph.initializers.values())):
        value.name = f"weight{number}"
    found = shared(ShareBasis(ratio=0.4, multiple=2, alone=False, smallest=1), model, calibrated(model))
    assert found.matches == 4
    assert sum("basis of 2 layers" in finding.chosen for finding in found.findings) == 4


def test_layers_that_read_one_activation_share_too() -> None:
    model = low_rank_layers()
    found = shared(ShareBasis(ratio=0.5, smallest=1), model)
    assert any("3 that read one activation" in finding.chosen for finding in found.findings)


def test_neighbours_share_in_groups_of_so_many() -> None:
    text = [f"h{at + 1} = MatMul(h{at}, w{at})" for at in range(5)]
    weights = {f"w{at}": alike(32) for at in range(5)}
    for group, bases in ((2, [2, 2, 1]), (3, [3, 2]), (0, [5]), (1, [1] * 5)):
        model = graph(*text, "y = Tanh(h5)", inputs={"h0": "float[batch, 32]"}, **weights)
        shared(ShareBasis(rank=8, group=group, smallest=1), model)
        held = [v for v in model.graph.initializers.values() if (v.name or "").endswith("_left")]
        assert [len(value.uses()) for value in held] == bases


@pytest.mark.parametrize("ratio", [0.9, 0.7, 0.5, 0.3])
@pytest.mark.parametrize("algorithm", ["svd", "whitened", "kronecker"])
def test_the_ratio_is_kept_and_nearly_used(ratio: float, algorithm: str) -> None:
    text = [f"h{at + 1} = MatMul(h{at}, w{at})" for at in range(4)]
    weights = {f"w{at}": noise(64, 64) for at in range(4)}
    model = graph(*text, "y = Tanh(h4)", inputs={"h0": "float[300, 64]"}, **weights)
    whole = numbers(model)
    found = shared(ShareBasis(ratio=ratio, algorithm=algorithm, multiple=1), model, calibrated(model))
    assert found.curve is not None
    assert ratio * whole * 0.93 <= numbers(model) <= ratio * whole
    assert found.curve.chosen[0] == pytest.approx(numbers(model) / whole)


def test_a_smaller_ratio_loses_more() -> None:
    model = shared_basis()
    for value in model.graph.initializers.values():
        if len(value.shape) > 1:
            value.const_value = ir.tensor(value.const_value.numpy() + 0.1 * noise(*value.const_value.shape))
    lost = []
    for ratio in (0.8, 0.5, 0.3):
        made = model.clone()
        shared(ShareBasis(ratio=ratio, smallest=1), made, calibrated(model))
        lost.append(compare(runner(model), runner(made), [random_feeds(model, seed=9)]).relative_l2)
    assert lost == sorted(lost)


def test_biases_make_up_for_the_mean() -> None:
    model = graph(
        "s = Add(x, m)", "p = MatMul(s, w)", "y = Add(p, b)",
        inputs={"x": "float[500, 32]"}, w=noise(32, 64), b=noise(64), m=np.full(32, 3.0, np.float32),
    )  # fmt: skip
    context, feeds = calibrated(model, 1), random_feeds(model, seed=0)
    lost = {}
    for repair in (True, False):
        made = model.clone()
        shared(ShareBasis(rank=8, algorithm="whitened", repair=repair, smallest=1), made, context)
        before, after = (runner(each)(feeds)["y"] for each in (model, made))
        lost[repair] = float(np.square(before - after).sum())
        mean = np.abs((before - after).mean(0)).max()
        # fitted on these very data: nothing is left of the mean but rounding
        assert (mean <= 1e-5 * np.abs(before).max()) == repair
    assert lost[True] < lost[False]


def test_the_least_error_on_the_data_is_that_of_whitened() -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[400, 32]"}, w=noise(32, 64))
    scales = np.exp(RNG.standard_normal(32)).astype(np.float32)
    feeds = {"x": (RNG.standard_normal((400, 32)) * scales).astype(np.float32)}
    context = Context(calibration=Calibration([feeds]))
    lost = {}
    for algorithm in ("svd", "whitened"):
        made = model.clone()
        shared(ShareBasis(rank=10, algorithm=algorithm, smallest=1), made, context)
        lost[algorithm] = compare(runner(model), runner(made), [feeds]).relative_l2
    assert lost["whitened"] < lost["svd"]


def test_layers_never_have_bases_of_their_own_where_that_is_asked() -> None:
    text = [f"h{at + 1} = MatMul(h{at}, w{at})" for at in range(2)]
    # of 20 directions each, and of 40 together
    weights = {f"w{at}": noise(64, 20) @ noise(20, 64) for at in range(2)}
    model = graph(*text, "y = Tanh(h2)", inputs={"h0": "float[9, 64]"}, **weights)
    apart, together = model.clone(), model.clone()
    made = ShareBasis(ratio=0.63, multiple=1)
    assert [finding.chosen for finding in shared(made, apart).findings] == ["rank 20"] * 2
    chosen = shared(replace(made, alone=False), together).findings
    assert all("basis of 2 layers" in finding.chosen for finding in chosen)


_W = noise(32, 48)
#: Graphs, options, and the rule of the miss.
LEFT: Mapping[str, tuple[ir.Model, Mapping[str, object], str]] = {
    "an embedding": (graph("y = Gather(w, i)", inputs={"i": "int64[n]"}, w=noise(64, 32)), {}, "kind"),
    "small": (graph("y = MatMul(x, w)", inputs=X, w=_W), {"smallest": 5000}, "size"),
    "ignored": (graph("y = MatMul(x, w)", inputs=X, w=_W), {"ignore": ("w",)}, "ignore"),
    "tied": (graph("a = MatMul(x, w)", "b = MatMul(x, w)", "y = Add(a, b)", inputs=X, w=_W), {}, "tied"),
    "a graph output": (graph("y = MatMul(x, w)", inputs=X, outputs=["y", "w"], w=_W), {}, "tied"),
    "no number": (graph("y = MatMul(x, w)", inputs=X, w=np.where(_W > 0.3, np.nan, _W)), {}, "finite"),
    "a pair": (
        graph("h = MatMul(x, a)", "y = MatMul(h, b)", inputs=X, a=noise(32, 8), b=noise(8, 48)),
        {"smallest": 1},
        "factored",
    ),
}


@pytest.mark.parametrize(("model", "options", "rule"), LEFT.values(), ids=LEFT)
def test_leaves_alone(model: ir.Model, options: Mapping[str, object], rule: str) -> None:
    found = misses(ShareBasis(**options), model)  # type: ignore[arg-type]
    assert found and {miss.rule for miss in found} == {rule}


def test_a_rank_that_saves_nothing_is_a_miss() -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=_W)
    before = lines(model)
    for rank in (20, 32, 100):
        (finding,) = shared(ShareBasis(rank=rank), model).findings
        assert finding.miss == Miss(
            "rank", str(rank), "a rank at which the factors have fewer numbers, or a smaller ratio"
        )
    assert lines(model) == before


def test_what_calibration_does_not_see_is_a_miss() -> None:
    model = inside_if(graph("y = MatMul(x, w)", inputs=X, w=_W))
    # each branch has a weight of its own
    branch = next(node for node in model.graph if node.op_type == "If").attributes["else_branch"].as_graph()
    (node,) = branch
    own = ir.Value(name="v", const_value=ir.tensor(_W, name="v"))
    own.type, own.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(_W.shape)
    model.graph.register_initializer(own)
    node.replace_input_with(1, own)
    found = shared(ShareBasis(algorithm="whitened"), model, calibrated(model))
    assert {finding.miss.rule for finding in found.findings if finding.miss} == {"inputs"} and not found.matches


def test_layers_that_differ_in_shape_share_nothing() -> None:
    model = graph("h = MatMul(x, w)", "y = MatMul(h, v)", inputs=X, w=alike(48), v=noise(48, 32))
    shared(ShareBasis(rank=8, smallest=1), model)
    assert not [value for value in model.graph.initializers.values() if len(value.uses()) > 1]


def test_a_second_application_takes_nothing_more() -> None:
    model = shared_basis()
    made = ShareBasis(ratio=0.6, smallest=1)
    assert shared(made, model).matches
    before = lines(model)
    assert not shared(made, model).matches
    assert lines(model) == before


def test_what_is_slower_on_the_target_stays() -> None:
    model = shared_basis()
    slow = Miss("speed", "half", "more")
    found = shared(ShareBasis(smallest=1), model, Context(pays=lambda made, model, site: slow))
    assert {finding.miss for finding in found.findings} == {slow}


def test_ranks_are_no_higher_than_what_is_fast_on_the_target() -> None:
    """Up to twelve features pay, whatever the ratio leaves room for."""

    def pays(made: Pass, model: ir.Model, asked: Candidate) -> Miss | None:
        assert isinstance(made, Thin)
        return Miss("speed", "half", "more") if made.rank > 12 else None

    text = [f"h{at + 1} = MatMul(h{at}, w{at})" for at in range(4)]
    weights = {f"w{at}": noise(64, 64) for at in range(4)}
    model = graph(*text, "y = Tanh(h4)", inputs={"h0": "float[9, 64]"}, **weights)
    for options in ({"ratio": 0.8}, {"rank": 12}):
        found = shared(ShareBasis(multiple=4, **options), model.clone(), Context(pays=pays))  # type: ignore[arg-type]
        assert found.matches
        ranks = [
            int(finding.chosen.split(",")[0].removeprefix("rank ")) for finding in found.findings if finding.chosen
        ]
        assert max(ranks) <= 12
    found = shared(ShareBasis(rank=16), model.clone(), Context(pays=pays))
    assert {finding.miss.rule for finding in found.findings if finding.miss} == {"speed"} and not found.matches


def test_what_is_timed_reads_as_what_is_done() -> None:
    made, thin = chain("matmul"), chain("matmul")
    ShareBasis(rank=8, group=1, smallest=1).apply(made, Context())
    assert Thin(rank=8).apply(thin, Context()).matches == 2
    assert lines(thin) == lines(made)


def test_explain_tells_the_ranks_and_changes_nothing() -> None:
    model = shared_basis()
    before, context = lines(model), calibrated(model)
    made = ShareBasis(ratio=0.5, smallest=1)
    told = made.explain(model, context)
    assert lines(model) == before
    assert told == made.apply(model, context) and any("rank" in finding.chosen for finding in told.findings)
    unfed = ShareBasis(algorithm="whitened", smallest=1).explain(shared_basis(), Context())
    assert unfed.matches == 4 and not any(finding.chosen for finding in unfed.findings)


def test_what_the_options_leave_out_is_not_fitted() -> None:
    """Neither a weight nor a pair of factors that is there already."""
    model = graph(
        "p = MatMul(x, w)", "h = Tanh(p)", "l = MatMul(h, ad0)", "r = MatMul(l, ad1)", "s = Add(h, r)",
        "q = MatMul(s, v)", "t = Tanh(q)", "y = MatMul(t, ad2)",
        inputs={"x": "float[300, 32]"}, w=noise(32, 32), v=noise(32, 32), ad0=noise(32, 4), ad1=noise(4, 32),
        ad2=noise(32, 32),
    )  # fmt: skip
    kept = {name: model.graph.initializers[name].const_value.numpy().copy() for name in ("ad0", "ad1", "ad2")}
    for ignore in ((), ("ad*",)):
        made = model.clone()
        found = shared(ShareBasis(ratio=0.5, ignore=ignore, smallest=1), made, calibrated(model))
        assert found.matches >= 2
        for name in ("ad0", "ad1", *(["ad2"] if ignore else [])):
            assert np.array_equal(made.graph.initializers[name].const_value.numpy(), kept[name])


def test_an_input_that_is_always_the_same() -> None:
    model = graph(
        "c = Concat{axis=-1}(x, k)", "p = MatMul(c, w)", "y = Add(p, b)", inputs={"x": "float[300, 31]"},
        k=np.full((300, 1), 1.1, np.float32), w=noise(32, 64), b=noise(64),
    )  # fmt: skip
    for algorithm in ("whitened", "kronecker"):
        assert shared(ShareBasis(algorithm=algorithm, smallest=1), model.clone(), calibrated(model)).matches  # type: ignore[arg-type]


def test_holds_its_contract() -> None:
    holds(ShareBasis(ratio=0.7, smallest=1), shared_basis())


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0},
        {"ratio": 1.5},
        {"rank": 0},
        {"group": -1},
        {"multiple": 0},
        {"probes": 0},
        {"ratio": 0.5, "rank": 8},
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="share-basis: expected"):
        ShareBasis(**options)  # type: ignore[arg-type]


def test_a_ratio_that_cannot_be_kept_says_what_can() -> None:
    with pytest.raises(OptionError, match=r"a budget of 0\.01 weights cannot be kept"):
        ShareBasis(ratio=0.01).apply(graph("y = MatMul(x, w)", inputs=X, w=_W), Context())


def test_data_are_asked_for_where_they_are_needed() -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        ShareBasis(algorithm="whitened").apply(graph("y = MatMul(x, w)", inputs=X, w=_W), Context())
