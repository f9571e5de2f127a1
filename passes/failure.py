"""What is reported when a pass itself fails: its name, the node that it was at, and the line in its file."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import onnx_ir as ir

from ..ir.errors import PassError
from ..ir.text import excerpt, place


def failure(name: str, kind: type[object], error: Exception, node: ir.Node | None = None) -> PassError:
    """The error of a pass of this name and class that raised `error`, at `node` where it was at one."""
    made = PassError(f"the pass {name} failed{_at(node)}: {type(error).__name__}: {error}{_line(kind, error)}")
    if node is not None and node.graph is not None:
        made.add_note(excerpt(node))
    return made


def no_verdict(name: str, found: object, node: ir.Node) -> PassError:
    """The error of a pass whose `match` answered with something else than it may."""
    made = PassError(f"the pass {name} failed{_at(node)}: match answered {found!r}; expected a Match or a Miss")
    made.add_note(excerpt(node))
    return made


def _at(node: ir.Node | None) -> str:
    return "" if node is None else f" on {place(node)}"


def _line(kind: type[object], error: Exception) -> str:
    """The last line of the pass's own file that was run, or else the last of all: ` (fold_my_scale.py, line 33)`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(kind.__module__), "__file__", None)
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1] if frames else None)
    return "" if frame is None else f" ({Path(frame.filename).name}, line {frame.lineno})"
