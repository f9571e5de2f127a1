"""Dimensions as products of a few numbers of about one size.

    balanced(384, 2)     (16, 24)
    fitting(30522, 2)    (131, 233)       30522 = 2 * 3 * 5087 has no such product, 30523 has

Rows and columns that padding adds are zeros.
"""

from __future__ import annotations

import math
from functools import cache

#: How much larger than the ideal one, n^(1/count), the largest factor may be before padding is looked for.
_UNEVEN = 2.0


@cache
def balanced(size: int, count: int) -> tuple[int, ...]:
    """`size` as the product of `count` numbers whose sum is the least there is, smallest first.

    Raises ValueError for a size or a count below 1.

    >>> balanced(384, 2), balanced(384, 3), balanced(7, 2)
    ((16, 24), (6, 8, 8), (1, 7))
    """
    if size < 1 or count < 1:
        raise ValueError(f"expected a size and a count of at least 1, found {size} and {count}")
    return _balanced(size, count, 1)


@cache
def _balanced(size: int, count: int, least: int) -> tuple[int, ...]:
    """Factors of at least `least`; one number that is smaller where there are none."""
    if count == 1:
        return (size,)
    found: list[tuple[int, ...]] = []
    for first in range(least, math.isqrt(size) + 1):
        # the smallest of count factors is at most the root
        if first**count > size:
            break
        if size % first == 0:
            found.append((first, *_balanced(size // first, count - 1, first)))
    return min(found, key=sum) if found else (*(1 for _ in range(count - 1)), size)


def even(modes: tuple[int, ...]) -> bool:
    """Whether the numbers are of about one size.

    >>> even((16, 24)), even((2, 191))
    (True, False)
    """
    return bool(max(modes) <= _UNEVEN * math.prod(modes) ** (1 / len(modes)))


def fitting(size: int, count: int) -> tuple[int, ...]:
    """The balanced product of the least number from `size` on that has one of about one size, `size` itself if it does.

    >>> fitting(384, 2), fitting(179, 2)
    ((16, 24), (12, 15))
    """
    found = size
    while not even(balanced(found, count)):
        found += 1
    return balanced(found, count)


def parse(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Modes of rows and columns from `16x24/32x48`. Raises ValueError for anything else.

    >>> parse("16x24/32x48")
    ((16, 24), (32, 48))
    """
    try:
        rows, columns = (tuple(int(number) for number in side.split("x")) for side in text.split("/"))
    except ValueError:
        rows, columns = (), ()
    if not rows or min(*rows, *columns) < 1:
        raise ValueError(f"expected modes of inputs and of outputs such as 16x24/32x48, found {text!r}")
    return rows, columns
