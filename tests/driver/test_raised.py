"""What reports say about what raising found and what got away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import onnx_ir as ir
import pytest
import tersor
from tersor.driver.raised import Raised, away, raised
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.catalogue import find

if TYPE_CHECKING:
    from tersor.driver.manifest import Manifest

SIZES = {"q": "float[2, 4, 3, 8]", "k": "float[2, 4, 5, 8]", "v": "float[2, 4, 5, 8]"}


def model(*scores: str) -> ir.Model:
    """Two attentions; between the product and the softmax of the second lie `scores`, from t to u."""
    first = ("f = Transpose{perm=[0, 1, 3, 2]}(k)", "a = MatMul(q, f)", "p = Softmax(a)", "y = MatMul(p, v)")
    second = ("t = MatMul(y, f)", *scores, "w = Softmax(u)", "z = MatMul(w, v)", "c = ReduceSum(z)", "e = Softmax(c)")
    return graph(*first, *second, inputs=SIZES)


def test_all_of_them() -> None:
    found = raised(tersor.compile(model("u = Mul(t, 0.5)"), target="onnxruntime{threads=1}").manifest)
    assert [str(entry) for entry in found if entry.subject == "attention"] == ["2 of 2 raised"]


def test_one_that_got_away_with_its_reason() -> None:
    made = tersor.compile(model("u = Relu(t)"), target="onnxruntime{threads=1}")
    (entry,) = (entry for entry in raised(made.manifest) if entry.subject == "attention")
    assert (entry.count, entry.total) == (1, 2)
    assert str(entry).startswith("1 of 2 raised; w: scores: Relu at u; needed ")


def test_a_softmax_that_is_no_attention_is_not_counted() -> None:
    made = tersor.compile(graph("y = Softmax(x)", inputs={"x": "float[2, 5]"}), target="onnxruntime{threads=1}")
    assert raised(made.manifest) == []


def test_what_no_attention_is_does_not_count_as_missed() -> None:
    (lone,) = attention_records(graph("y = Softmax(x)", inputs={"x": "float[2, 5]"}))
    assert lone["misses"]
    assert away(lone) == []
    (near,) = attention_records(model("u = Relu(t)"))
    assert [miss["rule"] for miss in away(near)] == ["scores"]
    assert away({**lone, "subject": ""}) == lone["misses"]


def attention_records(made: ir.Model) -> list[dict[str, object]]:
    report = tersor.run_passes(made, "raise-attention", verify="off")
    assert [[finding.place for finding in record.away] for record in report.passes] == [
        [miss["place"] for miss in away(record)] for record in report.to_dict()
    ]
    return report.to_dict()


SCORES = ("f = Transpose{perm=[0, 1, 3, 2]}(k)", "a = MatMul(q, f)")
AWAY = ("r = Relu(a)", "p = Softmax(r)")


@pytest.mark.parametrize(
    "weighed",
    [
        ("y = MatMul(p, v)",),
        ("s = Slice(p, zero, three, last)", "w = Slice(v, zero, three, rows)", "y = MatMul(s, w)"),
        ("s = Where(hidden, none, p)", "d = Dropout(s)", "c = Cast{to=1}(d)", "y = MatMul(c, v)"),
        ("s = Mul(p, hidden)", "y = MatMul(s, v)"),
        ("t = Transpose{perm=[0, 1, 3, 2]}(p)", "w = Transpose{perm=[0, 1, 3, 2]}(v)", "y = MatMul(w, t)"),
        ("e = Reshape(p, blocks)", "w = Reshape(v, packed)", "y = MatMul(e, w)"),
        ("y = Einsum{equation='bhqk,bhkd->bqhd'}(p, v)",),
    ],
)
def test_explain_and_compile_count_the_same(weighed: tuple[str, ...]) -> None:
    """However the probabilities come to weigh the values."""
    made = graph(
        *SCORES,
        *AWAY,
        *(line.replace("hidden", "bits") if "Where" in line else line for line in weighed),
        inputs={**SIZES, "bits": "bool[2, 4, 3, 5]", "hidden": "float[3, 5]"},
        zero=[0],
        three=[3],
        last=[3],
        rows=[2],
        none=0.0,
        blocks=[8, 3, 5],
        packed=[8, 5, 8],
    )
    explained = find("raise-attention")().explain(made, Context())
    (record,) = attention_records(made)
    assert [finding.miss is not None for finding in explained.findings] == [True]
    assert [miss["rule"] for miss in away(record)] == ["scores"]


@pytest.mark.parametrize(
    "read",
    [
        ("y = ArgMax(p)",),
        ("y = MatMul(p, table)",),
        ("y = ReduceSum(p)",),
        ("n = Unsqueeze(p, axis)", "m = Mul(n, features)", "y = MatMul(m, n)"),
    ],
)
def test_a_classifier_and_a_gate_are_no_attention(read: tuple[str, ...]) -> None:
    made = graph(
        "p = Softmax(x)",
        *(line.replace("MatMul(m, n)", "MatMul(m, other)") for line in read),
        inputs={"x": "float[2, 5]", "features": "float[2, 5, 7]", "other": "float[2, 7, 5]"},
        table=[[1.0, 2.0]] * 5,
        axis=[2],
    )
    (record,) = attention_records(made)
    assert away(record) == []


def test_what_came_whole_is_counted() -> None:
    whole = ("y = Attention{scale=1.0}(q, k, v)",)
    made = tersor.compile(graph(*whole, inputs=SIZES, opset=23), target="onnxruntime{threads=1}")
    assert [str(entry) for entry in raised(made.manifest) if entry.subject == "attention"] == [
        "1 of 1 whole (1 as loaded)"
    ]
    mixed = ("b = Relu(y)", "t = MatMul(b, f)", "u = Mul(t, 0.5)", "w = Softmax(u)", "z = MatMul(w, v)")
    both = graph(*whole, SCORES[0], *mixed, inputs=SIZES, opset=23)
    (entry,) = (entry for entry in raised(tersor.compile(both, target="onnxruntime{threads=1}").manifest))
    assert (entry.fired, entry.whole, entry.total) == (1, 1, 2)
    assert str(entry) == "2 of 2 whole (1 as loaded)"


def test_what_got_away_is_named_by_its_module() -> None:
    made = model("u = Relu(t)")
    for node in made.graph:
        if node.op_type == "Softmax":
            node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'layers.7', 'layers.7.attn', 'softmax']"
    compiled = tersor.compile(made, target="onnxruntime{threads=1}")
    (entry,) = (entry for entry in raised(compiled.manifest) if entry.subject == "attention")
    assert str(entry).startswith("1 of 2 raised; layers.7.attn: scores: Relu at u; needed ")


def test_norms_and_gelus_are_counted_too() -> None:
    norm = ("s = Mul(x, x)", "m = ReduceMean(s, last)", "e = Add(m, tiny)", "r = Sqrt(e)", "n = Div(x, r)")
    gelu = ("d = Mul(n, root)", "f = Erf(d)", "g = Add(f, one)", "h = Mul(n, g)", "y = Mul(h, half)")
    numbers = {"tiny": 1e-6, "root": 0.5**0.5, "one": 1.0, "half": 0.5, "last": [-1]}
    made = graph(*norm, *gelu, inputs={"x": "float[2, 8]"}, **numbers)
    found = {entry.subject: str(entry) for entry in raised(tersor.compile(made, target="onnxruntime").manifest)}
    assert found == {"norms": "1 of 1 raised", "gelu": "1 of 1 raised"}
    other = graph(*norm, *gelu, inputs={"x": "float[2, 8]"}, **numbers | {"half": 0.51})
    (away,) = (one for one in raised(tersor.compile(other, target="onnxruntime").manifest) if one.subject == "gelu")
    assert str(away).startswith("0 of 1 raised; f: function: f; needed 0.5 x (1 + erf(x / sqrt 2))")


def test_a_place_that_two_passes_tell_of_counts_once() -> None:
    record = {"subject": "norms", "matches": 0, "whole": 0}
    miss = {"near": True, "scope": "layers.7", "sources": [], "rule": "dtype", "value": "DOUBLE", "need": "float"}
    passes = [{**record, "pass": name, "misses": [miss]} for name in ("raise-layer", "raise-rms")]
    manifest = cast("Manifest", {"stages": [{"name": "raise", "seconds": 0.0, "passes": passes}]})
    assert list(map(str, raised(manifest))) == ["0 of 1 raised; layers.7: dtype: DOUBLE; needed float"]


def test_one_reason_at_one_place_is_said_once() -> None:
    two, other = ("layers.7", "mask: m; needed n"), ("layers.8", "mask: m; needed n")
    assert str(Raised("attention", 1, 0, (two, two, other))) == (
        "1 of 4 raised; layers.7: mask: m; needed n (2 of these); layers.8: mask: m; needed n"
    )
    many = tuple((f"layers.{index}", "why") for index in (0, 0, 1, 2, 3, 3))
    assert str(Raised("attention", 0, 0, many)).endswith("layers.2: why; and 2 more")


def test_the_report_shows_it(tmp_path: Path) -> None:
    tersor.compile(model("u = Relu(t)"), target="onnxruntime{threads=1}", output=tmp_path / "made")
    assert "1 of 2 raised" in (tmp_path / "made" / "report.html").read_text(encoding="utf-8")
