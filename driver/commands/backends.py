"""`tersor backends`: the targets, what is installed of them, and their options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from .. import console
from .describe import Described, describe
from .options import Json


@dataclass(frozen=True)
class Row:
    """One backend; `version` is None where its runtime is not installed, `hint` then says how to install it.

    lowering: the passes that it runs, as `tersor passes NAME` shows them.
    """

    name: str
    version: str | None
    summary: str
    hint: str
    options: list[Described]
    lowering: list[str]


def backends(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="Show only this backend.")
    ] = None,
    json: Json = False,
) -> None:
    """List the backends: what --target takes, which are installed, their versions and options."""
    from ...backends import catalogue

    rows = [_row(each) for each in (catalogue.table() if name is None else [name])]
    groups = {group: list(members) for group, members in catalogue.GROUPS.items() if name is None}
    options = [[row.name, item.name, item.type, item.default] for row in rows for item in row.options]
    meanings = [[item.name, item.meaning] for row in rows for item in row.options if name is not None and item.meaning]
    console.show(
        {"backends": rows, "groups": groups},
        console.table(
            "target",
            "version",
            "what it is",
            rows=([row.name, row.version or f"not installed: {row.hint}", row.summary] for row in rows),
        ),
        *(
            f"\n[bold]{group}[/] compiles for each installed one of {', '.join(members)} and keeps the fastest"
            for group, members in groups.items()
        ),
        console.heading("options, as in --target 'NAME{option=value}'"),
        console.table("target", "option", "type", "default", rows=options),
        *((console.heading("what they do"), console.table("", "", rows=meanings)) if meanings else ()),
        console.heading("lowering"),
        console.table("", "", rows=([row.name, ", ".join(row.lowering)] for row in rows)),
        as_json=json,
    )


def _row(name: str) -> Row:
    from ...backends import catalogue
    from ..stages import lowering

    try:
        kind = catalogue.find(name)
    except (ImportError, AttributeError) as error:
        return Row(name, None, "", f"it cannot be imported: {error}", [], [])
    version = kind.version()
    summary = (kind.__doc__ or "").strip().split("\n")[0]
    passes = [made.name for made in lowering(name)]
    return Row(name, version, summary, "" if version is not None else kind.install, describe(kind), passes)
