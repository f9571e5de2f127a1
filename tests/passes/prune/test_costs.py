"""What parts of a model cost, and what a group that is cut saves, counted by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.feeds import Feeds, random_feeds
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.budget import Budget
from tersor.passes.prune.carving import Carver
from tersor.passes.prune.costs import Shares, costs
from tersor.passes.prune.units import Units, units
from tersor.passes.statistics import Calibration
from tersor.tests.passes.corpus_attention import X, normal

WIDTH, WIDE, FLOPS = 32, 64, Budget.parse("0.5 flops")


def deep() -> ir.Model:
    """A branch of three layers: the one in the middle is cut on both sides."""
    return graph(
        "a = MatMul(x, w)", "f = Relu(a)", "b = MatMul(f, u)", "g = Relu(b)", "o = MatMul(g, v)", "y = Add(x, o)",
        inputs=X, w=normal(WIDTH, WIDE), u=normal(WIDE, WIDE), v=normal(WIDE, WIDTH),
    )  # fmt: skip


def groups(model: ir.Model) -> list[Units]:
    """Both groups of neurons, the first the one that is made first; not the stream, which is an output."""
    free = [each for each in units(model) if not each.group.holds]
    return sorted(free, key=lambda each: each.makers[0].name, reverse=True)


def halved(model: ir.Model, number: int) -> ir.Model:
    """A copy without every other unit of a group."""
    cut = model.clone()
    each = next(other for other in units(cut) if other.key == groups(model)[number].key)
    Carver(cut).take(each, np.arange(each.size) % 2 == 0, {})
    return cut


def test_flops_are_those_of_the_nodes_with_weights() -> None:
    model = deep()
    found = costs(model, FLOPS, groups(model), Context())
    sizes = sorted(found.values())
    # all tokens alike: of the layers [32, 64], [64, 64] and [64, 32] the one in the middle costs twice as much
    assert len(sizes) == 3
    assert sizes[0] == sizes[1] > 0
    assert sizes[2] == 2 * sizes[0]


def test_bytes_are_those_of_weights_by_name() -> None:
    model = deep()
    found = costs(model, Budget.parse("0.5 bytes"), groups(model), Context())
    assert found == {"w": 4 * WIDTH * WIDE, "u": 4 * WIDE * WIDE, "v": 4 * WIDE * WIDTH}


def test_nanoseconds_are_those_of_the_parts_on_the_middle_batch() -> None:
    model = deep()
    asked: list[Feeds] = []

    def latency(part: ir.Model, feeds: Feeds) -> float:
        asked.append(feeds)
        return 1e-9 * sum(value.const_value.size for value in part.graph.initializers.values() if value.const_value)

    batches = [random_feeds(model, {"batch": size, "sequence": 3}) for size in (1, 2, 5)]
    found = costs(
        model, Budget.parse("0.5 latency"), groups(model), Context(calibration=Calibration(batches), latency=latency)
    )
    each = WIDTH * WIDE + WIDE * WIDE
    assert list(found.values()) == pytest.approx([each, each])
    assert {len(next(iter(feeds.values()))) for feeds in asked} == {2}


def test_a_latency_without_a_target_is_refused() -> None:
    model = deep()
    with pytest.raises(OptionError, match="a latency is one of a target"):
        costs(model, Budget.parse("0.5 latency"), groups(model), Context())


@pytest.mark.parametrize("unit", ["flops", "bytes"])
def test_what_two_groups_cut_is_saved_by_one_of_them(unit: str) -> None:
    model, budget = deep(), Budget.parse(f"0.5 {unit}")
    taken = groups(model)
    before = costs(model, budget, taken, Context())
    shares = Shares.of(taken, budget)
    saved = [shares.saved(at, before, costs(halved(model, at), budget, taken, Context())) for at in range(2)]
    layer = min(before.values())
    # half of [32, 64] and half of [64, 32]; the middle layer, of twice the cost, counts once: together they cut three
    # quarters of it, and what is counted is never more than that
    assert sorted(saved) == pytest.approx([layer / 2, layer / 2 + layer])
    assert sum(saved) <= _really(model, before, budget, taken)


def _really(model: ir.Model, before: Mapping[object, float], budget: Budget, taken: list[Units]) -> float:
    """What cutting both in turn saves."""
    cut = halved(halved(model, 0), 1)
    return sum(before.values()) - sum(costs(cut, budget, taken, Context()).values())
