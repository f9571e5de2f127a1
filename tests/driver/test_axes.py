"""`inspect --axes`: the groups of dependent axes, alike ones as one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from tersor.driver.axes import AxisGroup, axis_groups, rows
from tersor.driver.inspect import inspect
from tersor.ir.text import graph
from tersor.tests.driver.support import Cli


def layers(*widths: int) -> onnx_ir.Model:
    """x [n, 5] -> layers of these widths with two projections each, [n, 5] -> y."""
    lines: list[str] = []
    weights: dict[str, object] = {}
    for index, width in enumerate(widths):
        lines += [
            f"a{index} = MatMul(x{index}, layer.{index}.gate)",
            f"b{index} = MatMul(x{index}, layer.{index}.up)",
            f"s{index} = Sigmoid(a{index})",
            f"c{index} = Mul(s{index}, b{index})",
            f"x{index + 1} = MatMul(c{index}, layer.{index}.down)",
        ]
        for name, shape in (("gate", (5, width)), ("up", (5, width)), ("down", (width, 5))):
            weights[f"layer.{index}.{name}"] = np.ones(shape, np.float32)
    return graph(*lines, inputs={"x0": "float[n, 5]"}, **weights)


class TestGroups:
    def test_a_group_says_what_makes_reads_and_holds_it(self) -> None:
        first, second, last = axis_groups(layers(8))
        assert first == AxisGroup(
            units=5,
            what="features",
            makers=(),
            readers=("layer.0.gate", "layer.0.up"),
            weights=("layer.0.gate", "layer.0.up"),
            parameters=16,
            holds=("an input of the model: x0",),
            held_by=("an input of the model: x0",),
        )
        assert not first.free
        assert last.held_by == ("an output of the model: x1",)
        assert second.free
        assert (second.units, second.parameters) == (8, 15)
        assert (second.makers, second.readers) == (("layer.0.gate", "layer.0.up"), ("layer.0.down",))

    def test_alike_groups_are_one_row_free_ones_first(self) -> None:
        found = rows(axis_groups(layers(8, 8, 6)))
        assert [(row.count, row.first.units, row.where) for row in found] == [
            (2, 8, "layer.*.{gate, up} -> layer.*.down"),
            (1, 5, "layer.0.down -> layer.1.{gate, up}"),
            (1, 5, "layer.1.down -> layer.2.{gate, up}"),
            (1, 6, "layer.2.{gate, up} -> layer.2.down"),
            (1, 5, "-> layer.0.{gate, up}"),
            (1, 5, "layer.2.down"),
        ]
        free = [row.first.free for row in found]
        assert free == sorted(free, reverse=True)

    def test_what_units_are(self) -> None:
        model = graph(
            "e = Gather(table, ids)", "a, h, c = LSTM{hidden_size=4}(e, w, r)", "s = Squeeze(a, [1])",
            "t = Transpose{perm=[1, 2, 0]}(s)", "u = Conv(t, k)", "y = Conv(u, l)",
            inputs={"ids": "int64[n, 2]"}, outputs=["y"],
            table=np.ones((9, 5), np.float32), w=np.ones((1, 16, 5), np.float32), r=np.ones((1, 16, 4), np.float32),
            k=np.ones((6, 4, 1), np.float32), l=np.ones((2, 6, 1), np.float32),
        )  # fmt: skip
        found = {group.units: group for group in axis_groups(model) if group.units in (9, 5, 6)}
        assert {units: group.what for units, group in found.items()} == {9: "rows", 5: "features", 6: "channels"}
        assert found[9].held_by == ("looked up by number",)
        units = [group for group in axis_groups(model) if "recurrent units" in group.what]
        assert [(group.units, group.free) for group in units] == [(4, True)]

    def test_reasons_of_one_kind_are_one(self) -> None:
        model = graph(
            "a = MatMul(x, w)", "b = TopK(a, [2])", "c = DepthwiseNothing(a)", "d = DepthwiseNothing(c)",
            "y = Add(c, d)",
            inputs={"x": "float[n, 5]"}, outputs=["y"], w=np.ones((5, 8), np.float32),
        )  # fmt: skip
        (group,) = (group for group in axis_groups(model) if group.units == 8)
        assert group.held_by == ("no rule for TopK", "no rule for DepthwiseNothing")
        assert all(" at " in hold for hold in group.holds)

    def test_inspection_has_them_where_asked(self) -> None:
        assert inspect(layers(8)).axes is None
        assert inspect(layers(8), axes=True).axes == axis_groups(layers(8))


class TestCommand:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        onnx_ir.save(layers(8, 8, 8), tmp_path / "layers.onnx")
        return "layers.onnx"

    def test_one_line_for_alike_groups(self, cli: Cli, path: str) -> None:
        ran = cli("inspect", path, "--axes")
        assert ran.code == 0, ran.err
        part = ran.out.partition("dependent axes")[2].splitlines()[1:]
        assert part[0].split()[:3] == ["groups", "units", "what"]
        assert part[1].split() == [
            "3", "8", "features", "3", "15", "layer.*.{gate,", "up}", "->", "layer.*.down",
        ]  # fmt: skip
        assert any("an output of the model: x3" in line for line in part)

    def test_without_the_option_there_are_none(self, cli: Cli, path: str) -> None:
        assert "dependent" not in cli("inspect", path).out
        assert "axes" not in cli("inspect", path, "--json").document

    def test_json_has_every_group_in_full(self, cli: Cli, path: str) -> None:
        listed = cli("inspect", path, "--axes", "--json").document["axes"]
        assert isinstance(listed, list)
        assert len(listed) == 7
        assert [group["units"] for group in listed if not group["holds"]] == [8, 5, 8, 5, 8]
        assert set(listed[0]) == {
            "units", "what", "makers", "readers", "weights", "parameters", "holds", "held_by",
        }  # fmt: skip

    def test_an_opset_too_old_says_to_raise_it(self, cli: Cli, tmp_path: Path) -> None:
        model = layers(8)
        model.opset_imports[""] = 11
        onnx_ir.save(model, tmp_path / "old.onnx")
        ran = cli("inspect", "old.onnx", "--axes")
        assert ran.code == 3
        assert "--raise" in ran.err
        assert cli("inspect", "old.onnx", "--axes", "--raise").code == 0
