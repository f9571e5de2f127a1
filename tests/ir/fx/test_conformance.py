"""ONNX's own backend tests: the failures are those that docs/conformance.md lists, no more and no fewer."""

from __future__ import annotations

import pytest
from tersor.benchmarks._conformance_page import PAGE, documented
from tersor.benchmarks._isolation import index, run
from tersor.benchmarks._onnx_cases import KINDS, check, fx

#: Every so many-th case is in the fast suite.
_STRIDE = 9

_FAILING = documented(PAGE.read_text(encoding="utf-8"))
_SAMPLE = [(kind, name) for kind in KINDS for name in list(index(kind))[::_STRIDE] if (kind, name) not in _FAILING]


@pytest.mark.parametrize(("kind", "name"), _SAMPLE)
def test_passes(kind: str, name: str) -> None:
    check(index(kind)[name], fx)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_fails_only_where_the_page_says_so(kind: str) -> None:
    failed = {(outcome.kind, outcome.name) for outcome in run("fx", [kind]) if not outcome.passed}
    assert failed == {failure for failure in _FAILING if failure[0] == kind}
