"""What `tersor bench MODEL --layers` prints: which layer broke."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType

from .. import console
from ..units import error, plural, size

if TYPE_CHECKING:
    from ..layers import Layers, Row


def shown(found: Layers, limit: int) -> Iterator[RenderableType]:
    """The ranking, what is left over, what was not measured, and what to try."""
    if not found.rows:
        yield f"No weight site was rewritten by {console.literal(found.passes)}; `tersor explain` says why."
        yield from _unseen(found)
        return
    rows = found.rows[: limit or None]
    columns = [found.by, ">alone", ">share", ">1 - cosine", ">added", ">local", ">in place", ">saved", "kind"]
    if found.metric is not None:
        columns.insert(4, f">{found.metric}")
    yield console.table(*columns, "module", rows=(_cells(row, found) for row in rows))
    if len(rows) < len(found.rows):
        yield f"  and {len(found.rows) - len(rows):,} more; --limit 0 shows all"
    yield console.literal(_footnote(found))
    yield from _unseen(found)
    yield console.heading("what to try")
    yield from _advice(found)


def _cells(row: Row, found: Layers) -> list[object]:
    cells: list[object] = [
        row.name,
        error(row.alone.relative_l2),
        f"{row.share:.1%}",
        error(row.alone.cosine),
        f"{row.added:+.2g}",
        error(row.local),
        error(row.in_place),
        size(row.bytes[0] - row.bytes[1]),
        row.kind,
        "" if row.module == row.name else row.module,
    ]
    if row.metric is not None:
        cells.insert(4, f"{row.metric:.6g}")
    return cells


def _footnote(found: Layers) -> str:
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in found.shapes.items())
    whole = f"{error(found.whole.relative_l2)} (1 - cosine {error(found.whole.cosine)})"
    scores = "" if found.scores is None else f"; {found.metric} {found.scores[0]:.6g} -> {found.scores[1]:.6g}"
    rest = "" if abs(found.rest) < 0.01 * found.whole.relative_l2 else f", {found.rest:+.2g} of it outside the sites"
    return (
        f"\nAll together: relative L2 {whole}{rest}{scores}. Passes: {found.passes}.\n"
        "alone: error of the outputs with only this rewritten; added: what it adds to those before it; local: error of "
        "its own output\non the original's activations; in place: the same in the rewritten model. "
        f"Relative L2 of {' and '.join(found.outputs)}, on {found.target};\n"
        f"{plural(found.batches, 'batch')} ({shapes}), {found.feeds}."
    )


def _unseen(found: Layers) -> Iterator[RenderableType]:
    for name, reason in found.unseen:
        yield console.literal(f"not measured: {name}, {reason}")


def _advice(found: Layers) -> Iterator[RenderableType]:
    if found.advice is None:
        yield (
            "No half of the sites carries half of the error: finer weights (more bits, smaller groups, an algorithm "
            "that calibrates) will do more than leaving sites out."
        )
        return
    whole, left = found.whole.relative_l2, found.advice.error
    yield console.literal(
        f"Without the worst {_counted(len(found.advice.sites))} the error is {error(left)} in place of "
        f"{error(whole)} (measured), for {size(found.advice.bytes)} more:\n\n{found.advice.recipe}"
    )


def _counted(count: int) -> str:
    return "site" if count == 1 else f"{count:,} sites"
