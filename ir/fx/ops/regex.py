"""RE2 patterns, which ONNX has, as Python's `re` reads them.

Most mean the same. What `re` spells otherwise is rewritten, what RE2 does not have (look-around, back references,
possessive repeats, atomic and conditional groups) is refused, as is what `re` has no word for (Unicode classes, bytes).
"""

from __future__ import annotations

import functools
import re

_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7F",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1F\x7F",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
# RE2's classes are of ASCII, and its \s has no vertical tab
_ESCAPES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}
_TOKEN = re.compile(
    r"\\Q(?P<quoted>.*?)(?:\\E|$)"
    r"|\\x\{(?P<hex>[0-9A-Fa-f]+)\}"
    r"|\\(?P<escape>.)"
    r"|\[(?P<negated>\^?)(?P<first>\]?)(?P<body>(?:\[:\^?\w+:\]|\\.|[^\]\\])*)\]"
    r"|\(\?(?P<group>P?[<=>!:#(]?[=!]?)(?P<flags>[A-Za-z-]*)(?P<end>[:)]?)"
    r"|(?P<possessive>[*+?}]\+)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_GROUPS = {"", ":", "P<", "<"}


@functools.lru_cache(maxsize=256)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, to be asked for full matches. Raises ValueError where it is not RE2's, or has no counterpart."""
    lines = any(token["group"] == "" and "m" in token["flags"] for token in _TOKEN.finditer(pattern))
    text = _TOKEN.sub(functools.partial(_rewritten, pattern=pattern, lines=lines), pattern)
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from error


def _rewritten(token: re.Match[str], *, pattern: str, lines: bool) -> str:
    if token["quoted"] is not None:
        return re.escape(token["quoted"])
    if token["hex"] is not None:
        return re.escape(chr(int(token["hex"], 16)))
    if token["escape"] is not None:
        return _escape(token["escape"], pattern)
    if token["body"] is not None:
        return f"[{token['negated']}{re.escape(token['first'])}{_members(token['body'], pattern)}]"
    group, flags = token["group"], token["flags"]
    if token["possessive"] or (
        group is not None and (group not in _GROUPS or (group == "" and set(flags) - set("imsU-")))
    ):
        raise ValueError(f"the pattern {pattern!r} has {token[0]!r}, which RE2 does not")
    if group == "<":
        return f"(?P<{flags}"
    if group == "":
        # greedy or not, a full match is one
        left = flags.replace("U", "").rstrip("-")
        return f"(?{left}{token['end']}" if left or token["end"] != ")" else ""
    # where ^ and $ do not mean lines, RE2's $ is only the very end
    return r"\Z" if token[0] == "$" and not lines else token[0]


def _escape(letter: str, pattern: str) -> str:
    if letter.lower() in _ESCAPES:
        return f"[{'^' if letter.isupper() else ''}{_ESCAPES[letter.lower()]}]"
    if letter in "bB":
        return rf"(?a:\{letter})"
    if letter == "z":
        return r"\Z"
    if letter == "a":
        return r"\x07"
    if letter in "CXpPNuUZ" or (letter.isdigit() and letter != "0"):
        raise ValueError(
            f"the pattern {pattern!r} has \\{letter}, which is not supported; spell out what it stands for"
        )
    return f"\\{letter}"


def _members(body: str, pattern: str) -> str:
    """What stands in brackets."""

    def member(token: re.Match[str]) -> str:
        if token["posix"] is not None:
            if token["posix"] not in _POSIX:
                raise ValueError(f"the pattern {pattern!r} has {token[0]!r}, which is not supported")
            return _POSIX[token["posix"]]
        if token["hex"] is not None:
            return re.escape(chr(int(token["hex"], 16)))
        letter = token["escape"]
        if letter is None:
            return re.escape(token[0]) if token[0] in "[&~|" else token[0]
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter in "CXpPDWS" or (letter.isdigit() and letter != "0"):
            raise ValueError(f"the pattern {pattern!r} has \\{letter} in brackets, which is not supported")
        return f"\\{letter}"

    return re.sub(
        r"\[:(?P<posix>\^?\w+):\]|\\x\{(?P<hex>[0-9A-Fa-f]+)\}|\\(?P<escape>.)|.", member, body, flags=re.DOTALL
    )
