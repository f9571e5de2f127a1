"""The report's part on layers: what each rewritten site loses, as a chart along the model and a table of the worst."""

from __future__ import annotations

from ..manifest import LayerData, LayersData
from ..units import error, plural, size
from .charts import Column, columns
from .markup import Markup, details, paragraph, section, table

#: Rows of the table.
_ROWS = 40


def layers(found: LayersData) -> Markup:
    """Nothing where no site was rewritten or measured."""
    if not found["rows"]:
        return Markup("")
    rows = found["rows"]
    full = found["whole"] is not None or any(row["alone"] is not None for row in rows)
    title = "Relative L2 error of each rewritten site" + (", alone" if full else "'s own output")
    worst = max(map(_key, rows))
    chart = columns(title, [_column(row, worst) for row in rows], _unit(full))
    head = ("site", ">alone", ">share", ">added", ">local", ">in place", ">saved", "kind", "module")
    ranked = sorted(rows, key=_key, reverse=True)
    shown = table(head, (_cells(row) for row in ranked[:_ROWS]))
    more = paragraph(f"{len(rows) - _ROWS:,} more sites are in manifest.json.") if len(rows) > _ROWS else ""
    told = f"the {plural(min(len(rows), _ROWS), 'site')} that lose most"
    return section("Layers", paragraph(_note(found, full)), chart, details(told, Markup(f"{shown}{more}")))


def _unit(full: bool) -> str:
    return "alone; the line: all sites up to here" if full else "local"


def _note(found: LayersData, full: bool) -> str:
    feeds = f"{plural(found['batches'], 'batch')}, {found['feeds']}"
    if full:
        return (
            "Relative L2 error of the model's outputs with only this site rewritten (alone), with all up to it (the "
            f"line), of the site's own output on the original's activations (local) and in place. {feeds}."
        )
    return (
        f"Relative L2 error of each rewritten site's own output, computed from the original's activations; {feeds}. "
        "`tersor bench` on this folder with --layers tells what each site does to the model's outputs."
    )


def _key(row: LayerData) -> float:
    return (row["local"] if row["alone"] is None else row["alone"]) or 0.0


def _column(row: LayerData, worst: float) -> Column:
    place = "" if row["block"] is None else f"block {row['block']}"
    text = f"{error(_key(row))}, {row['kind']}" + (place and f", {place}")
    return Column(row["name"], _key(row), text, place, row["prefix"], "bad" if _key(row) == worst else "plain")


def _cells(row: LayerData) -> tuple[object, ...]:
    before, after = row["bytes"]
    return (
        row["name"],
        error(row["alone"]),
        "" if row["share"] is None else f"{row['share']:.1%}",
        "" if row["added"] is None else f"{row['added']:+.2g}",
        error(row["local"]),
        error(row["in_place"]),
        size(before - after),
        row["kind"],
        "" if row["module"] == row["name"] else row["module"],
    )
