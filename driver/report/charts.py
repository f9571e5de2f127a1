"""Charts as inline SVG: of what lies along a model, one column for each site, and of what a pass chose between.

Colours are the style sheet's, so that they follow the reader's system. Each column says its name and value on hover and
to screen readers; runs of columns of one block are told apart and named below.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..manifest import CurveData
from .markup import Markup, markup

_LEFT, _WIDTH, _TOP, _HEIGHT, _BELOW = 56, 704, 14, 180, 24

#: Units that a letter of a group's name takes.
_LETTER = 6.5


@dataclass(frozen=True)
class Column:
    """One column: its name, its height, what is said of it, and the group that it stands in; empty for none.

    line: the height of a line that goes through all columns; None for no line. kind: a class of the style sheet.
    """

    label: str
    value: float
    text: str
    group: str = ""
    line: float | None = None
    kind: str = "plain"


def columns(title: str, items: Sequence[Column], unit: str) -> Markup:
    """A column chart of numbers from 0 up; `unit` is what the axis counts. Nothing where there are no columns."""
    if not items:
        return Markup("")
    largest = max(max(item.value, item.line or 0.0) for item in items) or 1.0
    step = _WIDTH / len(items)
    drawn = [
        *_axis(largest, unit),
        *_groups(items, step),
        *(_column(item, index, step, _HEIGHT / largest) for index, item in enumerate(items)),
        _line([item.line for item in items], step, _HEIGHT / largest),
    ]
    size = f"0 0 {_LEFT + _WIDTH + 4} {_TOP + _HEIGHT + _BELOW}"
    return Markup(
        f'<svg class="chart" role="img" aria-label="{markup(title)}" viewBox="{size}">'
        f"<title>{markup(title)}</title>{''.join(drawn)}</svg>"
    )


def curve(title: str, found: CurveData) -> Markup:
    """The points of a curve joined, the chosen one and the named ones marked; y by powers of ten.

    What has y = 0 is at the lower edge. Nothing where no point is above it.
    """
    above = [y for _, y in found["points"] if y > 0] + [y for _, _, y in found["others"] if y > 0]
    if not above:
        return Markup("")
    across = [x for x, _ in found["points"]] + [x for _, x, _ in found["others"]]
    plane = _Plane(min(across), max(across), math.floor(math.log10(min(above))), math.ceil(math.log10(max(above))))
    line = " ".join(f"{plane.x(x):.1f},{plane.y(y):.1f}" for x, y in found["points"])
    drawn = [
        *plane.grid(found["x"], found["y"]),
        f'<polyline class="line" points="{line}"/>',
        *(_dot(plane, x, y, name, "plain") for name, x, y in found["others"]),
        _dot(plane, *found["chosen"], "chosen", "good"),
    ]
    size = f"0 0 {_LEFT + _WIDTH + 4} {_TOP + _HEIGHT + _BELOW}"
    return Markup(
        f'<svg class="chart" role="img" aria-label="{markup(title)}" viewBox="{size}">'
        f"<title>{markup(title)}</title>{''.join(drawn)}</svg>"
    )


@dataclass(frozen=True)
class _Plane:
    """Where numbers lie: x from `left` to `right`, y from 10^low to 10^high."""

    left: float
    right: float
    low: int
    high: int

    def x(self, value: float) -> float:
        return _LEFT + _WIDTH * (value - self.left) / ((self.right - self.left) or 1.0)

    def y(self, value: float) -> float:
        power = math.log10(value) if value > 0 else self.low
        return _TOP + _HEIGHT * (1 - (max(power, self.low) - self.low) / ((self.high - self.low) or 1))

    def grid(self, x: str, y: str) -> Iterator[str]:
        """Lines at powers of ten, and what is along the axes."""
        for power in range(self.low, self.high + 1, max(1, (self.high - self.low) // 6)):
            at = self.y(10.0**power)
            yield f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>'
            yield f'<text class="label" x="{_LEFT - 6}" y="{at + 4:.1f}">{10.0**power:g}</text>'
        for value in (self.left, (self.left + self.right) / 2, self.right):
            shift = 0 if value < self.right else -34
            yield f'<text class="note" x="{self.x(value) + shift:.1f}" y="{_TOP + _HEIGHT + 16}">{value:.3g}</text>'
        yield f'<text class="note" x="{_LEFT}" y="{_TOP - 4}">{markup(f"{y}, against {x}")}</text>'


def _dot(plane: _Plane, x: float, y: float, name: str, kind: str) -> str:
    at = f'cx="{plane.x(x):.1f}" cy="{plane.y(y):.1f}"'
    told = f"<title>{markup(f'{name}: {x:.4g}, {y:.3g}')}</title>"
    named = f'<text class="note" x="{plane.x(x) + 6:.1f}" y="{plane.y(y) - 5:.1f}">{markup(name)}</text>'
    return f'<g>{told}<circle class="{kind}" {at} r="4"/>{named}</g>'


def _axis(largest: float, unit: str) -> Iterator[str]:
    """Lines at nothing, half and all of the largest value, with what they stand for."""
    for share in (0.0, 0.5, 1.0):
        y = _TOP + _HEIGHT * (1 - share)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="label" x="{_LEFT - 6}" y="{y + 4:.1f}">{markup(f"{largest * share:.2g}")}</text>'
    yield f'<text class="note" x="{_LEFT}" y="{_TOP - 4}">{markup(unit)}</text>'


def _groups(items: Sequence[Column], step: float) -> Iterator[str]:
    """A line before each run of columns of one group, and the group's name below, where there is room."""
    free = float(_LEFT)
    for name, run in itertools.groupby(enumerate(items), lambda pair: pair[1].group):
        first = next(run)[0]
        x = _LEFT + first * step
        if first:
            yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + _HEIGHT + 4}"/>'
        if name and x >= free:
            yield f'<text class="note" x="{x + 2:.1f}" y="{_TOP + _HEIGHT + 16}">{markup(name)}</text>'
            free = x + _LETTER * (len(name) + 1)


def _column(item: Column, index: int, step: float, scale: float) -> str:
    height = max(item.value * scale, 1.0)
    gap = min(step / 5, 3.0)
    box = f'x="{_LEFT + index * step + gap / 2:.2f}" y="{_TOP + _HEIGHT - height:.1f}" width="{step - gap:.2f}"'
    told = f"<title>{markup(item.label)}: {markup(item.text)}</title>"
    return f'<g>{told}<rect class="{markup(item.kind)}" {box} height="{height:.1f}"/></g>'


def _line(heights: Sequence[float | None], step: float, scale: float) -> str:
    """A line through the middle of the columns."""
    known = [(index, height) for index, height in enumerate(heights) if height is not None]
    if not known:
        return ""
    points = " ".join(f"{_LEFT + (i + 0.5) * step:.1f},{_TOP + _HEIGHT - height * scale:.1f}" for i, height in known)
    return f'<polyline class="line" points="{points}"/>'
