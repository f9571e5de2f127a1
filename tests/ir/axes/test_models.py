"""Dependent axes of real models, raised: what is free is as good as zero once it is cut, no weight is left over."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.axes import Role, dependencies
from tersor.ir.feeds import default_sizes, random_feeds
from tersor.ir.level import Level, violations
from tersor.ir.load import load
from tersor.ir.runner import runner
from tersor.ir.text import lines
from tersor.passes.base import Context
from tersor.passes.cutting import cut
from tersor.passes.presets import RAISING
from tersor.tests.ir.axes.support import Arrays, Feeds, assert_cut_is_zero, cuttable

TOLERANCE = 1e-5
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Expected:
    """free: sizes of the free groups of a model, and how many there are of each."""

    free: Mapping[int, int]
    sizes: Mapping[str, int]


@cache
def raised(source: str) -> ir.Model:
    """A source at the semantic level, once for a whole run; to be cloned."""
    model = load(source)
    RAISING.apply(model, Context())
    return model


def answers(model: ir.Model, feeds: Feeds) -> Arrays:
    """On the FX interpreter."""
    return list(runner(model)(dict(feeds)).values())


def check(model: ir.Model, expected: Expected) -> None:
    """Each free group of the first of several blocks that are alike, then all of all blocks at once."""
    feeds = random_feeds(model, default_sizes(model) | expected.sizes)
    listed = [group for group in dependencies(model).groups if cuttable(group)]
    found: dict[int, int] = {}
    for group in listed:
        found[group.size] = found.get(group.size, 0) + 1
    assert found == expected.free
    seen: set[object] = set()
    for index, group in enumerate(listed):
        alike = (group.size, tuple(_NUMBER.sub("*", value.name or "") for value, _ in group.weights))
        if alike not in seen:
            seen.add(alike)
            halve(model.clone(), feeds, [index])
    halve(model.clone(), feeds, range(len(listed)))


def halve(model: ir.Model, feeds: Feeds, which: range | list[int]) -> None:
    dependent = dependencies(model)
    groups = [group for group in dependent.groups if cuttable(group)]
    rng = np.random.default_rng(len(which))
    masks = {groups[at].axis: rng.permutation(groups[at].size) < (groups[at].size + 1) // 2 for at in which}
    assert_cut_is_zero(model, masks, dependent, feeds, answers)
    assert violations(model, Level.SEMANTIC) == []
    read = {value for node in model.graph.all_nodes() for value in node.inputs} | {*model.graph.outputs}
    assert [value.name for value in model.graph.initializers.values() if value not in read] == []


def check_identity(model: ir.Model) -> None:
    before, weights = lines(model), {name: value.const_value for name, value in model.graph.initializers.items()}
    found = dependencies(model)
    cut(found, {group.axis: np.ones(group.size, np.bool_) for group in found.groups})
    assert lines(model) == before
    assert {name: value.const_value for name, value in model.graph.initializers.items()} == weights


def test_minilm(minilm_onnx: Callable[[int], Path]) -> None:
    model = raised(str(minilm_onnx(23)))
    # of each of 6 layers 1,536 of the feed-forward layer, 12 heads, what a head compares and what it passes on
    check(model.clone(), Expected({1536: 6, 12: 6, 32: 12}, {"batch": 2, "sequence": 7}))
    check_identity(model.clone())


SOURCES = {
    "babyllama:source": Expected({352: 5, 4: 5, 16: 5}, {"batch": 2, "sequence": 7}),
    # its units are an output
    "g2p:encoder_source": Expected({256: 1}, {"batch": 2, "letters": 5}),
    "g2p:decoder_source": Expected({256: 1}, {"batch": 2}),
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources(source: str, data_dir: Path) -> None:
    model = raised(f"tersor.examples.{source}")
    check(model.clone(), SOURCES[source])
    check_identity(model.clone())


SILERO = {
    # frequencies, and the channels of four convolutions; the units of its LSTM are an output
    "silero_vad_openvino_16k.onnx": Expected({129: 1, 128: 2, 64: 2}, {}),
    # all of it lies in the branches of an `If` on the sample rate
    "silero_vad_op18_ifless.onnx": Expected({}, {"batch": 2, "sequence": 576}),
}


@pytest.mark.parametrize("name", SILERO)
def test_silero(name: str, data_dir: Path) -> None:
    path = data_dir / "models/silero_vad" / name
    model = raised(str(path))
    check(model.clone(), SILERO[name])
    check_identity(model.clone())


LAYERS, HEADS, KV_HEADS, INNER, HIDDEN, WIDTH = 2, 4, 2, 128, 64, 16
CELLS = {
    ("gpt2", "dynamo18"): {INNER: LAYERS, HEADS: LAYERS, WIDTH: 2 * LAYERS},
    # all layers read the positions of one table, which has a column for each head
    ("t5-encoder", "dynamo18"): {INNER: LAYERS, HEADS: 1, WIDTH: 2 * LAYERS},
    # and the channels between its two convolutions
    ("whisper-encoder", "dynamo23"): {INNER: LAYERS, HEADS: LAYERS, WIDTH: 2 * LAYERS, HIDDEN: 1},
    ("bert", "script17"): {INNER: LAYERS, HEADS: LAYERS, WIDTH: 2 * LAYERS},
    ("mistral", "dynamo23"): {INNER: LAYERS, KV_HEADS: LAYERS, WIDTH: LAYERS},
}
#: These take the exporter more than a few seconds.
SLOW = {"mistral", "whisper-encoder", "t5-encoder"}


@pytest.mark.parametrize(
    ("name", "exporter"),
    [pytest.param(*cell, marks=[pytest.mark.slow] if cell[0] in SLOW else []) for cell in CELLS],
)
def test_architectures(name: str, exporter: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tersor.benchmarks._raising_export import Cell, exported

    cell = Cell(name, exporter, "sdpa")
    failure = exported(cell, tmp_path)
    assert not failure
    model = raised(str(cell.path(tmp_path)))
    check(model.clone(), Expected(CELLS[name, exporter], {}))
    check_identity(model.clone())
    assert any(Role.HEADS in group.roles for group in dependencies(model).groups)
