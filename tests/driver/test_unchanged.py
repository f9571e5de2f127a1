"""A pass that was asked for and changed nothing: a line that says why, and an error of its own under `strict`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.driver.idle import idle, why
from tersor.driver.recipe import Recipe
from tersor.ir.errors import UnchangedError
from tersor.ir.text import graph
from tersor.tests.driver.support import Cli

SMALL = "quantize-weights{only=[up]} changed nothing: 1 x size: 32 weights; needed at least 1024"
NAMED = "1 x only: down; needed a name like up"


def model() -> ir.Model:
    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 4), (4, 8)))
    return graph("h = MatMul(x, up)", "y = MatMul(h, down)", inputs={"x": "float[batch, 8]"}, up=up, down=down)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    ir.save(model(), tmp_path / "two.onnx")
    return tmp_path / "two.onnx"


ASKED = ("-o", "out", "--target", "onnxruntime", "--passes", "quantize-weights{only=up}")


def test_the_summary_says_so_with_the_misses(cli: Cli, source: Path) -> None:
    ran = cli("compile", source, *ASKED)
    assert ran.code == 0, ran.err
    (line,) = [line for line in ran.out.splitlines() if "changed nothing" in line]
    assert line.startswith("quantize-weights{only=[up]} changed nothing: ")
    assert set(line.partition(": ")[2].split(" | ")) == {SMALL.partition(": ")[2], NAMED}
    page = Path("out/report.html").read_text("utf-8")
    assert "quantize-weights{only=[up]} changed nothing: " in page


def test_under_strict_it_is_an_error_with_a_code_of_its_own(cli: Cli, source: Path) -> None:
    ran = cli("compile", source, *ASKED, "--strict")
    assert ran.code == UnchangedError.exit_code == 7
    assert "error: strict: a pass changed nothing" in ran.err
    assert SMALL.partition(" changed nothing: ")[2] in ran.err
    assert not Path("out").exists()


def test_the_error_as_json(cli: Cli, source: Path) -> None:
    error = json.loads(cli("compile", source, *ASKED, "--strict", "--json").out)["error"]
    assert (error["kind"], error["exit_code"]) == ("UnchangedError", 7)


def test_a_pass_that_does_something_is_fine_under_strict() -> None:
    made = tersor.compile(
        model(), target="onnxruntime", passes="quantize-weights{smallest=1}", strict=True, size_first=True
    )
    assert not idle(made.manifest["stages"][1]["passes"])


def test_every_idle_pass_is_listed_and_those_of_other_stages_are_not() -> None:
    with pytest.raises(UnchangedError) as caught:
        tersor.compile(model(), target="onnxruntime", passes="drop-identities,quantize-dynamic", strict=True)
    first, *others = str(caught.value).splitlines()
    assert first == "strict: 2 passes changed nothing"
    assert [line.split(":")[0].strip() for line in others] == ["drop-identities", "quantize-dynamic"]


def test_the_upgrade_that_a_pass_needed_is_none_that_was_asked_for(tmp_path: Path) -> None:
    old = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 8]"}, w=np.ones((8, 8), np.float32), opset=18)
    made = tersor.compile(
        old, target="onnxruntime", passes="quantize-weights{smallest=1}", strict=True, size_first=True
    )
    assert made.manifest["stages"][1]["passes"]


def test_a_recipe_may_ask_for_it() -> None:
    recipe = Recipe.of({"target": "onnxruntime", "passes": "quantize-weights", "strict": True})
    with pytest.raises(UnchangedError):
        tersor.compile(model(), recipe=recipe)


def test_misses_are_told_by_need_the_most_frequent_first() -> None:
    def miss(rule: str, value: str) -> dict[str, object]:
        return {"rule": rule, "value": value, "need": f"another {rule}"}

    misses = [miss("a", "1"), *[miss("b", str(number)) for number in range(3)], miss("c", "x"), miss("d", "y")]
    assert why({"misses": misses}) == (
        "3 x b: 0, ..; needed another b | 1 x a: 1; needed another a | 1 x c: x; needed another c | and 1 more"
    )
    assert why({"misses": []}) == "the model has no place that it looks for"
