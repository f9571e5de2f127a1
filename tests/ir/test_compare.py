"""Errors follow their definitions, and the first value that diverges is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir
import pytest
from numpy.typing import NDArray
from tersor.ir import compare as module
from tersor.ir import runner
from tersor.ir.compare import Comparison, Tally, compare
from tersor.ir.errors import ModelError
from tersor.ir.text import graph

Array = NDArray[np.generic]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
NAN, INF = np.nan, np.inf


def gives(**outputs: object) -> Run:
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return lambda feeds: arrays


def echo(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    return feeds


def error(a: object, b: object) -> float:
    return compare(gives(y=a), gives(y=b), {}).relative_l2


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.0], [3.0, 4.5], 0.1),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [3e-6, 4e-6], 5e-6 / np.sqrt(2)),
        ([INF, 3.0, -INF, NAN, 4.0], [INF, 3.0, -INF, NAN, 4.5], 0.1),
        ([1.0, NAN], [1.0, 0.0], INF),
        ([1.0, INF], [1.0, -INF], INF),
        ([1.0, 2.0], [1.0, INF], INF),
        ([1.0], [1.0, 1.0], INF),
        ([], [], 0.0),
        (1.0, 1.5, 0.5),
        ([1, 2, 3, 4], [1, 2, 3, 9], 0.25),
        ([True, False], [True, True], 0.5),
        ([3j, 4.0], [3j, 4.5], 0.1),
        (np.array([1, 2], np.float16), np.array([1, 2.5]), 0.5 / np.sqrt(5)),
    ],
)
def test_relative_l2(a: object, b: object, expected: float) -> None:
    # float64 sums of at most five terms
    assert error(a, b) == pytest.approx(expected, rel=1e-12)


def test_bfloat16_counts_as_float() -> None:
    kind = onnx_ir.DataType.BFLOAT16.numpy()
    assert error(np.array([3, 4], kind), np.array([3, 4.5], kind)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("a", "b", "cosine", "largest", "mismatch"),
    [
        ([1.0, 0.0], [0.0, 1.0], 0.0, 1.0, 0),
        ([1.0, 0.0], [-2.0, 0.0], -1.0, 3.0, 0),
        ([0.0], [0.0], 1.0, 0.0, 0),
        ([0.0], [1.0], 0.0, 1.0, 0),
        ([1.0, NAN, 2.0], [NAN, NAN, 2.0], 0.0, INF, 1),
        ([1, 5], [1, 2], 0.5, 3.0, 0),
    ],
)
def test_the_other_errors(a: object, b: object, cosine: float, largest: float, mismatch: int) -> None:
    (found,) = compare(gives(y=a), gives(y=b), {}).outputs
    assert (found.cosine, found.max_abs, found.nan_mismatch) == (pytest.approx(cosine), largest, mismatch)


def test_feeds_stream_and_add_up() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((3, 4)) for _ in range(5)]
    noise = [rng.standard_normal((3, 4)) * 0.1 for _ in range(5)]
    alive: list[int] = []

    def stream() -> Iterator[dict[str, Array]]:
        for index, part in enumerate(parts):
            alive.append(index)
            yield {"y": part, "at": np.asarray(index)}

    found = compare(
        lambda feeds: {"y": feeds["y"]}, lambda feeds: {"y": feeds["y"] + noise[int(feeds["at"])]}, stream()
    )
    whole, off = np.concatenate(parts), np.concatenate(noise)
    assert (found.feeds, alive) == (5, [0, 1, 2, 3, 4])
    assert found.relative_l2 == pytest.approx(np.linalg.norm(off) / np.linalg.norm(whole), rel=1e-12)
    assert found.worst.max_abs == pytest.approx(np.abs(off).max(), rel=1e-12)


def test_tallies_of_parts_are_the_tally_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 10))
    whole, parts = Tally.of(a, b), Tally.of(a[:3], b[:3]).plus(Tally.of(a[3:], b[3:]))
    assert parts.relative_l2 == pytest.approx(whole.relative_l2, rel=1e-12)
    assert parts.cosine == pytest.approx(whole.cosine, rel=1e-12)


def test_the_worst_output_counts() -> None:
    found = compare(gives(a=[1.0], b=[1.0], c=[1.0]), gives(a=[1.0], b=[1.5], c=[1.1]), {})
    assert found.worst.name == "b" and found.relative_l2 == 0.5
    assert found.within(0.5) and not found.within(0.49)


def test_anything_that_runs_can_be_compared() -> None:
    class Session:
        def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            return {"y": feeds["x"] * 2}

    model = graph("y = Mul(x, 2.0)", inputs={"x": "float[n]"})
    feeds = {"x": np.arange(4, dtype=np.float32)}
    assert compare(Session(), model, feeds).relative_l2 == 0.0
    assert compare(model, gives(y=feeds["x"] * 2), [feeds, feeds]).feeds == 2


def test_refuses_a_missing_output_and_no_feeds() -> None:
    with pytest.raises(ModelError, match=r"output 'y' of the first model is missing in the second: it has \['z'\]"):
        compare(gives(y=1.0), gives(z=1.0), {})
    with pytest.raises(ModelError, match="the feeds are empty"):
        compare(echo, echo, [])


def test_prints_a_row_an_output() -> None:
    text = str(compare(gives(logits=[1.0, NAN], v=[2.0]), gives(logits=[1.0, 1.0], v=[1.0, 2.0]), {}))
    assert "logits          inf         inf  0.00000000  1 not finite on one side" in text
    assert "shape [1] became [2]" in text and len(text.splitlines()) == 3


def network(bias: float) -> onnx_ir.Model:
    """Three layers; the bias of the second is given."""
    weights = {f"w{at}": np.eye(4, dtype=np.float32) * (at + 1) for at in range(3)}
    lines = ["a = MatMul(x, w0)", "ab = Add(a, 1.0)", "b = MatMul(ab, w1)", "bb = Add(b, bias)"]
    lines += ["c = Relu(bb)", "y = MatMul(c, w2)"]
    return graph(*lines, inputs={"x": "float[n, 4]"}, bias=np.full(4, bias, np.float32), **weights)


FEEDS = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def located(a: onnx_ir.Model, b: onnx_ir.Model, tolerance: float = 1e-5) -> Comparison:
    return compare(a, b, FEEDS, locate=True, tolerance=tolerance)


@pytest.fixture(params=["interpreter", "onnxruntime"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run models on the interpreter, and as if it knew none of their ops."""
    if request.param == "onnxruntime":
        monkeypatch.setattr("tersor.ir.fx.missing", lambda model: ["everything"])


@pytest.mark.usefixtures("either")
def test_finds_the_first_diverging_value() -> None:
    found = located(network(1.0), network(1.5)).first_diverging
    assert found is not None
    assert (found.name, found.place) == ("bb", "Add at bb")
    assert found.relative_l2 > 1e-5 and "'bb' of Add at bb (relative L2" in str(found)


@pytest.mark.usefixtures("either")
def test_finds_nothing_in_equal_models() -> None:
    found = located(network(1.0), network(1.0))
    assert found.relative_l2 == 0.0 and found.first_diverging is None


def test_a_small_error_is_no_divergence() -> None:
    assert located(network(1.0), network(1.001), tolerance=1e-2).first_diverging is None
    assert located(network(1.0), network(1.001), tolerance=1e-6).first_diverging is not None


def test_only_asked_for_it_is_located() -> None:
    assert compare(network(1.0), network(1.5), FEEDS).first_diverging is None


def test_values_under_other_names_or_shapes_are_passed_over() -> None:
    a = graph("h = Add(x, 1.0)", "k = Transpose(h)", "m = Transpose(k)", "y = Relu(m)", inputs={"x": "float[3, 4]"})
    b = graph("g = Add(x, 2.0)", "k = Identity(g)", "m = Identity(k)", "y = Relu(m)", inputs={"x": "float[3, 4]"})
    found = located(a, b).first_diverging
    assert found is not None and found.name == "m"


def test_the_second_model_stops_at_the_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def spy(model: onnx_ir.Model, feeds: object, names: object, see: Callable[[str, Array], bool]) -> None:
        def note(name: str, array: Array) -> bool:
            seen.append(name)
            return see(name, array)

        runner.watch(model, FEEDS, ["a", "ab", "b", "bb", "c", "y"], note)

    monkeypatch.setattr(module, "watch", spy)
    module.first_diverging(network(1.0), network(1.5), FEEDS)
    assert seen == ["a", "ab", "b", "bb", "c", "y", "a", "ab", "b", "bb"]


def test_the_runners_agree() -> None:
    model = network(0.5)
    # three layers of dot products of four float32 terms
    assert compare(runner.outside(model), model, FEEDS).within(1e-6)


def test_what_onnxruntime_refuses_goes_to_the_reference() -> None:
    # ONNX Runtime's CPU provider has no kernel for Mul on bfloat16
    model = graph("y = Mul(x, x)", inputs={"x": "bfloat16[3]"})
    x = np.array([1, 2, 3]).astype(onnx_ir.DataType.BFLOAT16.numpy())
    assert [float(number) for number in runner.outside(model)({"x": x})["y"]] == [1, 4, 9]
