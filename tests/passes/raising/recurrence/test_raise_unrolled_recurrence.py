"""Cells written out one behind the other, their slices picked in every way, and chains that only look alike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir
import pytest
import tersor
import torch
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.presets import RAISING
from tersor.passes.raising.recurrence.raise_unrolled_recurrence import RaiseUnrolledRecurrence
from tersor.tests.passes.raising.recurrence.graphs import FEATURES, GRU, HIDDEN, LSTM, RNN, SUM, numbers, weights
from tersor.tests.support import apply, distance, holds, misses, on_onnxruntime

STEPS = 3
FLAT = {"X": f"float[{STEPS}, batch, {FEATURES}]", "h0": f"float[batch, {HIDDEN}]", "c0": f"float[batch, {HIDDEN}]"}
GATHER = tuple(f"x{t} = Gather{{axis=0}}(X, {t})" for t in range(STEPS))
SLICE = tuple(
    line for t in range(STEPS) for line in (f"s{t} = Slice(X, [{t}], [{t + 1}], [0])", f"x{t} = Squeeze(s{t}, [0])")
)
SPLIT = (
    "(s0, s1, s2) = Split{axis=0, num_outputs=3}(X)",
    *(f"x{t} = Squeeze(s{t}, [0])" for t in range(STEPS)),
)
STACK = (*(f"u{t} = Unsqueeze(h{t + 1}, [0])" for t in range(STEPS)), "y = Concat{axis=0}(u0, u1, u2)")
#: The products of all steps at once, and a step that takes its share of them.
WHOLE = ("XW = MatMul(X, w)", "XB = Add(XW, b)")
SHARE = ("hr = MatMul(h, r)", "hd = Add(hr, d)", "a = Add(hd, x)")


_LINE = re.compile(r"(.+?) = ([\w.]+(?:\{[^}]*\})?)(\(.*\))")
_NAME = re.compile(r"(?<![0-9.])[A-Za-z]\w*")


def steps(text: Sequence[str], order: Sequence[int] = range(STEPS), shared: str = "w r b d v") -> list[str]:
    """The lines once for each step, in the order in which slices are read; every value gets the step's number."""
    made = []
    known = {*shared.split(), "X", "XB", "XW"}
    for number, taken in enumerate(order):

        def renamed(found: re.Match[str], number: int = number, taken: int = taken) -> str:
            name = found[0]
            if name in known or not name[0].islower():
                return name
            if name in ("h", "c", "h1", "c1"):
                return f"{name[0]}{number + len(name) - 1}"
            return f"x{taken}" if name == "x" else f"{name}_{number}"

        for line in text:
            left, op, args = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]
            made.append(f"{_NAME.sub(renamed, left)} = {op}{_NAME.sub(renamed, args)}")
    return made


def chain(
    picks: Sequence[str],
    text: Sequence[str],
    gates: int,
    last: Sequence[str] = STACK,
    order: Sequence[int] = range(STEPS),
    outputs: Sequence[str] = ("y", f"h{STEPS}"),
    **more: str,
) -> ir.Model:
    found = [*picks, *steps(text, order), *last]
    read = set(re.findall(r"\w+", " ".join(line.split(" = ")[1] for line in found)))
    inputs = {name: kind for name, kind in (FLAT | more).items() if name in read}
    constants = {name: array for name, array in weights(gates).items() if name in read}
    return graph(*found, inputs=inputs, outputs=outputs, **constants)


BACK = range(STEPS - 1, -1, -1)
IN_TIME = ("y = Concat{axis=0}(u2, u1, u0)",)
RAISED = {
    "LSTM": chain(GATHER, LSTM, 4, outputs=("y", "h3", "c3")),
    "GRU": chain(GATHER, GRU, 3),
    "RNN": chain(GATHER, RNN, 1),
    "RNN with relu": chain(GATHER, (*SUM, "h1 = Relu(a)"), 1),
    "LSTM of slices": chain(SLICE, LSTM, 4),
    "GRU of a split": chain(SPLIT, GRU, 3),
    "RNN, all inputs multiplied before": chain(
        (*WHOLE, *(line.replace("(X,", "(XB,") for line in SLICE)), (*SHARE, "h1 = Tanh(a)"), 1
    ),
    "RNN, batch first": chain(
        [line.replace("axis=0", "axis=1") for line in GATHER], RNN, 1,
        [line.replace("[0]", "[1]").replace("axis=0", "axis=1") for line in STACK], X="float[batch, 3, 6]",
    ),
    "LSTM, only the end is read": chain(GATHER, LSTM, 4, (), outputs=("h3",)),
    "GRU, every step is an output": chain(GATHER, GRU, 3, (), outputs=("h1", "h2", "h3")),
    "GRU backward": chain(GATHER, GRU, 3, order=BACK),
    "GRU backward, stacked in time": chain(GATHER, GRU, 3, (*STACK[:-1], *IN_TIME), order=BACK),
    "RNN of some of the steps": chain(
        [line.replace(f", {t})", f", {t + 1})") for t, line in enumerate(GATHER)], RNN, 1, X="float[7, batch, 6]"
    ),
}  # fmt: skip


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


class TestRewrites:
    def test_rnn(self) -> None:
        assert apply(RaiseUnrolledRecurrence(), chain(GATHER, RNN, 1)) == [
            "y/Unsqueeze = Unsqueeze(h0, y/axes)",
            "(y/RNN, u2) = RNN{hidden_size=4}(X, h3/W, h3/R, h3/B, _, y/Unsqueeze)",
            "y = Squeeze(y/RNN, y/axes_1)",
            "h3 = Squeeze(u2, y/axes_2)",
        ]

    @pytest.mark.parametrize("name", RAISED)
    def test_every_way(self, name: str) -> None:
        made = RAISED[name].clone()
        apply(RaiseUnrolledRecurrence(), made)
        found = ops(made)
        assert found[re.split(r"\W", name)[0]] == 1
        assert not found.keys() & {"Sigmoid", "Tanh", "Relu", "MatMul", "Mul", "Add"}

    def test_backward(self) -> None:
        made = RAISED["GRU backward, stacked in time"].clone()
        apply(RaiseUnrolledRecurrence(), made)
        (node,) = (node for node in made.graph if node.op_type == "GRU")
        assert node.attributes["direction"].as_string() == "reverse"
        assert not ops(made)["Slice"]


def other(text: Sequence[str], old: str, new: str) -> list[str]:
    assert any(old in line for line in text)
    return [line.replace(old, new) for line in text]


def changed(old: str, new: str, text: Sequence[str] = RNN, gates: int = 1, **more: object) -> ir.Model:
    """The chain with one piece of its text changed."""
    found = other([*GATHER, *steps(text), *STACK], old, new)
    read = set(re.findall(r"\w+", " ".join(line.split(" = ")[1] for line in found)))
    constants = {**weights(gates), **{k: v for k, v in more.items() if not isinstance(v, str)}}
    inputs = FLAT | {k: v for k, v in more.items() if isinstance(v, str)}
    return graph(
        *found, inputs={name: kind for name, kind in inputs.items() if name in read}, outputs=("y", "h3"),
        **{name: array for name, array in constants.items() if name in read},
    )  # fmt: skip


REFUSED = [
    # the slices
    ("order", changed("(X, 1)", "(X, 2)")),
    ("order", changed("(X, 1)", "(X, 0)")),
    ("sequence", changed("Gather{axis=0}(X, 1)", "Gather{axis=0}(Z, 1)", Z=FLAT["X"])),
    ("sequence", changed("Gather{axis=0}(X, 2)", "Gather{axis=1}(Z, 2)", Z="float[batch, 3, 6]")),
    ("input", changed("Gather{axis=0}(X, 2)", "Gather{axis=0}(X, k)", k="int64[]")),
    ("input", changed("x2 = Gather{axis=0}(X, 2)", "x2 = Identity(Z)", Z="float[batch, 6]")),
    # the weights
    ("steps", changed("hr_2 = MatMul(h2, r)", "hr_2 = MatMul(h2, q)", q=numbers(HIDDEN, HIDDEN, seed=6))),
    ("steps", changed("xw_2 = MatMul(x2, w)", "xw_2 = MatMul(x2, q)", q=numbers(FEATURES, HIDDEN, seed=6))),
    ("weights", changed("hd_2 = Add(hr_2, d)", "hd_2 = Add(hr_2, q)", q=numbers(HIDDEN, seed=6))),
    ("weights", changed("xb_2 = Add(xw_2, b)", "xb_2 = Identity(xw_2)")),
    ("steps", changed("hr_2 = MatMul(h2, r)", "hr_2 = MatMul(h2, q)", q="float[4, 4]")),
    ("steps", changed("h3 = Tanh(a_2)", "h3 = Relu(a_2)")),
    ("steps", changed("h2 = Tanh(a_1)", "h2 = Relu(a_1)")),
    # the states
    ("steps", changed("hr_2 = MatMul(h2, r)", "hr_2 = MatMul(h0, r)")),
    ("memory", chain(GATHER, LSTM, 4, outputs=("y", "h3", "c2"))),
    ("memory", chain(GATHER, LSTM, 4, (*STACK, "e = Relu(c1)"), outputs=("y", "h3", "e"))),
    ("steps", chain(GATHER, RNN, 1, STACK[:0], order=range(1), outputs=("h1",))),
    ("steps", changed("MatMul(h2, r)", "MatMul(k, r)", k="float[batch, 4]")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    found = misses(RaiseUnrolledRecurrence(), made)
    assert rule in {miss.rule for miss in found}, found


@pytest.mark.parametrize("name", RAISED)
def test_holds(name: str) -> None:
    holds(RaiseUnrolledRecurrence(), RAISED[name], {"batch": 2})


class Unrolled(torch.nn.Module):
    """torch's cell called in a loop over time, from a state of zeros."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.cell = kind, getattr(torch.nn, f"{kind}Cell")(FEATURES, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[1], HIDDEN)
        out = []
        for slice in x:
            if self.kind == "LSTM":
                h, c = self.cell(slice, (h, c))
            else:
                h = self.cell(slice, h)
            out.append(h)
        return torch.stack(out)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("fixed", [True, False])
def test_what_torch_exports_comes_back_whole(kind: str, fixed: bool) -> None:
    """With a fixed batch the first state is folded into the first step, and is found to have been zero."""
    torch.manual_seed(0)
    module, x = Unrolled(kind).eval(), torch.randn(4, 3, FEATURES)
    made = tersor.load(module, args=(x,), dynamic=None if fixed else {"x": {1: "batch"}})
    RAISING.apply(made, Context())
    apply(RaiseUnrolledRecurrence(), made)
    assert ops(made)[kind] == 1
    assert not ops(made).keys() & {"Sigmoid", "Tanh", "MatMul", "Gemm"}
    with torch.no_grad():
        wanted = module(x).numpy()
    name = str(made.graph.inputs[0].name)
    assert distance(on_onnxruntime(made, {name: x.numpy()}), [wanted]) <= RaiseUnrolledRecurrence.contract.tolerance


def test_torchs_own_rnn_which_its_exporter_writes_out() -> None:
    torch.manual_seed(0)
    module = torch.nn.RNN(FEATURES, HIDDEN, num_layers=2, bidirectional=True, batch_first=True).eval()
    x = torch.randn(3, 4, FEATURES)
    made = tersor.load(module, args=(x,))
    RAISING.apply(made, Context())
    apply(RaiseUnrolledRecurrence(), made)
    assert ops(made)["RNN"] == 4 and not ops(made)["Tanh"]
    with torch.no_grad():
        wanted = [item.numpy() for item in module(x)]
    name = str(made.graph.inputs[0].name)
    assert distance(on_onnxruntime(made, {name: x.numpy()}), wanted) <= RaiseUnrolledRecurrence.contract.tolerance
