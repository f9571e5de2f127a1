"""A pipeline is text, data, and itself a pass."""

from __future__ import annotations

import pytest
import yaml
from tersor.ir.errors import OptionError
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.drop_identities import DropIdentities
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.pipeline import Pipeline, text_of, title
from tersor.passes.presets import RAISING
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.raising.activation.raise_gelu import RaiseGelu

ROWS = QuantizeDynamic(rows=True, ignore=("*.head", "a, b"))


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ("fold-constants", (FoldConstants(),)),
        (FoldConstants(limit=4), (FoldConstants(limit=4),)),
        ([FoldConstants(), "drop-identities"], (FoldConstants(), DropIdentities())),
        (
            ["fold-constants", {"quantize-dynamic": {"rows": True, "ignore": ["*.head", "a, b"]}}],
            (FoldConstants(), ROWS),
        ),
        ("quantize-dynamic{rows=true,ignore=['*.head', 'a, b']}", (ROWS,)),
        ("tersor.passes.raising.activation.raise_gelu:RaiseGelu", (RaiseGelu(),)),
        (
            [FoldConstants(), {"later": ["raise-gelu"]}],
            (FoldConstants(), Pipeline(label="later", steps=(RaiseGelu(),))),
        ),
    ],
)
def test_a_pipeline_is_made_of_anything(source: object, steps: tuple[object, ...]) -> None:
    assert Pipeline.of(source).steps == steps  # type: ignore[arg-type]


def test_a_pipeline_of_a_pipeline_is_itself() -> None:
    assert Pipeline.of(RAISING) is RAISING


@pytest.mark.parametrize(
    "pipeline",
    [
        Pipeline(),
        Pipeline(steps=(FoldConstants(limit=7), ROWS)),
        Pipeline(steps=(Pipeline(label="first", steps=(FoldConstants(),)), Pipeline(steps=(ROWS,)), Pipeline())),
        Pipeline(steps=(RAISING,)),
    ],
)
def test_text_data_and_objects_convert_into_each_other(pipeline: Pipeline) -> None:
    assert Pipeline.of(pipeline.text()) == pipeline
    assert Pipeline.of(yaml.safe_load(yaml.safe_dump(pipeline.data()))) == pipeline


def test_nesting_dissolves_in_order() -> None:
    pipeline = Pipeline.of("fold-constants,(raise-gelu,deep(drop-identities)),fold-constants")
    assert [step.name for step in pipeline.flat()] == [
        "fold-constants",
        "raise-gelu",
        "drop-identities",
        "fold-constants",
    ]


def test_exact_drops_what_is_lossy_and_the_nests_left_empty() -> None:
    pipeline = Pipeline.of("fold-constants,(quantize-dynamic),(raise-gelu,quantize-dynamic),()")
    assert pipeline.exact().text() == "fold-constants,(raise-gelu)"
    assert Pipeline.of("quantize-dynamic").exact() == Pipeline()


def test_applied_it_runs_its_passes_in_order() -> None:
    model = graph("a = Identity(x)", "b = Add(two, three)", "y = Mul(a, b)", two=2.0, three=3.0)
    outcome = Pipeline.of("(drop-identities),fold-constants").apply(model, Context())
    assert lines(model) == ["y = Mul(x, b)"]
    assert outcome.matches == 2


def test_a_pass_is_spelled_with_the_options_that_matter() -> None:
    assert text_of(FoldConstants()) == "fold-constants"
    assert text_of(ROWS) == title(ROWS) == 'quantize-dynamic{rows=true,ignore=["*.head", "a, b"]}'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("fold-constant", "there is no pass 'fold-constant'; did you mean fold-constants?"),
        ("fold-constants{limits=3}", "fold-constants has no option 'limits'; did you mean limit?"),
        ("fold-constants{limit=few}", r"fold-constants: option limit is an int; found 'few' \(str\)"),
        (["(raise-gel)"], "there is no pass 'raise-gel'; did you mean raise-gelu"),
        ([FoldConstants(), 3], r"a step is a name, \{name: options\} or \{name: \[steps\]\}, found 3"),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_name(source: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Pipeline.of(source)  # type: ignore[arg-type]
