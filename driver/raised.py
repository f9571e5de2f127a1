"""What passes found, and what got away: `attention: 11 of 12 raised; layers.7: mask: ..`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .manifest import Manifest

#: Places that got away of which the reason is written out.
_SHOWN = 3


@dataclass(frozen=True)
class Raised:
    """Places of one kind: `fired` were raised, `whole` were so as loaded; of each of the others where it is and why."""

    subject: str
    fired: int
    whole: int
    others: tuple[tuple[str, str], ...]

    @property
    def count(self) -> int:
        return self.fired + self.whole

    @property
    def total(self) -> int:
        return self.count + len(self.others)

    def __str__(self) -> str:
        how = f"whole ({self.whole:,} as loaded)" if self.whole else "raised"
        kinds = Counter(self.others)
        notes = [f"{where}: {why}{f' ({times:,} of these)' * (times > 1)}" for (where, why), times in kinds.items()]
        left = sum(list(kinds.values())[_SHOWN:])
        more = [f"and {left:,} more"] if left else []
        return "; ".join([f"{self.count:,} of {self.total:,} {how}", *notes[:_SHOWN], *more])


def raised(manifest: Manifest) -> list[Raised]:
    """One entry for each kind that a pass looks for and of which the model has any, in the order of the passes.

    Places that only share an op with what a pass looks for do not count: those are misses that are not near.
    """
    fired: Counter[str] = Counter()
    whole: dict[tuple[str, str], int] = {}
    others: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {}
    for stage in manifest["stages"]:
        for record in stage["passes"]:
            subject, name = str(record.get("subject", "")), str(record["pass"])
            matches, before = record["matches"], record.get("whole", 0)
            if subject and isinstance(matches, int) and isinstance(before, int):
                fired[subject] += matches
                # the first application saw the model as it came, the last has the last word on what got away
                whole.setdefault((subject, name), before)
                others.setdefault(subject, {})[name] = tuple(_near(record["misses"]))
    found = (
        Raised(
            kind,
            fired[kind],
            sum(number for (subject, _), number in whole.items() if subject == kind),
            _together(others[kind].values()),
        )
        for kind in others
    )
    return [entry for entry in found if entry.total]


def _together(told: Iterable[Sequence[tuple[str, str]]]) -> tuple[tuple[str, str], ...]:
    """What each of several passes tells; of a place that more than one tells of, once."""
    places: Counter[tuple[str, str]] = Counter()
    for entries in told:
        places |= Counter(entries)
    return tuple(places.elements())


def away(record: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The misses of a pass that tell of something: the near ones where it looks for a subject (`PassReport.away`)."""
    misses = record["misses"]
    listed = [miss for miss in misses if isinstance(miss, Mapping)] if isinstance(misses, Sequence) else []
    return [miss for miss in listed if miss.get("near") or not record.get("subject")]


def _near(misses: object) -> Iterator[tuple[str, str]]:
    for miss in misses if isinstance(misses, Sequence) else ():
        if isinstance(miss, Mapping) and miss.get("near"):
            where = miss.get("scope") or next(iter(miss["sources"]), None) or str(miss["place"]).rpartition(" at ")[2]
            yield str(where), f"{miss['rule']}: {miss['value']}; needed {miss['need']}"
