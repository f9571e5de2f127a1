"""Objects that are told apart by which they are, not by what they hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Same:
    """An object that equals only itself, whatever its own equality says, and lives as long as it is remembered."""

    what: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)
