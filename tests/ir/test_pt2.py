"""`.pt2` archives are read when they hold a graph and arrays, and refused when loading them would run code."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from tersor.ir import pt2
from tersor.ir.errors import ModelError
from tersor.ir.load import load


class Doubled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, x), 1) * self.weight


class Custom:
    """Something that only a full unpickler makes."""


def _config(**item: object) -> bytes:
    return json.dumps({"config": {"w": item}}).encode()


def _graph(**item: object) -> bytes:
    return json.dumps({"graph": [item]}).encode()


def _samples() -> bytes:
    buffer = io.BytesIO()
    torch.save((Custom(),), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "whole.pt2"
    shapes = {"x": {1: torch.export.Dim("length", min=2, max=64)}}
    torch.export.save(torch.export.export(Doubled().eval(), (torch.ones(2, 6, 4),), dynamic_shapes=shapes), path)
    return path


@pytest.mark.parametrize(
    ("member", "data", "message"),
    [
        ("sample_inputs/model.pt", _samples(), "example inputs that are pickled objects"),
        ("weights_config.json", _config(path_name="weight_0", use_pickle=True), r"holds pickled objects \(w\)"),
        ("constants_config.json", _config(path_name="custom_obj_0", use_pickle=False), r"pickled objects \(w\)"),
        ("constants_config.json", _config(path_name="opaque_obj_0", use_pickle=False), r"pickled objects \(w\)"),
        ("models/model.json", _graph(expr_str="__import__('os')"), 'holds the shape expression "__import__'),
        ("models/model.json", _graph(expr_str="exec(chr(1))"), "shape expression 'exec"),
        ("models/model.json", _graph(expr_str="Symbol('x').func"), "holds the shape expression"),
        ("models/model.json", _graph(expr_str="Add(1, Integer('exit(1)'))"), "holds the shape expression"),
        ("models/model.json", _graph(target="torch.hub.load", inputs=[]), r"holds the target 'torch\.hub\.load'"),
        ("models/model.json", _graph(target="torch.ops.load_library", inputs=[]), "holds the target"),
        ("models/model.json", b'{"a": [', r"no complete \.pt2 archive"),
        ("models/model.json", b"{}", r"torch .* cannot load this program"),
    ],
)
def test_refuses_archives_that_would_run_code(
    program: Path, tmp_path: Path, member: str, data: bytes, message: str
) -> None:
    path = tmp_path / "altered.pt2"
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.namelist():
            new.writestr(item, data if item.endswith(member) else old.read(item))
    with pytest.raises(ModelError, match=message):
        load(path)


def test_refuses_archives_with_two_members_of_one_name(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.pt2"
    path.write_bytes(program.read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"")
    with pytest.raises(ModelError, match="twice, as no archive of torch does"):
        load(path)


def test_reads_what_torch_wrote(program: Path) -> None:
    """Also the text of its shapes passes: `2 * length` is an expression of symbols."""
    found = pt2.read(program)
    x = torch.ones(2, 8, 4)
    assert torch.equal(found.module()(x), Doubled()(x))
