"""Recipes: YAML in, YAML out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tersor.driver.recipe import Recipe
from tersor.ir.errors import OptionError
from tersor.passes.pipeline import Pipeline
from tersor.passes.run import Verify

TEXT = """
target: onnxruntime{threads=2}
passes:
- fold-constants
- clean:
  - drop-dead-code
  - drop-identities
data: texts.jsonl+tokenizer.json
metric: tasks:accuracy
max_drop: 1%
exact: false
strict: true
force: false
size_first: true
verify: each
timing_seconds: 0.25
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_every_key(tmp_path: Path) -> None:
    recipe = Recipe.read(_write(tmp_path, TEXT))
    assert recipe == Recipe(
        target="onnxruntime{threads=2}",
        passes=Pipeline.of("fold-constants,clean(drop-dead-code,drop-identities)"),
        data="texts.jsonl+tokenizer.json",
        metric="tasks:accuracy",
        max_drop="1%",
        exact=False,
        strict=True,
        force=False,
        size_first=True,
        verify=Verify.EACH,
        timing_seconds=0.25,
    )


@pytest.mark.parametrize("text", [TEXT, "", "verify: off", "max_drop: 0.01", "passes: fold-constants,drop-dead-code"])
def test_what_it_writes_reads_back(tmp_path: Path, text: str) -> None:
    recipe = Recipe.read(_write(tmp_path, text))
    written = recipe.text(notes=("data given in code, not recorded here",))
    assert written.startswith("# data given in code, not recorded here\n")
    assert Recipe.read(_write(tmp_path, written)) == recipe


def test_what_is_given_wins_over_the_base() -> None:
    base = Recipe(target="openvino", max_drop="1%", exact=True)
    assert Recipe(target="torch", exact=False).over(base) == Recipe(target="torch", max_drop="1%", exact=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("taget: cpu", r"unknown key 'taget'; did you mean target\?"),
        ("passes: fold-constant", r"passes: there is no pass 'fold-constant'; did you mean fold-constants"),
        ("passes: 3", "passes: .*int"),
        ("passes: [quantize-dynamic: {bitz: 8}]", "passes: quantize-dynamic has no option 'bitz'"),
        ("exact: maybe", "exact: expected true or false, found 'maybe'"),
        ("strict: 1", "strict: expected true or false, found 1"),
        ("size-first: true", r"unknown key 'size-first'; did you mean size_first\?"),
        ("verify: slow", "verify: verify is one of off, fast, each; found 'slow'"),
        ("max_drop: [1]", "max_drop: expected a share like 1% or 0.01"),
        ("timing_seconds: -1", "timing_seconds: expected seconds above 0"),
        ("target: 3", "target: expected text, found 3"),
        ("- a\n- b", "expected keys and values, found list"),
        ("a: [", "is no YAML"),
    ],
)
def test_refuses(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(OptionError, match=message) as caught:
        Recipe.read(path)
    assert str(path) in str(caught.value)


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot read the recipe .*none.yaml: No such file"):
        Recipe.read(tmp_path / "none.yaml")
