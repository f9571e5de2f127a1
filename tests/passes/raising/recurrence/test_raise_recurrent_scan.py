"""Scan and Loop over a cell, both ways and with the input multiplied before or inside, and bodies that do more."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tersor.ir.text import lines
from tersor.passes.raising.recurrence.raise_recurrent_scan import RaiseRecurrentScan
from tersor.tests.passes.raising.recurrence.graphs import (
    FEATURES,
    GRU,
    HIDDEN,
    LSTM,
    RNN,
    SUM,
    loop,
    numbers,
    scan,
    swapped,
    weights,
)
from tersor.tests.support import apply, distance, holds, misses, on_onnxruntime

H = {"h": "h1"}
HC = {"h": "h1", "c": "c1"}
TAKE = "x = Gather{axis=0}(X, counter)"
#: A Loop that takes its slices from the last to the first.
BACK = ("one_i = Constant <value_int = 1> ()", "top = Sub(trips, one_i)", "at = Sub(top, counter)", "x = Gather(X, at)")
SECOND = "axis = Constant <value_int = 1> ()  sizes = Shape (X)  trips = Gather (sizes, axis)"
#: The products of all steps, before the Scan; the body adds them up.
BEFORE = ("XW = MatMul(X, w)", "P = Add(XW, b)")
MOVED = ("XW = MatMul(X, w)", "XB = Add(XW, b)", "P = Transpose{perm=[1, 0, 2]}(XB)")
AFTER = ("hr = MatMul(h, r)", "hd = Add(hr, d)", "a = Add(p, hd)")

RAISED = {
    "LSTM in Scan": scan(*LSTM, states=HC, **weights(4)),
    "GRU in Scan": scan(*GRU, states=H, **weights(3)),
    "RNN in Scan": scan(*RNN, states=H, **weights(1)),
    "RNN with relu": scan(*SUM, "h1 = Relu(a)", states=H, **weights(1)),
    "LSTM, cell state carried first": scan(*LSTM, states={"c": "c1", "h": "h1"}, **weights(4)),
    "LSTM, nothing stacked": scan(*LSTM, states=HC, stacked=(), **weights(4)),
    "GRU, stacked twice": scan(*GRU, states=H, stacked=("h1", "h1"), **weights(3)),
    "GRU backward": scan(
        *GRU, states=H, attributes=", scan_input_directions = [1], scan_output_directions = [1]", **weights(3)
    ),
    "GRU backward, stacked as it goes": scan(*GRU, states=H, attributes=", scan_input_directions = [1]", **weights(3)),
    "LSTM forward, stacked from the last": scan(
        *LSTM, states=HC, attributes=", scan_output_directions = [1]", **weights(4)
    ),
    "RNN, batch first": scan(
        *RNN, states=H, x="batch, time, 6", attributes=", scan_input_axes = [1], scan_output_axes = [1]", **weights(1)
    ),
    "LSTM, all inputs multiplied before": scan(*AFTER, *LSTM[len(SUM) :], states=HC, outer=BEFORE, **weights(4)),
    "RNN, multiplied before, moved after": scan(
        *AFTER, "h1 = Tanh(a)", states=H, x="batch, time, 6", outer=MOVED,
        **weights(1),
    ),
    "LSTM in Loop": loop(TAKE, *LSTM, states=HC, **weights(4)),
    "GRU in Loop": loop(TAKE, *GRU, states=H, **weights(3)),
    "RNN in Loop": loop(TAKE, *RNN, states=H, **weights(1)),
    "GRU in Loop, backward": loop(*BACK, *GRU, states=H, **weights(3)),
    "RNN in Loop, batch first": loop(
        "x = Gather{axis=1}(X, counter)", *RNN, states=H, x="batch, time, 6", trips=SECOND, **weights(1)
    ),
    "GRU in Loop of a known length": loop(
        TAKE, *GRU, states=H, x="5, batch, 6", trips="trips = Constant <value_int = 5> ()", **weights(3)
    ),
}  # fmt: skip


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


class TestRewrites:
    def test_scan(self) -> None:
        assert apply(RaiseRecurrentScan(), scan(*LSTM, states=HC, **weights(4))) == [
            "last_h/Unsqueeze = Unsqueeze(h0, last_h/axes)",
            "last_h/Unsqueeze_1 = Unsqueeze(c0, last_h/axes_1)",
            "(last_h/LSTM, last_h/LSTM_1, last_h/LSTM_2) = LSTM{hidden_size=4}"
            "(X, all_0/W, all_0/R, all_0/B, _, last_h/Unsqueeze, last_h/Unsqueeze_1)",
            "last_h = Squeeze(last_h/LSTM_1, last_h/axes_2)",
            "last_c = Squeeze(last_h/LSTM_2, last_h/axes_3)",
            "all_0 = Squeeze(last_h/LSTM, last_h/axes_4)",
        ]

    @pytest.mark.parametrize("name", RAISED)
    def test_every_way(self, name: str) -> None:
        made = RAISED[name].clone()
        apply(RaiseRecurrentScan(), made)
        found = ops(made)
        assert found[re.split(r"\W", name)[0]] == 1
        assert not found.keys() & {"Scan", "Loop", "Sigmoid", "Tanh", "MatMul"}

    @pytest.mark.parametrize("name", ["GRU backward", "GRU in Loop, backward"])
    def test_backward(self, name: str) -> None:
        made = RAISED[name].clone()
        apply(RaiseRecurrentScan(), made)
        (node,) = (node for node in made.graph if node.op_type == "GRU")
        assert node.attributes["direction"].as_string() == "reverse"


OTHER = {"v": numbers(FEATURES, 4, seed=3)}
REFUSED = [
    # what is carried
    ("carried", scan(*GRU, "e1 = Add(e, h1)", states={"h": "h1", "e": "e1"}, **weights(3))),
    ("carried", scan(*LSTM, "h2 = Identity(h1)", states={"h": "c1", "c": "h2"}, **weights(4))),
    ("body", scan(*GRU, "h2 = Neg(h1)", states={"h": "h2"}, **weights(3))),
    ("body", scan(*GRU, "h2 = Mul(h1, h1)", states={"h": "h2"}, **weights(3))),
    ("carried", scan(*LSTM, states={"h": "h1", "c": "c1", "e": "h1"}, **weights(4))),
    ("input", scan(*swapped(SUM, hr="hr = MatMul(c, r)"), *LSTM[len(SUM) :], "e = Add(h, h)", states=HC, **weights(4))),
    # what is stacked
    ("stacked", scan(*LSTM, states=HC, stacked=("c1",), **weights(4))),
    ("stacked", scan(*LSTM, "y = Relu(h1)", states=HC, stacked=("h1", "y"), **weights(4))),
    ("stacked", scan(*RNN, states=H, stacked=("x",), **weights(1))),
    # what is read
    (
        "input",
        scan(
            "hh = Add(h, h0)",
            *swapped(SUM, xw="xw = MatMul(hh, v)"),
            "h1 = Tanh(a)",
            states=H,
            v=numbers(4, 4, seed=8),
            **weights(1),
        ),
    ),
    ("input", scan("x2 = Mul(x, x)", *swapped(SUM, xw="xw = MatMul(x2, w)"), "h1 = Tanh(a)", states=H, **weights(1))),
    ("input", scan(*AFTER, "h1 = Tanh(a)", states=H, outer=("XW = MatMul(X, w)", "P = Sin(XW)"), **weights(1))),
    (
        "input",
        scan(
            *AFTER, "h1 = Tanh(a)", states=H, outer=("XW = MatMul(X, w)", "P = Mul(XW, v)"), v=numbers(4), **weights(1)
        ),
    ),
    ("state", scan(*swapped(SUM, hr="hr = MatMul(x, v)"), "h1 = Tanh(a)", states=H, **OTHER, **weights(1))),
    ("sequence", scan(*RNN, states=H, x="0, batch, 6", **weights(1))),
    ("input", scan(*RNN, states=H, x="time, other, 6", **weights(1))),
    # a Loop's own
    ("input", loop("k = Mul(counter, counter)", "x = Gather{axis=0}(X, k)", *RNN, states=H, **weights(1))),
    ("input", loop("at = Sub(trips, counter)", "x = Gather{axis=0}(X, at)", *RNN, states=H, **weights(1))),
    ("input", loop("x = Gather{axis=1}(X, counter)", *RNN, states=H, x="batch, time, 6", **weights(1))),
    ("input", loop(TAKE, *RNN, states=H, x="6, batch, 6", trips="trips = Constant <value_int = 5> ()", **weights(1))),
    (
        "trips",
        loop(
            TAKE,
            *RNN,
            states=H,
            trips="total = ReduceSum <keepdims = 0> (X)  trips = Cast <to = 7> (total)",
            **weights(1),
        ),
    ),
    (
        "condition",
        loop(TAKE, *RNN, states=H, going="low = ReduceSum <keepdims = 0> (h1)  on = Less (low, one)", **weights(1)),
    ),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseRecurrentScan(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseRecurrentScan(), made) == before


@pytest.mark.parametrize("name", RAISED)
def test_holds(name: str) -> None:
    sizes = {"batch": 3} if "known" in name else {"batch": 3, "time": 5}
    holds(RaiseRecurrentScan(), RAISED[name], sizes)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_the_decomposed_scan_is_the_layer_of_torch(kind: str) -> None:
    """torch's layer with the same weights, and ONNX Runtime's kernel on what was raised."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    own, text = weights(gates), {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}[kind]
    layer = getattr(torch.nn, kind)(FEATURES, HIDDEN)
    order = [1, 0, 2] if kind == "GRU" else range(gates)  # our lines cut z first, torch r

    def arranged(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([np.split(array.T, gates)[i] for i in order]))

    names = {"weight_ih_l0": "w", "weight_hh_l0": "r", "bias_ih_l0": "b", "bias_hh_l0": "d"}
    layer.load_state_dict({name: arranged(own[key]) for name, key in names.items()})
    made = scan(*text, states=HC if kind == "LSTM" else H, **own)
    apply(RaiseRecurrentScan(), made)
    x, h, c = numbers(5, 3, FEATURES), numbers(3, HIDDEN), numbers(3, HIDDEN, seed=1)
    states = [h, c] if kind == "LSTM" else [h]
    found = on_onnxruntime(made, dict(zip(("X", "h0", "c0"), (x, *states), strict=False)))
    first = tuple(torch.from_numpy(item)[None] for item in states)
    with torch.no_grad():
        y, last = layer(torch.from_numpy(x), first if kind == "LSTM" else first[0])
    finals = [item[0].numpy() for item in (last if kind == "LSTM" else (last,))]
    assert distance(found, [*finals, y.numpy()]) <= RaiseRecurrentScan.contract.tolerance
