"""The page on pruning names every option of every pruning pass, and its commands are read as they stand."""

from __future__ import annotations

import dataclasses
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from tersor.driver.cli import app
from tersor.passes.catalogue import PASSES, find
from tersor.passes.pipeline import Pipeline
from typer.core import TyperGroup

TEXT = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text(encoding="utf-8")
NAMES = [name for name, path in PASSES.items() if path.startswith(".prune.")]
COMMANDS = re.findall(r"^tersor .*$", TEXT, re.MULTILINE)
#: A row of a table: a pass with its own options, and what is told of it.
ROWS = {name: (options.split("=,"), told) for name, options, told in
        re.findall(r"^\| `([a-z-]+)\{(.*?)=\}` \| (.*) \|$", TEXT, re.MULTILINE)}  # fmt: skip
#: What is told of all of them in words.
SHARED = set(re.findall(r"`([a-z]+)=?", "\n".join(line for line in TEXT.splitlines() if line[:1] != "|")))


def test_there_are_commands_and_a_row_for_each_pass() -> None:
    assert len(COMMANDS) >= 3
    assert sorted(ROWS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_named(name: str) -> None:
    own, known = set(ROWS[name][0]), {field.name for field in dataclasses.fields(find(name))}
    assert own <= known
    assert known - own <= SHARED


@pytest.mark.parametrize("name", [name for name in NAMES if "score=" in TEXT.split(f"`{name}{{")[1].split("}")[0]])
def test_each_score_is_named_where_it_is_taken(name: str) -> None:
    """`auto` is one of the others."""
    scores = set(get_args(get_type_hints(find(name))["score"])) - {"auto"}
    assert set(re.findall(r"`([a-z-]+)`", ROWS[name][1].split(" | ")[-1])) == scores


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_read(command: str) -> None:
    _, name, *words = shlex.split(command)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    given = group.commands[name].make_context(name, words).params
    module, _, made = given["source"].partition(":")
    assert callable(getattr(import_module(module), made))
    assert list(Pipeline.of(given["passes"]).flat())
