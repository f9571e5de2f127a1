"""One step of an LSTM or GRU in every spelling, and the many graphs that are not it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tersor
import torch
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.presets import RAISING
from tersor.passes.raising.recurrence.raise_recurrent_cell import RaiseRecurrentCell
from tersor.tests.passes.raising.recurrence.graphs import (
    FEATURES,
    GRU,
    GRU_SUM,
    GRU_UPDATE,
    HIDDEN,
    LSTM,
    LSTM_GATES,
    LSTM_UPDATE,
    STEP,
    SUM,
    numbers,
    outside,
    step,
    swapped,
    weights,
)
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

BOTH = ("h1", "c1")
SPLIT = "(ai, af, ag, ao) = Split{axis=-1, num_outputs=4}(a)"
REST = (*LSTM_GATES, *LSTM_UPDATE)
GEMMS = ("xb = Gemm{transB=1}(x, wt, b)", "hd = Gemm{transB=1}(h, rt, d)", "a = Add(hd, xb)")


def lstm(*text: str, **more: object) -> ir.Model:
    made = {name: value for name, value in {**weights(4), **more}.items() if value is not None}
    return step(*text, outputs=BOTH, **{name: value for name, value in made.items() if _reads(text, name)})


def _reads(text: tuple[str, ...], name: str) -> bool:
    return any(re.search(rf"[(, ]{name}[,)]", line.split(" = ")[1]) for line in text)


def gru(*text: str, **more: object) -> ir.Model:
    return step(*text, **{name: value for name, value in {**weights(3), **more}.items() if _reads(text, name)})


def turned() -> dict[str, object]:
    own = weights(4)
    return {"wt": np.ascontiguousarray(own["w"].T), "rt": np.ascontiguousarray(own["r"].T)}


def eight(gates: str) -> tuple[tuple[str, ...], dict[str, object]]:
    """A product for each gate and each of x and h."""
    text = [
        line
        for k in gates
        for line in (f"x{k} = MatMul(x, w{k})", f"h{k} = Gemm(h, r{k}, b{k})", f"a{k} = Add(x{k}, h{k})")
    ]
    made = {f"w{k}": numbers(FEATURES, HIDDEN, seed=i) for i, k in enumerate(gates)}
    made |= {f"r{k}": numbers(HIDDEN, HIDDEN, seed=i) for i, k in enumerate(gates)}
    return tuple(text), made | {f"b{k}": numbers(HIDDEN, seed=i) for i, k in enumerate(gates)}


def sliced(order: str) -> tuple[str, ...]:
    return tuple(f"a{k} = Slice(a, [{i * HIDDEN}], [{(i + 1) * HIDDEN}], [1])" for i, k in enumerate(order))


EIGHT, EIGHT_WEIGHTS = eight("ifgo")
PEEPHOLES = (
    "pi = Mul(c, vi)", "pf = Mul(vf, c)", "bi = Add(ai, pi)", "bf = Add(pf, af)",
    "i = Sigmoid(bi)", "f = Sigmoid(bf)", "g = Tanh(ag)", *LSTM_UPDATE[:4],
    "po = Mul(c1, vo)", "bo = Add(ao, po)", "o = Sigmoid(bo)", "h1 = Mul(t, o)",
)  # fmt: skip
VECTORS = {f"v{k}": numbers(HIDDEN, seed=i) for i, k in enumerate("ifo")}
COUPLED = ("(ai, ag, ao) = Split{axis=1, num_outputs=3}(a)", LSTM_GATES[0], *LSTM_GATES[2:])

LSTMS = {
    "one product each, then Split": lstm(*LSTM),
    "gemms with the weights turned": lstm(*GEMMS, SPLIT, *REST, **turned()),
    "cell first, other order of gates": lstm(*SUM, *sliced("gofi"), *REST),
    "one product of x and h side by side": lstm(
        "xh = Concat{axis=1}(x, h)", "m = MatMul(xh, wr)", "a = Add(m, b)", SPLIT, *REST,
        wr=np.concatenate([weights(4)["w"], weights(4)["r"]]),
    ),
    "eight products": lstm(*EIGHT, *REST, **EIGHT_WEIGHTS),
    "no biases": lstm("xw = MatMul(x, w)", "hr = MatMul(h, r)", "a = Add(xw, hr)", SPLIT, *REST),
    "commuted": lstm(
        *swapped(LSTM, fc="fc = Mul(c, f)", ig="ig = Mul(g, i)", c1="c1 = Add(ig, fc)", h1="h1 = Mul(t, o)")
    ),
    "sigmoids before the split": lstm(
        *SUM, "al = Slice(a, [0], [12], [-1])", "s = Sigmoid(al)", "(i, f, o) = Split{axis=1, num_outputs=3}(s)",
        "ag = Slice(a, [12], [16], [-1])", "g = Tanh(ag)", *LSTM_UPDATE,
    ),
    "peepholes": lstm(*SUM, SPLIT, *PEEPHOLES, **VECTORS),
    "coupled gates": lstm(*SUM, *COUPLED, "f = Sub(1.0, i)", *LSTM_UPDATE, **weights(3)),
    "coupled, factored": lstm(
        *SUM, *COUPLED, "gc = Sub(g, c)", "ig = Mul(i, gc)", "c1 = Add(c, ig)", *LSTM_UPDATE[3:], **weights(3)
    ),
    "a forget gate that is one minus a sigmoid": lstm(
        *SUM, SPLIT, *swapped(LSTM_GATES, f="k = Sigmoid(af)"), "f = Sub(1.0, k)", *LSTM_UPDATE
    ),
    "states with an axis for the layer": graph(
        *LSTM, inputs={"x": "float[1, batch, 6]", "h": "float[1, batch, 4]", "c": "float[1, batch, 4]"}, outputs=BOTH,
        **weights(4),
    ),
    "a scale on the weights": lstm(
        "xv = MatMul(x, w)", "xw = Mul(xv, 0.5)", *SUM[1:], SPLIT, *REST
    ),
    "half precision": graph(
        *LSTM, inputs={k: v.replace("float", "float16") for k, v in STEP.items()}, outputs=BOTH,
        **{k: v.astype(np.float16) for k, v in weights(4).items()},
    ),
}  # fmt: skip

RECALLED = (
    *SUM[:2], "hr = MatMul(h, rzk)", "(az1, ak1, an1) = Split{axis=1, num_outputs=3}(xb)",
    "(hz, hk) = Split{axis=1, num_outputs=2}(hr)", "az = Add(az1, hz)", "ak = Add(hk, ak1)", "z = Sigmoid(az)",
    "k = Sigmoid(ak)", "kh = Mul(k, h)", "kn = MatMul(kh, rn)", "an = Add(an1, kn)", "n = Tanh(an)",
)  # fmt: skip
RECALLED_WEIGHTS = {"rzk": numbers(HIDDEN, 2 * HIDDEN), "rn": numbers(HIDDEN, HIDDEN, seed=9)}
GRUS = {
    "torch's": gru(*GRU),
    "n + z * (h - n)": gru(*GRU_SUM, "e = Sub(h, n)", "ze = Mul(z, e)", "h1 = Add(n, ze)"),
    "n - z * (n - h)": gru(*GRU_SUM, "e = Sub(n, h)", "ze = Mul(z, e)", "h1 = Sub(n, ze)"),
    "z takes the new content": gru(*GRU_SUM, "u = Sub(1.0, z)", "un = Mul(z, n)", "zh = Mul(h, u)", "h1 = Add(zh, un)"),
    "h + z * (n - h)": gru(*GRU_SUM, "e = Sub(n, h)", "ze = Mul(e, z)", "h1 = Add(ze, h)"),
    "reset before the product": gru(*RECALLED, *GRU_UPDATE, **RECALLED_WEIGHTS),
    "gates packed": gru(
        *SUM[:4], "xs = Slice(xb, [0], [8], [1])", "hs = Slice(hd, [0], [8], [1])", "s = Add(xs, hs)",
        "zk = Sigmoid(s)",
        "(z, k) = Split{axis=1, num_outputs=2}(zk)", "xn = Slice(xb, [8], [12], [1])", "hn = Slice(hd, [8], [12], [1])",
        "kn = Mul(hn, k)", "an = Add(kn, xn)", "n = Tanh(an)", *GRU_UPDATE,
    ),
}  # fmt: skip
RAISED = {f"LSTM: {name}": made for name, made in LSTMS.items()} | {f"GRU: {name}": made for name, made in GRUS.items()}
HALF = "LSTM: half precision"


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


class TestRewrites:
    def test_lstm(self) -> None:
        assert apply(RaiseRecurrentCell(), lstm(*LSTM)) == [
            "h1/Unsqueeze = Unsqueeze(h, h1/axes)",
            "h1/Unsqueeze_1 = Unsqueeze(c, h1/axes_1)",
            "h1/Unsqueeze_2 = Unsqueeze(x, h1/axes_2)",
            "(_, h1/LSTM, h1/LSTM_1) = LSTM{hidden_size=4}"
            "(h1/Unsqueeze_2, h1/W, h1/R, h1/B, _, h1/Unsqueeze, h1/Unsqueeze_1)",
            "h1 = Squeeze(h1/LSTM, h1/axes_3)",
            "c1 = Squeeze(h1/LSTM_1, h1/axes_4)",
        ]

    def test_gru(self) -> None:
        assert apply(RaiseRecurrentCell(), gru(*GRU)) == [
            "h1/Unsqueeze = Unsqueeze(h, h1/axes)",
            "h1/Unsqueeze_1 = Unsqueeze(x, h1/axes_1)",
            "(_, h1/GRU) = GRU{hidden_size=4, linear_before_reset=1}"
            "(h1/Unsqueeze_1, h1/W, h1/R, h1/B, _, h1/Unsqueeze)",
            "h1 = Squeeze(h1/GRU, h1/axes_2)",
        ]

    @pytest.mark.parametrize("name", RAISED)
    def test_every_spelling(self, name: str) -> None:
        made = RAISED[name].clone()
        apply(RaiseRecurrentCell(), made)
        found = ops(made)
        assert found[name[:4].strip(":")] == 1
        assert not found.keys() & {"Sigmoid", "Tanh", "MatMul", "Gemm", "Split"}

    def test_states_kept_in_one_tensor_are_read_as_they_lie(self) -> None:
        made = graph(
            "h = Gather{axis=0}(s, 0)", "c = Gather{axis=0}(s, 1)", *LSTM, "hu = Unsqueeze(h1, [0])",
            "cu = Unsqueeze(c1, [0])", "s1 = Concat{axis=0}(hu, cu)",
            inputs={"s": "float[2, batch, 4]", "x": "float[batch, 6]"}, **weights(4),
        )  # fmt: skip
        assert apply(RaiseRecurrentCell(), made) == [
            "hu/Gather = Gather{axis=0}(s, hu/at)",
            "hu/Gather_1 = Gather{axis=0}(s, hu/at_1)",
            "hu/Unsqueeze = Unsqueeze(x, hu/axes)",
            "(_, hu, cu) = LSTM{hidden_size=4}(hu/Unsqueeze, h1/W, h1/R, h1/B, _, hu/Gather, hu/Gather_1)",
            "s1 = Concat{axis=0}(hu, cu)",
        ]

    def test_the_state_is_what_lies_beside_the_cell_state(self) -> None:
        """Of two inputs of one size either could be h; the one from the tensor that c comes from is."""
        made = graph(
            "h = Gather{axis=0}(s, 0)", "c = Gather{axis=0}(s, 1)", *LSTM,
            inputs={"x": "float[batch, 4]", "s": "float[2, batch, 4]"}, outputs=BOTH,
            **{**weights(4), "w": numbers(HIDDEN, 4 * HIDDEN, seed=5)},
        )  # fmt: skip
        text = apply(RaiseRecurrentCell(), made)
        (fed,) = (line for line in text if "Unsqueeze(x" in line)
        (raised,) = (line for line in text if "LSTM{" in line)
        assert f"({fed.split(' = ')[0]}, h1/W" in raised

    def test_weights_are_laid_out_when_they_are_read(self) -> None:
        made = lstm(*LSTM)
        RaiseRecurrentCell().apply(made, Context())
        tensor = made.graph.initializers["h1/W"].const_value
        assert isinstance(tensor, ir.LazyTensor)
        own = weights(4)["w"].T.reshape(4, HIDDEN, FEATURES)
        assert np.array_equal(tensor.numpy(), own[[0, 3, 1, 2]].reshape(1, 4 * HIDDEN, FEATURES))

    def test_cells_inside_branches(self) -> None:
        made = inside_if(lstm(*LSTM))
        apply(RaiseRecurrentCell(), made)
        assert ops(made)["LSTM"] == 2


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in weights(4).items() if key != name}


def typed(*text: str, **inputs: str) -> ir.Model:
    return graph(*text, inputs={**STEP, **inputs}, outputs=BOTH, **weights(4))


def grid(lead: str) -> ir.Model:
    inputs = {"x": f"float[{lead}, 6]", "h": f"float[{lead}, 4]", "c": f"float[{lead}, 4]"}
    return graph(*LSTM, inputs=inputs, outputs=BOTH, **weights(4))


REFUSED = [
    # the output
    ("use", lstm(*swapped(LSTM, o="o = Tanh(ao)"))),
    ("use", lstm(*swapped(LSTM, h1="h1 = Add(o, t)"))),
    ("use", lstm(*swapped(LSTM, h1="h1 = Identity(t)"))),
    ("use", lstm(*LSTM, "y = Relu(t)")),
    ("use", step(*LSTM, outputs=("h1", "c1", "t"), **weights(4))),
    ("update", lstm(*swapped(LSTM, t="t = Sigmoid(c1)"))),
    # the update
    ("update", lstm(*swapped(LSTM, f="f = Tanh(af)"))),
    ("update", lstm(*swapped(LSTM, i="i = Relu(ai)"))),
    ("update", lstm(*swapped(LSTM, g="g = Sigmoid(ag)"))),
    ("update", lstm(*swapped(LSTM, c1="c1 = Sub(fc, ig)"))),
    ("update", lstm(*swapped(LSTM, ig="ig = Identity(g)"))),
    ("update", lstm(*swapped(LSTM, fc="fc = Identity(c)"))),
    ("update", lstm(*swapped(LSTM, ig="ig = Add(i, g)"))),
    ("update", lstm(*SUM, SPLIT, *swapped(LSTM_GATES, f="k = Sigmoid(af)"), "f = Sub(1.5, k)", *LSTM_UPDATE)),
    ("update", lstm(*SUM, SPLIT, *swapped(LSTM_GATES, f="f = HardSigmoid(af)"), *LSTM_UPDATE)),
    # sizes
    ("shape", typed(*LSTM, c="float[1, 4]")),
    ("shape", typed(*LSTM, c="float[batch, 1]")),
    ("share", typed(*LSTM, h="float[1, 4]")),
    ("share", typed(*LSTM, x="float[1, 6]")),
    ("shape", typed(*LSTM, x="float[other, 6]")),
    ("shape", typed(*LSTM, c="float[?, 4]")),
    # gates that are more, or less, than sums of products
    ("gate", step(*LSTM, outputs=("h1", "c1", "f"), **weights(4))),
    ("gate", step(*LSTM, "y = Neg(o)", outputs=("h1", "c1", "y"), **weights(4))),
    ("gate", lstm(*SUM, SPLIT.replace("ag", "ag1"), "ag = Mul(c, v)", *REST, v=VECTORS["vi"])),
    ("peephole", lstm(*SUM, SPLIT, *swapped(PEEPHOLES, po="po = Mul(c, vo)"), **VECTORS)),
    ("peephole", lstm(*SUM, SPLIT, *swapped(PEEPHOLES, pi="pi = Mul(h, vi)"), **VECTORS)),
    ("share", graph("w = Sin(v)", *LSTM, inputs={**STEP, "v": "float[6, 16]"}, outputs=BOTH, **without("w"))),
    ("share", graph(*LSTM, inputs={**STEP, "w": "float[6, 16]"}, outputs=BOTH, **without("w"))),
    ("share", graph(*LSTM[1:], inputs={**STEP, "xw": "float[batch, 16]"}, outputs=BOTH, **without("w"))),
    ("share", graph(*LSTM, inputs={**STEP, "b": "float[batch, 16]"}, outputs=BOTH, **without("b"))),
    (
        "share",
        lstm("w = DequantizeLinear(q, e)", *LSTM, w=None, q=np.ones((6, 16), np.int8), e=np.float32(0.1)),
    ),
    ("share", lstm(*swapped(SUM, a="a1 = Add(xb, hd)"), "a = Relu(a1)", SPLIT, *REST)),
    ("input", lstm(*SUM, *sliced("ifgo")[:3], "ao = Slice(hd, [12], [16], [1])", *REST)),
    ("state", lstm(*SUM, *sliced("ifgo")[:3], "ao = Slice(xb, [12], [16], [1])", *REST)),
    ("state", lstm("xx = Concat{axis=1}(x, x)", "a = MatMul(xx, w)", SPLIT, *REST, w=numbers(12, 16))),
    # rows that are no batch
    ("shape", grid("5, batch")),
    ("shape", grid("1, 1, batch")),
    (
        "dtype",
        graph(
            *LSTM, inputs={k: v.replace("float", "double") for k, v in STEP.items()}, outputs=BOTH,
            **{k: v.astype(np.float64) for k, v in weights(4).items()},
        ),
    ),
    # GRU
    ("use", gru(*GRU_SUM, "u = Sub(1.0, k)", *GRU_UPDATE[1:])),
    ("use", gru(*GRU_SUM, "u = Sub(2.0, z)", *GRU_UPDATE[1:])),
    ("use", gru(*GRU_SUM, *swapped(GRU_UPDATE, h1="h1 = Sub(un, zh)"))),
    ("use", gru(*GRU_SUM, *swapped(GRU_UPDATE, zh="zh = Mul(z, n)"))),
    ("use", gru(*swapped(GRU_SUM, z="z = Tanh(az)"), *GRU_UPDATE)),
    ("reset", gru(*swapped(GRU_SUM, k="k = Tanh(ar)"), *GRU_UPDATE)),
    ("reset", gru(*swapped(GRU_SUM, kn="kn = Identity(hn)"), *GRU_UPDATE)),
    ("reset", gru(*swapped(GRU_SUM, kn="kn = Mul(k, xn)"), *GRU_UPDATE)),
    ("reset", gru(*GRU_SUM[:-2], "kx = Add(xn, hn)", "an = Add(kx, kn)", "n = Tanh(an)", *GRU_UPDATE)),
    ("reset", graph(
            *swapped(RECALLED, kh="kh = Mul(k, y)"), *GRU_UPDATE, outputs=["h1"],
            inputs={"x": STEP["x"], "h": STEP["h"], "y": STEP["h"]},
            **{name: value for name, value in {**weights(3), **RECALLED_WEIGHTS}.items() if name not in ("r", "d")},
        )),
    ("gate", step(*GRU, outputs=("h1", "n"), **weights(3))),
    ("reset", graph(*GRU, inputs={"x": STEP["x"], "h": "float[1, 4]"}, outputs=["h1"], **weights(3))),
    # any two linear layers under a tanh are a plain cell
    ("use", step(*SUM, "h1 = Tanh(a)", **weights(1))),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    found = misses(RaiseRecurrentCell(), made)
    assert rule in {miss.rule for miss in found}, found
    before = lines(made)
    assert apply(RaiseRecurrentCell(), made) == before


@pytest.mark.parametrize("name", [name for name in RAISED if name != HALF])
def test_holds(name: str) -> None:
    holds(RaiseRecurrentCell(), RAISED[name], {"batch": 3})


def test_holds_for_a_batch_of_one() -> None:
    holds(RaiseRecurrentCell(), lstm(*LSTM), {"batch": 1})


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_what_torch_exports_is_what_onnxruntime_computes(kind: str, tmp_path: Path) -> None:
    """torch's own cell, exported as its gates, run by ONNX Runtime's own kernel."""
    torch.manual_seed(0)
    cell = getattr(torch.nn, f"{kind}Cell")(FEATURES, HIDDEN).eval()
    x, h, c = torch.randn(3, FEATURES), torch.randn(3, HIDDEN), torch.randn(3, HIDDEN)
    given = (x, (h, c)) if kind == "LSTM" else (x, h)
    made = tersor.load(cell, args=given)
    apply(RaiseRecurrentCell(), made)
    assert ops(made)[kind] == 1
    names = [str(value.name) for value in made.graph.inputs]
    found = on_onnxruntime(made, {name: value.numpy() for name, value in zip(names, (x, h, c), strict=False)})
    with torch.no_grad():
        wanted = cell(*given)
    wanted = [item.numpy() for item in (wanted if kind == "LSTM" else (wanted,))]
    assert distance(found, wanted) <= RaiseRecurrentCell.contract.tolerance


def test_holds_in_half_precision_as_far_as_its_digits_go() -> None:
    made, feeds = RAISED[HALF], random_feeds(RAISED[HALF], {"batch": 3})
    after = made.clone()
    RaiseRecurrentCell().apply(after, Context())
    assert compare(made, after, feeds).within(float(np.finfo(np.float16).eps))


def test_weights_that_are_no_numbers_stay_so() -> None:
    own = weights(4)
    own["w"][0, 3] = np.nan
    made = step(*LSTM, outputs=BOTH, **own)
    RaiseRecurrentCell().apply(made, Context())
    weight = made.graph.initializers["h1/W"].const_value
    assert weight is not None and np.isnan(weight.numpy()).sum() == 1


def test_silero(data_dir: Path) -> None:
    """Its LSTM, exported as gates, for 16 kHz and for 8 kHz."""
    made = tersor.load(data_dir / "models" / "silero_vad" / "silero_vad_op18_ifless.onnx")
    RAISING.apply(made, Context())
    RaiseRecurrentCell().apply(made, Context())
    found = ops(made)
    assert found["LSTM"] == 2 and not found["Tanh"]


def test_a_cell_that_ends_in_a_branch_is_left_alone() -> None:
    """The output gate is applied in one branch only; the cell state is made outside."""
    before = "  ".join(line.replace("(ai, af, ag, ao)", "ai, af, ag, ao") for line in LSTM[:-1])
    text = f"""
        g (bool go, float[batch, 6] x, float[batch, 4] h, float[batch, 4] c, float[6, 16] w, float[4, 16] r,
           float[16] b, float[16] d) => (float[batch, 4] y, float[batch, 4] c1) {{
            {before.replace("{", "<").replace("}", ">")}
            y = If <then_branch = yes () => (float[batch, 4] h1) {{ h1 = Mul (o, t) }},
                    else_branch = no () => (float[batch, 4] h2) {{ h2 = Neg (t) }}> (go)
        }}"""
    made = outside(text, **weights(4))
    assert {miss.rule for miss in misses(RaiseRecurrentCell(), made)} >= {"use"}
    before_lines = lines(made)
    assert apply(RaiseRecurrentCell(), made) == before_lines
    alone = outside(text.replace("h2 = Neg (t)", "h2 = Neg (c)"), **weights(4))
    assert "scope" in {miss.rule for miss in misses(RaiseRecurrentCell(), alone)}
    assert apply(RaiseRecurrentCell(), alone) == lines(alone)
