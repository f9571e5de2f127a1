"""The chart of what a pass chose between, and the report's part on it."""

from __future__ import annotations

import pytest
from tersor.driver.manifest import CurveData, Manifest
from tersor.driver.report.charts import curve
from tersor.driver.report.choices import choices
from tersor.driver.report.style import STYLE
from tersor.tests.driver.report.test_charts import Drawn

FOUND: CurveData = {
    "x": "bits on average",
    "y": "predicted drop",
    "points": [(2.0, 0.1), (4.0, 0.01), (8.0, 0.0)],
    "chosen": (4.0, 0.01),
    "others": [("all <4> bits", 4.0, 0.05)],
}


def test_points_lie_by_powers_of_ten() -> None:
    drawn = Drawn(curve("mix", FOUND))
    (line,) = [values for tag, values in drawn.tags if tag == "polyline"]
    points = [tuple(map(float, pair.split(","))) for pair in str(line["points"]).split()]
    (left, top), (middle, half), (right, bottom) = points
    # a third of the way in x; from 0.1 to 0.01 is all of the height, and 0 lies at its lower edge
    assert (middle - left) == pytest.approx((right - left) / 3, abs=0.2)
    assert half == pytest.approx(bottom)
    assert top < half
    dots = [(values["class"], float(str(values["cy"]))) for tag, values in drawn.tags if tag == "circle"]
    assert dots[1] == ("good", pytest.approx(half))
    assert dots[0][0] == "plain"
    assert top < dots[0][1] < half


def test_every_mark_says_what_it_is() -> None:
    drawn = Drawn(curve("mix", FOUND))
    assert "all <4> bits: 4, 0.05" in drawn.texts
    assert "chosen: 4, 0.01" in drawn.texts
    assert "predicted drop, against bits on average" in drawn.texts
    for name in ("good", "plain", "line", "grid", "note"):
        assert f".chart .{name}" in STYLE


def test_a_curve_of_nothing_is_not_drawn() -> None:
    assert curve("mix", {**FOUND, "points": [(2.0, 0.0)], "others": [], "chosen": (2.0, 0.0)}) == ""


def test_a_single_point_is_drawn() -> None:
    Drawn(curve("mix", {**FOUND, "points": [(2.0, 0.1)], "others": [], "chosen": (2.0, 0.1)}))


def test_the_report_tells_what_was_chosen_where() -> None:
    taken = [{"place": "w (MatMul at <m>)", "scope": "", "chosen": "4 bits, 0.01 drop predicted"}]
    record = {"pass": "mix-precision", "curve": FOUND, "chosen": taken}
    manifest = {"stages": [{"name": "passes", "seconds": 1.0, "passes": [{"pass": "cast"}, record]}]}
    drawn = Drawn(choices(manifest))  # type: ignore[arg-type]
    assert "w (MatMul at <m>)" in drawn.texts
    assert "4 bits, 0.01 drop predicted" in drawn.texts
    assert any("4 bits on average, 0.01 predicted drop" in text for text in drawn.texts)


def test_nothing_is_said_where_no_pass_had_a_choice() -> None:
    manifest: Manifest = {"stages": [{"name": "passes", "seconds": 1.0, "passes": []}]}  # type: ignore[typeddict-item]
    assert choices(manifest) == ""
