"""Is every condition of a match held by a test? Each is made false in a copy of the code, and the pass's tests are run.

    python benchmarks/mutations.py                             the passes that raise
    python benchmarks/mutations.py --only raise_gelu           those whose file matches
    python benchmarks/mutations.py --folder passes/fuse        another family

A condition is the test of an `if` that returns a `Miss` or None. A mutant that no test notices survives and is listed:
either a test is wanting, or the condition says what others say already.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tersor.benchmarks._common import options, publish

ROOT = Path(__file__).parents[1]
#: Seconds that the tests of one file may take; a mutant that makes them take longer is noticed.
LIMIT = 600.0
_LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")


@dataclass(frozen=True)
class Condition:
    """The test of an `if` as bytes [start, end) of its file."""

    line: int
    start: int
    end: int
    text: str


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--only", default="", help="a regular expression that the files' names match")
    parser.add_argument("--folder", default="passes/raising", help="the files to corrupt")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="tersor-mutations-") as place:
        copy = Path(place) / "tersor"
        shutil.copytree(ROOT, copy, ignore=_LEFT_OUT)
        rows = [row for path in chosen(copy, given.folder, given.only) for row in [_row(copy, path)] if row]
    publish("mutations", "Conditions of matches made false", rows, given)
    raise SystemExit(1 if any(row["survived"] for row in rows) else 0)


def chosen(copy: Path, folder: str, only: str) -> list[Path]:
    """The files of passes that have tests of their own."""
    files = sorted((copy / folder).rglob("*.py"))
    return [path for path in files if re.search(only, path.stem) and tests(copy, path)]


def tests(copy: Path, path: Path) -> list[Path]:
    """The test files that mirror a file."""
    return sorted((copy / "tests" / path.parent.relative_to(copy)).glob(f"test_{path.stem}*.py"))


def conditions(source: str) -> Iterator[Condition]:
    """Every test of an `if` whose body begins by returning a `Miss` or None."""
    begins = [0]
    for line in source.splitlines(keepends=True):
        begins.append(begins[-1] + len(line.encode()))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and isinstance(node.body[0], ast.Return) and _refuses(node.body[0].value):
            test = node.test
            assert test.end_lineno is not None and test.end_col_offset is not None
            start, end = begins[test.lineno - 1] + test.col_offset, begins[test.end_lineno - 1] + test.end_col_offset
            yield Condition(node.lineno, start, end, " ".join(source.encode()[start:end].decode().split()))


def _refuses(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id == "Miss"
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _row(copy: Path, path: Path) -> dict[str, object]:
    source = path.read_text(encoding="utf-8")
    mutants = list(conditions(source))
    survived = [mutant for mutant in mutants if not _noticed(copy, path, source, mutant)]
    if not mutants:
        return {}
    print(f"{path.stem}: {len(mutants) - len(survived)} of {len(mutants)}", file=sys.stderr, flush=True)
    return {
        "file": path.relative_to(copy).as_posix(),
        "conditions": len(mutants),
        "noticed": len(mutants) - len(survived),
        "survived": "; ".join(f"{mutant.line}: {mutant.text}" for mutant in survived),
    }


def _noticed(copy: Path, path: Path, source: str, mutant: Condition) -> bool:
    raw = source.encode()
    path.write_bytes(raw[: mutant.start] + b"False" + raw[mutant.end :])
    try:
        return not _pass(copy, tests(copy, path))
    finally:
        path.write_bytes(raw)


def _pass(copy: Path, files: Sequence[Path]) -> bool:
    program = [sys.executable, "-m", "pytest", "-qx", "-n0", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(program, cwd=copy, env=environment, capture_output=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    main()
