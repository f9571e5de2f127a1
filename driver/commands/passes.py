"""`tersor passes`: the catalogue, or one pass in full."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from .describe import Described, describe
from .options import Json

if TYPE_CHECKING:
    from ...passes.base import Pass


def passes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, help="Show this pass in full.")
    ] = None,
    json: Json = False,
) -> None:
    """List the passes, or show one: what it rewrites, its contract and its options."""
    if name is None:
        _list(json)
    else:
        _show(name, json)


def _list(json: bool) -> None:
    from ...ir.errors import OptionError
    from ...passes import catalogue

    rows: list[dict[str, str | None]] = []
    for name in catalogue.table():
        try:
            kind = catalogue.find(name)
        except OptionError as error:
            rows.append({"name": name, "contract": None, "level": None, "summary": None, "error": str(error)})
            continue
        row = {"name": name, "contract": str(kind.contract), "level": kind.level.value, "summary": kind.summary()}
        rows.append(row | {"error": None})
    cells = ([row["name"], row["contract"], row["summary"] or f"error: {row['error']}"] for row in rows)
    console.show(
        {"passes": rows},
        console.table("pass", "contract", "what it does", rows=cells),
        "\n`tersor passes NAME` shows one in full; `tersor explain SOURCE NAME` shows where it fires.",
        as_json=json,
    )


def _show(name: str, json: bool) -> None:
    kind = _find(name)
    options = describe(kind)
    document = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "") or inspect.getdoc(kind) or ""
    where = f"{kind.__module__}:{kind.__qualname__}"
    rows = ([item.name, item.type, item.default] for item in options)
    console.show(
        {
            "name": name,
            "class": where,
            "contract": str(kind.contract),
            "level": kind.level.value,
            "summary": kind.summary(),
            "description": document,
            "options": [dataclasses.asdict(item) for item in options],
        },
        f"[bold]{console.literal(name)}[/]\n",
        console.literal(document),
        f"\ncontract   {kind.contract}\nlevel      {kind.level.value}\nclass      {where}",
        *console.part("options", console.table("name", "type", "default", rows=rows) if options else None),
        console.literal(f"\ntersor compile model.onnx -o out --passes '{_example(name, options[:1])}'"),
        as_json=json,
    )


def _find(name: str) -> type[Pass]:
    """From the catalogue, else from the lowering of a backend."""
    from ...ir.errors import OptionError
    from ...passes import catalogue
    from ..stages import standing

    try:
        return catalogue.find(name)
    except OptionError:
        place = standing(name)
        if place is None:
            raise
        return type(place.made)


def _example(name: str, options: list[Described]) -> str:
    return name + "".join(f"{{{item.name}={item.default}}}" for item in options)
