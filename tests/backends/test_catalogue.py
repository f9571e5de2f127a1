"""Targets by name, with options."""

from __future__ import annotations

import pytest
from tersor.backends.catalogue import candidates, create
from tersor.ir.errors import OptionError


@pytest.mark.parametrize("target", ["onnxruntime{threads=-1}", "torch{threads=-2}"])
def test_threads_are_a_count(target: str) -> None:
    with pytest.raises(OptionError, match="threads is a count"):
        create(target)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="did you mean onnxruntime"):
        create("onnxruntim")


def test_a_group_hands_its_options_to_each() -> None:
    assert {made.threads for made in candidates("cpu{threads=1}")} == {1}
