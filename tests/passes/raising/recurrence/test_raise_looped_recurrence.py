"""Loop and Scan over an op of one step, and bodies that do more."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.text import lines
from tersor.passes.raising.recurrence.raise_looped_recurrence import RaiseLoopedRecurrence
from tersor.tests.passes.raising.recurrence.graphs import loop, numbers, scan
from tersor.tests.support import apply, holds, misses

AXES = "ax = Constant <value_ints = [0]> ()"
TAKE = "x = Gather{axis=0}(X, counter)"
IN = (AXES, "xu = Unsqueeze(x, ax)", "hu = Unsqueeze(h, ax)")
GRU = (*IN, 'e, hn = GRU{hidden_size=4}(xu, w, r, b, "", hu)', "h1 = Squeeze(hn, ax)")
LSTM = (
    *IN, "cu = Unsqueeze(c, ax)", 'e, hn, cn = LSTM{hidden_size=4}(xu, w, r, b, "", hu, cu)', "h1 = Squeeze(hn, ax)",
    "c1 = Squeeze(cn, ax)",
)  # fmt: skip
H, HC = {"h": "h1"}, {"h": "h1", "c": "c1"}


def weights(gates: int) -> dict[str, object]:
    return {"w": numbers(1, 4 * gates, 6), "r": numbers(1, 4 * gates, 4), "b": numbers(1, 8 * gates)}


RAISED = [
    scan(*GRU, states=H, **weights(3)),
    loop(TAKE, *GRU, states=H, **weights(3)),
    loop(TAKE, *LSTM, states=HC, **weights(4)),
    scan(*LSTM, states=HC, attributes=", scan_input_directions = [1]", **weights(4)),
]
REFUSED = [
    ("body", scan(*GRU[:3], "h1 = Tanh(h)", "y = Neg(x)", states=H, stacked=("y",), **weights(3))),
    ("carried", scan(*GRU[:-1], "h2 = Squeeze(hn, ax)", "h1 = Neg(h2)", states=H, **weights(3))),
    ("carried", scan(*LSTM[:-1], "c1 = Identity(h1)", states=HC, **weights(4))),
    ("stacked", scan(*GRU, states=H, stacked=("h",), **weights(3))),
    ("form", scan(*(line.replace("{", '{direction="reverse", ') for line in GRU), states=H, **weights(3))),
    ("input", scan("n = Neg(x)", *(line.replace("(x,", "(n,") for line in GRU), states=H, **weights(3))),
    ("weights", scan("v = Neg(w)", *(line.replace(" w,", " v,") for line in GRU), states=H, **weights(3))),
    ("shape", scan(*GRU, states=H, x="time, other, 6", **weights(3))),
]


@pytest.mark.parametrize("made", RAISED)
def test_the_op_runs_over_the_sequence(made: ir.Model) -> None:
    found = apply(RaiseLoopedRecurrence(), made.clone())
    assert sum("LSTM{" in line or "GRU{" in line for line in found) == 1
    assert not any("Loop" in line or "Scan" in line for line in found)


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseLoopedRecurrence(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseLoopedRecurrence(), made) == before


@pytest.mark.parametrize("made", RAISED)
def test_holds(made: ir.Model) -> None:
    holds(RaiseLoopedRecurrence(), made, {"batch": 3, "time": 5})
