"""What ONNX Runtime optimized comes back to the semantic graph of the plain export, with the same outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tersor.benchmarks._restored import CASES, OPTIMIZERS, restore
from tersor.passes.base import Exact


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", CASES)
def test_comes_back(name: str, optimizer: str, tmp_path: Path) -> None:
    found = restore(CASES[name], optimizer, tmp_path)
    assert found.left == 0, found.difference
    assert found.error <= Exact().tolerance
    if not CASES[name].scripted:
        assert found.difference == {}
