"""No op of a domain that is not ONNX's goes without a word."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.clean.inline_functions import InlineFunctions
from tersor.passes.raising.contrib import KEPT, TABLE, why_kept
from tersor.passes.raising.contrib.call import MICROSOFT
from tersor.passes.raising.contrib.raise_contrib import RaiseContrib
from tersor.tests.support import inside_if, misses, parse

OPS = sorted({(schema.domain, schema.name) for schema in get_all_operator_schema()})
OWN = {name for domain, name in OPS if domain == MICROSOFT}
RAISED = {name for domain, name in TABLE if domain == MICROSOFT}


def test_every_op_of_onnxruntime_is_raised_or_kept_with_a_reason_of_its_own() -> None:
    assert sorted(OWN - RAISED - set(KEPT)) == []
    assert not RAISED & set(KEPT)


@pytest.mark.parametrize("domain", sorted({domain for domain, _ in OPS} - {"", "ai.onnx.ml", MICROSOFT}))
def test_layouts_of_one_machine_name_their_domain(domain: str) -> None:
    found = [why_kept(*op) for op in OPS if op[0] == domain]
    assert found
    for miss in found:
        assert miss is not None
        assert miss.rule == "domain" and domain in miss.value and "optimize offline" in miss.need


@pytest.mark.parametrize("domain", ["", "ai.onnx.ml", "tersor"])
def test_what_onnx_defines_needs_no_reason(domain: str) -> None:
    assert why_kept(domain, "Scaler") is None


@pytest.mark.parametrize(
    ("op", "rule", "value", "need"),
    [
        ("com.microsoft.nchwc.Conv", "domain", "Conv of com.microsoft.nchwc", "at the extended level, not all"),
        ("com.ms.internal.nhwc.Conv", "domain", "Conv of com.ms.internal.nhwc", "for the CPU provider"),
        ("com.microsoft.Inverse", "op", "Inverse", "the inverse of a matrix"),
        ("com.microsoft.Invented", "op", "Invented", "this one is newer, or somebody's own"),
        ("my.Gelu", "domain", "Gelu of my", "a model-local function"),
    ],
)
def test_a_miss_says_what_it_is_and_what_to_do(op: str, rule: str, value: str, need: str) -> None:
    (miss,) = misses(RaiseContrib(), graph(f"y = {op}(x)"))
    assert (miss.rule, miss.value) == (rule, value)
    assert need in miss.need
    outcome = RaiseContrib().apply(graph(f"y = {op}(x)"), Context())
    assert [finding.miss for finding in outcome.findings] == [miss]


def test_both_branches_are_spoken_of() -> None:
    made = graph("y = my.Gelu(x)", inputs={"x": "float[2]"}, outputs=["y"])
    made.graph.outputs[0].type, made.graph.outputs[0].shape = made.graph.inputs[0].type, ir.Shape([2])
    assert [miss.rule for miss in misses(RaiseContrib(), inside_if(made))] == ["domain", "domain"]


def test_a_function_that_the_model_holds_is_its_own_reason() -> None:
    body = '<domain: "pkg", opset_import: ["": 23]> F (a) => (b) { b = Relu (a) }'
    made = parse("g (float[2] x) => (float[2] y) { y = pkg.F (x) }", functions=body)
    assert misses(RaiseContrib(), made) == []
    InlineFunctions().apply(made, Context())
    assert [node.op_type for node in made.graph] == ["Relu"]
