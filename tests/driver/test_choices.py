"""A pass with a choice, from the command line: `explain` tells the choice, the artifact keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import tersor
from tersor.driver.explain import explain
from tersor.ir.text import graph
from tersor.tests.driver.support import Cli

PASS = "mix-precision{budget=4 bits, group=16}"


def _prepare(folder: Path) -> tuple[str, str]:
    """A model of two layers and data for it."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((32, 64)).astype(np.float32) / 6,
        "v": rng.standard_normal((64, 32)).astype(np.float32) / 8,
    }
    model = graph("h = MatMul(x, w)", "t = Tanh(h)", "y = MatMul(t, v)", inputs={"x": "float[batch, 32]"}, **weights)
    ir.save(model, folder / "model.onnx")
    (folder / "data").mkdir()
    for index in range(6):
        np.savez(folder / "data" / f"{index}.npz", x=rng.standard_normal((8, 32)).astype(np.float32))
    return str(folder / "model.onnx"), str(folder / "data")


def test_explain_tells_what_it_would_choose(tmp_path: Path) -> None:
    source, data = _prepare(tmp_path)
    found = explain(source, PASS, data=data)
    assert found.curve is not None
    assert all(finding.chosen for finding in found.fired)
    assert explain(source, PASS).curve is None


def test_explain_prints_it(tmp_path: Path, cli: Cli) -> None:
    source, data = _prepare(tmp_path)
    shown = cli("explain", source, PASS, "--data", data)
    assert "would choose" in shown.out
    assert "all 4 bits: 4 bits on average" in shown.out
    assert " bits, " in shown.out
    printed = json.loads(cli("explain", source, PASS, "--data", data, "--json").out)
    assert printed["curve"]["x"] == "bits on average"
    assert {item["chosen"].split(",")[0][-4:] for item in printed["fired"]} == {"bits"}


def test_the_artifact_keeps_it(tmp_path: Path) -> None:
    source, data = _prepare(tmp_path)
    made = tersor.compile(
        source, passes=PASS, data=data, target="onnxruntime", output=tmp_path / "made", size_first=True
    )
    stored = json.loads((made.path / "manifest.json").read_text())
    (record,) = [each for stage in stored["stages"] for each in stage["passes"] if "curve" in each]
    assert len(record["chosen"]) == 2
    assert record["curve"]["chosen"][0] <= 4
    page = (made.path / "report.html").read_text()
    assert "<h2>Choices</h2>" in page
    assert "predicted drop, against bits on average" in page
