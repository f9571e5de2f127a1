"""Pipelines as text and YAML, and raw options as typed ones: round trips, and every message."""

from __future__ import annotations

import enum
import string
from dataclasses import dataclass
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tersor.ir.errors import OptionError
from tersor.passes.syntax import Step, build, from_yaml, parse, to_text, to_yaml

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=4).map(lambda text: f"p{text}-x")
OPTIONS = st.text(string.ascii_lowercase, min_size=1, max_size=3).map(lambda text: f"o_{text}")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
SCALARS = st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | TEXTS | st.none()
VALUES = SCALARS | st.lists(SCALARS, max_size=3)
PASSES = st.builds(Step, NAMES, st.dictionaries(OPTIONS, VALUES, max_size=3))
STEPS = st.recursive(
    PASSES,
    lambda inner: st.builds(
        lambda name, steps: Step(name, steps=tuple(steps)), NAMES | st.just(""), st.lists(inner, max_size=3)
    ),
    max_leaves=5,
)
PIPELINES = st.lists(STEPS, max_size=3).map(tuple)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", ()),
        ("  ", ()),
        ("fold-constants", (Step("fold-constants"),)),
        (" a , b ", (Step("a"), Step("b"))),
        ("a{}", (Step("a"),)),
        ("a{ }", (Step("a"),)),
        ("q{bits=4, group = 32}", (Step("q", {"bits": 4, "group": 32}),)),
        ("q{rate=1.5e-3,on=true,off=no}", (Step("q", {"rate": 0.0015, "on": True, "off": False}),)),
        ("q{only=[a, b.c],ignore='*'}", (Step("q", {"only": ["a", "b.c"], "ignore": "*"}),)),
        ("q{a='x, y}',b=\"z]\"}", (Step("q", {"a": "x, y}", "b": "z]"}),)),
        ("q{a=}", (Step("q", {"a": None}),)),
        ("(a,b)", (Step("", steps=(Step("a"), Step("b"))),)),
        ("first(a), ( b )", (Step("first", steps=(Step("a"),)), Step("", steps=(Step("b"),)))),
        ("()", (Step("", steps=()),)),
        ("my.module:Class{a=1}", (Step("my.module:Class", {"a": 1}),)),
    ],
)
def test_text_is_read(text: str, steps: tuple[Step, ...]) -> None:
    assert parse(text) == steps


@given(PIPELINES)
def test_text_reads_back(steps: tuple[Step, ...]) -> None:
    assert parse(to_text(steps)) == steps


@given(PIPELINES)
def test_yaml_reads_back(steps: tuple[Step, ...]) -> None:
    assert from_yaml(yaml.safe_load(yaml.safe_dump(to_yaml(steps)))) == steps


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("fold-constants,drop-identities", "fold-constants,drop-identities"),
        ("[fold-constants, drop-identities]", "fold-constants,drop-identities"),
        ("- quantize-dynamic: {rows: true, only: [a]}", "quantize-dynamic{rows=true,only=[a]}"),
        ("- quantize-dynamic:", "quantize-dynamic"),
        ("- first: [a, b]\n- c{x=1}", "first(a,b),c{x=1}"),
        ("- a,b\n- c", "(a,b),c"),
    ],
)
def test_yaml_says_the_same(document: str, text: str) -> None:
    assert to_text(from_yaml(yaml.safe_load(document))) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,", "cannot read the pipeline 'a,': expected the name of a pass at character 3, found the end"),
        (",a", "cannot read the pipeline ',a': expected the name of a pass at character 1, found ',a'"),
        ("a b", "cannot read the pipeline 'a b': expected a comma or the end at character 3, found 'b'"),
        ("a(b", "cannot read the pipeline 'a(b': expected ')' at character 4, found the end"),
        ("a{b=1", "cannot read the pipeline 'a{b=1': expected '}' at character 6, found the end"),
        ("a)", "cannot read the pipeline 'a)': expected a comma or the end at character 2, found ')'"),
        ("a{b}", "in 'a{b}': 'b' is no option; write name=value"),
        ("a{=1}", "in 'a{=1}': '=1' is no option; write name=value"),
        ("a{b=1,}", "in 'a{b=1,}': '' is no option; write name=value"),
        (
            "a{b=*x}",
            "in 'a{b=*x}': cannot read the value of 'b': '*x'; put text with other characters than letters in quotes",
        ),
        (
            "a{b=1,b=2}",
            "in 'a{b=1,b=2}': 'b' is given twice; write a list for several values: b=[a, b]",
        ),
    ],
)
def test_text_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (3, "a pipeline is a list of passes or their text, found int"),
        ({"a": 1}, "a pipeline is a list of passes or their text, found dict"),
        ([3], "a step is a name, {name: options} or {name: [steps]}, found 3"),
        ([{"a": 1}], "a step is a name, {name: options} or {name: [steps]}, found {'a': 1}"),
        (
            [{"a": None, "b": None}],
            "a step is a name, {name: options} or {name: [steps]}, found {'a': None, 'b': None}",
        ),
    ],
)
def test_yaml_that_is_no_pipeline(document: object, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        from_yaml(document)
    assert str(caught.value) == message


class Metric(enum.Enum):
    COSINE = "cosine"
    L2 = "relative-l2"


@dataclass(frozen=True, kw_only=True)
class Options:
    bits: int = 8
    rate: float = 0.5
    rows: bool = False
    name: str = ""
    metric: Metric = Metric.COSINE
    kind: Literal["row", "column"] = "row"
    order: Literal["first", "last"] | None = None
    only: tuple[str, ...] = ()
    group_size: int | None = None
    budget: float | str = 0.1


@pytest.mark.parametrize(
    ("given_options", "wanted"),
    [
        ({}, Options()),
        ({"bits": 4, "rows": True, "name": "x"}, Options(bits=4, rows=True, name="x")),
        ({"rate": 1}, Options(rate=1.0)),
        ({"rate": "1e-3"}, Options(rate=0.001)),
        ({"metric": "relative-l2", "kind": "column"}, Options(metric=Metric.L2, kind="column")),
        ({"metric": Metric.L2}, Options(metric=Metric.L2)),
        ({"only": "a"}, Options(only=("a",))),
        ({"only": ["a", "b"]}, Options(only=("a", "b"))),
        ({"group-size": 32}, Options(group_size=32)),
        ({"group_size": None}, Options(group_size=None)),
        ({"order": "last"}, Options(order="last")),
        ({"order": None}, Options(order=None)),
        ({"budget": "1%"}, Options(budget="1%")),
    ],
)
def test_options_are_converted(given_options: dict[str, object], wanted: Options) -> None:
    found = build(Options, "quantize", given_options)
    assert found == wanted
    assert [type(getattr(found, name)) for name in given_options if "-" not in name] == [
        type(getattr(wanted, name)) for name in given_options if "-" not in name
    ]


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"bit": 4}, "quantize has no option 'bit'; did you mean bits?"),
        ({"bits": "four"}, "quantize: option bits is an int; found 'four' (str)"),
        ({"bits": 4.0}, "quantize: option bits is an int; found 4.0 (float)"),
        ({"bits": True}, "quantize: option bits is an int; found True (bool)"),
        ({"rate": "much"}, "quantize: option rate is a float; found 'much' (str)"),
        ({"rate": True}, "quantize: option rate is a float; found True (bool)"),
        ({"rows": 1}, "quantize: option rows is a bool; found 1 (int)"),
        ({"name": 3}, "quantize: option name is a str; found 3 (int)"),
        ({"metric": "cos"}, "quantize: option metric is one of cosine, relative-l2; found 'cos'"),
        ({"kind": "diagonal"}, "quantize: option kind is one of row, column; found 'diagonal'"),
        ({"order": "middle"}, "quantize: option order is one of first, last, null; found 'middle'"),
        ({"only": [1]}, "quantize: option only is a str; found 1 (int)"),
        ({"group_size": "all"}, "quantize: option group_size is an int or null; found 'all' (str)"),
    ],
)
def test_options_that_do_not_fit(given_options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        build(Options, "quantize", given_options)
    assert str(caught.value) == message


def test_a_pass_without_options_says_so() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plain:
        pass

    with pytest.raises(OptionError, match="plain has no option 'x'; it takes none"):
        build(Plain, "plain", {"x": 1})


def test_an_option_without_a_default_must_be_given() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Needy:
        path: str

    with pytest.raises(OptionError, match="needy needs the option 'path'"):
        build(Needy, "needy", {})
    assert build(Needy, "needy", {"path": "x"}) == Needy(path="x")
