"""Inputs of recurrences and convolutions as calibration sees them, and methods that need them there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.runner import runner
from tersor.ir.site import Kind, sites
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.edit import Tape, constant_of, reroute
from tersor.passes.numerics.grid import Scheme
from tersor.passes.placing import matrix
from tersor.passes.quantize.methods.gptq import gptq
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.seen import Seen, inputs, joined
from tersor.passes.statistics import Calibration
from tersor.tests.support import distance, inside_if

TIME, BATCH, WIDTH, HIDDEN = 6, 3, 8, 16
#: Products are summed in float32 over blocks of rows.
EPS = 64 * float(np.finfo(np.float32).eps)

Array = np.ndarray
Feeds = Mapping[str, Array]


def normal(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng((seed, *shape)).standard_normal(shape) / 2).astype(np.float32)


def recurrent(
    op: str, direction: str = "forward", *, state: bool = True, layout: int = 0, outputs: str = "y, h"
) -> ir.Model:
    ways, gates = (2 if direction == "bidirectional" else 1), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    weights = {"w": normal(ways, gates * HIDDEN, WIDTH), "r": normal(ways, gates * HIDDEN, HIDDEN)}
    first = f"float[batch, {ways}, {HIDDEN}]" if layout else f"float[{ways}, batch, {HIDDEN}]"
    given = {"x": f"float[batch, time, {WIDTH}]" if layout else f"float[time, batch, {WIDTH}]"}
    given |= {"h0": first} if state else {}
    options = f"hidden_size={HIDDEN}, direction={direction}, layout={layout}"
    text = f"({outputs}) = {op}{{{options}}}(x, w, r{', _, _, h0' * state})"
    return graph(text, inputs=given, outputs=[name for name in outputs.split(", ") if name != "_"], **weights)


def batches(model: ir.Model, count: int = 2) -> list[Feeds]:
    sizes = {"batch": BATCH, "time": TIME}
    return [
        {
            value.name: normal(*(d if isinstance(d, int) else sizes[d.value] for d in value.shape), seed=number + 7)
            for value in model.graph.inputs
        }
        for number in range(count)
    ]


def seen(model: ir.Model, data: list[Feeds], kind: Kind) -> Seen | None:
    (site, *_) = (site for site in sites(model) if site.kind is kind)
    return inputs(model, [site], Context(calibration=Calibration(data))).get(site.weight)


def states_before(model: ir.Model, feeds: Feeds, direction: int, backward: bool, state: bool) -> Array:
    """The state that each step starts from, [time * batch, hidden]."""
    y, *_ = runner(model)(feeds).values()
    rows = y[::-1, direction] if backward else y[:, direction]
    first = feeds["h0"][direction] if state else np.zeros((BATCH, HIDDEN), np.float32)
    return np.concatenate([first[None], rows[:-1]]).reshape(-1, HIDDEN)


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_a_recurrence_is_seen_by_the_states_before(op: str, direction: str, state: bool) -> None:
    model = recurrent(op, direction, state=state)
    data = batches(model)
    found = seen(model, data, Kind.RECURRENT_HIDDEN)
    assert found is not None
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    assert len(found.parts) == len(backward)
    for index, (part, back) in enumerate(zip(found.parts, backward, strict=True)):
        rows = np.concatenate([states_before(model, feeds, index, back, state) for feeds in data]).astype(np.float64)
        np.testing.assert_allclose(part.matrix, rows.T @ rows, atol=EPS * len(rows))


def test_a_model_that_gives_its_last_state_alone_is_seen_and_left_as_it_was() -> None:
    whole, last = recurrent("GRU"), recurrent("GRU", outputs="_, h")
    data, before = batches(whole), lines(last)
    found, wanted = (seen(model, data, Kind.RECURRENT_HIDDEN) for model in (last, whole))
    assert found is not None and wanted is not None
    np.testing.assert_array_equal(found.gram, wanted.gram)
    assert lines(last) == before


def test_one_step_is_seen_by_the_state_that_it_is_given() -> None:
    model = recurrent("GRU")
    feeds = {"x": normal(1, BATCH, WIDTH), "h0": normal(1, BATCH, HIDDEN, seed=3)}
    found = seen(model, [feeds], Kind.RECURRENT_HIDDEN)
    wide = feeds["h0"][0].astype(np.float64)
    assert found is not None
    np.testing.assert_allclose(found.gram, wide.T @ wide, atol=EPS)


def test_a_stored_state_counts_at_every_run() -> None:
    model = recurrent("GRU", state=False)
    stored = normal(1, BATCH, HIDDEN, seed=5)
    fixed = graph(
        f"(y, h) = GRU{{hidden_size={HIDDEN}}}(x, w, r, _, _, h0)", inputs={"x": f"float[time, batch, {WIDTH}]"},
        outputs=["y"], h0=stored, **{name: constant_of(model.graph.initializers[name]) for name in "wr"},
    )  # fmt: skip
    data = [{"x": normal(1, BATCH, WIDTH, seed=number)} for number in range(3)]
    found = seen(fixed, data, Kind.RECURRENT_HIDDEN)
    assert found is not None
    np.testing.assert_allclose(found.gram, 3.0 * np.float64(stored[0]).T @ np.float64(stored[0]), atol=EPS)


@pytest.mark.parametrize(("groups", "options"), [(1, "strides=[2]"), (4, "pads=[1, 1]")])
def test_a_convolution_is_seen_by_its_windows_group_by_group(groups: int, options: str) -> None:
    weight = normal(2 * groups, 8 // groups, 3)
    text = f"y = Conv{{group={groups}, {options}}}(x, w)"
    model = graph(text, inputs={"x": "float[batch, 8, time]"}, w=weight)
    data = batches(model)
    found = seen(model, data, Kind.CONV)
    assert found is not None and len(found.parts) == groups
    # x'.T @ x' is what the squares of outputs are made of
    (y,) = zip(*(runner(model)(feeds).values() for feeds in data), strict=True)
    for index, part in enumerate(found.parts):
        rows = slice(2 * index, 2 * index + 2)
        columns = weight[rows].reshape(2, -1).T.astype(np.float64)
        made = np.concatenate([np.moveaxis(each[:, rows], 1, -1).reshape(-1, 2) for each in y]).astype(np.float64)
        np.testing.assert_allclose(columns.T @ part.matrix @ columns, made.T @ made, rtol=1e-5)


def test_a_transposed_convolution_is_seen_by_its_channels() -> None:
    model = graph("y = ConvTranspose(x, w)", inputs={"x": "float[batch, 8, time]"}, w=normal(8, 4, 3))
    data = batches(model)
    found = seen(model, data, Kind.CONV)
    rows = np.concatenate([feeds["x"].transpose(0, 2, 1).reshape(-1, 8) for feeds in data]).astype(np.float64)
    assert found is not None
    np.testing.assert_allclose(found.gram, rows.T @ rows, atol=EPS * len(rows))


TIED = {
    "linear": (
        graph("h = MatMul(x, w)", "r = Relu(h)", "y = MatMul(r, w)", inputs={"x": "float[batch, 8]"}, w=normal(8, 8)),
        ("x", "r"),
    ),
    "conv": (
        graph(
            "h = Conv{pads=[1, 1]}(x, w)", "y = Conv(h, w)", inputs={"x": "float[batch, 8, time]"}, w=normal(8, 8, 3)
        ),
        ("x", "h"),
    ),
}


@pytest.mark.parametrize("name", TIED)
def test_a_weight_of_several_sites_is_seen_by_the_inputs_of_all(name: str) -> None:
    model, fed = TIED[name]
    data = batches(model)
    kind = Kind.LINEAR if name == "linear" else Kind.CONV
    found = seen(model, data, kind)
    # each alone: the same ops, which read the weight once
    apart = []
    for node, activation in zip([site.node for site in sites(model)], fed, strict=True):
        copied = model.clone()
        (alone,) = (each for each in sites(copied) if each.node.name == node.name)
        (other,) = (each for each in sites(copied) if each.node.name != node.name)
        tape = Tape()
        reroute(tape, other.node, other.weight, tape.weight(constant_of(other.weight), "v"))
        assert alone.activation.name == activation
        (each,) = (site for site in sites(copied) if site.node is alone.node)
        apart.append(inputs(copied, [each], Context(calibration=Calibration(data)))[each.weight])
    assert found is not None
    np.testing.assert_allclose(found.gram, apart[0].gram + apart[1].gram, rtol=1e-12)
    assert found.parts[0].count == apart[0].parts[0].count + apart[1].parts[0].count


def test_gptq_of_a_weight_of_several_sites_is_that_of_the_inputs_of_all() -> None:
    model, (first, second) = TIED["linear"][0].clone(), TIED["linear"][1]
    data = batches(model, 4)
    weight, scheme = constant_of(model.graph.initializers["w"]), Scheme(bits=4, group=8)
    shown = graph("h = MatMul(x, w)", "r = Relu(h)", inputs={"x": "float[batch, 8]"}, outputs=["r"], w=weight)
    rows = {first: [feeds["x"] for feeds in data], second: [runner(shown)(feeds)["r"] for feeds in data]}
    wide = np.concatenate([*rows[first], *rows[second]]).astype(np.float64)
    QuantizeWeights(algorithm="gptq", group=8, smallest=1).apply(model, Context(calibration=Calibration(data)))
    (found, _) = (matrix(site) for site in sites(model))
    wanted = gptq(weight, wide.T @ wide, scheme).dense()
    # rounding decides the same way but where sums in float32 differ
    assert np.mean(found == wanted.astype(np.float32)) > 0.95
    assert not np.array_equal(found, gptq(weight, np.eye(8), scheme).dense())


def test_states_of_cells_of_one_weight_are_seen_in_all() -> None:
    weights = {"w": normal(1, 4 * HIDDEN, WIDTH), "r": normal(1, 4 * HIDDEN, HIDDEN)}
    text = ("(a, _, _) = LSTM{hidden_size=16}(x, w, r)", "(b, _, _) = LSTM{hidden_size=16, direction=reverse}(x, w, r)")
    model = graph(*text, inputs={"x": f"float[time, batch, {WIDTH}]"}, outputs=["a", "b"], **weights)
    data = batches(model)
    found = seen(model, data, Kind.RECURRENT_HIDDEN)
    wanted = [
        seen(graph(each, inputs={"x": f"float[time, batch, {WIDTH}]"}, **weights), data, Kind.RECURRENT_HIDDEN)
        for each in text
    ]
    assert found is not None and all(each is not None for each in wanted)
    np.testing.assert_allclose(found.gram, sum(each.gram for each in wanted if each is not None), rtol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        graph("y = ConvTranspose{group=2}(x, w)", inputs={"x": "float[batch, 8, time]"}, w=normal(8, 4, 3)),
        inside_if(graph("y = Conv(x, w)", inputs={"x": "float[batch, 8, time]"}, w=normal(4, 8, 3))),
    ],
    ids=["groups", "branch"],
)
def test_not_seen(model: ir.Model) -> None:
    data = [{"x": normal(2, 8, 6), **({"cond": np.array(True)} if len(model.graph.inputs) > 1 else {})}]
    assert seen(model, data, Kind.CONV) is None


def test_weights_that_see_other_inputs_are_put_side_by_side() -> None:
    weight = normal(8, 6)
    for scheme in (Scheme(bits=4), Scheme(bits=3, group=4), Scheme(bits=4, group=4, symmetric=False)):
        parts = [gptq(each, np.eye(8), scheme) for each in np.split(weight, 2, axis=1)]
        np.testing.assert_array_equal(joined(parts).dense(), np.concatenate([part.dense() for part in parts], 1))


MODELS: dict[str, tuple[ir.Model, dict[str, object]]] = {
    "lstm": (recurrent("LSTM", "bidirectional"), {}),
    "gru": (recurrent("GRU", "reverse"), {}),
    "conv": (
        graph("y = Conv{pads=[1, 1]}(x, w)", inputs={"x": "float[batch, 16, time]"}, w=normal(24, 16, 3)),
        {"convolutions": True},
    ),
    "groups": (
        graph("y = Conv{group=4}(x, w)", inputs={"x": "float[batch, 32, time]"}, w=normal(32, 8, 3)),
        {"convolutions": True},
    ),
}


@pytest.mark.parametrize(
    "options", [{"algorithm": "gptq"}, {"algorithm": "awq"}, {"refine": True}, {"rank": 2}], ids=str
)
@pytest.mark.parametrize("name", MODELS)
def test_methods_that_see_inputs_lose_less_than_rounding(name: str, options: dict[str, object]) -> None:
    model, asked = MODELS[name]
    data = batches(model, 6)
    # features that go together, for rounding errors to be made good by
    mixed = normal(16, 16, seed=2) @ np.diag(np.geomspace(2, 0.1, 16)).astype(np.float32)
    for feeds in data:
        axis = 2 if name in ("lstm", "gru") else 1
        size = feeds["x"].shape[axis]
        turn = np.kron(np.eye(-(-size // 16), dtype=np.float32), mixed)[:size, :size]
        feeds["x"][...] = np.moveaxis(np.moveaxis(feeds["x"], axis, -1) @ turn, -1, axis)
    errors = {}
    for label, more in (("rounded", {}), ("seen", options)):
        after = model.clone()
        made = QuantizeWeights(bits=3, group=8, smallest=1, **asked, **more)  # type: ignore[arg-type]
        made.apply(after, Context(calibration=Calibration(data)))
        wanted = [array for feeds in data for array in runner(model)(feeds).values()]
        errors[label] = distance([array for feeds in data for array in runner(after)(feeds).values()], wanted)
    assert errors["seen"] < errors["rounded"]


def test_gptq_of_both_directions_is_that_of_each() -> None:
    model = recurrent("LSTM", "bidirectional")
    data = batches(model, 4)
    (hidden, *_) = (site for site in sites(model) if site.kind is Kind.RECURRENT_HIDDEN)
    found, weight, scheme = seen(model, data, Kind.RECURRENT_HIDDEN), matrix(hidden), Scheme(bits=4, group=8)
    assert found is not None
    wanted = [
        gptq(each, part.matrix, scheme).dense() for each, part in zip(np.split(weight, 2, 1), found.parts, strict=True)
    ]
    made = QuantizeWeights(algorithm="gptq", group=8).quantized(hidden, found)
    np.testing.assert_array_equal(made.dense(), np.concatenate(wanted, 1))
