"""Files of a search: whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from tersor.driver.tickets.folder import Done, Folder, write_atomically


def test_what_was_there_stays_until_the_new_file_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"before")

    def broken(goal: BinaryIO) -> None:
        goal.write(b"half")
        assert file.read_bytes() == b"before"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert file.read_bytes() == b"before"


def test_a_file_is_replaced_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"before")
    with file.open("rb") as held:
        write_atomically(file, lambda goal: goal.write(b"after"))
        assert held.read() == b"before"
    assert file.read_bytes() == b"after"


def test_runs_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    kept = {"w": torch.tensor([True, False])}
    folder.write(1, 2, "ticket", Done(0.5, kept, kept, {"w": torch.tensor([0.1])}, {}))
    found = folder.read(1, 2, "ticket")
    assert found is not None
    assert (found.metric, found.origin) == (0.5, {})
    assert torch.equal(found.kept["w"], kept["w"]) and torch.equal(found.weights["w"], torch.tensor([0.1]))
    assert folder.read(1, 2, "reinit") is None
