"""Passes that were asked for and changed nothing: which they are, and why, from the misses in their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..ir.errors import UnchangedError

#: Kinds of misses that are written out.
_SHOWN = 3

#: A pass as the manifest keeps it.
Record = Mapping[str, object]


def idle(records: Iterable[Record]) -> list[Record]:
    """Those that fired nowhere and left nodes and bytes as they were."""
    return [
        record for record in records if not record["matches"] and _still(record, "nodes") and _still(record, "bytes")
    ]


def why(record: Record) -> str:
    """The misses of a pass by what was needed, the most frequent first: one line.

    >>> miss = {"rule": "size", "value": "12 weights", "need": "at least 1024"}
    >>> why({"misses": [miss, miss, {"rule": "kind", "value": "conv", "need": "the option convolutions=true"}]})
    '2 x size: 12 weights; needed at least 1024 | 1 x kind: conv; needed the option convolutions=true'
    """
    groups: dict[tuple[str, str], list[str]] = {}
    misses = record["misses"]
    for miss in misses if isinstance(misses, Sequence) else ():
        groups.setdefault((str(miss["rule"]), str(miss["need"])), []).append(str(miss["value"]))
    if not groups:
        return "the model has no place that it looks for"
    order = sorted(groups.items(), key=lambda group: -len(group[1]))
    told = [
        f"{len(values):,} x {rule}: {values[0]}{', ..' * (len(set(values)) > 1)}; needed {need}"
        for (rule, need), values in order[:_SHOWN]
    ]
    left = sum(len(values) for _, values in order[_SHOWN:])
    return " | ".join([*told, *([f"and {left:,} more"] if left else [])])


def refuse(records: Sequence[Record]) -> None:
    """Raise UnchangedError that names every pass of these which changed nothing."""
    found = idle(records)
    if not found:
        return
    count = "a pass" if len(found) == 1 else f"{len(found)} passes"
    lines = [f"{record['pass']}: {why(record)}" for record in found]
    raise UnchangedError("\n  ".join([f"strict: {count} changed nothing", *lines]))


def _still(record: Record, what: str) -> bool:
    pair = record[what]
    return isinstance(pair, list) and pair[0] == pair[1]
