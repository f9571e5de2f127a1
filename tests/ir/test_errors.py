"""What errors say, whoever's words they quote."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from tersor.benchmarks._processes import described
from tersor.benchmarks._raising_export import Cell, exported
from tersor.driver.console import complain
from tersor.driver.select import describe
from tersor.ir.errors import ContractError, ModelError, OptionError, TersorError, UnsupportedError, colourless
from tersor.ir.trace import trace

COLOURED = "\x1b[96mThis is step 3/3\x1b[0m of exporting"
PLAIN = "This is step 3/3 of exporting"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (COLOURED, PLAIN),
        ("\x1b[1;38;5;196mred\x1b[m", "red"),
        ("\x1b]8;;https://x.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b[2K\x1b[1Grow", "row"),
        ("\x1b(Btext", "text"),
        ("x[0] is [1m] and 3;4m", "x[0] is [1m] and 3;4m"),
        ("", ""),
    ],
)
def test_control_sequences_go_and_nothing_else(text: str, left: str) -> None:
    assert colourless(text) == left


@pytest.mark.parametrize("kind", [TersorError, OptionError, ModelError, UnsupportedError, ContractError])
def test_no_error_of_ours_has_colours(kind: type[TersorError]) -> None:
    error = kind(f"no translation: {COLOURED}")
    assert str(error) == f"no translation: {PLAIN}"
    assert str(pickle.loads(pickle.dumps(error))) == str(copy.copy(error)) == str(error)
    assert str(kind()) == ""
    assert kind("one", 2).args == ("one", 2)


def test_others_errors_lose_them_where_they_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError(COLOURED)
    assert describe(error) == described(error) == f"RuntimeError: {PLAIN}"
    complain(error, code=1, as_json=True, debug=False)
    told = capsys.readouterr()
    assert PLAIN in told.err
    assert PLAIN in told.out
    assert "\x1b" not in told.err + told.out and "u001b" not in told.out


def test_an_export_that_failed_before_is_told_without(tmp_path: Path) -> None:
    cell = Cell("bert", "dynamo23", "eager")
    cell.failure(tmp_path).write_text(f"ConversionError: {COLOURED}", encoding="utf-8")
    assert exported(cell, tmp_path) == f"ConversionError: {PLAIN}"


class Coloured(torch.nn.Module):
    """A forward that fails in colours, as parts of torch do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(COLOURED)


def test_a_module_that_cannot_be_traced_is_told_of_without() -> None:
    with pytest.raises(ModelError) as caught:
        trace(Coloured().eval(), (torch.ones(2),))
    assert PLAIN in str(caught.value)
    assert "\x1b" not in str(caught.value)
