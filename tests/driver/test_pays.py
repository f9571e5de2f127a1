"""What passes are told of the speed of a site: models of one site, timed by a clock that the tests hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.backends.base import Backend
from tersor.backends.catalogue import create
from tersor.driver import diagnosis, pays, timing
from tersor.driver.pays import Pays, timed
from tersor.driver.timing import Contestant, Interval, Timings
from tersor.ir.feeds import Feeds
from tersor.ir.site import Kind, sites
from tersor.ir.text import graph
from tersor.passes.base import Context, Outcome, Pass
from tersor.passes.factorize.factorize_linear import FactorizeLinear
from tersor.passes.pipeline import Pipeline, title
from tersor.passes.quantize.quantize_codebook import QuantizeCodebook
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.statistics import Calibration

RNG = np.random.default_rng(3)
SLOW, FAST, UNCLEAR = Interval(0.62, 0.6, 0.65), Interval(1.4, 1.3, 1.5), Interval(0.97, 0.9, 1.02)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def layers() -> ir.Model:
    """A table and three layers, of which two are alike."""
    return graph(
        "e = Gather(table, ids)",
        "a = MatMul(e, up)",
        "b = MatMul(a, down)",
        "y = MatMul(b, again)",
        inputs={"ids": "int64[batch, time]"},
        table=normal(50, 32),
        up=normal(32, 64),
        down=normal(64, 32),
        again=normal(32, 64),
    )


FEEDS = {"ids": np.array([[3, 49, 7], [0, 1, 2]])}


@dataclass
class Clock:
    """Answers with what it is given, in turn, the last for good, and notes what it was shown."""

    answers: Sequence[Interval]
    seen: list[Feeds] = field(default_factory=list)

    def __call__(self, plain: Contestant, rewritten: Contestant, feeds: Feeds) -> Interval:
        plain(feeds), rewritten(feeds)
        self.seen.append(feeds)
        return self.answers[min(len(self.seen), len(self.answers)) - 1]


def apply(made: Pass, model: ir.Model, clock: Clock, *targets: str, feeds: Feeds = FEEDS) -> Outcome:
    backends = tuple(map(create, targets or ("onnxruntime",)))
    return made.apply(model, Context(pays=Pays(backends, feeds, clock)))


def test_sites_that_are_slower_stay_and_say_so() -> None:
    model, clock = layers(), Clock([SLOW])
    outcome = apply(QuantizeWeights(embeddings=True), model, clock)
    left = {site.name for site in sites(model) if site.weight.dtype == ir.DataType.FLOAT}
    assert left == {"up", "down", "again"}, "a table is taken for its size, and not timed"
    assert {str(finding.miss) for finding in outcome.misses} == {
        "speed: 0.62 [0.60, 0.65] of the speed of the float kernel on onnxruntime; "
        "needed a kernel at least as fast; --size-first takes it all the same"
    }


@pytest.mark.parametrize("answer", [FAST, UNCLEAR])
def test_sites_that_are_not_clearly_slower_are_taken(answer: Interval) -> None:
    assert apply(QuantizeWeights(embeddings=True), layers(), Clock([answer])).matches == 4


def test_sites_alike_are_timed_once_and_each_kind_by_itself() -> None:
    model, clock = layers(), Clock([FAST, SLOW])
    outcome = apply(QuantizeWeights(), model, clock)
    assert len(clock.seen) == 2
    assert [finding.miss.rule if finding.miss else "" for finding in outcome.findings] == ["kind", "", "speed", ""]


def pair(one: str, other: str, outputs: int = 48) -> ir.Model:
    """Two sites, the second with so many outputs."""
    weights = {"v": np.ones((32, 48), np.float32), "w": np.ones((32, outputs), np.float32)}
    return graph(one, other, inputs={"x": "float[few, 32]", "z": "float[many, 32]"}, **weights)


@pytest.mark.parametrize(
    ("model", "times"),
    [
        (pair("a = MatMul(x, v)", "b = MatMul(x, w)"), 1),
        (pair("a = MatMul(x, v)", "b = MatMul(z, w)"), 2),
        (pair("a = MatMul(x, v)", "b = MatMul(x, w)", 64), 2),
        (pair("a = MatMul(x, v)", "b = Gemm(x, w)"), 2),
        (pair("a = Gemm(x, v)", "b = Gemm{alpha=0.5}(x, w)"), 2),
    ],
    ids=["nothing", "rows", "outputs", "op", "attributes"],
)
def test_what_tells_sites_apart(model: ir.Model, times: int) -> None:
    clock = Clock([FAST])
    feeds = {"x": np.ones((2, 32), np.float32), "z": np.ones((5, 32), np.float32)}
    assert apply(QuantizeWeights(smallest=1), model, clock, feeds=feeds).matches == 2
    assert len(clock.seen) == times


def test_sites_that_are_rewritten_together_are_timed_together() -> None:
    weights = {name: np.ones((32, 32), np.float32) + at for at, name in enumerate("uvw")}
    text = [f"{name}y = MatMul(x, {name})" for name in "uvw"]
    model = graph(*text, inputs={"x": "float[batch, sequence, 32]"}, outputs=["uy", "vy", "wy"], **weights)
    counts: list[tuple[int, int]] = []

    def clock(plain: Contestant, rewritten: Contestant, feeds: Feeds) -> Interval:
        counts.append((len(plain(feeds)), len(rewritten(feeds))))
        return FAST

    context = Context(pays=Pays([create("onnxruntime")], {"x": np.ones((2, 3, 32), np.float32)}, clock))
    made = FactorizeLinear(rank=4, joint="together", smallest=1)
    assert made.apply(model, context).matches == 3
    assert counts == [(3, 3)]


def test_a_site_sees_as_many_rows_as_in_the_model() -> None:
    clock = Clock([FAST])
    apply(QuantizeWeights(embeddings=True), layers(), clock)
    up, down = clock.seen
    assert {name: array.shape for name, array in {**up, **down}.items()} == {"e": (2, 3, 32), "a": (2, 3, 64)}


def test_what_the_options_leave_out_is_not_timed() -> None:
    clock = Clock([SLOW])
    outcome = apply(QuantizeWeights(only=("down",), smallest=1500), layers(), clock)
    assert len(clock.seen) == 1
    assert [finding.miss.rule for finding in outcome.findings if finding.miss] == ["only", "only", "speed", "only"]


def test_with_several_candidates_a_site_stays_only_where_it_pays_on_none() -> None:
    targets = "onnxruntime", "torch"
    assert apply(QuantizeWeights(only=("up",)), layers(), Clock([SLOW, UNCLEAR]), *targets).matches == 1
    clock = Clock([SLOW])
    outcome = apply(QuantizeWeights(only=("up",)), layers(), clock, *targets)
    (miss,) = [
        finding.miss for finding in outcome.findings if finding.miss is not None and finding.miss.rule == "speed"
    ]
    assert miss.value.count("0.62 [0.60, 0.65]") == len(clock.seen) == 2
    assert miss.value.endswith("on torch")
    first = Clock([FAST])
    apply(QuantizeWeights(only=("up",)), layers(), first, *targets)
    assert len(first.seen) == 1, "the first candidate on which it pays decides"


def test_backends_that_take_long_to_compile_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Backend = create("onnxruntime")
    monkeypatch.setattr(type(backend), "quick", False)
    clock = Clock([SLOW])
    assert apply(QuantizeWeights(), layers(), clock).matches == 3
    assert not clock.seen


@pytest.mark.parametrize("made", [QuantizeDynamic(), QuantizeCodebook(), *Pipeline.of("cast").flat()])
def test_every_pass_that_stores_weights_asks(made: Pass) -> None:
    outcome = apply(made, layers(), Clock([SLOW]))
    assert [finding.miss.rule for finding in outcome.misses if finding.miss].count("speed") == 3


def test_calibrated_methods_are_timed_without_the_users_data() -> None:
    """There are none in this context: what the micro models need is random."""
    assert not apply(QuantizeWeights(algorithm="gptq"), layers(), Clock([SLOW])).matches


KINDS = {
    Kind.CONV: (
        graph("y = Conv{strides=[2]}(x, w, b)", inputs={"x": "float[n, 8, time]"}, w=normal(16, 8, 3), b=normal(16)),
        {"x": normal(2, 8, 20)},
        QuantizeWeights(convolutions=True, smallest=1),
    ),
    Kind.LINEAR: (
        graph("y = Gemm{transB=1, alpha=0.5}(x, w, b)", inputs={"x": "float[n, 32]"}, w=normal(48, 32), b=normal(48)),
        {"x": normal(5, 32)},
        QuantizeWeights(),
    ),
    Kind.RECURRENT_INPUT: (
        graph(
            "(y, h, c) = LSTM{hidden_size=16}(x, w, r, none, lengths)",
            inputs={"x": "float[time, 2, 32]", "lengths": "int32[2]"},
            w=normal(1, 64, 32),
            r=normal(1, 64, 16),
            none=np.zeros((1, 128), np.float32),
        ),
        {"x": normal(7, 2, 32), "lengths": np.array([7, 4], np.int32)},
        QuantizeWeights(),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_site_stands_alone(kind: Kind) -> None:
    model, feeds, made = KINDS[kind]
    clock = Clock([SLOW])
    assert not apply(made, model.clone(), clock, feeds=feeds).matches
    (seen,) = clock.seen
    assert {name: array.shape for name, array in seen.items()} == {name: array.shape for name, array in feeds.items()}


class TestAttention:
    """Two attentions alike and one of another length, each timed as a model of its own."""

    MADE: ClassVar[Pass] = QuantizeStatic(attention=True)
    FEEDS: ClassVar[Feeds] = {
        "x": normal(2, 5, 16),
        "z": normal(2, 9, 16),
        "keep": np.ones((2, 1, 1, 5), np.bool_),
    }

    def model(self) -> ir.Model:
        heads = "{q_num_heads=2, kv_num_heads=2}"
        return graph(
            f"a = Attention{heads}(x, x, x, keep)",
            f"b = Attention{heads}(a, x, a, keep)",
            f"y = Attention{heads}(b, z, z)",
            inputs={"x": "float[n, s, 16]", "z": "float[n, t, 16]", "keep": "bool[n, 1, 1, s]"},
        )

    def apply(self, model: ir.Model, clock: Clock) -> Outcome:
        found = Pays((create("onnxruntime"),), self.FEEDS, clock)
        return self.MADE.apply(model, Context(calibration=Calibration([self.FEEDS]), pays=found))

    def test_what_is_slower_stays_and_says_so(self) -> None:
        model, clock = self.model(), Clock([FAST, SLOW])
        outcome = self.apply(model, clock)
        assert [finding.place for finding in outcome.misses] == ["Attention at y"]
        assert {str(finding.miss) for finding in outcome.misses} == {
            "speed: 0.62 [0.60, 0.65] of the speed of the float kernel on onnxruntime; "
            "needed a kernel at least as fast; --size-first takes it all the same"
        }
        assert [node.op_type for node in model.graph].count("Attention") == 1

    def test_sees_the_sizes_of_the_model_and_is_timed_once_for_those_alike(self) -> None:
        clock = Clock([SLOW])
        assert not self.apply(self.model(), clock).matches
        assert [{array.shape for array in feeds.values()} for feeds in clock.seen] == [
            {(2, 5, 16), (2, 1, 1, 5)},
            {(2, 5, 16), (2, 9, 16)},
        ]

    def test_a_diagnosis_leaves_what_the_compile_left(self) -> None:
        model, left = self.model(), self.apply(self.model(), Clock([FAST, SLOW])).misses
        known = diagnosis._as_compiled({title(self.MADE): {finding.place for finding in left}})
        outcome = self.MADE.apply(model, Context(calibration=Calibration([self.FEEDS]), pays=known))
        assert [finding.place for finding in outcome.misses] == ["Attention at y"]

    def test_stays_where_nothing_is_timed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(create("onnxruntime")), "quick", False)
        clock = Clock([FAST])
        outcome = self.apply(self.model(), clock)
        assert (outcome.matches, [miss.miss.rule for miss in outcome.misses if miss.miss]) == (0, ["speed"] * 3)
        assert not clock.seen

    def test_with_size_first_nobody_asks(self) -> None:
        outcome = self.MADE.apply(self.model(), Context(calibration=Calibration([self.FEEDS])))
        assert (outcome.matches, outcome.misses) == (3, ())


def test_slower_is_what_two_heats_agree_on(monkeypatch: pytest.MonkeyPatch) -> None:
    heats: Iterator[tuple[float, float]] = iter([(1.0, 2.0), (2.0, 1.0), (1.0, 2.0), (1.0, 2.0), (2.0, 1.0)])

    def heat(*_: object, **__: object) -> Timings:
        plain, rewritten = next(heats)
        return Timings(np.arange(9), {"plain": np.full(9, plain), "rewritten": np.full(9, rewritten)})

    monkeypatch.setattr(pays, "paired", heat)
    found = [timed(lambda _: None, lambda _: None, {}).median for _ in range(3)]
    assert found == [2.0, 0.5, 2.0], "a second heat overrules, and none is run where the first says that it pays"
    assert timing.paired is not heat


class TestCompile:
    def compiled(self, folder: Path, answer: Interval, monkeypatch: pytest.MonkeyPatch, **options: object) -> list[str]:
        monkeypatch.setattr(pays, "timed", Clock([answer]))
        made = tersor.compile(
            layers(),
            target="onnxruntime",
            passes="quantize-weights{bits=8,group=0}",
            data=[FEEDS],
            output=folder / "out",
            **options,  # type: ignore[arg-type]  # as a caller would
        )
        (record,) = made.manifest["stages"][1]["passes"]
        return [miss["rule"] for miss in record["misses"]]  # type: ignore[attr-defined]

    def test_asks_unless_size_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.compiled(tmp_path, SLOW, monkeypatch) == ["kind", "speed", "speed", "speed"]
        assert self.compiled(tmp_path, FAST, monkeypatch) == ["kind"]
        assert self.compiled(tmp_path, SLOW, monkeypatch, size_first=True) == ["kind"]

    def test_the_recipe_says_that_size_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiled(tmp_path, SLOW, monkeypatch, size_first=True)
        assert "size_first: true" in (tmp_path / "out" / "recipe.yaml").read_text("utf-8")

    def test_run_passes_does_not_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pays, "timed", Clock([SLOW]))
        assert tersor.run_passes(layers(), "quantize-weights", data=[FEEDS]).passes[0].matches == 3
