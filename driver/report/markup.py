"""HTML pieces: text that is escaped unless it says that it is markup, tables, and charts as inline SVG."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Characters of a bar's label that have room beside it.
_LABEL = 34


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Bar:
    """One bar: what it stands for, how long it is, what is written behind it; `low` and `high` are its interval."""

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    kind: str = "plain"


def markup(value: object) -> Markup:
    """Any value as HTML; None is nothing."""
    if isinstance(value, Markup):
        return value
    return Markup("" if value is None else html.escape(str(value)))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table. A column whose name starts with `>` holds numbers; one with nothing in any row is left out."""
    drawn = [[markup(cell) for cell in row] for row in rows]
    used = [index for index in range(len(head)) if any(row[index] for row in drawn)]
    head, drawn = [head[index] for index in used], [[row[index] for index in used] for row in drawn]
    numeric = ['<th class="n">' if name.startswith(">") else "<th>" for name in head]
    cells = ['<td class="n">' if name.startswith(">") else "<td>" for name in head]
    top = "".join(f"{tag}{markup(name.removeprefix('>'))}</th>" for tag, name in zip(numeric, head, strict=True))
    body = "".join(
        f"<tr>{''.join(f'{tag}{cell}</td>' for tag, cell in zip(cells, row, strict=True))}</tr>" for row in drawn
    )
    return Markup(f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>')


def section(title: str, *parts: object) -> Markup:
    """A part of the page under its heading."""
    return Markup(f"<section><h2>{markup(title)}</h2>{''.join(markup(part) for part in parts)}</section>")


def paragraph(text: object) -> Markup:
    return Markup(f"<p>{markup(text)}</p>")


def details(summary: object, content: object) -> Markup:
    """Content that opens on a click."""
    return Markup(f"<details><summary>{markup(summary)}</summary>{markup(content)}</details>")


def bars(title: str, items: Sequence[Bar], *, mark: float | None = None) -> Markup:
    """A horizontal bar chart; `mark` is a value that gets a vertical line. Long labels are cut, in full on hover."""
    if not items:
        return Markup("")
    left, width, row, room = 260, 350, 26, 170
    longest = max([item.high or item.value for item in items] + ([mark] if mark is not None else [])) or 1.0
    height = row * len(items) + 6
    drawn = [_bar(item, index * row + 4, left, width / longest, row - 8) for index, item in enumerate(items)]
    if mark is not None:
        x = left + mark * width / longest
        drawn.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    return Markup(
        f'<svg class="chart" role="img" aria-label="{markup(title)}" viewBox="0 0 {left + width + room} {height}">'
        f"{''.join(drawn)}</svg>"
    )


def _bar(item: Bar, top: int, left: int, scale: float, height: int) -> str:
    length, middle = max(item.value * scale, 1.0), top + height / 2
    box = f'x="{left}" y="{top}" width="{length:.1f}" height="{height}"'
    shown = item.label if len(item.label) <= _LABEL else f"{item.label[: _LABEL - 1]}…"
    end = left + max(length, (item.high or 0.0) * scale)
    whisker = ""
    if item.low is not None and item.high is not None:
        low, high = left + item.low * scale, left + item.high * scale
        whisker = f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
    return (
        f"<g><title>{markup(item.label)}: {markup(item.text)}</title>"
        f'<text class="label" x="{left - 8}" y="{middle + 4}">{markup(shown)}</text>'
        f'<rect class="{markup(item.kind)}" {box} rx="2"/>{whisker}'
        f'<text x="{end + 8:.1f}" y="{middle + 4}">{markup(item.text)}</text></g>'
    )
