"""docs/ops.md, the coverage page, from the tables: `python -m tersor.ir.fx.page > docs/ops.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping

import onnx

from .host import HOST
from .lowering import Function, Key, Lowering, Table
from .ops.contrib import CONTRIB
from .ops.contrib.absent import ABSENT, ALIASES
from .table import FAMILIES, FORMS

#: The oldest opset that the page speaks of.
_OLDEST = 7

_HEAD = """# Ops: what `tersor.to_fx` converts

Made by `make docs` from the tables of `ir/fx`; a test holds it to them. Of the {count} operators of `ai.onnx` in force
from opset {oldest} to {newest} (onnx {version}), {covered} have a lowering, each with the semantics of the version that
a model's opset asks for. A model with an op that has none is refused, with the places of all such ops
(`UnsupportedError`).

**since** lists the versions of an operator's definition from opset {oldest} on; **rows** the versions at which our
table starts a row of its own, where one row does not serve all of them. **host** marks ops that are also computed on
Python ints, for shape arithmetic. **by** is the function that computes it.
"""

_CONTRIB = """Of the {count} ops of ONNX Runtime's domain `com.microsoft` (1.31), {covered} have a lowering:
"""


def page() -> str:
    """The page's text."""
    defined = schemas()
    absent = sorted(set(defined) - {op for domain, op, _ in _rows() if domain == ""})
    newest = onnx.defs.onnx_opset_version()
    count = len(defined)
    head = _HEAD.format(
        count=count, covered=count - len(absent), oldest=_OLDEST, newest=newest, version=onnx.__version__
    )
    parts = [head, "## Not converted\n", *_absent(absent), _contrib()]
    for family, table in FAMILIES.items():
        parts.append(f"## {family}\n")
        parts.append("\n".join(_table(table, defined)) + "\n")
    parts.append("## Control flow and constants\n")
    parts.append("\n".join(_table({key: Lowering(function=form) for key, form in FORMS.items()}, defined)) + "\n")
    return "\n".join(parts)


def schemas() -> dict[str, list[int]]:
    """The operators of the standard domain that a model of opset 7 or newer may hold -> their versions from then on."""
    history: dict[str, dict[int, bool]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, {})[schema.since_version] = schema.deprecated
    found: dict[str, list[int]] = {}
    for name, versions in history.items():
        start = max((since for since in versions if since <= _OLDEST), default=0)
        live = sorted(since for since, deprecated in versions.items() if since >= start and not deprecated)
        if live:
            found[name] = live
    return dict(sorted(found.items()))


def _rows() -> Iterator[Key]:
    for table in FAMILIES.values():
        yield from table
    yield from FORMS


def _absent(names: list[str]) -> list[str]:
    return [f"{', '.join(f'`{name}`' for name in names)}\n" if names else "None.\n"]


def _contrib() -> str:
    """Which of ONNX Runtime's own ops are left out, one line a reason."""
    reasons: dict[str, list[str]] = {}
    for op, reason in sorted(ABSENT.items()):
        reasons.setdefault(reason, []).append(op)
    own = {op for domain, op, _ in CONTRIB if domain == "com.microsoft"} - set(ALIASES)
    lines = [_CONTRIB.format(count=len(own | set(ABSENT)), covered=len(own)), "| op | why not |", "| --- | --- |"]
    lines += [_line(", ".join(f"`{op}`" for op in ops), reason) for reason, ops in reasons.items()]
    return "\n".join(lines) + "\n"


def _table(table: Table, defined: Mapping[str, list[int]]) -> Iterator[str]:
    by_op: dict[tuple[str, str], dict[int, Lowering]] = {}
    for (domain, op, since), entry in table.items():
        by_op.setdefault((domain, op), {})[since] = entry
    yield "| op | since | rows | host | by |"
    yield "| --- | --- | --- | --- | --- |"
    for (domain, op), rows in sorted(by_op.items()):
        functions = dict.fromkeys(_name(entry.function) for _, entry in sorted(rows.items()))
        yield _line(
            f"`{domain}.{op}`" if domain else f"`{op}`",
            _listed(defined.get(op, ())) if domain == "" else "",
            _listed(sorted(rows)) if len(rows) > 1 else "",
            "yes" if any((domain, op) == key[:2] for key in HOST) else "",
            ", ".join(f"`{name}`" for name in functions),
        )


def _name(function: Function) -> str:
    inner = inspect.unwrap(getattr(function, "func", function))
    module, name = getattr(inner, "__module__", None) or "torch", getattr(inner, "__name__", type(inner).__name__)
    package = __package__ or ""
    return f"{module.removeprefix(f'{package}.')}.{name}" if module.startswith(package) else f"torch.{name}"


def _listed(versions: Iterable[int]) -> str:
    return ", ".join(map(str, versions))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page(), end="")
