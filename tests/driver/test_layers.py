"""Which layer broke: each error against models that the passes make by `only`, the ranking, the hint, the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.base import Session
from tersor.backends.catalogue import create
from tersor.driver import diagnosis
from tersor.driver.commands.layers import shown
from tersor.driver.layers import Layers, Row, Subject, rank, spread
from tersor.driver.manifest import read_manifest
from tersor.driver.rewritten import rewritten
from tersor.driver.sweep import local_errors
from tersor.driver.variants import OnTarget, escaped, ignoring, rewrite
from tersor.ir.compare import compare
from tersor.ir.errors import ModelError, OptionError
from tersor.ir.text import graph
from tersor.passes.base import Context, Pass
from tersor.passes.pipeline import Pipeline
from tersor.tests.driver.layers import WIDTH, feeds, layers, mixed, subject, weight
from tersor.tests.driver.support import Cli

#: Both sides compute the same in float32, their sums in another order: eps of the dtype times the terms of a product.
CLOSE = float(np.finfo(np.float32).eps) * WIDTH * WIDTH

BROKEN = "quantize-weights{bits=2,group=0}"
#: Good enough for every layer but the broken one.
COARSE = "quantize-weights{bits=5,group=0}"

FINE = "quantize-weights{bits=8}"

MIXED = "quantize-weights{bits=3,group=0,embeddings=true,convolutions=true,smallest=1}"


def narrowed(text: str, names: tuple[str, ...]) -> Pass:
    """The one pass of a pipeline, taking on these sites only."""
    (made,) = Pipeline.of(text).flat()
    return dataclasses.replace(made, only=tuple(map(escaped, names)))


def directly(model: ir.Model, made: Pass, batches: list[dict[str, np.ndarray]]) -> float:
    """The error of a model on which the pass was run."""
    other = model.clone()
    made.apply(other, Context())
    return compare(model, other, batches).relative_l2


def by_name(found: Layers) -> dict[str, Row]:
    return {row.name: row for row in found.rows}


def on_onnxruntime(made: Subject) -> tuple[str, OnTarget]:
    steps = rewrite(made.before.clone(), made.passes, made.context, None)
    return "onnxruntime", OnTarget(made.before, steps, made.context, create("onnxruntime"))


class TestErrors:
    @pytest.mark.parametrize(
        ("make", "passes"),
        [
            (layers, "quantize-weights{bits=3}"),
            (layers, "quantize-dynamic{smallest=1}"),
            (layers, "quantize-codebook{smallest=1}"),
            (mixed, MIXED),
        ],
    )
    def test_are_those_of_models_made_by_only(self, make: object, passes: str) -> None:
        assert callable(make)
        model = make()
        made = subject(model, passes)
        found = rank(made, advise=False)
        assert len(found.rows) >= 4
        upto: tuple[str, ...] = ()
        parts = {part.name: part.names for part in rewritten(made.before, made.after).parts}
        for name, names in parts.items():
            row = by_name(found)[name]
            upto += names
            alone, prefix = (directly(model, narrowed(passes, some), made.batches) for some in (names, upto))
            assert row.alone.relative_l2 == pytest.approx(alone, abs=CLOSE, rel=1e-3), name
            assert row.prefix.relative_l2 == pytest.approx(prefix, abs=CLOSE, rel=1e-3), name
        assert found.whole.relative_l2 == pytest.approx(upto and prefix, abs=CLOSE, rel=1e-3)
        assert sum(row.added for row in found.rows) + found.rest == pytest.approx(found.whole.relative_l2)
        assert sum(row.share for row in found.rows) == pytest.approx(1.0)

    def test_local_and_in_place_are_of_the_sites_own_output(self) -> None:
        model = layers()
        made = subject(model, "quantize-weights{bits=3}")
        row = by_name(rank(made, advise=False))["layers.2"]
        inner = [graph_with_output(each, "p2") for each in (made.before, made.after)]
        assert row.in_place == pytest.approx(compare(*inner, made.batches).relative_l2, rel=1e-5)
        alone = model.clone()
        narrowed("quantize-weights{bits=3}", ("layers.2",)).apply(alone, Context())
        inner[1] = graph_with_output(alone, "p2")
        assert row.local == pytest.approx(compare(*inner, made.batches).relative_l2, rel=1e-5)
        cheap = local_errors(rewritten(model, made.after), made.batches)
        assert {part.name: sums.loss.relative_l2 for part, sums in cheap.items()}["layers.2"] == row.local

    def test_awqs_scales_in_the_layer_before_are_no_error(self) -> None:
        model = graph(
            "h = MatMul(x, a)",
            "r = Relu(h)",
            "y = MatMul(r, b)",
            inputs={"x": f"float[batch, {WIDTH}]"},
            a=weight(WIDTH, WIDTH, seed=1) * np.logspace(-1, 1, WIDTH, dtype=np.float32),
            b=weight(WIDTH, WIDTH, seed=2),
        )
        passes = "quantize-weights{bits=8,algorithm=awq,sequential=false}"
        made = subject(model, passes, [{"x": np.random.default_rng(0).standard_normal((64, WIDTH), np.float32)}])
        assert any(stop.scale is not None for stop in rewritten(made.before, made.after).stops)
        found = rank(made, advise=False)
        # 8 bits in groups round by at most one part in 255 of what is largest
        assert all(0 < row.alone.relative_l2 < 2 / 255 for row in found.rows)
        assert all(row.local < 2 / 255 for row in found.rows)

    def test_both_weights_of_a_recurrence_are_told_apart(self) -> None:
        found = by_name(rank(subject(mixed(), MIXED), advise=False))
        assert found["w.input"].sites == ("w.input", "w.input.reverse")
        assert {row.kind for row in found.values()} == {
            "embedding",
            "conv",
            "recurrent-input",
            "recurrent-hidden",
            "linear",
        }
        assert found["w.input"].alone != found["r.hidden"].alone

    @pytest.mark.parametrize("target", [None, "onnxruntime"])
    def test_a_weight_that_several_read_counts_once_with_all_of_them(self, target: str | None) -> None:
        model = graph(
            "h = MatMul(x, a)", "r = Relu(h)", "s = MatMul(r, a)", "t = Tanh(s)", "y = MatMul(t, b)",
            inputs={"x": f"float[batch, {WIDTH}]"}, a=weight(WIDTH, WIDTH, seed=1), b=weight(WIDTH, WIDTH, seed=2),
        )  # fmt: skip
        made = subject(model, "quantize-weights{bits=3,group=0}")
        found = rank(made, variants=on_onnxruntime(made) if target else None, advise=False)
        shared, other = sorted(found.rows, key=lambda row: row.index)
        assert (len(shared.sites), len(other.sites)) == (2, 1)
        assert shared.bytes == other.bytes
        for row in (shared, other):
            alone = directly(model, narrowed("quantize-weights{bits=3,group=0}", row.sites), made.batches)
            assert row.alone.relative_l2 == pytest.approx(alone, rel=1e-3)
        assert shared.prefix == shared.alone
        assert other.prefix.relative_l2 == pytest.approx(found.whole.relative_l2, rel=1e-3)
        (both,) = rank(made, by="kind", advise=False).rows
        assert both.bytes == (shared.bytes[0] * 2, shared.bytes[1] * 2)

    def test_bytes_are_those_of_the_sites_constants(self) -> None:
        row = by_name(rank(subject(layers(), "quantize-weights{bits=8,group=0}"), advise=False))["layers.0"]
        assert row.bytes == (WIDTH * WIDTH * 4, WIDTH * WIDTH + WIDTH * 4)

    def test_what_was_left_alone_is_not_ranked(self) -> None:
        found = rank(subject(layers(), "quantize-weights{ignore=[layers.1]}"), advise=False)
        assert sorted(by_name(found)) == ["layers.0", "layers.2", "layers.3"]

    def test_nothing_rewritten_gives_nothing_ranked(self) -> None:
        found = rank(subject(layers(), "quantize-weights{smallest=1000000}"))
        assert (found.rows, found.advice, found.whole.relative_l2) == ((), None, 0.0)

    def test_a_site_whose_output_is_gone_is_named(self) -> None:
        before, after = layers(), layers()
        next(value for node in after.graph for value in node.outputs if value.name == "p1").name = "other"
        assert [(site.name, reason) for site, reason in rewritten(before, after).unseen] == [
            ("layers.1", "its output is not there any more")
        ]


class TestGroups:
    def test_blocks_and_kinds_are_measured_together(self) -> None:
        made = subject(mixed(), MIXED)
        sites = rank(made, advise=False)
        found = rank(made, by="kind", advise=False)
        assert sorted(row.name for row in found.rows) == sorted({row.kind for row in sites.rows})
        embedding = by_name(found)["embedding"]
        assert embedding.alone.relative_l2 == pytest.approx(by_name(sites)["t"].alone.relative_l2, rel=1e-5)
        (every,) = rank(made, by="block", advise=False).rows
        assert every.name == "outside blocks"
        assert every.alone.relative_l2 == pytest.approx(sites.whole.relative_l2, rel=1e-5)


class TestBroken:
    """One layer has an outlier in each column, and 2 bits with one scale for it lose everything beside that."""

    @pytest.mark.parametrize("broken", [0, 2])
    @pytest.mark.parametrize("sort", ["alone", "prefix", "local"])
    def test_is_ranked_first(self, broken: int, sort: str) -> None:
        found = rank(subject(layers(broken), BROKEN), sort=sort, advise=False)  # type: ignore[arg-type]
        assert found.rows[0].name == f"layers.{broken}"

    def test_is_what_to_leave_out(self) -> None:
        model = layers(2)
        made = subject(model, COARSE)
        found = rank(made)
        assert found.advice is not None
        assert found.advice.sites == ("layers.2",)
        (step,) = ignoring(made.passes, found.advice.sites)
        assert found.advice.error == pytest.approx(directly(model, step, made.batches), rel=1e-5)
        assert found.advice.error <= found.whole.relative_l2 / 2
        assert found.advice.bytes == by_name(found)["layers.2"].bytes[0] - by_name(found)["layers.2"].bytes[1]
        assert "ignore:\n    - layers.2" in found.advice.recipe

    def test_no_hint_where_all_are_alike(self) -> None:
        found = rank(subject(layers(), "quantize-weights{bits=4}"))
        assert found.advice is None
        assert "No half of the sites" in "\n".join(map(str, shown(found, 5)))


class TestTargetAndMetric:
    def test_a_target_agrees_with_the_reference(self) -> None:
        made = subject(layers(1), BROKEN)
        found, reference = rank(made, variants=on_onnxruntime(made), advise=False), rank(made, advise=False)
        assert found.rows[0].name == "layers.1"
        for row in found.rows:
            assert row.alone.relative_l2 == pytest.approx(by_name(reference)[row.name].alone.relative_l2, rel=1e-3)
        assert found.target == "onnxruntime"

    def test_the_metric_of_each_site_alone(self) -> None:
        made = subject(layers(1), BROKEN)

        def size(session: Session) -> float:
            return -float(np.linalg.norm(session.run(made.batches[0])["y"]))

        found = rank(made, metric=("size", size), advise=False)
        alone = made.before.clone()
        narrowed(BROKEN, ("layers.1",)).apply(alone, Context())
        expected = compare(alone, made.before, made.batches[:1])
        assert expected.outputs
        assert by_name(found)["layers.1"].metric is not None
        assert found.scores is not None
        assert found.scores[0] != found.scores[1]

    def test_an_output_that_is_not_there(self) -> None:
        with pytest.raises(OptionError, match="no output 'z'"):
            rank(subject(layers(), BROKEN), outputs=["z"])


class TestCommand:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        ir.save(layers(2), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    def test_a_source_with_passes(self, cli: Cli, model: Path) -> None:
        ran = cli("bench", model, "--layers", "--passes", COARSE, "--limit", 2)
        assert ran.code == 0, ran.err
        assert ran.out.split("\n")[1].startswith("layers.2")
        assert "and 2 more; --limit 0 shows all" in ran.out
        assert "seeded random feeds: no data was given" in ran.out
        assert "- layers.2" in ran.out

    def test_an_artifact_knows_its_passes_and_data(self, cli: Cli, model: Path, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        for index, batch in enumerate(feeds(layers(), 6)):
            np.savez(folder / f"{index}.npz", **batch)
        made = cli(
            "compile", model, "-o", "out", "--target", "onnxruntime", "--passes", BROKEN, "--data", folder,
            "--size-first", "--verify", "off",
        )  # fmt: skip
        assert made.code == 0, made.err
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        ran = cli("bench", "out", "--layers", "--json")
        assert ran.code == 0, ran.err
        rows = ran.document["rows"]
        assert isinstance(rows, list)
        assert rows[0]["name"] == "layers.2"
        assert rows[0]["alone"]["relative_l2"] > 0
        assert (ran.document["batches"], ran.document["feeds"]) == (1, f"{folder}, held out from calibration")
        assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

    def test_a_compile_records_local_errors_or_the_ranking(self, cli: Cli, model: Path) -> None:
        words = ("compile", model, "-o", "out", "--target", "onnxruntime", "--passes", FINE, "--size-first")
        for more, measured in (((), False), (("--layers",), True)):
            ran = cli(*words, *more)
            assert ran.code == 0, ran.err
            found = read_manifest("out")["layers"]
            assert [row["name"] for row in found["rows"]] == [f"layers.{index}" for index in range(4)]
            assert all(row["local"] and bool(row["alone"]) is measured for row in found["rows"])
            assert (found["whole"] is not None) is measured
            assert Path("out/report.html").read_text().count('aria-label="Relative L2 error of each') == 1

    def test_a_compile_over_its_contract_says_where_to_look(self, cli: Cli, model: Path) -> None:
        ran = cli("compile", model, "-o", "out", "--target", "onnxruntime", "--passes", BROKEN, "--size-first")
        assert ran.code == 6
        assert "tersor bench SOURCE --layers" in ran.err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--layers"], "no lossy pass"),
            (["--layers", "--passes", "fold-constants"], "no lossy pass"),
            (["model.onnx", "--layers"], "one model"),
            (["--passes", BROKEN], "go with --layers"),
            (["--sort", "alone"], "--sort, --by and --limit go with --layers"),
            (["--by", "kind"], "--sort, --by and --limit go with --layers"),
            (["--limit", "0"], "--sort, --by and --limit go with --layers"),
            (["--layers", "--passes", BROKEN, "--output", "q"], "no output 'q'"),
            (["--layers", "--passes", "quantize-weights{algorithm=gptq}"], "calibration data are needed"),
            (["--layers", "--passes", BROKEN, "--target", "onnxrunning"], "onnxruntime"),
        ],
    )
    def test_refuses(self, cli: Cli, model: Path, words: list[str], said: str) -> None:
        ran = cli("bench", model, *words)
        assert ran.code == 2
        assert said in ran.err

    def test_an_artifact_of_an_object_in_memory(self, tmp_path: Path) -> None:
        from tersor.driver.compile import compile

        made = compile(
            layers(), target="onnxruntime", passes=BROKEN, output=tmp_path / "out", verify="off", size_first=True
        )
        with pytest.raises(OptionError, match="object in memory"):
            diagnosis.diagnose(made.path)

    def test_batches_are_taken_evenly(self) -> None:
        batches = [{"x": np.full(1, index)} for index in range(12)]
        assert [int(batch["x"][0]) for batch in spread(batches)] == [1, 4, 7, 10]
        assert [int(batch["x"][0]) for batch in spread(batches[:3])] == [0, 1, 2]

    def test_data_that_do_not_fit(self, model: Path, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.zeros((2, 5), np.float32))
        with pytest.raises(ModelError, match="axis 1"):
            diagnosis.diagnose(model, passes=BROKEN, data=str(tmp_path / "x.npz"))


def graph_with_output(model: ir.Model, name: str) -> ir.Model:
    """The model with a value inside as its only output."""
    other = model.clone()
    other.graph.outputs[:] = [value for node in other.graph for value in node.outputs if value.name == name]
    return other
