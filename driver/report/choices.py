"""The report's part on passes that had a choice: the curve between what they chose, and what they took where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from ..manifest import CurveData, Manifest
from ..units import plural
from .charts import curve
from .markup import Markup, details, markup, paragraph, section, table


def choices(manifest: Manifest) -> Markup:
    """Nothing where no pass had a choice."""
    records = [record for stage in manifest["stages"] for record in stage["passes"] if record.get("curve")]
    return section("Choices", *map(_choice, records)) if records else Markup("")


def _choice(record: Mapping[str, object]) -> Markup:
    found, taken = cast(CurveData, record["curve"]), cast(Sequence[Mapping[str, str]], record["chosen"])
    x, y = found["chosen"]
    told = paragraph(f"Chosen: {x:.4g} {found['x']}, {y:.3g} {found['y']}; beside it what one choice for all would be.")
    rows = ((item["place"], item["chosen"]) for item in taken)
    chosen = details(f"what was chosen at {plural(len(taken), 'place')}", table(("place", "chosen"), rows))
    return Markup(f"<h3>{markup(record['pass'])}</h3>{told}{curve(str(record['pass']), found)}{chosen}")
