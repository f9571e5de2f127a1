"""`tersor new-pass`: a pass and its test to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console
from .options import Json


def new_pass(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Its name: words joined by hyphens.")],
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where to write; made if it is not there.")
    ] = Path(),
    json: Json = False,
) -> None:
    """Write a pass of your own and its test, both of which work as written."""
    from ..scaffold import Scaffold

    made = Scaffold(name, folder)
    written, test = made.write()
    steps = (
        [f"python -m pytest {test}", "its test passes as written"],
        [str(written), "say what it does, where it fires and what it leaves alone; then its test"],
        [f"tersor explain model.onnx {made.module}:{made.kind}", f"where it fires (in {folder.resolve()})"],
        [f"tersor compile model.onnx --passes {made.module}:{made.kind} -o compiled", "with it"],
    )
    console.show(
        {"name": name, "class": f"{made.module}:{made.kind}", "pass": written, "test": test},
        f"wrote {console.literal(str(written))}\nwrote {console.literal(str(test))}\n\nnext",
        console.table("", "", rows=steps),
        "\ndocs/writing-passes.md explains each part.",
        as_json=json,
    )
