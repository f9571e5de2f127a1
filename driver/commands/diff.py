"""`tersor diff A B`: what differs between two models."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from .. import console
from ..units import change, error, plural, size
from .options import Data, Dimensions, Json, Seed, dimensions

if TYPE_CHECKING:
    from ...ir.compare import Comparison
    from ..diff import Difference, NodeChange, NodeNote

_MODEL = "The {} model: any SOURCE that `tersor inspect` takes."


def diff(
    a: Annotated[str, typer.Argument(metavar="A", show_default=False, help=_MODEL.format("first"))],
    b: Annotated[str, typer.Argument(metavar="B", show_default=False, help=_MODEL.format("second"))],
    numeric: Annotated[bool, typer.Option("--numeric", help="Run both and compare what they answer.")] = False,
    data: Data = None,
    dims: Dimensions = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="With --numeric: largest relative L2 error of an output.")
    ] = 1e-4,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Lines shown of each kind; 0 shows all.")] = 20,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare two models, structure first; exits with 1 when they differ.

    With --numeric both are run on the same feeds, and only answers further apart than --tolerance count.
    """
    from ...ir.load import load
    from ..diff import diff as compare_graphs

    sizes = dimensions(dims)
    answers: Comparison | None = None
    with console.steps("diff") as progress:
        progress.say(f"load {a}")
        first = load(a)
        progress.say(f"load {b}")
        second = load(b)
        progress.say("align the graphs")
        found = compare_graphs(first, second)
        if numeric:
            from ...ir.compare import compare
            from ..feeding import feeds_for

            progress.say("run both")
            feeds = feeds_for(first, data, sizes, seed)
            answers = compare(first, second, feeds, locate=True, tolerance=tolerance)
    same = found.same if answers is None else answers.within(tolerance)
    console.show(
        {"same": same, "a": a, "b": b, "structure": found, "numeric": answers, "tolerance": tolerance},
        *_heads((a, b), found),
        *_structure(found, limit or sys.maxsize),
        *([] if answers is None else _numeric(answers, tolerance)),
        as_json=json,
    )
    if not same:
        raise typer.Exit(1)


def _heads(names: tuple[str, str], found: Difference) -> Iterator[RenderableType]:
    rows = (
        [letter, name, plural(held.nodes, "node"), f"{size(held.bytes)} of weights"]
        for letter, name, held in zip("AB", names, found.sizes, strict=True)
    )
    yield console.table("", "", ">", ">", rows=rows)
    if found.same:
        yield "\nThe graphs are equal."


def _structure(found: Difference, limit: int) -> Iterator[RenderableType]:
    yield from _part("interface", [console.literal(line) for line in found.interface], limit)
    yield from _part("opsets", list(found.opsets), limit)
    if found.ops:
        yield console.heading("ops")
        rows = ([op, before, after, f"{after - before:+d}"] for op, (before, after) in found.ops.items())
        yield console.table("op", ">A", ">B", ">B - A", rows=rows)
    if found.changed or found.removed or found.added:
        counts = f"{len(found.changed)} changed, {len(found.removed)} only in A, {len(found.added)} only in B"
        yield console.heading(f"nodes: {found.equal} equal, {counts}")
    yield from _part("changed", [_change(node) for node in found.changed], limit)
    yield from _part("only in A", [f"[red]- {_line(node)}[/]" for node in found.removed], limit)
    yield from _part("only in B", [f"[green]+ {_line(node)}[/]" for node in found.added], limit)
    yield from _weights(found, limit)


def _weights(found: Difference, limit: int) -> Iterator[RenderableType]:
    if not found.weights:
        return
    before, after = (sum(weight.bytes[side] for weight in found.weights) for side in (0, 1))
    total = f"{size(before)} -> {size(after)}" + ("" if before == after else f", {change(before, after)}")
    yield console.heading(f"weights: {len(found.weights)} differ, {total}")
    largest = sorted(found.weights, key=lambda weight: -max(weight.bytes))[:limit]
    rows = (
        [w.name, w.before or "absent", w.after or "absent", size(w.bytes[0]), size(w.bytes[1]), error(w.error)]
        for w in largest
    )
    yield console.table("weight", "A", "B", ">size A", ">size B", ">relative L2", rows=rows)
    yield from _more(len(found.weights) - len(largest))


def _numeric(found: Comparison, tolerance: float) -> Iterator[RenderableType]:
    verdict = "within" if found.within(tolerance) else "over"
    batches = plural(found.feeds, "batch")
    yield console.heading(f"answers on {batches}: {verdict} the tolerance (relative L2 {tolerance:g})")
    rows = (
        [out.name, error(out.relative_l2), error(out.max_abs), f"{out.cosine:.8f}", out.nan_mismatch or "", out.note]
        for out in found.outputs
    )
    yield console.table("output", ">relative L2", ">max abs", ">cosine", ">NaN/Inf", "", rows=rows)
    if found.first_diverging is not None:
        yield console.literal(f"first diverging value: {found.first_diverging}")


def _part(title: str, lines: Sequence[str], limit: int) -> Iterator[RenderableType]:
    if lines:
        yield console.heading(title)
        yield "\n".join(f"  {line}" for line in lines[:limit])
        yield from _more(len(lines) - limit)


def _more(count: int) -> Iterator[RenderableType]:
    if count > 0:
        yield f"  and {count:,} more; --limit 0 shows all"


def _change(node: NodeChange) -> str:
    """What differs, and both lines unless they read alike."""
    what = f"[bold]{console.literal(node.place)}[/]: {console.literal('; '.join(node.what))}"
    if node.before == node.after:
        return what
    return f"{what}\n    [red]- {console.literal(node.before)}[/]\n    [green]+ {console.literal(node.after)}[/]"


def _line(node: NodeNote) -> str:
    names = ", ".join(node.stands_for[:3]) + (", ..." if node.stands_for[3:] else "")
    return console.literal(node.line + (f"    stands for {names}" if names else ""))
