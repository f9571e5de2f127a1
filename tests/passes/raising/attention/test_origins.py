"""What a miss says of a mask whose sizes are data."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.raising.attention.raise_attention import RaiseAttention

SIZES = {
    "q": "float[2, 4, 3, 8]",
    "k": "float[2, 4, 5, 8]",
    "v": "float[2, 4, 5, 8]",
    "bits": "bool[4]",
    "rows": "float[7, 5]",
}


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (["n = NonZero(bits)", "x = Cast{to=1}(n)", "c = Greater(x, t)"], "(Greater of Cast on the output of NonZero)"),
        (
            ["n = NonZero(bits)", "x = Cast{to=1}(n)", "s = ReduceSum(x)", "c = Greater(s, t)"],
            "of Cast on the output",
        ),
        (["n = Compress{axis=0}(rows, bits)", "c = Greater(n, t)"], "(Greater on the output of Compress)"),
    ],
)
@pytest.mark.parametrize("low", [-np.inf, -1e9])
@pytest.mark.parametrize("fills", [True, False])
def test_it_says_that_they_are_and_why(mask: list[str], words: str, low: float, fills: bool) -> None:
    (value, near) = stopped(mask, low, fills)
    assert value.startswith("c is data-dependent (" if fills else "b is data-dependent (")
    assert words.strip("(") in value
    assert near


def test_other_masks_are_named_with_their_sizes() -> None:
    assert stopped(["s = ReduceSum{keepdims=1}(rows)", "c = Greater(s, t)"], -np.inf, True) == ("c: [1, 1]", True)


def stopped(mask: list[str], low: float, fills: bool) -> tuple[str, bool]:
    """The value that a match stopped at, and whether it came near, where `mask` makes c."""
    ends = ["w = Where(c, low, a)"] if fills else ["b = Where(c, low, none)", "w = Add(a, b)"]
    made = graph(
        *mask,
        "f = Transpose{perm=[0, 1, 3, 2]}(k)",
        "a = MatMul(q, f)",
        *ends,
        "p = Softmax(w)",
        "y = MatMul(p, v)",
        inputs=SIZES,
        low=low,
        t=2.0,
        none=0.0,
        zero=[0],
        three=[3],
    )
    (finding,) = RaiseAttention().explain(made, Context()).misses
    assert finding.miss is not None
    assert finding.miss.rule == "mask"
    return finding.miss.value, finding.miss.near
