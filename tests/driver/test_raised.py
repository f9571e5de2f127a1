"""What reports say about what raising found and what got away."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import tersor
from tersor.driver.raised import raised
from tersor.ir.text import graph

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


def test_the_report_shows_it(tmp_path: Path) -> None:
    tersor.compile(model("u = Relu(t)"), target="onnxruntime{threads=1}", output=tmp_path / "made")
    assert "1 of 2 raised" in (tmp_path / "made" / "report.html").read_text(encoding="utf-8")
