"""`tersor inspect SOURCE`: a model on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from .. import console
from ..units import amount, plural, size
from .options import Dimensions, Json, Source, dimensions

if TYPE_CHECKING:
    from ..axes import AxisGroup
    from ..inspect import Inspection, Part

#: Shapes of weights that are shown of each kind of site.
_SHAPES = 6
#: Reasons that are shown of what holds a group.
_REASONS = 3


def inspect(
    source: Source,
    dims: Dimensions = None,
    raised: Annotated[
        bool, typer.Option("--raise", help="Bring it to the semantic level first, as compile does.")
    ] = False,
    axes: Annotated[
        bool, typer.Option("--axes", help="Also what can be cut as one: the groups of dependent axes.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a model: inputs and outputs, level, ops, repeated blocks, weight sites, and what each part costs.

    FLOPs and traffic are formulas over the dynamic dimensions that --dims leaves open.
    """
    from ...ir.load import load
    from ..inspect import inspect as look

    sizes = dimensions(dims)
    with console.steps("inspect") as progress:
        progress.say(f"load {source}")
        model = load(source)
        if raised:
            from ...passes.presets import RAISING
            from ...passes.run import Verify, run_pipeline

            run_pipeline(RAISING, model, verify=Verify.OFF, observe=progress.say)
        progress.say("cost and blocks")
        found = look(model, sizes, axes=axes)
    console.show({"source": source, **_fields(found)}, *_screen(source, found), as_json=json)


def _fields(found: Inspection) -> Mapping[str, object]:
    fields = dict(vars(found))
    if found.axes is None:
        del fields["axes"]
    return fields


def _screen(source: str, found: Inspection) -> Iterator[RenderableType]:
    yield f"[bold]{console.literal(source)}[/]"
    yield console.table("", "", rows=_about(found))
    yield console.heading("cost")
    flops, traffic = (">FLOPs", ">activations") if _settled(found) else ("FLOPs", "activations")
    yield console.table("", ">nodes", ">parameters", ">weights", flops, traffic, rows=_costs(found))
    if found.sites:
        yield console.heading("weight sites")
        rows = (
            [group.kind, f"{group.count:,}", amount(group.parameters), size(group.bytes), _shapes(group.shapes)]
            for group in found.sites
        )
        yield console.table("kind", ">sites", ">parameters", ">weights", "in x out (how often)", rows=rows)
    yield from console.part("dependent axes", _axes(found.axes))
    if found.uncounted:
        some = "; ".join(found.uncounted[:3]) + ("; ..." if found.uncounted[3:] else "")
        yield console.literal(f"\nFLOPs leave out {plural(len(found.uncounted), 'node')}: {some}")


def _axes(groups: Sequence[AxisGroup] | None) -> RenderableType | None:
    """One line for groups that are alike."""
    from ..axes import rows

    if groups is None:
        return None
    lines = (
        [
            f"{row.count:,}", f"{row.first.units:,}", row.first.what, f"{len(row.first.weights):,}",
            f"{row.first.parameters:,}", _holds(row.first.held_by), row.where,
        ]
        for row in rows(groups)
    )  # fmt: skip
    columns = (">groups", ">units", "what", ">weights", ">parameters a unit", "held by", "made by -> read by")
    return console.table(*columns, rows=lines)


def _holds(reasons: Sequence[str]) -> str:
    return "; ".join(reasons[:_REASONS]) + (f"; {len(reasons) - _REASONS} more" if reasons[_REASONS:] else "")


def _about(found: Inspection) -> Iterator[tuple[str, str]]:
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    made = f", made by {found.producer}" if found.producer else ""
    yield "level", f"{found.level}, opset {opsets}, IR version {found.ir_version}{made}"
    yield from _numbered("input", found.inputs)
    yield from _numbered("output", found.outputs)
    if found.ranges:
        limits = ((name, low, "any" if high is None else high) for name, (low, high) in found.ranges.items())
        yield "ranges", ", ".join(f"{name} {low} to {high}" for name, low, high in limits)
    listed = ", ".join(f"{op} {count}" for op, count in found.ops.items())
    yield f"ops ({len(found.ops)})", listed or "none"
    if found.functions:
        yield "functions", ", ".join(found.functions)


def _numbered(noun: str, ports: Sequence[str]) -> Iterator[tuple[str, str]]:
    for index, port in enumerate(ports):
        yield (f"{noun}s ({len(ports)})" if ports[1:] else noun) if index == 0 else "", port


def _costs(found: Inspection) -> Iterator[list[object]]:
    """Blocks whose cells read alike are one line."""
    blocks = ((part.label, _cells(part)) for part in found.blocks)
    for (_, cells), run in groupby(blocks, key=lambda entry: (entry[0].partition(".")[0], entry[1])):
        names = [label.partition(".")[2] for label, _ in run]
        yield [f"blocks {names[0]} to {names[-1]}, each" if names[1:] else f"block {names[0]}", *cells]
    if found.rest is not None:
        yield ["outside of blocks", *_cells(found.rest)]
    yield ["total", *_cells(found.total)]


def _cells(part: Part) -> list[str]:
    flops = amount(part.flops, "FLOP") if isinstance(part.flops, int) else part.flops
    traffic = size(part.traffic) if isinstance(part.traffic, int) else f"{part.traffic} B"
    return [f"{part.nodes:,}", amount(part.parameters), size(part.bytes), flops, traffic]


def _settled(found: Inspection) -> bool:
    return isinstance(found.total.flops, int) and isinstance(found.total.traffic, int)


def _shapes(shapes: Mapping[str, int]) -> str:
    listed = [f"{shape} ({count})" for shape, count in list(shapes.items())[:_SHAPES]]
    return ", ".join(listed) + (f", {len(shapes) - _SHAPES} other shapes" if len(shapes) > _SHAPES else "")
