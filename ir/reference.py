"""`package.module:function` -> the function, for metrics, data and fx passes that live in a user's own code."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import OptionError, nearest

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_reference(text: str) -> bool:
    """Whether `text` is spelled like `package.module:function`."""
    return _REFERENCE.fullmatch(text) is not None


def resolve(text: str, what: str) -> Callable[..., object]:
    """The function that `text` names, imported with the working directory on the path.

    `what` it is for goes into the message of the OptionError raised where it cannot be found.
    """
    if not is_reference(text):
        raise OptionError(f"{what} {text!r}: expected package.module:function")
    name, _, attribute = text.partition(":")
    with importable():
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise OptionError(f"{what} {text!r}: importing {name} failed: {type(error).__name__}: {error}") from error
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            held = vars(found) if hasattr(found, "__dict__") else {}
            public = [key for key, value in held.items() if callable(value) and not key.startswith("_")]
            hint = nearest(part, public) if public else "it defines no function"
            raise OptionError(f"{what} {text!r}: {name} has no {attribute!r}; {hint}")
        found = getattr(found, part)
    if not callable(found):
        raise OptionError(f"{what} {text!r}: expected a function, found {type(found).__name__}")
    return found


def spell(function: object) -> str | None:
    """The text under which `resolve` finds `function` again, or None where there is none (a lambda, a closure)."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name or "<" in name or module == "__main__":
        return None
    return f"{module}:{name}"


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """The working directory first on the import path, for the time of the block."""
    entry = str(Path.cwd())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)
