"""Results over their contract or max_drop: never written, unless forced, and then everything says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jsonschema
import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.driver.manifest import Manifest
from tersor.ir.errors import ContractError, PassError
from tersor.ir.text import graph
from tersor.passes.base import Context, Contract, Exact, Finding, Lossy, Outcome, Pass
from tersor.tests.driver.support import Cli

LOUD = r"the pass loud{factor=3.0} promised lossy \(relative-l2 <= 0.01\), measured 2"


def model() -> ir.Model:
    weight = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    return graph("y = MatMul(x, w)", inputs={"x": "float[batch, 32]"}, w=weight)


@dataclass(frozen=True, kw_only=True)
class Loud(Pass):
    """Scales the weight, and promises that this is hardly heard."""

    name: ClassVar[str] = "loud"
    contract: ClassVar[Contract] = Lossy(metric="relative-l2", budget=0.01)
    factor: float = 1.001

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        value = model.graph.initializers["w"]
        assert value.const_value is not None
        value.const_value = ir.tensor((value.const_value.numpy() * np.float32(self.factor)), name="w")
        return Outcome((Finding("w"),))


@dataclass(frozen=True, kw_only=True)
class Liar(Loud):
    """The same, called exact."""

    name: ClassVar[str] = "liar"
    contract: ClassVar[Contract] = Exact()


@dataclass(frozen=True, kw_only=True)
class Breaks(Pass):
    """Leaves a graph that is none."""

    name: ClassVar[str] = "breaks"

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        model.graph.outputs[0].name = "gone"
        return Outcome((Finding("y"),))


def forced(*passes: Pass, **options: object) -> Manifest:
    options = {"target": "onnxruntime", "force": True, **options}
    return tersor.compile(model(), passes=list(passes), **options).manifest  # type: ignore[arg-type]


def test_without_force_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=LOUD):
        tersor.compile(model(), target="onnxruntime", passes=[Loud(factor=3.0)], output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_with_force_it_is_written_and_says_for_which_pass_and_by_how_much(tmp_path: Path) -> None:
    made = forced(Loud(factor=3.0), output=tmp_path / "out")
    by_pass, whole = made["contract"]["over"]
    assert by_pass == "the pass loud{factor=3.0} promised lossy (relative-l2 <= 0.01), measured 2 on y"
    assert whole.startswith("onnxruntime was compiled as lossy (relative-l2 <= 0.01), measured 2 on output y")
    (record,) = made["stages"][1]["passes"]
    assert record["over"] == by_pass
    assert record["loss"] == pytest.approx(2.0, rel=1e-5)
    assert made["contract"]["loss"] == pytest.approx(2.0, rel=1e-5)
    (kept,) = made["candidates"]
    assert kept["status"] == "kept"
    assert kept["reason"] is not None and kept["reason"].startswith("let through: onnxruntime was compiled as")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.count("Over contract, let through: ") == 2
    assert "force: true" in (tmp_path / "out" / "recipe.yaml").read_text("utf-8")


def test_what_is_written_follows_the_schema(tmp_path: Path) -> None:
    forced(Loud(factor=3.0), output=tmp_path / "out")
    schema = json.loads((Path(tersor.driver.__path__[0]) / "schema" / "manifest.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(
        json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    )


def test_within_contract_force_says_nothing() -> None:
    assert forced(Loud())["contract"]["over"] == []


def test_an_exact_pass_that_was_asked_for_goes_through_too() -> None:
    first, *_ = forced(Liar(factor=1.5), Loud())["contract"]["over"]
    assert first.startswith("the pass liar{factor=1.5} promised exact")


def test_what_is_no_number_is_forced_without_a_figure() -> None:
    made = forced(Loud(factor=float("nan")))
    assert made["stages"][1]["passes"][0]["loss"] is None
    assert "measured inf" in made["contract"]["over"][0]


def test_a_pass_that_breaks_the_graph_stops_all_the_same() -> None:
    with pytest.raises(PassError, match="the pass breaks broke the graph") as caught:
        forced(Loud(factor=3.0), Breaks())
    assert type(caught.value) is PassError


def test_a_drop_over_max_drop_is_forced_too() -> None:
    made = forced(Loud(factor=-1.0), max_drop="1%", verify="off")
    (sentence,) = made["contract"]["over"]
    assert sentence.startswith("onnxruntime: fidelity fell from 1 to -1, a drop of 200.00%; max_drop allows 1%")
    assert made["quality"]["drop"] == pytest.approx(2.0)


def test_the_summary_says_it(cli: Cli) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    ir.save(graph("y = MatMul(x, w)", inputs={"x": "float[batch, 64]"}, w=weight), "one.onnx")
    words = ("compile", "one.onnx", "-o", "out", "--target", "onnxruntime", "--size-first", "--passes")
    passes = "quantize-binary{algorithm=bwn}"
    stopped = cli(*words, passes)
    assert stopped.code == ContractError.exit_code
    assert not Path("out").exists()
    ran = cli(*words, passes, "--force")
    assert ran.code == 0, ran.err
    told = [line for line in ran.out.splitlines() if line.startswith("over contract")]
    assert len(told) == 2
    assert "the pass quantize-binary{algorithm=bwn} promised lossy (cosine <= 0.05), measured 0." in told[0]
