"""docs/conformance.md: what passes, and every case that does not, with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from tersor.benchmarks._common import markdown

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"

#: What a failing case's name matches -> why it fails. A case that matches none has its error for a reason.
REASONS: dict[str, str] = {
    r"^test_bernoulli": "the expected values are draws that the test made without a seed: nobody can repeat them",
    r"^test_dft_inverse": (
        "where the right answer is 0 the expected values hold 2e-7 of noise from float32, and 1e-7 is allowed: exact "
        "zeros fail"
    ),
    r"^test_attention_4d.*fp16": (
        "float16 throughout: a few results differ by one rounding, and are the closer ones to float64 where ONNX's "
        "expansion is not used"
    ),
}

_ROW = re.compile(r"^\| `(?P<kind>[\w-]+)` \| `(?P<name>\w+)` \|", re.MULTILINE)

_HEAD = """# Conformance: ONNX's own backend tests

Made by `python benchmarks/conformance.py --write`; `make test-all` holds it to what happens. Every case of
`onnx.backend.test` (onnx {version}) runs through `tersor.load`, `tersor.to_fx` and the interpreter in a process of its
own, at the tolerances the tests come with; ONNX Runtime runs beside it on the same harness.

"""


def page(rows: Sequence[Mapping[str, object]], failures: Sequence[tuple[str, str, str]]) -> str:
    """The page's text from the table's rows and the failures as (kind, name, error)."""
    failed = [
        {"kind": f"`{kind}`", "case": f"`{name}`", "reason": reason(name, error)} for kind, name, error in failures
    ]
    head = _HEAD.format(version=onnx.__version__)
    return f"{head}{markdown(rows)}\n## What fails, and why\n\n{markdown(failed)}"


def documented(text: str) -> set[tuple[str, str]]:
    """The failures that a page lists, as (kind, name)."""
    return {(found["kind"], found["name"]) for found in _ROW.finditer(text)}


def reason(name: str, error: str) -> str:
    """Why a case fails: what is known of it, else its error."""
    known = next((text for pattern, text in REASONS.items() if re.search(pattern, name)), None)
    return known or error.replace("|", "\\|")
