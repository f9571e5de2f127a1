"""docs/ops.md says what the tables say."""

from __future__ import annotations

from pathlib import Path

import tersor
from tersor.ir.fx.page import page, schemas

PAGE = Path(tersor.__file__).parent / "docs" / "ops.md"


def test_is_what_the_tables_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_knows_every_operator_of_the_standard_domain() -> None:
    known = schemas()
    assert known["Softmax"] == [1, 11, 13]
    assert known["Upsample"] == [7, 9]
    assert "Scatter" in known
    assert "SwiGLU" in known
