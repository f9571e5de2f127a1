"""What tersor raises, and the exit code of each.

A message says where, what was expected, what was found and what to do; an excerpt of the graph is added
with `add_note`. The classes tell whose move it is.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

#: Control sequences of terminals (ECMA-48, section 5.4), and the titles and links that some set.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")


def colourless(text: str) -> str:
    """A text without the colours of a terminal: torch writes some into its errors.

    >>> colourless("\\x1b[96mThis is step 3/3\\x1b[0m of exporting")
    'This is step 3/3 of exporting'
    """
    return _ESCAPE.sub("", text) if "\x1b" in text else text


class TersorError(Exception):
    """Base of everything tersor raises on purpose. What it quotes of others loses its colours."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(colourless(arg) if isinstance(arg, str) else arg for arg in args))


class OptionError(TersorError):
    """What was asked for does not exist or does not fit: a pass, an option, a target, an output folder."""

    exit_code = 2


class ModelError(TersorError):
    """The user's graph, files or feeds cannot be used as they are."""

    exit_code = 3


class UnsupportedError(TersorError):
    """A backend or converter cannot express the model, or is not installed."""

    exit_code = 4


class PassError(TersorError):
    """A pass broke the graph: a fault of the pass, not of the model."""

    exit_code = 5


class ContractError(PassError):
    """A pass changed the model's answers by more than its contract allows.

    loss: as measured, in the contract's metric; None where it was not, or is not finite.
    """

    exit_code = 6

    def __init__(self, *args: object, loss: float | None = None) -> None:
        super().__init__(*args)
        self.loss = loss if loss is not None and math.isfinite(loss) else None


class UnchangedError(TersorError):
    """A pass that was asked for changed nothing, where each was to change something (`--strict`)."""

    exit_code = 7


@dataclass(frozen=True)
class MissingOp:
    """An op that a backend or converter cannot express: which, at which opset, where, and what reads its result."""

    op: str
    opset: int
    place: str
    readers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.line()

    def line(self, others: int = 0) -> str:
        """How an error lists it; `others` is the number of further places."""
        more = f" and {others} more" if others else ""
        used = f"   used by {', '.join(self.readers)}" if self.readers else ""
        return f"{self.op} (opset {self.opset})  at {self.place}{more}{used}"


def unsupported(who: str, missing: Sequence[MissingOp], hint: str) -> UnsupportedError:
    """The error that lists everything missing at once, one line an op.

    >>> print(unsupported("openvino", [MissingOp("STFT", 17, "enc/stft", ("enc/abs",))], "run decompose-stft first"))
    openvino: 1 op has no lowering
      STFT (opset 17)  at enc/stft   used by enc/abs
      hint: run decompose-stft first
    """
    groups: dict[tuple[str, int], list[MissingOp]] = {}
    for item in missing:
        groups.setdefault((item.op, item.opset), []).append(item)
    count = "1 op has" if len(groups) == 1 else f"{len(groups)} ops have"
    listed = [items[0].line(others=len(items) - 1) for items in groups.values()]
    return UnsupportedError("\n  ".join([f"{who}: {count} no lowering", *listed, f"hint: {hint}"]))


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name.

    >>> nearest("fold-constant", ["fold-constants", "quantize-dynamic"])
    'did you mean fold-constants?'
    >>> nearest("zzz", ["b", "a"])
    'known: a, b'
    """
    names = sorted(known)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(names)}"
