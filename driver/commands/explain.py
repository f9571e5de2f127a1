"""`tersor explain SOURCE PASS`: where a pass fires, and why not elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from .. import console
from ..units import plural
from .options import Data, Json, Source

if TYPE_CHECKING:
    from ...passes.base import Curve, Finding
    from ..explain import Explanation


def explain(
    source: Source,
    passes: Annotated[
        str,
        typer.Argument(
            metavar="PASS",
            show_default=False,
            help="A pass with its options, as in 'quantize-dynamic{rows=true}'; of several, those before the last are "
            "applied and the last is explained.",
        ),
    ],
    data: Data = None,
    imported: Annotated[
        bool, typer.Option("--imported", help="Explain on the graph as loaded, without raising it first.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the graph around every miss, not the first of a kind.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Places shown of each kind; 0 shows all.")] = 20,
    json: Json = False,
) -> None:
    """Say for each candidate place of a pass why it fires, or what it would need."""
    from ..explain import explain as run

    with console.steps("explain") as progress:
        found = run(source, passes, data=data, imported=imported, observe=progress.say)
    console.show(found, *_text(found, verbose, limit or len(found.fired) + len(found.missed)), as_json=json)


def _text(found: Explanation, verbose: bool, limit: int) -> Iterator[RenderableType]:
    places = len(found.fired) + len(found.missed)
    counts = f"fires at {len(found.fired)} of {plural(places, 'place')}" if places else "has no candidate place"
    held = f", {found.whole:,} {'are' if found.whole > 1 else 'is'} whole already" if found.whole else ""
    yield f"[bold]{console.literal(found.text)}[/] {counts}{held} (after {found.after}); {found.contract}"
    if found.curve is not None:
        yield console.heading(f"would choose {_point(*found.curve.chosen, found.curve)}")
        yield "\n".join(f"  {name}: {_point(x, y, found.curve)}" for name, x, y in found.curve.others)
    if found.fired:
        yield console.heading("fires")
        yield "\n".join(f"  {_place(finding)}" for finding in found.fired[:limit])
        yield from _more(len(found.fired) - limit)
    for (rule, need), findings in _grouped(found.missed).items():
        yield console.heading(f"{rule}: needs {need} ({plural(len(findings), 'place')})")
        for number, finding in enumerate(findings[:limit]):
            yield f"  {_place(finding)}: {console.literal(finding.miss.value if finding.miss else '')}"
            if finding.miss is not None and finding.miss.reached:
                yield f"      came through {console.literal(', '.join(finding.miss.reached))}"
            if (verbose or not number) and finding.place in found.excerpts:
                yield f"[dim]{console.literal(textwrap.indent(found.excerpts[finding.place], '      '))}[/]"
        yield from _more(len(findings) - limit)


def _grouped(missed: Sequence[Finding]) -> dict[tuple[str, str], list[Finding]]:
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in missed:
        if finding.miss is not None:
            groups.setdefault((finding.miss.rule, finding.miss.need), []).append(finding)
    return groups


def _place(finding: Finding) -> str:
    # `MatMul at node` of a node, `weight (MatMul at node)` of a site
    own = finding.place.rpartition(" at ")[2].rstrip(")")
    module = f" in {finding.scope}" if finding.scope and finding.scope not in own.replace("/", ".") else ""
    others = [name for name in finding.sources if name != own]
    stands = f"   (source: {', '.join(others[:3])}{', ...' if others[3:] else ''})" if others else ""
    chosen = f": {finding.chosen}" if finding.chosen else ""
    return console.literal(finding.place + module + chosen + stands)


def _point(x: float, y: float, curve: Curve) -> str:
    return f"{x:.4g} {curve.x}, {y:.3g} {curve.y}"


def _more(count: int) -> Iterator[RenderableType]:
    if count > 0:
        yield f"  and {count:,} more; --limit 0 shows all"
