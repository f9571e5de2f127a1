"""Axes as nodes give them: counted from the front, or below zero from behind."""

from __future__ import annotations


def placed(axis: int, rank: int) -> int:
    """The axis counted from the front. Raises ValueError where there is none."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank
