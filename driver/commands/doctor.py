"""`tersor doctor`: whether this machine can compile and run."""

from __future__ import annotations

import typer

from .. import console
from .options import Json

_MARKS = {"ok": "ok", "note": "note", "broken": "BROKEN"}


def doctor(json: Json = False) -> None:
    """Check versions, CPU features, threads, temp folder and runtimes; exits with 1 when something is broken."""
    from ..doctor import examine
    from ..host import host, versions

    checks = []
    with console.steps("doctor") as progress:
        for check in examine():
            progress.say(check.subject)
            checks.append(check)
    broken = [check for check in checks if check.state == "broken"]
    hints = [[check.subject, check.hint] for check in checks if check.hint]
    console.show(
        {"ok": not broken, "checks": checks, "host": host(), "versions": versions()},
        console.table("", "", "", rows=([_MARKS[check.state], check.subject, check.value] for check in checks)),
        *console.part("hints", console.table("", "", rows=hints) if hints else None),
        f"\n{len(broken)} broken" if broken else "\nready",
        as_json=json,
    )
    if broken:
        raise typer.Exit(1)
