"""How many of what a layer had go, and how many stay: options that passes on units and on features share."""

from __future__ import annotations

from ...ir.errors import OptionError


def check_amount(name: str, ratio: float, multiple: int, why: str) -> None:
    """Raises OptionError for a share beyond what may go, with why, and for a multiple of nothing."""
    if not 0 <= ratio < 1:
        raise OptionError(f"{name}: expected a ratio of at least 0 and less than 1, found {ratio:g}; {why}")
    if multiple < 1:
        raise OptionError(f"{name}: expected a multiple of at least 1, found {multiple}")


def remaining(size: int, ratio: float, multiple: int) -> int:
    """How many of `size` stay without this share of them: the nearest multiple, and at least one.

    >>> remaining(1536, 0.25, 64), remaining(10, 0.99, 8), remaining(5, 0.9, 8)
    (1152, 8, 5)
    """
    least = min(multiple, size)
    return max(least, min(size, multiple * round(size * (1 - ratio) / multiple)))
