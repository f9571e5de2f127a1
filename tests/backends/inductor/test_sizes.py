"""Which sizes a package takes."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.backends.inductor.aoti import conditions
from tersor.backends.inductor.sizes import Sizes, holds, is_of_one, parse
from tersor.ir.dimensions import set_ranges
from tersor.ir.errors import ModelError
from tersor.ir.fx import to_fx
from tersor.ir.fx.export import export
from tersor.ir.level import Port, Signature
from tersor.ir.text import graph
from tersor.tests.backends.inductor.models import normal

FLOAT = ir.DataType.FLOAT
SIGNATURE = Signature(
    (Port("x", FLOAT, ("batch", "sequence")), Port("z", FLOAT, ("batch", None, 0)), Port("w", FLOAT, None)), ()
)


@pytest.mark.parametrize(
    ("text", "shape", "true"),
    [
        ("shapes[0][0] <= 64", (64,), True),
        ("shapes[0][0] <= 64", (65,), False),
        ("(-3) + (shapes[0][0] // 16) == 1", (79,), True),
        ("Mod(shapes[0][0], 16) != 0", (32,), False),
        ("max(1, shapes[0][0] - 2) * Min(3, 4) > 3", (3,), False),
        ("not shapes[0][0] < 3 and (shapes[0][0] == 3 or shapes[0][0] >= 5)", (4,), False),
        ("FloorDiv(shapes[0][0], 3) * 3 == shapes[0][0]", (9,), True),
        ("8 % shapes[0][0] == 0", (0,), False),
    ],
)
def test_a_condition_is_arithmetic(text: str, shape: tuple[int, ...], true: bool) -> None:
    assert holds(parse(text), (shape,)) is true


@pytest.mark.parametrize(
    "text",
    [
        "shapes[0][0] <",
        "__import__('os').system('true')",
        "shapes.__class__",
        "shapes[0].count(1)",
        "2 ** 2 ** 99",
        "[1][0]",
        "lambda: 1",
        "(lambda: 1)()",
        "shapes['x'][0] > 1",
        "shapes[None][0] > 1",
        "max(1, key=shapes)",
        "print(shapes)",
        "'text'",
        "shapes[0][0] if 1 else 2",
        "(" * 5000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no condition on sizes|is more than arithmetic on shapes"):
        parse(text)


@pytest.mark.parametrize("text", ["shapes[0] > 1", "shapes[9][0] > 1", "shapes[0][7] > 1", "shapes > 1", "max(1) > 1"])
def test_a_condition_on_no_size_of_an_input_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not on sizes of the inputs"):
        Sizes([text], SIGNATURE)


def test_a_broken_condition_names_the_dimension_and_its_size() -> None:
    sizes = Sizes(["shapes[0][1] + 64 <= 128", "shapes[1][1] == shapes[0][0]"], SIGNATURE)
    sizes.check(((3, 64), (3, 3, 0), ()))
    with pytest.raises(ModelError) as caught:
        sizes.check(((3, 65), (3, 4, 0), ()))
    assert "sequence + 64 <= 128 does not hold for sequence = 65" in str(caught.value)
    assert "z.shape[1] == batch does not hold for z.shape[1] = 4, batch = 3" in str(caught.value)
    assert "The target torch takes every size" in str(caught.value)


def test_one_name_for_two_sizes_is_told_apart() -> None:
    with pytest.raises(ModelError, match=r"batch == z.shape\[0\] does not hold for batch = 3, z.shape\[0\] = 4"):
        Sizes(["shapes[0][0] == shapes[1][0]"], SIGNATURE).check(((3, 1), (4, 1, 0), ()))


def test_a_dynamic_size_of_zero_is_refused_and_a_fixed_one_is_not() -> None:
    sizes = Sizes([], SIGNATURE)
    with pytest.raises(ModelError, match="'x' has size 0 on axis 1, and dynamic sizes are 1 or more"):
        sizes.check(((3, 0), (3, 1, 0), (0,)))
    sizes.check(((3, 1), (3, 1, 0), (0,)))


def test_that_a_size_is_not_one_is_no_condition() -> None:
    assert is_of_one(parse("shapes[0][0] - 2 != 1"))
    assert not is_of_one(parse("shapes[0][0] != 2"))
    Sizes(["shapes[0][0] != 1"], SIGNATURE).check(((1, 1), (1, 1, 0), ()))


def test_what_fits_is_remembered_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tersor.backends.inductor.sizes._MOST", 4)
    asked: list[object] = []
    monkeypatch.setattr(
        "tersor.backends.inductor.sizes.holds", lambda condition, shapes: asked.append(shapes) or shapes[0][1] < 9
    )
    sizes = Sizes(["shapes[0][1] < 9"], SIGNATURE)
    asked.clear()
    for _ in range(3):
        sizes.check(((1, 8), (1, 1, 0), ()))
    assert len(asked) == 1
    for length in range(1, 8):
        sizes.check(((1, length), (1, 1, 0), ()))
    sizes.check(((1, 8), (1, 1, 0), ()))
    assert len(asked) == 9
    with pytest.raises(ModelError):
        sizes.check(((1, 9), (1, 1, 0), ()))
    with pytest.raises(ModelError):
        sizes.check(((1, 9), (1, 1, 0), ()))


def of(model: ir.Model) -> list[str]:
    return conditions(export(model, to_fx(model)))


def test_the_exported_program_says_what_it_takes_for_granted() -> None:
    model = graph("y = AveragePool{kernel_shape=[3]}(x)", inputs={"x": "float[b, 2, n]"})
    found = of(model)
    assert "shapes[0][2] >= 3" in found
    sizes = Sizes(found, Signature.of(model))
    for length in (3, 4, 99):
        sizes.check(((1, 2, length),))
    with pytest.raises(ModelError, match="n >= 3 does not hold for n = 2"):
        sizes.check(((1, 2, 2),))


def test_sizes_that_must_agree_are_a_condition() -> None:
    model = graph("y = Concat{axis=0}(x, z)", inputs={"x": "float[n]", "z": "float[n]"})
    assert of(model) == ["shapes[1][0] == shapes[0][0]"]
    assert of(graph("y = Relu(x)", inputs={"x": "float[n, 3]"})) == []


def test_names_that_only_differ_in_their_case_are_two_inputs() -> None:
    model = graph(
        "s = Shape{start=0, end=1}(X)",
        "p = Slice(long, [0], s, [0])",
        "y = Add(X, p)",
        "t = Shape{start=0, end=1}(x)",
        "q = Slice(short, [0], t, [0])",
        "z = Add(x, q)",
        inputs={"X": "float[a, 4]", "x": "float[b, 4]"},
        outputs=["y", "z"],
        long=normal(24, 4),
        short=normal(12, 4),
    )
    set_ranges(model, {"a": (1, 24), "b": (1, 12)})
    assert sorted(of(model)) == ["shapes[0][0] <= 24", "shapes[1][0] <= 12"]


def test_a_condition_on_anything_but_sizes_cannot_be_read() -> None:
    model = graph("y = Relu(x)", inputs={"x": "float[n]"})
    program = export(model, to_fx(model))
    program._guards_code.append("L['x'].stride()[0] == 1")
    with pytest.raises(ValueError, match="more than arithmetic"):
        Sizes(conditions(program), Signature.of(model))
