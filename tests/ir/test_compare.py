"""Errors follow their definitions, and the first value that diverges is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir
import pytest
from numpy.typing import NDArray
from tersor.ir import compare as module
from tersor.ir import runner
from tersor.ir.compare import TOLERANCE, Comparison, Tally, compare, compare_locally
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


def quantized(*sum_of: str, wrong: float = 0.0) -> onnx_ir.Model:
    """Two layers of quantized activations behind `t`, which these lines compute; the second's weights are off."""
    rng = np.random.default_rng(5)
    first, second = rng.standard_normal((2, 64, 64)).astype(np.float32)
    return graph(
        *sum_of,
        "(q1, s1, z1) = DynamicQuantizeLinear(t)",
        "d1 = DequantizeLinear(q1, s1, z1)",
        "u = MatMul(d1, first)",
        "(q2, s2, z2) = DynamicQuantizeLinear(u)",
        "d2 = DequantizeLinear(q2, s2, z2)",
        "v = MatMul(d2, second)",
        "y = Relu(v)",
        inputs={"x": "float[512, 64]"},
        c=np.full(64, 64, np.float32),
        first=first,
        second=second * np.float32(1.0 + wrong),
    )


class TestBehindRounding:
    """(x + c) - c = x up to the last bits, which tip activations over the edge of a quantization step."""

    A = quantized("r = Add(x, c)", "t = Sub(r, c)")
    X: Mapping[str, Array] = {"x": np.random.default_rng(6).standard_normal((512, 64)).astype(np.float32)}

    def test_reassociation_is_no_error(self) -> None:
        b = quantized("t = Identity(x)")
        assert compare(self.A, b, self.X).relative_l2 > 10 * TOLERANCE
        found = compare_locally(self.A, b, self.X)
        assert [error.name for error in found.outputs] == [
            *("t", "q1", "s1", "z1", "d1", "u", "q2", "s2", "z2", "d2", "v", "y")
        ]
        assert found.within(TOLERANCE)

    def test_one_wrong_node_is_found_below_the_noise(self) -> None:
        right, wrong = quantized("t = Identity(x)"), quantized("t = Identity(x)", wrong=1e-4)
        noise = compare(self.A, right, self.X).relative_l2
        assert compare(self.A, wrong, self.X).relative_l2 < 1.5 * noise
        found = compare_locally(self.A, wrong, self.X)
        assert [error.name for error in found.outputs if error.relative_l2 > TOLERANCE] == ["v"]
        assert found.worst.relative_l2 == pytest.approx(1e-4, rel=0.01)


def test_a_local_comparison_holds_outputs_to_their_shape() -> None:
    a = graph("q = Round(x)", "y = Neg(q)", inputs={"x": "float[4]"})
    b = graph("q = Round(x)", "n = Neg(q)", "y = Reshape(n, [2, 2])", inputs={"x": "float[4]"})
    found = compare_locally(a, b, {"x": np.arange(4, dtype=np.float32)})
    assert (found.worst.name, found.relative_l2, found.worst.note) == ("y", INF, "shape [4] became [2, 2]")


def test_a_local_comparison_sees_outputs_that_became_constants() -> None:
    a = graph("q = Round(x)", "y = Cast{to=7}(q)", inputs={"x": "float[4]"})
    b = graph("y = Identity(k)", inputs={"x": "float[4]"}, k=np.array([0, 1, 2, 9]))
    found = compare_locally(a, b, {"x": np.arange(4, dtype=np.float32)})
    assert [(error.name, error.relative_l2) for error in found.outputs] == [("y", 0.25)]


def test_a_local_comparison_without_the_interpreter_is_a_plain_one() -> None:
    # the interpreter has no lowering for MurmurHash3
    hashed = "y = com.microsoft.MurmurHash3(h)"
    a, b = (graph(f"h = {twice}", hashed, inputs={"x": "float[3, 3]"}) for twice in ("Add(x, x)", "Mul(x, 2.0)"))
    found = compare_locally(a, b, {"x": np.eye(3, dtype=np.float32)})
    assert [(error.name, error.relative_l2) for error in found.outputs] == [("y", 0.0)]
