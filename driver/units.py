"""Numbers for people: every one with its unit."""

from __future__ import annotations

_KILO = 1000.0
_PREFIXES = ("", "k", "M", "G", "T", "P")


def size(count: float) -> str:
    """Bytes for people.

    >>> size(0), size(91_500_000)
    ('0 B', '91.5 MB')
    """
    return _scaled(count, "B")


def amount(count: float, unit: str = "") -> str:
    """A large number for people.

    >>> amount(22_713_216), amount(5.6e9, "FLOP"), amount(12)
    ('22.7 M', '5.6 GFLOP', '12')
    """
    return _scaled(count, unit)


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(0.00123), duration(12.3), duration(200)
    ('1.23 ms', '12.3 s', '3 min 20 s')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1.0:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120.0:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def ratio(value: float, low: float | None = None, high: float | None = None) -> str:
    """A ratio with its 95 % interval.

    >>> ratio(1.284, 1.27, 1.3), ratio(0.00274, 0.0026, 0.0029)
    ('1.28x (1.27-1.30)', '0.0027x (0.0026-0.0029)')
    """
    shown = f"{_ratio(value)}x"
    return shown if low is None or high is None else f"{shown} ({_ratio(low)}-{_ratio(high)})"


def error(value: float | None) -> str:
    """An error or loss; nothing for one that was not measured.

    >>> error(1.23e-7), error(0.0), error(None)
    ('1.2e-07', '0', '')
    """
    return "" if value is None else f"{value:.2g}"


def change(before: float, after: float) -> str:
    """How many times smaller or larger something became.

    >>> change(90.0, 22.5), change(10, 20), change(7, 7)
    ('4.00x smaller', '2.00x larger', 'unchanged')
    """
    if not before or not after:
        return "unchanged" if before == after else "new" if not before else "gone"
    if round(max(before, after) / min(before, after), 2) == 1.0:
        return "unchanged" if before == after else "about the same"
    return f"{before / after:.2f}x smaller" if after < before else f"{after / before:.2f}x larger"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "node"), plural(1200, "node"), plural(2, "pass"), plural(2, "batch")
    ('1 node', '1,200 nodes', '2 passes', '2 batches')
    """
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{count:,} {noun}{ending}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _scaled(count: float, unit: str) -> str:
    scale = 0
    while abs(count) >= 999.95 and scale < 5:
        count /= _KILO
        scale += 1
    number = f"{count:.1f}".removesuffix(".0") if scale else f"{count:.6g}"
    return f"{number} {_PREFIXES[scale]}{unit}".rstrip()
