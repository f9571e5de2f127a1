"""`report.html`: everything of the manifest that people ask for, escaped, on one page that fetches nothing."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tersor.driver.manifest import Manifest
from tersor.driver.report.html import render
from tersor.driver.report.markup import Bar, Markup, bars, markup, table
from tersor.tests.driver.support import Cli

VOID = frozenset({"meta", "rect", "line"})


def record(name: str, nodes: tuple[int, int], sizes: tuple[int, int], misses: int = 0) -> dict[str, object]:
    """One pass as `PassReport.to_dict` gives it."""
    return {
        "pass": name,
        "contract": "exact (relative L2 <= 1e-05)",
        "lossy": False,
        "matches": 3,
        "misses": [
            {
                "place": f"MatMul at m{index}",
                "sources": [],
                "rule": "constant",
                "value": "computed",
                "need": "a <weight>",
            }
            for index in range(misses)
        ],
        "nodes": list(nodes),
        "bytes": list(sizes),
        "seconds": 0.0123,
        "loss": 1.5e-7,
    }


MANIFEST: Manifest = {
    "schema": 1,
    "tersor": "0.1.0",
    "created": "2026-11-20T23:00:00+00:00",
    "source": {
        "kind": "onnx",
        "name": "tiny<script>.onnx",
        "path": "/models/tiny.onnx",
        "files": [{"name": "tiny.onnx", "bytes": 91_000_000, "sha256": "ab" * 32}],
    },
    "target": {
        "requested": "cpu",
        "text": "onnxruntime{threads=2}",
        "backend": "onnxruntime",
        "options": {"threads": 2},
        "version": "1.31.1",
    },
    "host": {"cpu": "A Fast One", "cores": 2, "os": "Linux", "machine": "x86_64", "python": "3.11.7"},
    "versions": {"torch": "2.13.0", "openvino": None},
    "interface": {
        "inputs": [{"name": "ids", "dtype": "int64", "shape": ["batch", "sequence"]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": None}],
        "dimensions": {"batch": [1, None], "sequence": [2, 512]},
    },
    "contract": {
        "text": "exact (relative L2 <= 1e-05)",
        "exact": True,
        "metric": "relative-l2",
        "limit": 1e-5,
        "loss": 1.2e-7,
        "over": [],
    },
    "stages": [
        {"name": "raise", "seconds": 0.2, "passes": [record("raise-attention", (315, 200), (90_000, 90_000), 45)]},
        {"name": "passes", "seconds": 0.5, "passes": [record("quantize-dynamic", (200, 260), (90_000, 30_000))]},
        {"name": "lower", "seconds": 0.0, "passes": []},
    ],
    "candidates": [
        {
            "target": "onnxruntime{threads=2}",
            "version": "1.31.1",
            "status": "kept",
            "reason": None,
            "loss": 1e-7,
            "bytes": 30_500,
            "latency": {"p50": 1.25, "p90": 1.5, "p99": 2.5},
            "speed": {"median": 1.0, "low": 1.0, "high": 1.0},
            "seconds": 1.2,
        },
        {
            "target": "openvino",
            "version": "2026.4.1",
            "status": "slower",
            "reason": "half as fast",
            "loss": 2e-7,
            "bytes": 30_500,
            "latency": {"p50": 2.5, "p90": 3.0, "p99": 3.5},
            "speed": {"median": 0.5, "low": 0.45, "high": 0.55},
            "seconds": 1.1,
        },
        {
            "target": "torch",
            "version": "2.13.0",
            "status": "failed",
            "reason": "RuntimeError: out & out",
            "loss": None,
            "bytes": None,
            "latency": None,
            "speed": None,
            "seconds": 0.1,
        },
    ],
    "sizes": {"nodes": [315, 260], "weights": [90_000, 30_000], "files": 30_500},
    "quality": {
        "metric": "fidelity",
        "original": None,
        "compiled": None,
        "drop": None,
        "max_drop": "1%",
        "fidelity": 0.99999,
        "feeds": {"source": "random", "calibration": 1, "quality": 1, "held_out": True, "note": "seeded"},
    },
    "layers": {"feeds": "seeded", "batches": 0, "whole": None, "rows": []},
    "seconds": {"load": 0.1, "total": 3.2},
    "files": [{"name": "model.onnx", "bytes": 30_500, "sha256": "cd" * 32, "role": "model"}],
}


class Page(HTMLParser):
    """Reads a page; fails on a tag that is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_is_well_formed_and_fetches_nothing() -> None:
    text = render(MANIFEST)
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if {"src", "href"} & set(attrs)]
    assert not re.search(r"url\(|@import|https?:", text)
    assert "prefers-color-scheme: dark" in text


def test_escapes_what_comes_from_the_model() -> None:
    text = render(MANIFEST)
    assert "<script" not in text
    assert "tiny&lt;script&gt;.onnx" in text
    assert "a &lt;weight&gt;" in text
    assert "out &amp; out" in text


@pytest.mark.parametrize(
    "said",
    [
        "Compiled exactly for onnxruntime{threads=2} by tersor 0.1.0: 2 passes fired",
        "3.00x smaller, from 90 kB",
        "0.50x (0.45-0.55)",
        "half as fast",
        "315 → 200",
        "90 kB → 30 kB",
        "12.3 ms",
        "1.5e-07",
        "0.999990",
        "and 5 more, all in manifest.json",
        "A Fast One, 2 cores, x86_64",
        "torch 2.13.0",
        "ab" * 32,
        "no limit",
        "unknown rank",
        "1 batch to calibrate, 1 to judge; held out from every pass",
    ],
)
def test_says_what_the_manifest_holds(said: str) -> None:
    assert said in Page(render(MANIFEST)).text


def test_misses_are_grouped_behind_a_click() -> None:
    page = Page(render(MANIFEST))
    assert [tag for tag, _ in page.tags].count("details") == 1
    assert page.text.count(", needed a <weight>") == 1


def test_charts_are_inline_and_in_proportion() -> None:
    drawn = bars("sizes", [Bar("a", 100.0, "100 B"), Bar("b", 25.0, "25 B", low=20.0, high=30.0)], mark=50.0)
    full, quarter = (float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn))
    assert quarter == pytest.approx(full / 4, abs=0.1)
    assert drawn.count('class="whisker"') == 1
    assert drawn.count('class="mark"') == 1
    assert bars("nothing", []) == ""


def test_without_timing_or_measurement() -> None:
    manifest = copy.deepcopy(MANIFEST)
    manifest["candidates"] = [{**manifest["candidates"][0], "speed": None, "latency": None, "loss": None}]
    manifest["contract"]["loss"] = manifest["quality"]["fidelity"] = None
    page = Page(render(manifest))
    assert page.open == []
    assert "not measured" in page.text
    assert "interleaved pairs" not in page.text


def test_markup_is_text_unless_it_says_otherwise() -> None:
    assert markup("<b>") == "&lt;b&gt;"
    assert markup(Markup("<b>")) == "<b>"
    assert "<td>&lt;i&gt;</td>" in table(("x",), [("<i>",)])


def test_columns_with_nothing_in_them_are_left_out() -> None:
    drawn = table(("", ">idle", "why"), [("a", "", None), ("b", None, "slow")])
    assert "idle" not in drawn
    assert drawn.count("<td>") == 4


def test_compile_writes_one_that_reads_well(cli: Cli, dense_onnx: Path) -> None:
    ran = cli("compile", dense_onnx, "-o", "out", "--target", "onnxruntime")
    assert ran.code == 0, ran.err
    page = Page(Path("out/report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "model.onnx" in page.text
