"""GatherND over the full grid of indices is an unsqueeze."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.shape_annotate import annotate
from tersor.ir.text import graph, lines
from tersor.passes.raising.raise_grid_gather import RaiseGridGather
from tersor.tests.support import apply, holds, inside_if, misses

MASK = {"m": "bool[batch, keys]"}


def grid(
    *,
    mask: str = "bool[batch, keys]",
    starts: tuple[str, str] = ("0", "0"),
    steps: tuple[str, str] = ("1", "1"),
    extents: tuple[str, str] = ("b", "k"),
    axes: tuple[str, str] = ("[1, 2, 3]", "[0, 1, 2]"),
    last: str = "[-1]",
    joined: int = -1,
    order: str = "p, q",
    expand: str = "[b1, 1, 1, k1]",
    cast: str = "",
    gather: str = "GatherND",
    more: tuple[str, ...] = (),
    **inputs: str,
) -> ir.Model:
    """What torch's exporter writes for mask[i[:, None, None, None], j[None, None, None, :]]."""
    first, second = ("f", "g") if cast else ("i", "j")
    return graph(
        "s = Shape(m)", "b = Gather(s, 0)", "k = Gather(s, 1)", "b1 = Unsqueeze(b, [0])", "k1 = Unsqueeze(k, [0])",
        f"i0 = Range({starts[0]}, {extents[0]}, {steps[0]})", f"j0 = Range({starts[1]}, {extents[1]}, {steps[1]})",
        f"i = Unsqueeze(i0, {axes[0]})", f"j = Unsqueeze(j0, {axes[1]})",
        *([f"f = Cast{{to={cast}}}(i)", f"g = Cast{{to={cast}}}(j)"] if cast else []),
        f"e = Concat{{axis=0}}({expand.strip('[]').replace(' 1,', ' one,')})",
        f"x = Expand({first}, e)", f"z = Expand({second}, e)",
        f"p = Unsqueeze(x, {last})", f"q = Unsqueeze(z, {last})",
        f"n = Concat{{axis={joined}}}({order})", f"y = {gather}(m, n)", *more,
        inputs={"m": mask, **inputs}, one=np.array([1]),
    )  # fmt: skip


class TestRewrites:
    def test_a_mask_spread_over_heads_and_queries(self) -> None:
        assert apply(RaiseGridGather(), grid()) == ["y = Unsqueeze(m, y/axes)"]

    def test_the_new_axes_are_those_no_index_runs_over(self) -> None:
        model = grid()
        apply(RaiseGridGather(), model)
        assert model.graph.initializers["y/axes"].const_value.numpy().tolist() == [1, 2]

    def test_indices_of_another_width(self) -> None:
        assert apply(RaiseGridGather(), grid(cast="int64"))[-1] == "y = Unsqueeze(m, y/axes)"

    def test_the_last_axis_by_number(self) -> None:
        assert apply(RaiseGridGather(), grid(last="[4]", joined=4)) == ["y = Unsqueeze(m, y/axes)"]

    def test_in_branches(self) -> None:
        found = apply(RaiseGridGather(), inside_if(grid()))
        assert sum("Unsqueeze(m" in line for line in found) == 2
        assert not any("GatherND" in line for line in found)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (grid(starts=("0", "1")), "index"),
        (grid(steps=("1", "2")), "index"),
        (grid(extents=("b", "h"), h="int64[]"), "extent"),
        (grid(extents=("k", "b")), "extent"),
        (grid(extents=("b", "b")), "extent"),
        (grid(order="q, p"), "extent"),
        (grid(order="q, p", mask="bool[n, n]", extents=("b", "b")), "order"),
        (grid(axes=("[1, 2, 3]", "[1, 2, 3]"), mask="bool[n, n]", extents=("b", "b")), "order"),
        (grid(last="[0]", joined=0), "indices"),
        (grid(joined=0), "indices"),
        (grid(axes=("[1, 2]", "[0, 2]"), expand="[b1, k1, one]", last="[0]"), "stacking"),
        (grid(expand="[b1, h1, 1, k1]", h1="int64[1]"), "grid"),
        (graph("y = GatherND(m, n)", inputs={**MASK, "n": "int64[batch, 2]"}), "indices"),
        (graph("y = GatherND{batch_dims=1}(m, n)", inputs={**MASK, "n": "int64[batch, 1]"}), "data"),
        (graph("y = GatherND(m, n)", inputs={"m": "bool", "n": "int64[batch, 2]"}), "data"),
        (graph("n = Concat{axis=-1}(a, a)", "y = GatherND(m, n)", inputs={**MASK, "a": "int64[4, 1]"}), "stacking"),
        (grid(mask="bool[batch, keys, 3]"), "indices"),
    ],
)  # fmt: skip
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    (miss,) = misses(RaiseGridGather(), model)
    assert miss.rule == rule, miss
    before = lines(model)
    assert apply(RaiseGridGather(), model) == before


def test_leaves_alone_an_index_tensor_that_is_no_range() -> None:
    model = grid()
    for node in model.graph:
        if node.op_type == "Range":
            node.domain = "my"
    (miss,) = misses(RaiseGridGather(), model)
    assert miss.rule == "index"


def test_leaves_alone_an_index_tensor_of_one_element() -> None:
    """Along which of its axes it counts, none can say."""
    model = grid(mask="bool[1, keys]")
    annotate(model)
    (miss,) = misses(RaiseGridGather(), model)
    assert miss.rule == "index"


def test_leaves_alone_a_gather_of_another_domain() -> None:
    assert misses(RaiseGridGather(), grid(gather="my.GatherND")) == []


@pytest.mark.parametrize("sizes", [{"batch": 1, "keys": 1}, {"batch": 3, "keys": 7}])
@pytest.mark.parametrize("model", [grid(), inside_if(grid())])
def test_holds(model: ir.Model, sizes: dict[str, int]) -> None:
    assert holds(RaiseGridGather(), model, sizes) == 0.0
