"""Column charts: proportions, what they say to people who do not see them, and the report's part on layers."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest
from tersor.driver.manifest import LayerData, LayersData
from tersor.driver.report.charts import Column, columns
from tersor.driver.report.layers import layers
from tersor.driver.report.style import STYLE

VOID = frozenset({"circle", "line", "polyline", "rect"})


class Drawn(HTMLParser):
    """Reads markup; fails on a tag that is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str, kind: str | None = None) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag and kind in (None, attrs.get("class"))]


def some(*heights: float, groups: str = "") -> list[Column]:
    named = groups or " " * len(heights)
    pairs = enumerate(zip(heights, named, strict=True))
    return [Column(f"site {index}", height, f"{height:g}", group.strip()) for index, (height, group) in pairs]


def row(name: str, local: float | None, alone: float | None = None, block: int | None = None) -> LayerData:
    return {
        "name": name,
        "module": f"module.{name}",
        "kind": "linear",
        "block": block,
        "bytes": [4096, 1024],
        "local": local,
        "in_place": None if alone is None else 0.3,
        "alone": alone,
        "share": None if alone is None else 0.25,
        "prefix": None if alone is None else 0.5,
        "added": None if alone is None else -0.01,
    }


def data(*rows: LayerData, whole: float | None = None) -> LayersData:
    return {"feeds": "held-out data", "batches": 2, "whole": whole, "rows": list(rows)}


class TestColumns:
    def test_heights_are_in_proportion(self) -> None:
        drawn = Drawn(columns("errors", some(0.4, 0.1, 0.2), "local"))
        heights = [float(box["height"] or 0) for box in drawn.all("rect")]
        # one decimal is written
        assert heights[1] == pytest.approx(heights[0] / 4, abs=0.1)
        assert heights[2] == pytest.approx(heights[0] / 2, abs=0.1)

    def test_columns_stand_beside_each_other_inside_the_picture(self) -> None:
        drawn = Drawn(columns("errors", some(*range(1, 200)), "local"))
        (picture,) = drawn.all("svg")
        width, height = (float(number) for number in str(picture["viewbox"]).split()[2:])
        boxes = [{key: float(box[key] or 0) for key in ("x", "y", "width", "height")} for box in drawn.all("rect")]
        assert all(first["x"] + first["width"] <= second["x"] for first, second in itertools.pairwise(boxes))
        assert all(box["y"] >= 0 and box["y"] + box["height"] <= height for box in boxes)
        assert boxes[-1]["x"] + boxes[-1]["width"] <= width

    def test_says_what_it_shows(self) -> None:
        drawn = Drawn(columns("errors <here>", some(0.5, 0.25), "local"))
        (picture,) = drawn.all("svg")
        assert (picture["role"], picture["aria-label"]) == ("img", "errors <here>")
        assert len(drawn.all("title")) == 3
        assert "site 1: 0.25" in drawn.texts

    def test_the_axis_has_nothing_half_and_all(self) -> None:
        assert {"0", "0.25", "0.5"} <= set(Drawn(columns("errors", some(0.5, 0.25), "local")).texts)

    def test_groups_are_named_where_there_is_room(self) -> None:
        drawn = Drawn(columns("errors", some(*[1.0] * 6, groups=" 00112"), "local"))
        assert {"0", "1", "2"} <= set(drawn.texts)
        assert len(drawn.all("line", "mark")) == 3
        many = [Column("", 1.0, "", str(index)) for index in range(300)]
        assert len(Drawn(columns("errors", many, "local")).all("text", "note")) < 60

    def test_a_line_goes_through_the_columns(self) -> None:
        items = [Column("", 1.0, "", line=height) for height in (0.0, 1.0, 2.0)]
        (line,) = Drawn(columns("errors", items, "alone")).all("polyline")
        points = [tuple(map(float, pair.split(","))) for pair in str(line["points"]).split()]
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.1)
        assert not Drawn(columns("errors", some(1.0), "local")).all("polyline")

    def test_colours_are_the_style_sheets(self) -> None:
        drawn = columns("errors", [*some(1.0), Column("", 1.0, "", kind="bad", line=1.0)], "local")
        assert not re.search(r"#[0-9a-f]{3}|fill=|stroke=|style=", drawn)
        for kind in set(re.findall(r'class="(\w+)"', drawn)) - {"chart"}:
            assert f".chart .{kind} {{" in STYLE

    def test_nothing_and_only_zeros(self) -> None:
        assert columns("errors", [], "local") == ""
        assert len(Drawn(columns("errors", some(0.0, 0.0), "local")).all("rect")) == 2


class TestLayers:
    def test_local_errors_point_to_the_command(self) -> None:
        found = layers(data(row("a", 0.1), row("b<", 0.2, block=3)))
        drawn = Drawn(found)
        assert [box["class"] for box in drawn.all("rect")] == ["plain", "bad"]
        assert "--layers" in " ".join(drawn.texts)
        assert "b<: 0.2, linear, block 3" in drawn.texts
        assert "share" not in drawn.texts

    def test_the_ranking_is_drawn_with_its_line_and_listed_worst_first(self) -> None:
        drawn = Drawn(layers(data(row("a", 0.1, alone=0.2), row("b", 0.3, alone=0.4), whole=0.5)))
        assert drawn.all("polyline")
        listed = [text for text in drawn.texts if text in ("a", "b")]
        assert listed == ["b", "a"]
        assert {"25.0%", "-0.01", "3.1 kB", "module.a"} <= set(drawn.texts)

    def test_an_error_that_is_not_finite(self) -> None:
        assert len(Drawn(layers(data(row("a", None), row("b", 0.1)))).all("rect")) == 2

    def test_many_sites_are_cut_in_the_table_only(self) -> None:
        drawn = Drawn(layers(data(*(row(f"s{index}", 0.1) for index in range(60)))))
        assert len(drawn.all("rect")) == 60
        assert "20 more sites are in manifest.json." in drawn.texts

    def test_nothing_where_nothing_was_rewritten(self) -> None:
        assert layers(data()) == ""
