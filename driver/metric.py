"""Quality: the user's metric, or fidelity to the original; and how much of it may be lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..backends.base import Session
from ..ir import reference
from ..ir.errors import ModelError, OptionError, TersorError

#: The user's measure of a session; higher is better.
Metric: TypeAlias = Callable[[Session], float]

FIDELITY = "fidelity"


@dataclass(frozen=True)
class MaxDrop:
    """The largest loss of quality that is accepted: relative to the original's, or absolute in the metric's unit."""

    limit: float
    absolute: bool = False

    @classmethod
    def of(cls, value: str | float) -> MaxDrop:
        """From `1%`, `0.01` (both relative) or `0.5 abs`. Raises OptionError for anything else.

        >>> MaxDrop.of("1%"), MaxDrop.of("0.5 abs")
        (MaxDrop(limit=0.01, absolute=False), MaxDrop(limit=0.5, absolute=True))
        """
        text = str(value).strip()
        absolute = text.endswith("abs")
        number, share = text.removesuffix("abs").strip(), text.endswith("%")
        try:
            limit = float(number.removesuffix("%")) / (100 if share else 1)
        except ValueError:
            limit = math.nan
        if not limit >= 0 or math.isinf(limit):
            raise OptionError(
                f"max_drop {text!r}: expected a share of the metric like 1% or 0.01, or 0.5 abs in its unit"
            )
        if not absolute and limit >= 1:
            raise OptionError(f"max_drop {text!r} accepts any loss: write {text}% for a share, or {text} abs")
        return cls(limit, absolute)

    def __str__(self) -> str:
        return f"{self.limit:g} abs" if self.absolute else f"{self.limit * 100:g}%"

    def lost(self, original: float, compiled: float) -> float:
        """How much of the original's quality is gone, in this limit's unit; negative where it grew."""
        return drop(original, compiled, absolute=self.absolute)


def drop(original: float, compiled: float, *, absolute: bool = False) -> float:
    """Quality lost: original - compiled, relative to the original's size unless `absolute`.

    >>> drop(80.0, 79.2)
    0.01
    """
    lost = original - compiled
    if absolute or lost == 0:
        return lost
    return round(lost / abs(original), 12) if original else math.copysign(math.inf, lost)


def find(spec: str | Metric) -> tuple[str, Metric]:
    """The metric's name and function, from `package.module:function` or a function. Raises OptionError."""
    if isinstance(spec, str):
        return spec, reference.resolve(spec, "metric")  # type: ignore[return-value]  # evaluate checks what it returns
    if not callable(spec):
        raise OptionError(f"metric: expected package.module:function or a function, found {type(spec).__name__}")
    return reference.spell(spec) or str(getattr(spec, "__name__", type(spec).__name__)), spec


def evaluate(name: str, metric: Metric, session: Session, what: str) -> float:
    """The metric of a session; `what` names the session in the message.

    Raises ModelError where the metric raises, or returns NaN, infinity or what is no number.
    """
    try:
        with reference.importable():
            value = metric(session)
    except TersorError as error:
        error.add_note(f"in the metric {name} of {what}")
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"the metric {name} failed on {what} with {type(error).__name__}: {error}") from error
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ModelError(f"the metric {name} of {what} is {value!r}: expected one finite number, higher is better")
    return number


def is_found_by_name(named: tuple[str, Metric]) -> bool:
    """Whether the name alone finds the metric again, in another process too."""
    return reference.is_reference(named[0])
