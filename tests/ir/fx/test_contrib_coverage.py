"""Every op of ONNX Runtime's own domain is converted, or the page says why not."""

from __future__ import annotations

import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state
from tersor.ir.errors import UnsupportedError
from tersor.ir.fx import to_fx
from tersor.ir.fx.ops.contrib import CONTRIB
from tersor.ir.fx.ops.contrib.absent import ABSENT, ALIASES
from tersor.ir.text import graph

OURS = {op for domain, op, _ in CONTRIB if domain == "com.microsoft"} - set(ALIASES)


@pytest.mark.skipif(not onnxruntime.__version__.startswith("1.31."), reason="the tables speak of ONNX Runtime 1.31")
def test_every_op_is_converted_or_left_out_for_a_reason() -> None:
    schemas = onnxruntime_pybind11_state.get_all_operator_schema()
    assert OURS | set(ABSENT) == {schema.name for schema in schemas if schema.domain == "com.microsoft"}


def test_no_op_is_both() -> None:
    assert not OURS & set(ABSENT)


def test_a_refusal_says_why() -> None:
    lines = ("y = com.microsoft.GreedySearch(x, m)", "z = com.microsoft.GreedySearch(x, m)", "w = custom.Odd(x)")
    with pytest.raises(UnsupportedError) as caught:
        to_fx(graph(*lines, outputs=["y", "z", "w"]))
    text = str(caught.value)
    assert "2 ops have no lowering" in text
    assert text.count("com.microsoft.GreedySearch: a search that runs a decoder") == 1
    assert "custom.Odd:" not in text
