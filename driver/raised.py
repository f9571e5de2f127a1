"""What raising found of each kind, and what got away: `attention: 11 of 12 raised; layers.7: mask: ..`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .manifest import Manifest

#: Places that got away of which the reason is written out.
_SHOWN = 3


@dataclass(frozen=True)
class Raised:
    """Places of one kind, `count` of `total` raised, and for each of the others where it is and why."""

    subject: str
    count: int
    total: int
    others: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        notes = [f"{where}: {why}" for where, why in self.others[:_SHOWN]]
        more = [f"and {len(self.others) - _SHOWN:,} more"] if len(self.others) > _SHOWN else []
        return "; ".join([f"{self.count:,} of {self.total:,} raised", *notes, *more])


def raised(manifest: Manifest) -> list[Raised]:
    """One entry for each kind of which the model had any, in the order of the passes."""
    fired: dict[str, int] = {}
    others: dict[str, tuple[tuple[str, str], ...]] = {}
    for stage in manifest["stages"]:
        for record in stage["passes"]:
            subject, matches = str(record.get("subject", "")), record["matches"]
            if subject and isinstance(matches, int):
                fired[subject] = fired.get(subject, 0) + matches
                others[subject] = tuple(_near(record["misses"]))  # the last application has the last word
    found = (Raised(kind, fired[kind], fired[kind] + len(others[kind]), others[kind]) for kind in fired)
    return [entry for entry in found if entry.total]


def _near(misses: object) -> Iterator[tuple[str, str]]:
    for miss in misses if isinstance(misses, Sequence) else ():
        if isinstance(miss, Mapping) and miss.get("near"):
            where = next(iter(miss["sources"]), None) or str(miss["place"]).rpartition(" at ")[2]
            yield str(where), f"{miss['rule']}: {miss['value']}; needed {miss['need']}"
