"""The groups of dependent axes of a model (`ir.axes`) as `tersor inspect --axes` tells of them.

groups  units   what    weights   parameters a unit   where                                     held by
6       12      heads   7         49,248              layer.*.{query, key, value} -> layer.*.dense
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir

from ..ir.axes import Axis, Dependencies, Group, Hold, Why, dependencies
from ..ir.site import Kind, Site, sites

_NUMBER = re.compile(r"\d+")
#: A whole part of a name that is a number, or the star in its place: which of several modules.
_PLACE = re.compile(r"(?<![^.])(\d+|\*)(?![^.])")
#: Names that are shown of each end of a group.
_SHOWN = 4


@dataclass(frozen=True)
class AxisGroup:
    """One group of axes that are cut together.

    what: what its units are to the ops that count them. makers, readers: the weight sites whose outputs and inputs
    they are. parameters: elements of weights that one unit takes with it. holds: why it may not be cut, in full.
    """

    units: int
    what: str
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    weights: tuple[str, ...]
    parameters: int
    holds: tuple[str, ...]
    held_by: tuple[str, ...]

    @property
    def free(self) -> bool:
        """Whether nothing holds it."""
        return not self.holds


@dataclass(frozen=True)
class Row:
    """Groups that are alike but for the numbers in their names. where: from the sites that make to those that read."""

    count: int
    first: AxisGroup
    where: str


def axis_groups(model: onnx_ir.Model) -> tuple[AxisGroup, ...]:
    """All groups of axes that weights have, in the order of the graph.

    Raises ModelError for a model whose opset is too old to be followed before it is raised.
    """
    found = dependencies(model)
    made, read = _ends(found, sites(model))
    return tuple(
        AxisGroup(
            units=group.size,
            what=_what(group),
            makers=tuple(made.get(group.axis, {})),
            readers=tuple(read.get(group.axis, {})),
            weights=tuple(dict.fromkeys(value.name or "" for value, _ in group.weights)),
            parameters=group.parameters,
            holds=tuple(map(str, group.holds)),
            held_by=tuple(dict.fromkeys(map(_short, group.holds))),
        )
        for group in found.groups
    )


def rows(groups: Iterable[AxisGroup]) -> list[Row]:
    """Groups that are alike as one row, free ones first."""
    alike: dict[object, list[AxisGroup]] = {}
    for group in groups:
        names = (group.makers, group.readers, group.weights, group.held_by)
        key = (group.units, group.what, group.parameters, *(tuple(map(_skeleton, part)) for part in names))
        alike.setdefault(key, []).append(group)
    found = [Row(len(members), members[0], _where(members)) for members in alike.values()]
    return sorted(found, key=lambda row: not row.first.free)


def _ends(
    found: Dependencies, listed: Iterable[Site]
) -> tuple[dict[Axis, dict[str, None]], dict[Axis, dict[str, None]]]:
    """The sites that make and that read the units of each leaf. What a recurrence reads of itself is its own."""
    made: dict[Axis, dict[str, None]] = {}
    read: dict[Axis, dict[str, None]] = {}
    for site in listed:
        for leaf in _leaves(found, site.output, site.output_axis):
            made.setdefault(leaf, {})[site.name] = None
        if site.kind not in (Kind.RECURRENT_HIDDEN, Kind.EMBEDDING):
            for leaf in _leaves(found, site.activation, site.axis):
                read.setdefault(leaf, {})[site.name] = None
    return made, read


def _leaves(found: Dependencies, value: onnx_ir.Value, at: int) -> Iterator[Axis]:
    axis = found.axis(value, at)
    return iter(()) if axis is None else axis.leaves()


def _what(group: Group) -> str:
    roles = sorted(role.value for role in group.roles)
    if roles:
        return ", ".join(roles)
    return "rows" if any(hold.why is Why.ROWS for hold in group.holds) else "features"


def _short(hold: Hold) -> str:
    """A reason without the node."""
    if hold.why is Why.FIXED:
        return hold.where.partition(" at ")[0].rstrip(":")
    return str(hold) if hold.why in (Why.INPUT, Why.OUTPUT) else hold.why.value


def _skeleton(name: str) -> str:
    return _NUMBER.sub("*", name)


def _where(members: Sequence[AxisGroup]) -> str:
    makers, readers = (_names(list(zip(*each, strict=True))) for each in _both(members))
    if not makers and not readers:
        return _names(list(zip(*(group.weights for group in members), strict=True)))
    return f"{makers} -> {readers}" if makers and readers else makers or f"-> {readers}"


def _both(members: Sequence[AxisGroup]) -> Iterator[list[tuple[str, ...]]]:
    yield [group.makers for group in members]
    yield [group.readers for group in members]


def _names(columns: Iterable[Sequence[str]]) -> str:
    """Names in few words, each as it reads in several groups: numbers in which they differ are stars, modules that
    differ in their number are one, and a stem that names share is written once.

    >>> _names([["layer.0.query", "layer.1.query"], ["layer.0.key", "layer.1.key"], ["fc.2", "fc.2"]])
    'layer.*.{query, key}, fc.2'
    >>> _names([["layer.0.w1"], ["layer.0.w3"], ["layer.1.w1"], ["layer.1.w3"]])
    'layer.*.{w1, w3}'
    """
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(map(_starred, columns)):
        alike.setdefault(_PLACE.sub("*", name, count=1), []).append(name)
    names = [members[0] if len(members) == 1 else pattern for pattern, members in alike.items()]
    stems: dict[str, list[str]] = {}
    for name in names:
        stem, dot, last = name.rpartition(".")
        stems.setdefault(stem + dot, []).append(last)
    parts = [
        each
        for stem, lasts in stems.items()
        for each in ([f"{stem}{{{', '.join(lasts)}}}"] if stem and lasts[1:] else [stem + last for last in lasts])
    ]
    return ", ".join(parts[:_SHOWN]) + (f" and {len(parts) - _SHOWN} more" if parts[_SHOWN:] else "")


def _starred(names: Sequence[str]) -> str:
    """A name whose numbers are those of all, or a star."""
    numbers = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    shared = iter([column[0] if len(set(column)) == 1 else "*" for column in numbers])
    return _NUMBER.sub(lambda _: next(shared), names[0])
