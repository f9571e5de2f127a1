"""Gathers of every place of a flattened table."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.shape_annotate import annotate
from tersor.ir.text import graph, lines
from tersor.passes.raising.raise_flat_gather import RaiseFlatGather
from tersor.tests.support import apply, holds, inside_if, misses

FLAT = "flat = Flatten{axis=2}(m)"


def mask(
    *,
    rows: str = "Range(0, n, 1)",
    columns: str = "Range(0, k, 1)",
    row_axes: str = "[1, 2, 3]",
    column_axes: str = "[0, 1, 2]",
    factor: str = "k",
    product: str = "Mul(row, f)",
    index: str = "Add(column, start)",
    flat: str = FLAT,
    gather: str = "Gather{axis=0}(flat, at)",
    m: str = "bool[batch, keys]",
    **more: str,
) -> ir.Model:
    """The mask of padding as TorchScript exports it."""
    model = graph(
        "s = Shape(m)", "n = Gather(s, 0)", "k = Gather(s, 1)", f"i = {rows}", f"j = {columns}",
        f"row = Unsqueeze(i, {row_axes})", f"column = Unsqueeze(j, {column_axes})", f"f = Identity({factor})",
        f"start = {product}", f"at = {index}", flat, f"g = {gather}", "y = Not(g)",
        inputs={"m": m, **more},
    )  # fmt: skip
    annotate(model)
    return model


class TestRewrites:
    @pytest.mark.parametrize(
        "model",
        [
            mask(),
            mask(product="Mul(f, row)", index="Add(start, column)"),
            mask(flat="flat = Reshape(m, [-1, 1])"),
        ],
    )
    def test_the_mask_of_padding(self, model: ir.Model) -> None:
        *_, wide, last = apply(RaiseFlatGather(), model)
        assert (wide.split("(")[0], last) == ("g = Unsqueeze", "y = Not(g)")
        assert "Flatten" not in "".join(lines(model))
        holds(RaiseFlatGather(), mask(), {"batch": 2, "keys": 5})

    def test_a_table_without_new_axes(self) -> None:
        model = mask(row_axes="[1]", column_axes="[0]", flat="flat = Reshape(m, [-1])")
        assert apply(RaiseFlatGather(), model)[-1] == "y = Not(m)"

    def test_in_branches(self) -> None:
        model = inside_if(mask())
        assert sum("Unsqueeze" in line for line in apply(RaiseFlatGather(), model)) >= 1


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (mask(m="bool[batch, keys, 2]"), "table"),
        (mask(flat="flat = Relu(m)"), "table"),
        (mask(flat="flat = Flatten{axis=1}(m)"), "flat"),
        (mask(gather="Gather{axis=1}(flat, at)"), "flat"),
        (mask(index="Sub(column, start)"), "indices"),
        (mask(factor="n"), "indices"),
        (mask(rows="Range(1, n, 1)"), "indices"),
        (mask(rows="Range(0, k, 1)"), "indices"),
        (mask(columns="Range(0, n, 1)"), "indices"),
        (mask(columns="Range(0, k, 2)"), "indices"),
        (mask(index="Add(other, start)", other="int64[1, 1, 1, keys]"), "indices"),
        (mask(row_axes="[0, 1, 2]", column_axes="[1, 2, 3]"), "indices"),
    ],
)
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    assert rule in [miss.rule for miss in misses(RaiseFlatGather(), model)]
    before = lines(model)
    assert apply(RaiseFlatGather(), model) == before


@pytest.mark.parametrize("sizes", [{"batch": 1, "keys": 1}, {"batch": 3, "keys": 7}])
def test_holds(sizes: dict[str, int]) -> None:
    holds(RaiseFlatGather(), mask(), sizes)
    holds(RaiseFlatGather(), mask(row_axes="[1]", column_axes="[0]", flat="flat = Reshape(m, [-1])"), sizes)
