"""`compile` and `run_passes` on ONNX Runtime: what they write, what they refuse, and that nothing is half-written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import erf, sqrt
from pathlib import Path
from typing import ClassVar

import jsonschema
import numpy as np
import onnx_ir
import pytest
import tersor
from tersor.driver.recipe import Recipe
from tersor.ir.errors import ContractError, ModelError, OptionError, PassError, TersorError
from tersor.ir.feeds import Feeds
from tersor.ir.text import graph, lines
from tersor.passes.base import Context, Contract, Exact, Lossy, Outcome, Pass
from tersor.passes.pipeline import Pipeline
from tersor.passes.verify import allowed

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 3)).astype(np.float32)


def _model() -> onnx_ir.Model:
    return graph(
        "h = MatMul(x, weight)",
        "b = Add(h, bias)",
        "i = Identity(b)",
        "y = Relu(i)",
        inputs={"x": "float[batch, 4]"},
        weight=WEIGHT,
        bias=np.ones(3, np.float32),
    )


def _expected(x: np.ndarray) -> np.ndarray:
    return np.maximum(x.astype(np.float64) @ WEIGHT.astype(np.float64) + 1.0, 0.0)


def _feeds(count: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((5, 4)).astype(np.float32)} for _ in range(count)]


def _scale(model: onnx_ir.Model, factor: float) -> Outcome:
    weight = model.graph.initializers["weight"]
    assert weight.const_value is not None
    weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * np.float32(factor), name="weight")
    return Outcome()


@dataclass(frozen=True, kw_only=True)
class Coarsen(Pass):
    """Weights a little larger: lossy, and says so."""

    name: ClassVar[str] = "coarsen"
    contract: ClassVar[Contract] = Lossy(metric="relative-l2", budget=0.5)
    factor: float = 1.01

    def apply(self, model: onnx_ir.Model, context: Context) -> Outcome:
        return _scale(model, self.factor)


@dataclass(frozen=True, kw_only=True)
class Liar(Pass):
    """Changes the function and calls itself exact."""

    name: ClassVar[str] = "liar"
    contract: ClassVar[Contract] = Exact()

    def apply(self, model: onnx_ir.Model, context: Context) -> Outcome:
        return _scale(model, 1.1)


SEEN: list[float] = []


@dataclass(frozen=True, kw_only=True)
class Watch(Pass):
    """Notes the first number of each batch it is shown."""

    name: ClassVar[str] = "watch"

    def apply(self, model: onnx_ir.Model, context: Context) -> Outcome:
        SEEN.extend(float(feeds["x"].flat[0]) for feeds in context.feeds)
        return Outcome()


def score(session: tersor.Session) -> float:
    """Higher for larger outputs."""
    return float(session.run({"x": np.ones((2, 4), np.float32)})["y"].sum())


# run_passes


def test_run_passes_rewrites_in_place() -> None:
    model = _model()
    report = tersor.run_passes(model, "drop-identities")
    assert lines(model) == ["h = MatMul(x, weight)", "b = Add(h, bias)", "y = Relu(b)"]
    assert [record.text for record in report.passes] == ["drop-identities"]
    assert report.passes[-1].loss is not None


@pytest.mark.parametrize("passes", [Liar(), [Liar()], Pipeline(steps=(Liar(),)), ["drop-identities", Liar()]])
def test_run_passes_stops_a_liar_and_rolls_back(passes: object) -> None:
    model = _model()
    with pytest.raises(ContractError, match=r"the pass liar promised exact .*first diverging value: 'h'"):
        tersor.run_passes(model, passes)  # type: ignore[arg-type]
    assert lines(model) == lines(_model())
    weight = model.graph.initializers["weight"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), WEIGHT)


def test_run_passes_without_verification_lets_it_through() -> None:
    report = tersor.run_passes(_model(), Liar(), verify="off")
    assert report.passes[0].loss is None


def test_run_passes_shows_the_first_eight_batches() -> None:
    SEEN.clear()
    tersor.run_passes(_model(), Watch(), data=iter(_feeds(20)))
    assert [float(feeds["x"].flat[0]) for feeds in _feeds(8)] == SEEN


# compile


def test_the_artifact_computes_what_the_model_did(tmp_path: Path) -> None:
    artifact = tersor.compile(_model(), target="onnxruntime", output=tmp_path / "out")
    (feeds,) = _feeds(1)
    found = artifact.session.run(feeds)["y"]
    expected = _expected(feeds["x"])
    assert np.linalg.norm(found - expected) <= allowed(Exact()) * np.linalg.norm(expected)
    reopened = tersor.open(tmp_path / "out").run(feeds)["y"]
    np.testing.assert_array_equal(reopened, found)


def test_a_model_of_contrib_ops_alone_needs_no_standard_opset(tmp_path: Path) -> None:
    bias = np.linspace(-1, 1, 4, dtype=np.float32)
    model = graph("y = com.microsoft.BiasGelu(x, b)", inputs={"x": "float[batch, 4]"}, b=bias)
    del model.opset_imports[""]
    artifact = tersor.compile(model, target="onnxruntime", output=tmp_path / "out")
    x = np.ones((3, 4), np.float32)
    gelu = [value / 2 * (1 + erf(value / sqrt(2))) for value in map(float, x[0] + bias)]
    np.testing.assert_allclose(artifact.session.run({"x": x})["y"], [gelu] * 3, rtol=allowed(Exact()))


def test_the_files_run_without_tersor(tmp_path: Path) -> None:
    import onnxruntime

    tersor.compile(_model(), target="onnxruntime", output=tmp_path / "out")
    plain = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (feeds,) = _feeds(1)
    np.testing.assert_allclose(plain.run(["y"], feeds)[0], _expected(feeds["x"]), rtol=1e-5)


def test_the_users_model_stays_as_it_is() -> None:
    model = _model()
    before = lines(model)
    tersor.compile(model, target="onnxruntime", passes=[Coarsen()])
    assert lines(model) == before
    weight = model.graph.initializers["weight"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), WEIGHT)


def test_the_manifest_follows_its_schema(tmp_path: Path) -> None:
    artifact = tersor.compile(_model(), target="onnxruntime", passes=[Coarsen()], output=tmp_path / "out", metric=score)
    schema = json.loads((Path(tersor.driver.__path__[0]) / "schema" / "manifest.schema.json").read_text("utf-8"))
    written = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(written)
    assert written == artifact.manifest
    assert sorted(file["name"] for file in written["files"]) == ["model.onnx", "recipe.yaml", "report.html"]
    assert [stage["name"] for stage in written["stages"]] == ["raise", "passes", "lower"]
    assert written["contract"]["exact"] is False
    assert (written["contract"]["metric"], written["contract"]["limit"]) == ("relative-l2", 0.5)
    assert written["source"] == {"kind": "model", "name": "Model", "path": None, "files": []}


def test_the_source_is_recorded_with_its_hashes(tmp_path: Path) -> None:
    from hashlib import sha256

    path = tmp_path / "m.onnx"
    tersor.save(_model(), path)
    source = tersor.compile(path, target="onnxruntime").manifest["source"]
    digest = sha256(path.read_bytes()).hexdigest()
    assert source["files"] == [{"name": "m.onnx", "bytes": path.stat().st_size, "sha256": digest}]
    assert (source["kind"], source["path"]) == ("onnx", str(path))


def test_the_recipe_reruns_the_same_compile(tmp_path: Path) -> None:
    tersor.save(_model(), tmp_path / "m.onnx")
    np.savez(tmp_path / "b.npz", **_feeds(1)[0])
    first = tersor.compile(
        tmp_path / "m.onnx",
        target="onnxruntime{threads=1}",
        passes=[Coarsen(factor=1.02)],
        data=tmp_path / "b.npz",
        metric=f"{__name__}:score",
        max_drop="3%",
        output=tmp_path / "first",
    )
    again = tersor.compile(None, recipe=tmp_path / "first" / "recipe.yaml", output=tmp_path / "again")
    assert (tmp_path / "first" / "recipe.yaml").read_text() == (tmp_path / "again" / "recipe.yaml").read_text()
    hashes = [{file["name"]: file["sha256"] for file in made.manifest["files"]} for made in (first, again)]
    assert hashes[0]["model.onnx"] == hashes[1]["model.onnx"]
    assert first.manifest["quality"] == again.manifest["quality"]
    assert again.manifest["target"]["options"] == {"threads": 1}


def test_arguments_win_over_the_recipe() -> None:
    recipe = Recipe(target="onnxruntime", passes=Pipeline.of([Coarsen()]), exact=True)
    artifact = tersor.compile(_model(), recipe=recipe, target="onnxruntime{threads=2}")
    assert artifact.manifest["target"]["text"] == "onnxruntime{threads=2}"
    assert artifact.manifest["contract"]["exact"]


def test_what_lives_in_code_is_noted_in_the_recipe() -> None:
    artifact = tersor.compile(_model(), target="onnxruntime", data=_feeds(2), metric=lambda session: 1.0)
    written = (artifact.path / "recipe.yaml").read_text()
    assert [line for line in written.splitlines() if line.startswith("#")] == [
        "# not recorded, given in code: source",
        "# not recorded, given in code: data",
        "# not recorded, given in code: metric",
    ]


def test_passes_are_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passes_of_mine.py").write_text(
        "from tersor.passes.clean.drop_identities import DropIdentities\nclass Mine(DropIdentities): name = 'mine'\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    model = _model()
    tersor.run_passes(model, "passes_of_mine:Mine")
    assert len(lines(model)) == 3


def test_exact_leaves_lossy_passes_out() -> None:
    artifact = tersor.compile(_model(), target="onnxruntime", passes=[Coarsen(), "drop-identities"], exact=True)
    (stage,) = [stage for stage in artifact.manifest["stages"] if stage["name"] == "passes"]
    assert [record["pass"] for record in stage["passes"]] == ["drop-identities"]


def test_quality_is_read_on_what_no_pass_saw() -> None:
    feeds = _feeds(10)
    SEEN.clear()
    artifact = tersor.compile(_model(), target="onnxruntime", passes=[Watch()], data=iter(feeds))
    held_out = {float(feeds[index]["x"].flat[0]) for index in (4, 9)}
    assert len(SEEN) == 8
    assert not held_out & set(SEEN)
    quality = artifact.manifest["quality"]["feeds"]
    assert (quality["source"], quality["calibration"], quality["quality"], quality["held_out"]) == ("data", 8, 2, True)


def test_without_verification_nothing_is_measured() -> None:
    artifact = tersor.compile(_model(), target="onnxruntime", passes=[Liar()], verify="off")
    assert artifact.manifest["contract"]["loss"] is None
    assert artifact.manifest["quality"]["fidelity"] is None


def test_observe_hears_stages_and_passes() -> None:
    heard: list[str] = []
    tersor.compile(_model(), target="onnxruntime", passes="drop-identities", observe=heard.append)
    stages = ["load", "original", "raise", "passes", "lower", "write onnxruntime", "open onnxruntime"]
    assert [entry for entry in heard if entry in stages] == stages
    assert heard.index("passes") < heard.index("drop-identities", heard.index("passes")) < heard.index("lower")


def test_a_metric_is_evaluated_on_both() -> None:
    artifact = tersor.compile(
        _model(), target="onnxruntime", passes=[Coarsen(factor=0.99)], metric=score, max_drop="5%"
    )
    quality = artifact.manifest["quality"]
    original = float(_expected(np.ones((2, 4))).sum())
    assert quality["original"] == pytest.approx(original, rel=1e-5)
    assert quality["compiled"] == pytest.approx(score(artifact.session))
    assert quality["drop"] == pytest.approx((original - score(artifact.session)) / original, abs=1e-5)
    assert quality["max_drop"] == "5%"
    assert quality["metric"] == f"{__name__}:score"


def _nan(session: tersor.Session) -> float:
    return float("nan")


def _raises(session: tersor.Session) -> float:
    raise ValueError("no labels")


def _unfit() -> Iterator[Feeds]:
    yield {"z": np.ones((2, 4), np.float32)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"passes": "fold-constant"}, OptionError, r"there is no pass 'fold-constant'; did you mean fold-constants"),
        ({"passes": "drop-identities{deep=1}"}, OptionError, "drop-identities has no option 'deep'"),
        ({"target": "onxruntime"}, OptionError, r"there is no target 'onxruntime'; did you mean onnxruntime\?"),
        ({"target": "onnxruntime{threads=two}"}, OptionError, "onnxruntime: option threads is an int; found 'two'"),
        ({"verify": "fsat"}, OptionError, "verify is one of off, fast, each; found 'fsat'"),
        ({"metric": "no_such_module_here:f"}, OptionError, "importing no_such_module_here failed"),
        ({"metric": _nan}, ModelError, "of the original model is nan: expected one finite number"),
        ({"metric": _raises}, ModelError, "failed on the original model with ValueError: no labels"),
        ({"max_drop": "lots"}, OptionError, "max_drop 'lots'"),
        ({"data": _unfit()}, ModelError, "data: batch 1: .*'z' is no input"),
        ({"data": "none.npz"}, OptionError, "no file none.npz"),
        ({"recipe": "none.yaml"}, OptionError, "cannot read the recipe none.yaml"),
        ({"passes": [Liar()]}, ContractError, "the pass liar promised exact"),
        ({"passes": [Coarsen(factor=5.0)]}, ContractError, "the pass coarsen.* promised lossy"),
        (
            {"passes": [Coarsen(factor=0.6)], "metric": score, "max_drop": 0.01},
            ContractError,
            r"test_compile:score fell from .* a drop of .*%; max_drop allows 1%",
        ),
        (
            {"passes": [Coarsen(factor=-0.6)], "max_drop": "0.1%", "verify": "off"},
            ContractError,
            r"fidelity fell from 1 to .*; max_drop allows 0.1%",
        ),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, options: dict[str, object], error: type[TersorError], message: str
) -> None:
    options = {"target": "onnxruntime", **options}
    with pytest.raises(error, match=message) as caught:
        tersor.compile(_model(), output=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert type(caught.value) is error
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_artifact_survives_a_failure_and_gives_way_to_a_success(tmp_path: Path) -> None:
    out = tmp_path / "out"
    tersor.compile(_model(), target="onnxruntime", output=out)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(PassError):
        tersor.compile(_model(), target="onnxruntime", passes=[Liar()], output=out)
    assert (out / "manifest.json").read_bytes() == before
    tersor.compile(_model(), target="onnxruntime", passes=[Coarsen()], output=out)
    assert tersor.open(out, verify=True).run(_feeds(1)[0])["y"].shape == (5, 3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(OptionError, match="not empty and no tersor artifact"):
        tersor.compile(_model(), target="onnxruntime", output=tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OptionError, match="cannot write"):
        tersor.compile(_model(), target="onnxruntime", output=tmp_path / "file" / "out")


def test_there_must_be_a_source() -> None:
    with pytest.raises(OptionError, match="give a source, or a recipe that names one"):
        tersor.compile(None, target="onnxruntime")


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"z": np.ones((2, 4), np.float32)}, "'z' is no input"),
        ({"x": np.ones((2, 4))}, "'x' is float64, not float32"),
        ({"x": np.ones((2, 5), np.float32)}, "size 5 on axis 1, not 4"),
        ({"x": np.ones(4, np.float32)}, "has 1 axes"),
    ],
)
def test_the_session_checks_its_feeds(feeds: dict[str, np.ndarray], message: str) -> None:
    session = tersor.compile(_model(), target="onnxruntime").session
    with pytest.raises(ModelError, match=message):
        session.run(feeds)


def test_compiles_torch_modules() -> None:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2)).eval()
    example = torch.randn(3, 4)
    artifact = tersor.compile(module, target="onnxruntime", args=(example,))
    (name,) = [port.name for port in artifact.session.interface.signature.inputs]
    (found,) = artifact.session.run({name: example.numpy()}).values()
    expected = module(example).detach().numpy()
    assert np.linalg.norm(found - expected) <= allowed(Exact()) * np.linalg.norm(expected)
    assert artifact.manifest["source"]["kind"] == "module"
