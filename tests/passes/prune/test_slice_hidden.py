"""Hidden features out of the stream: what is written in which directions, and how well."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.catalogue import BACKENDS
from tersor.ir.compare import compare
from tersor.ir.constants import constant_of
from tersor.ir.cost import cost
from tersor.ir.errors import OptionError
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.prune.directions import bases
from tersor.passes.prune.methods.pca import principal
from tersor.passes.prune.segments import streams
from tersor.passes.prune.slice_hidden import SliceHidden
from tersor.passes.run import run_pipeline
from tersor.passes.statistics import Calibration
from tersor.passes.verify import allowed, worst_loss
from tersor.tests.passes.prune.hidden import MODELS, WIDTH, WORDS, bert, feeds_of, gpt, llama
from tersor.tests.support import REORDERED, ROUNDED, installed


def calibrated(model: ir.Model, batches: int = 6) -> Context:
    return Context(calibration=Calibration([feeds_of(model, seed) for seed in range(batches)]))


def answer(model: ir.Model, seed: int = 99) -> np.ndarray:
    (found,) = runner(model)(feeds_of(model, seed)).values()
    return np.asarray(found, np.float64)


def error(one: ir.Model, other: ir.Model) -> float:
    """Relative L2 on feeds that nothing was calibrated on."""
    first, second = answer(one), answer(other)
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def loss(one: ir.Model, other: ir.Model) -> float:
    """The metric of the contract, on the same feeds."""
    return worst_loss(SliceHidden.contract, compare(one, other, feeds_of(one, 99)))


def layer(*text: str, **more: np.ndarray) -> ir.Model:
    """A feed-forward layer behind a norm, added to the stream, with lines behind that end in y."""
    rng = np.random.default_rng(5)

    def matrix(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) / np.sqrt(shape[0])

    constants = {
        "table": 4 * matrix(WORDS, 32), "g": 1 + 0.2 * matrix(32), "f": 1 + 0.2 * matrix(32),
        "up": matrix(32, 64), "down": matrix(64, 32), "head": matrix(32, 9), **more,
    }  # fmt: skip
    lines = (
        "e = Gather(table, ids)", "n = RMSNormalization{axis=-1, epsilon=0.1}(e, g)", "u = MatMul(n, up)",
        "r = Relu(u)", "d = MatMul(r, down)", "s = Add(e, d)", *text,
    )  # fmt: skip
    used = {name: array for name, array in constants.items() if any(name in line.split("(", 1)[1] for line in lines)}
    return graph(*lines, inputs={"ids": "int64[batch, sequence]"}, outputs=["y"], **used)


BEHIND = ("m = RMSNormalization{axis=-1, epsilon=0.1}(s, f)", "y = MatMul(m, head)")


def shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    arrays = {name: constant_of(value) for name, value in model.graph.initializers.items()}
    return {name: array.shape for name, array in arrays.items() if array is not None}


def test_the_graph_stays_and_its_weights_shrink() -> None:
    plain = layer(*BEHIND)
    model = plain.clone()
    (finding,) = SliceHidden(ratio=0.5).apply(model, calibrated(model)).findings
    assert finding.chosen.startswith("32 -> 16, ")
    assert [line.split("=")[1].split("{")[0] for line in lines(model)] == [
        line.split("=")[1].split("{")[0] for line in lines(plain)
    ]
    assert shapes(model) == {
        "table": (WORDS, 16), "g": (16,), "f": (16,), "up": (16, 64), "down": (64, 16), "head": (16, 9),
    }  # fmt: skip
    assert answer(model).shape == answer(plain).shape
    for value in (value for node in model.graph for value in node.outputs):
        assert value.shape is not None
        assert value.shape[-1] == {"u": 64, "r": 64, "y": 9}.get(value.name or "", 16)


def test_a_norm_behind_a_sum_turns_the_residual() -> None:
    model = bert()
    SliceHidden(ratio=0.5, repair=False).apply(model, calibrated(model))
    assert [line.replace("x0/RMSNormalization", "norm") for line in lines(model)][:4] == [
        "w = Gather(table, ids)", "k = Gather(types, kinds)", "e = Add(w, k)",
        "x0 = RMSNormalization{axis=-1, epsilon=0.002}(e, gx0_1)",
    ]  # fmt: skip
    assert [line for line in lines(model) if line.startswith(("s0", "x2"))] == [
        "s0/MatMul = MatMul(x0, s0/turned)", "s0 = Add(ob0, s0/MatMul)",
        "x2/RMSNormalization = RMSNormalization{axis=-1, epsilon=0.002}(t1, gx2_1)",
        "x2/MatMul = MatMul(x2/RMSNormalization, x2/whole)",
        "x2 = Add(x2/MatMul, x2/shift)",
    ]  # fmt: skip


def test_an_output_keeps_its_shape() -> None:
    model = bert()
    SliceHidden(ratio=0.5).apply(model, calibrated(model))
    (output,) = model.graph.outputs
    assert output.name == "x2"
    assert output.shape is not None
    assert output.shape[-1] == WIDTH
    assert answer(model).shape[-1] == WIDTH


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("name", MODELS)
def test_features_that_are_zero_everywhere_go_and_nothing_changes(name: str, dtype: type, data: bool) -> None:
    plain = MODELS[name](15, dtype)
    model = plain.clone()
    made = SliceHidden(ratio=0.5, repair=False)
    assert made.apply(model, calibrated(plain) if data else Context()).matches == 1
    assert cost(model).parameters < 0.7 * cost(plain).parameters
    assert error(plain, model) < ROUNDED[dtype]


@pytest.mark.parametrize("directions", ["principal", "weights", "features"])
@pytest.mark.parametrize("name", ["llama", "gpt"])
def test_a_turned_subspace_goes_and_nothing_changes(name: str, directions: str) -> None:
    plain = MODELS[name](16)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    for value in plain.graph.initializers.values():
        array = constant_of(value)
        assert array is not None
        if array.shape[-1] == WIDTH and not array[..., 16:].any():
            value.const_value = ir.tensor(array @ turn, name=value.name)
    model = plain.clone()
    made = SliceHidden(ratio=7 / 16, multiple=1, directions=directions, repair=False)  # type: ignore[arg-type]
    assert made.apply(model, calibrated(plain)).matches == 1
    assert (error(plain, model) < ROUNDED[np.float32]) == (directions != "features")


def rms(x: np.ndarray, epsilon: float, centred: bool = False) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True) if centred else x
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def test_what_is_lost_is_what_the_directions_lose() -> None:
    """The stream of the sliced graph against one of all features that is projected wherever it is written."""
    plain = layer(*BEHIND)
    c = {name: np.asarray(constant_of(value), np.float64) for name, value in plain.graph.initializers.items()}
    kept = np.linalg.eigh(c["table"].T @ c["table"] / WORDS + c["down"].T @ c["down"])[1][:, -16:]
    projection = kept @ kept.T
    ids = feeds_of(plain, 99)["ids"]
    stream = c["table"][ids] @ projection
    hidden = np.maximum(rms(stream, 0.1) * c["g"] @ c["up"], 0)
    stream = stream + hidden @ c["down"] @ projection
    wanted = rms(stream, 0.1) * c["f"] @ c["head"]
    SliceHidden(ratio=0.5).apply(plain, Context())
    np.testing.assert_allclose(answer(plain), wanted, rtol=ROUNDED[np.float64], atol=ROUNDED[np.float64])


def test_what_is_lost_behind_layer_norms_is_what_the_directions_lose() -> None:
    plain = bert(None, np.float64)
    c = {name: np.asarray(constant_of(value), np.float64) for name, value in plain.graph.initializers.items()}
    (stream,) = streams(plain)
    of = {value.name: basis.directions for segment, basis in bases(plain, stream, 16, principal).items()
          for value in segment.values}  # fmt: skip
    feeds = feeds_of(plain, 99)

    def norm(x: np.ndarray, source: str, name: str) -> np.ndarray:
        inside = (x - x.mean(-1, keepdims=True)) @ of[source] @ of[source].T
        return rms(inside, 1e-3) * c[f"g{name}"] + c[f"c{name}"]

    x = norm(c["table"][feeds["ids"]] + c["types"][feeds["kinds"]], "e", "x0")
    for at in range(2):
        q, k, v = (
            np.moveaxis((x @ c[f"w{name}{at}"]).reshape(*x.shape[:2], 4, 8), 2, 1) for name in "qkv"
        )  # fmt: skip
        scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(8)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.moveaxis(scores / scores.sum(-1, keepdims=True) @ v, 1, 2).reshape(x.shape)
        m = norm(x + mixed @ c[f"wo{at}"] + c[f"bo{at}"], f"s{at}", f"m{at}")
        h = runner(graph("y = Gelu(x)", inputs={"x": "double[a, b, c]"}))({"x": m @ c[f"wh{at}"] + c[f"bh{at}"]})["y"]
        x = norm(m + h @ c[f"wd{at}"], f"t{at}", f"x{at + 1}")
    SliceHidden(ratio=0.5).apply(plain, Context())
    np.testing.assert_allclose(answer(plain), x, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_repair_helps(name: str) -> None:
    plain = MODELS[name]()
    errors = []
    for repair in (False, True):
        model = plain.clone()
        SliceHidden(ratio=0.25, repair=repair).apply(model, calibrated(model, 24))
        errors.append(error(plain, model))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", MODELS)
def test_data_help(name: str) -> None:
    plain = MODELS[name]()
    errors = []
    for directions in ("features", "principal"):
        model = plain.clone()
        kind: Literal["features", "principal"] = directions  # type: ignore[assignment]
        SliceHidden(ratio=0.25, directions=kind, repair=False).apply(model, calibrated(model))
        errors.append(error(plain, model))
    assert errors[1] < errors[0]


def test_ratio_zero_is_the_identity() -> None:
    model = llama()
    before = lines(model), shapes(model)
    assert not SliceHidden(ratio=0).apply(model, calibrated(model)).findings
    assert (lines(model), shapes(model)) == before


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1])
def test_ratios_beyond_are_refused(ratio: float) -> None:
    with pytest.raises(OptionError, match="at least 0 and less than 1"):
        SliceHidden(ratio=ratio)


def test_multiples_below_one_are_refused() -> None:
    with pytest.raises(OptionError, match="multiple of at least 1"):
        SliceHidden(multiple=0)


@pytest.mark.parametrize(("ratio", "multiple", "kept"), [(0.3, 8, 24), (0.3, 1, 22), (0.4, 16, 16), (0.99, 8, 8)])
def test_what_stays_is_a_multiple_and_never_nothing(ratio: float, multiple: int, kept: int) -> None:
    model = llama()
    SliceHidden(ratio=ratio, multiple=multiple, repair=False).apply(model, Context())
    assert shapes(model)["table"] == (WORDS, kept)


@pytest.mark.parametrize("made", [llama, gpt])
def test_the_ratio_is_of_what_there_was_at_first(made: type) -> None:
    model = made()
    context = calibrated(model)
    assert SliceHidden(ratio=0.25).apply(model, context).matches == 1
    model = ir.from_proto(ir.to_proto(model))
    (again,) = SliceHidden(ratio=0.25).apply(model, context).findings
    assert str(again.miss) == "ratio: 24 of 32 features; needed more than the 24 that stay"
    (more,) = SliceHidden(ratio=0.5).apply(model, context).findings
    assert more.chosen.startswith("24 -> 16")
    assert loss(made(), model) < allowed(SliceHidden.contract)


def test_a_second_application_turns_what_the_first_has_turned() -> None:
    plain = bert(15)
    model = plain.clone()
    for ratio in (0.25, 0.5):
        assert SliceHidden(ratio=ratio, repair=False).apply(model, calibrated(plain)).matches
    assert shapes(model)["table"] == (WORDS, 16)
    assert error(plain, model) < ROUNDED[np.float32]


def test_shared_weights_are_not_changed_under_others() -> None:
    """The table is the head's too, behind a norm with a scale: each gets its own."""
    model = gpt()
    SliceHidden(ratio=0.25, repair=False).apply(model, calibrated(model))
    assert sorted(shape for name, shape in shapes(model).items() if WORDS in shape) == [
        (24, WORDS),
        (WORDS,),
        (WORDS, 24),
    ]


def test_what_sees_the_stream_whole_still_does() -> None:
    text = ("c = Softmax{axis=-1}(s)", *BEHIND[:1], "z = MatMul(m, head)", "v = MatMul(c, other)", "y = Add(z, v)")
    plain = layer(*text, other=np.random.default_rng(2).standard_normal((32, 9)))
    for value in plain.graph.initializers.values():
        array = constant_of(value)
        if value.name in ("table", "down") and array is not None:
            value.const_value = ir.tensor(np.where(np.arange(32) < 16, array, 0), name=value.name)
    model = plain.clone()
    assert SliceHidden(ratio=0.5).apply(model, Context()).matches == 1
    assert [line for line in lines(model) if "whole" in line] == ["s = MatMul(s/Add, s/whole)"]
    assert error(plain, model) < ROUNDED[np.float64]


def test_without_data_nothing_is_fitted_and_that_is_told() -> None:
    model = llama()
    (finding,) = SliceHidden().apply(model, Context()).findings
    assert finding.chosen == "32 -> 24, no data to repair on"


def test_few_tokens_are_told() -> None:
    model = llama()
    (finding,) = SliceHidden().apply(model, calibrated(model, 1)).findings
    assert "96 tokens for 64 inputs, ridge up to" in finding.chosen


@pytest.mark.parametrize("directions", ["principal", "features"])
def test_directions_of_data_ask_for_them(directions: Literal["principal", "features"]) -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        SliceHidden(directions=directions).apply(llama(), Context())


ONES = {"one": np.ones(32), "zero": np.zeros(32)}
ALONE = [
    (layer("z = Relu(n)", "v = Relu(s)", "y = Add(z, v)"), "size", "4,608 products a token at 24 features"),
    (layer("m = LayerNormalization{axis=-1}(s, one, zero)", "y = MatMul(m, head)", **ONES), "mean", "n, a norm"),
    (
        graph("m = LayerNormalization{axis=-1}(x, one, zero)", "y = MatMul(m, w)", "z = Relu(x)",
              inputs={"x": "double[batch, 32]"}, w=np.ones((32, 32)), **ONES),
        "size", "1,536 products a token at 24 features",
    ),
    (graph("y = Relu(x)", inputs={"x": "float[batch, 32]"}), "norm", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "rule", "value"), ALONE)
def test_leaves_alone(model: ir.Model, rule: str, value: str) -> None:
    before = lines(model), shapes(model)
    (finding,) = SliceHidden().apply(model, Context()).findings
    assert finding.miss is not None
    assert (finding.miss.rule, value in finding.miss.value) == (rule, True), str(finding.miss)
    assert (lines(model), shapes(model)) == before
    assert [each.miss for each in SliceHidden().explain(model, Context()).findings] == [finding.miss]


def test_explain_tells_what_would_stay() -> None:
    (finding,) = SliceHidden().explain(llama(), Context()).findings
    assert (finding.miss, finding.chosen) == (None, "32 -> 24")


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.slow) if name == "inductor" else name for name in BACKENDS]
)
@pytest.mark.parametrize("name", MODELS)
def test_backends_agree_with_the_graph(name: str, backend: str) -> None:
    model = MODELS[name]()
    SliceHidden().apply(model, calibrated(model))
    target, lowered = installed(backend), model.clone()
    run_pipeline(target.pipeline(), lowered)
    assert compare(model, target.compile(lowered), feeds_of(model, 99)).within(REORDERED)
