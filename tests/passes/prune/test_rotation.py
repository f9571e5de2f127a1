"""Streams written in other directions: graphs in which a value has more than one part to play."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.constants import constant_of
from tersor.ir.level import Level, Signature, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.prune.directions import bases
from tersor.passes.prune.methods.pca import principal
from tersor.passes.prune.segments import streams
from tersor.passes.prune.slice_hidden import SliceHidden
from tersor.passes.statistics import Calibration
from tersor.tests.support import ROUNDED

WORDS, WIDTH, KEPT = 50, 32, 16
IDS = {"ids": "int64[batch, sequence]"}
NORM, RMS = "LayerNormalization{axis=-1, epsilon=1e-3}", "RMSNormalization{axis=-1, epsilon=1e-3}"
UP = ("u = MatMul(m, up)", "r = Relu(u)", "y = MatMul(r, head)")


def made(*text: str, outputs: tuple[str, ...] = ("y",), **inputs: str) -> ir.Model:
    """Lines of a graph with the constants that they name; what is written lies in the first KEPT - 1 features."""
    rng = np.random.default_rng(3)

    def matrix(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) / np.sqrt(shape[0])

    def narrow(array: np.ndarray) -> np.ndarray:
        return np.where(np.arange(array.shape[-1]) < KEPT - 1, array, 0)

    constants = {
        "table": narrow(9 * matrix(WORDS, WIDTH)), "places": narrow(9 * matrix(WORDS, WIDTH)),
        "g": narrow(1 + 0.2 * matrix(WIDTH)), "c": narrow(matrix(WIDTH)), "f": 1 + 0.2 * matrix(WIDTH),
        "d": matrix(WIDTH), "square": narrow(matrix(WIDTH, WIDTH)),
        "up": matrix(WIDTH, 96), "down": narrow(matrix(96, WIDTH)), "head": matrix(96, 9), "wide": matrix(WORDS, 48),
        "five": np.array([5.0]), "half": np.array(-0.5),
        "k": 1 + 0.2 * matrix(48), "across": narrow(matrix(48, WIDTH)), "out": matrix(48, 96), "last": matrix(WIDTH, 9),
    }  # fmt: skip
    named = " ".join(line.split("(", 1)[1].replace(",", " ").replace(")", " ") for line in text).split()
    used = {name: array for name, array in constants.items() if name in named}
    return graph(*text, inputs={**IDS, **inputs}, outputs=list(outputs), **used)


def feeds_of(model: ir.Model, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"ids": (4, 24), "places_of": (1, 24)}
    return {value.name or "": rng.integers(0, WORDS, shapes[value.name or ""]) for value in model.graph.inputs}


def calibrated(model: ir.Model) -> Context:
    return Context(calibration=Calibration([feeds_of(model, seed) for seed in range(8)]))


def hold(plain: ir.Model, model: ir.Model) -> None:
    """Outputs are what they were, and every value has the shape that it says."""
    assert violations(model, Level.SEMANTIC, signature=Signature.of(plain)) == []
    feeds = feeds_of(plain, 99)
    wanted, found = runner(plain)(feeds), runner(model)(feeds)
    for name, array in wanted.items():
        error = np.linalg.norm(found[name] - array) / np.linalg.norm(array)
        assert error < ROUNDED[np.float64], name
    known: dict[object, int] = {}
    for node in model.graph:
        for value in node.outputs:
            probe = model.clone()
            probe.graph.outputs.append(next(each for other in probe.graph for each in other.outputs
                                            if each.name == value.name))  # fmt: skip
            shape = runner(probe)(feeds)[value.name or ""].shape
            assert value.shape is not None and len(value.shape) == len(shape)
            for said, seen in zip(value.shape, shape, strict=True):
                assert (said if isinstance(said, int) else known.setdefault(str(said), seen)) == seen, value.name


BIASED = made(
    "e = Gather(table, ids)", f"n = {NORM}(e, g, c)", "w = MatMul(n, square)", "z = Relu(w)", "s = Add(n, w)",
    f"m = {RMS}(s, f)", *UP, outputs=("y", "z"),
)  # fmt: skip
OUTPUT = made(
    "e = Gather(table, ids)", f"n = {NORM}(e, g, c)", "w = MatMul(n, square)", "s = Add(n, w)", f"m = {RMS}(s, f)",
    *UP, outputs=("y", "w"),
)  # fmt: skip
BROADCAST = made(
    "p = Gather(places, places_of)", f"n = {NORM}(p, g, c)", "e = Gather(table, ids)", "s = Add(n, e)",
    f"m = {NORM}(s, f, d)", *UP, places_of="int64[1, sequence]",
)  # fmt: skip


SCALED = made(
    "e = Gather(table, ids)", "x = Mul(five, e)", f"n = {NORM}(x, g, c)", "w = MatMul(n, square)", "s = Add(x, w)",
    f"m = {NORM}(s, f, d)", *UP,
)  # fmt: skip
BEHIND = made(
    "e = Gather(table, ids)", f"n = {NORM}(e, g, c)", "h = Mul(n, half)", "v = Div(h, five)", "w = MatMul(v, square)",
    "s = Add(v, w)", f"m = {NORM}(s, f, d)", *UP,
)  # fmt: skip


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize(
    "plain",
    [BIASED, OUTPUT, BROADCAST, SCALED, BEHIND],
    ids=["new bias, read whole", "new bias, output", "operand that broadcasts", "scaled table", "number behind a norm"],
)
def test_nothing_changes(plain: ir.Model, data: bool) -> None:
    model = plain.clone()
    outcome = SliceHidden(ratio=0.5, repair=False).apply(model, calibrated(plain) if data else Context())
    assert outcome.matches == 1, outcome
    hold(plain, model)


@pytest.mark.parametrize("plain", [SCALED, BEHIND])
def test_a_number_costs_no_matrix(plain: ir.Model) -> None:
    model = plain.clone()
    SliceHidden(ratio=0.5, repair=False).apply(model, Context())
    assert not [line for line in lines(model) if "whole" in line or "directions" in line]


def test_a_number_on_the_table_weighs_in_what_is_written() -> None:
    """The table in the first features, times 1 / 1000; the layer in the others: these are what matters."""
    rng = np.random.default_rng(0)
    first, width = np.arange(WIDTH) < 16, np.ones(WIDTH)
    table, square = (rng.standard_normal((rows, WIDTH)) for rows in (WORDS, WIDTH))
    plain = graph(
        "e = Gather(table, ids)", "x = Mul(e, small)", f"n = {RMS}(x, one)", "w = MatMul(n, square)", "s = Add(x, w)",
        f"m = {RMS}(s, one)", "y = MatMul(m, last)", inputs=IDS, table=table * first, small=np.array(1e-3), one=width,
        square=square * ~first, last=rng.standard_normal((WIDTH, 64)),
    )  # fmt: skip
    (stream,) = streams(plain)
    (basis,) = bases(plain, stream, 16, principal).values()
    np.testing.assert_allclose(np.linalg.norm(basis.directions[16:], axis=0), 1, atol=ROUNDED[np.float32])


RESIDUAL = made(
    "e = Gather(table, ids)", f"n = {RMS}(e, g)", "s = Add(e, n)", f"m = {RMS}(s, f)", *UP,
)  # fmt: skip


def test_a_norm_within_its_own_segment_has_directions_of_data() -> None:
    model = RESIDUAL.clone()
    assert SliceHidden(ratio=0.5, repair=False).apply(model, calibrated(model)).matches == 1
    hold(RESIDUAL, model)


@pytest.mark.parametrize("directions", ["auto", "weights"])
def test_a_norm_within_its_own_segment_has_none_of_weights(directions: str) -> None:
    sliced = SliceHidden(ratio=0.5, directions=directions)  # type: ignore[arg-type]
    for found in (sliced.explain(RESIDUAL, Context()), sliced.apply(RESIDUAL.clone(), Context())):
        (finding,) = found.findings
        assert str(finding.miss) == (
            "circular: n, added to what its norm reads; needed calibration data, which tell the directions that are "
            "taken there"
        )


def test_a_layer_between_two_streams_is_fitted_to_the_one_that_was_turned() -> None:
    """The encoder's stream is read by a layer that writes the decoder's, which is the first."""
    plain = two_streams()
    model = plain.clone()
    outcome = SliceHidden(ratio=0.25).apply(model, calibrated(plain))
    assert [finding.chosen[:8] for finding in outcome.findings] == ["32 -> 24", "48 -> 32"]
    across = constant_of(next(node for node in model.graph if node.outputs[0].name == "q").inputs[1])
    assert across is not None and across.shape == (32, 24)


def two_streams() -> ir.Model:
    return made(
        "e = Gather(table, ids)", f"n = {RMS}(e, f)", "x = MatMul(n, up)", "o = Relu(x)", "w = MatMul(o, down)",
        "s = Add(e, w)", "v = Gather(wide, ids)", f"i = {RMS}(v, k)", "q = MatMul(i, across)", "j = MatMul(i, out)",
        "t = Add(s, q)", f"m = {RMS}(t, f)", *UP, "l = Relu(j)", "z = MatMul(l, head)", outputs=("y", "z"),
    )  # fmt: skip


@pytest.mark.parametrize(("option", "pattern"), [("only", "k"), ("only", "i"), ("ignore", "[fm]")])
def test_streams_are_chosen_by_what_their_norms_are_called(option: str, pattern: str) -> None:
    sliced = SliceHidden(ratio=0.25, **{option: (pattern,)})  # type: ignore[arg-type]
    for found in (sliced.explain(two_streams(), Context()), sliced.apply(two_streams(), Context())):
        spared, taken = found.findings
        assert spared.miss is not None and (spared.miss.rule, spared.miss.value) == (option, "n")
        assert taken.chosen.startswith("48 -> 32")


def test_a_pattern_that_fits_no_norm_is_told() -> None:
    *_, lost = SliceHidden(ratio=0.25, ignore=("decoder.*",)).explain(two_streams(), Context()).findings
    assert lost.place == "ignore=decoder.*"
    assert lost.miss is not None and lost.miss.rule == "ignore"
