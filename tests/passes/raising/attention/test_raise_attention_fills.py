"""Scores that are filled where they are masked, as a mask that is added; the types of what is added."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes
from tersor.passes.raising.attention.raise_attention import RaiseAttention
from tersor.tests.passes.raising.attention.spelled import FLIP, GUARD, KEEP, LOW, QKV, model, ops
from tersor.tests.support import apply, misses, on_onnxruntime

S, OUT = (FLIP, "s = MatMul(q, t)"), ("p = Softmax(a)", "y = MatMul(p, v)")
SAFE = ("p = Softmax(a)", *GUARD)
ZEROS = ("p = Softmax(a)", "z = Where(c, p, 0.0)", "y = MatMul(z, v)")
FULL = "bool[batch, 1, queries, keys]"
COUNT = (
    *("sizes = Shape(q)", "n = Gather(sizes, 2)", "r = Range(0, n, 1)", "column = Unsqueeze(r, [1])"),
    "causal = LessOrEqual(r, column)",
)
SQUARE = dict.fromkeys("qkv", "float[batch, 4, 4, 8]")
HALF = {name: kind.replace("float", "float16") for name, kind in QKV.items()}
HALF_SQUARE = {name: kind.replace("float", "float16") for name, kind in SQUARE.items()}


def counted(*text: str, inputs: dict[str, str], **constants: object) -> ir.Model:
    """A graph whose counters have known shapes."""
    made = graph(*text, inputs=inputs, **constants)
    InferShapes().apply(made, Context())
    return made


def loss(made: ir.Model, *, loud: float = 1.0, low: float = LOW) -> float:
    """The largest error of raised attention, over conditions that hide some, all or no keys; `m` is zero or `low`."""
    after = made.clone()
    RaiseAttention().apply(after, Context())
    assert any("Attention" in line for line in lines(after))
    return max(compare(made, after, fed(made, chance, loud, low)).relative_l2 for chance in (0.0, 0.3, 0.7, 1.0))


def fed(made: ir.Model, chance: float, loud: float = 1.0, low: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {}
    sizes = {"batch": 2, "queries": 4, "keys": 5}
    for value in made.graph.inputs:
        assert value.shape is not None and value.dtype is not None and value.name is not None
        dims = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape]
        if value.dtype is ir.DataType.BOOL:
            feeds[value.name] = rng.random(dims) < chance
        else:
            random = loud * rng.standard_normal(dims) if value.name != "m" else np.where(rng.random(dims) < 0.5, 0, low)
            feeds[value.name] = random.astype(value.dtype.numpy())
    return feeds


class TestExactly:
    """Rows of which all keys are hidden are even, or zero, as they were."""

    @pytest.mark.parametrize("fill", ["-1e4", "-1e9", "-1e30", repr(LOW)])
    @pytest.mark.parametrize("line", ["a = Where(c, s, {})", "a = Where(c, {}, s)"])
    def test_a_fill(self, fill: str, line: str) -> None:
        # scores of a few hundreds: -1e9 + s would not be -1e9
        assert loss(model(*S, line.format(fill), *OUT, c=FULL), loud=12.0) <= RaiseAttention.contract.tolerance

    def test_a_fill_reads_as_one_that_swallows_the_score(self) -> None:
        made = model(*S, "a = Where(c, s, -1e9)", *OUT, c=KEEP)
        assert apply(RaiseAttention(), made) == [
            "y/Where = Where(c, y/zero, y/low)",
            "y = Attention{scale=1.0}(q, k, v, y/Where)",
        ]
        assert made.graph.initializers["y/low"].const_value.numpy() == np.float32(-1e30)

    @pytest.mark.parametrize(
        "text",
        [
            ("a = Where(c, s, -1e9)", *ZEROS),
            ("d = Where(c, s, -1e9)", "a = Mul(d, 0.125)", *OUT),
            ("d = Where(c, s, -1e9)", "a = Where(b, d, -inf)", *SAFE),
            ("d = Where(b, s, -1e9)", "a = Where(c, d, -1e9)", *OUT),
            ("d = Where(b, 0.0, -5000.0)", "e = Add(s, d)", "a = Where(c, e, -1e9)", *OUT),
            ("d = Where(b, 0.0, -inf)", "e = Where(c, s, -1e9)", "a = Add(e, d)", *SAFE),
            ("d = Add(s, m)", "a = Where(c, d, -1e30)", *OUT),
            ("d = Where(b, 0.0, -5000.0)", "e = Add(s, d)", "a = Where(c, e, -1e30)", *ZEROS),
            ("x = Cast{to=1}(b)", "i = Sub(1.0, x)", "d = Mul(i, 5000.0)", "e = Sub(s, d)", "a = Where(c, e, -1e9)",
             *ZEROS),
            # data, as queries times keys are
            ("w = Gather{axis=2}(s, 0)", "u = Unsqueeze(w, [2])", "e = Add(s, u)", "a = Where(c, e, -1e30)", *ZEROS),
        ],
    )  # fmt: skip
    def test_among_others(self, text: tuple[str, ...]) -> None:
        made = model(*S, *text, c=FULL, b=KEEP)
        assert loss(made) <= RaiseAttention.contract.tolerance

    @pytest.mark.parametrize("fill", ["-1e4", "-1e9"])
    def test_a_causal_fill_beside_a_bias_hides_for_good(self, fill: str) -> None:
        text = (*COUNT, *S, f"d = Where(causal, s, {fill})", "a = Add(d, bias)", *OUT)
        made = counted(*text, inputs=SQUARE, bias=np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 1, 5)[:, :, :4])
        assert loss(made) <= RaiseAttention.contract.tolerance


BACK = ("p = Softmax(a)", "h = Cast{to=10}(p)", "y = MatMul(h, v)")
HALVES = [
    ("a = Where(c, s, -inf)", *OUT),
    ("w = Cast{to=1}(s)", "a = Where(c, w, -inf)", *BACK),
    ("w = Cast{to=1}(s)", "e = Cast{to=1}(m)", "b = Add(w, e)", "a = Mul(b, 0.5)", *BACK),
    ("w = Cast{to=1}(s)", "e = Where(c, 0.0, -inf)", "b = Add(w, e)", "a = Mul(b, 0.5)", *BACK),
    ("o = Add(s, m)", "w = Cast{to=1}(o)", "b = Where(c, w, -inf)", "a = Mul(b, 0.5)", *BACK),
    ("w = Cast{to=1}(s)", f"a = Where(c, w, {LOW!r})", "p = Softmax(a)", "z = Where(c, p, 0.0)", "h = Cast{to=10}(z)",
     "y = MatMul(h, v)"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("text", HALVES)
def test_halves_are_valid_and_hold(text: tuple[str, ...], kind: str) -> None:
    to = int(ir.DataType[kind.upper()])
    text = tuple(line.replace("to=10", f"to={to}") for line in text)
    text = tuple(line.replace("Where(c, s, -inf)", "Where(c, s, low)") for line in text)
    read = " ".join(text)
    inputs = {name: item.replace("float", kind) for name, item in QKV.items()}
    inputs |= {"c": "bool[batch, 4, queries, keys]"} if "(c," in read else {}
    inputs |= {"m": f"{kind}[batch, 1, queries, keys]"} if "m)" in read else {}
    constants = {"low": np.asarray(-np.inf, ir.DataType(to).numpy())} if "low" in read else {}
    made = graph(*S, *text, inputs=inputs, outputs=["y"], **constants)
    after = made.clone()
    assert RaiseAttention().apply(after, Context()).matches
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    feeds = fed(made, 0.7, low=-2.0)
    feeds |= {"c": feeds["c"] | (np.arange(5) == 0)} if "c" in feeds else {}
    tolerance = 8 * 2.0 ** (-10 if kind == "float16" else -7)
    assert compare(made, after, feeds).within(tolerance)
    if kind == "float16":
        (before,), (now,) = on_onnxruntime(made, feeds), on_onnxruntime(after, feeds)
        assert np.linalg.norm(np.float64(before) - now) <= tolerance * np.linalg.norm(np.float64(before))


@pytest.mark.parametrize("fill", [-65504.0, -1e4])
def test_halves_under_a_causal_condition(fill: float) -> None:
    made = counted(*COUNT, *S, "a = Where(causal, s, low)", *OUT, inputs=HALF_SQUARE, low=np.float16(fill))
    assert ops(apply(RaiseAttention(), made.clone()))[-2:] == ["Where", "Attention"]
    assert loss(made) <= 8 * np.finfo(np.float16).eps


def half(*text: str, **inputs: str) -> ir.Model:
    return model(*S, *text, **HALF | inputs)


FLOORED = graph(*S, "a = Where(c, s, low)", *OUT, inputs=HALF | {"c": KEEP}, low=np.float16(-65504))
MADE = f"m = Where(b, 0.0, {LOW!r})"
LOWEST: dict[str, object] = {"low": np.float16(-65504)}
SHIFTED = tuple(line.replace("LessOrEqual", "Less") for line in COUNT)
REFUSED = [
    # rows that m alone hides: zero before, even after
    ("guard", model(*S, "d = Add(s, m)", "a = Where(c, d, -1e30)", *ZEROS, c=FULL)),
    ("guard", model(*S, "d = Where(c, s, -1e30)", "a = Add(d, m)", *ZEROS, c=FULL)),
    ("guard", model(*S, MADE, "d = Add(s, m)", "a = Where(c, d, -1e30)", *ZEROS, c=FULL, b=KEEP)),
    ("guard", model(*S, "d = Sub(s, m)", "a = Where(c, d, -1e4)", *ZEROS, c=FULL)),
    # what tells hidden keys apart where no key is seen
    ("mask", model(*S, "d = Where(c, s, -1e9)", "a = Add(d, m)", *OUT, c=FULL)),
    ("mask", model(*S, "d = Add(s, m)", "a = Where(c, d, -1e9)", *OUT, c=FULL)),
    ("mask", model(*S, "m = Where(b, 0.0, -2.0)", "d = Where(c, s, -1e9)", "a = Add(d, m)", *OUT, c=FULL, b=KEEP)),
    ("mask", model(*S, "d = Where(c, s, -1e9)", "a = Where(b, d, -1e4)", *OUT, c=FULL, b=KEEP)),
    ("mask", model(*S, "d = Where(c, s, -1e9)", "a = Where(b, d, -1e30)", *OUT, c=FULL, b=KEEP)),
    # no fills
    ("mask", model(*S, "a = Where(c, s, -1e3)", *OUT, c=FULL)),
    ("mask", model(*S, "d = Where(c, s, -1e4)", "a = Mul(d, 0.5)", *OUT, c=FULL)),
    ("mask", model(*S, "a = Where(c, s, 0.0)", *OUT, c=FULL)),
    ("mask", model(*S, "a = Where(c, s, nan)", *OUT, c=FULL)),
    # float16
    ("mask", FLOORED),
    ("mask", counted(*SHIFTED, *S, "a = Where(causal, s, low)", *OUT, inputs=HALF_SQUARE, **LOWEST)),
    ("mask", counted(*COUNT, *S, "g = Not(causal)", "a = Where(g, s, low)", *OUT, inputs=HALF_SQUARE, **LOWEST)),
    ("mask", half("w = Cast{to=1}(s)", f"a = Where(c, w, {LOW!r})", *BACK, c=KEEP)),
    ("precision", half("w = Cast{to=1}(s)", "a = Add(w, m)", *BACK)),
    ("precision", half("w = Cast{to=1}(s)", "d = Add(w, m)", "a = Mul(d, 0.5)", *BACK)),
    ("precision", half("o = Add(s, m)", "w = Cast{to=1}(o)", "a = Mul(w, 2.0)", *BACK, m="float16[1, keys]")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseAttention(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseAttention(), made) == before


def test_a_miss_says_what_would_change() -> None:
    (miss,) = misses(RaiseAttention(), model(*S, "d = Where(c, s, -1e9)", "a = Add(d, m)", *OUT, c=FULL))
    assert "a fill of -1e+09 beside m" in str(miss)
    assert "rows that see no key would change" in str(miss)
    (miss,) = misses(RaiseAttention(), FLOORED)
    assert "-65504 in float16" in str(miss)


def test_a_mask_that_is_made_of_shared_sums_hides_nothing() -> None:
    """Each value is visited once, however many sums it is in."""
    sums = [f"m{index + 1} = Add(m{index}, m{index})" for index in range(12)]
    made = model("m0 = Mul(m, 1.0)", *sums, *S, "a = Add(m12, s)", *OUT)
    assert ops(apply(RaiseAttention(), made))[-1] == "Attention"


def test_a_walk_that_ends_says_so() -> None:
    scales = [f"s{index + 1} = Mul(s{index}, 1.5)" for index in range(80)]
    (miss,) = misses(
        RaiseAttention(), model(FLIP, "s0 = MatMul(q, t)", *scales, "p = Softmax(s80)", "y = MatMul(p, v)")
    )
    assert miss.value == "more than 64 nodes between"
