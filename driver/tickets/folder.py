"""Where a search stands: a file for each training run that is done, written whole or not at all.

lottery.json              the settings that decide the numbers
<seed>-<round>-<kind>.pt  metric; of tickets, what was kept, what the next round keeps, and weights
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ...ir.errors import OptionError
from .ticket import Kind

_SETTINGS = "lottery.json"


@dataclass(frozen=True)
class Done:
    """What came of one training run. Controls have a metric only.

    kept: by group, what it trained with. following: what the next round keeps. weights: as trained. origin: of the
    first round, the weights that later ones are rewound to.
    """

    metric: float
    kept: Mapping[str, Tensor]
    following: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    origin: Mapping[str, Tensor]


@dataclass(frozen=True)
class Folder:
    """The folder of one search."""

    path: Path

    def open(self, settings: Mapping[str, object], seeds: Mapping[str, object] | None = None) -> None:
        """Begin, or go on with what is there. What is said of a seed is to agree where that seed was met before.

        Raises OptionError where the folder cannot be written, or holds a search with other settings.
        """
        file, now = self.path / _SETTINGS, dict(seeds or {})
        before, met = dict(settings), dict[str, object]()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if file.exists():
                stored = json.loads(file.read_text(encoding="utf-8"))
                met, before = stored.pop("seeds", {}), stored
        except OSError as error:
            raise OptionError(f"lottery: cannot write {self.path}: {error.strerror or error}") from error
        except ValueError as error:
            raise OptionError(f"lottery: {file} is no JSON: {error}; give another folder") from error
        wrong = [
            f"{name} was {_shown(there)} and is {_shown(value)}"
            for there, (name, value) in (
                *((before.get(name), (name, value)) for name, value in settings.items()),
                *((met.get(seed, value), (f"the model of seed {seed}", value)) for seed, value in now.items()),
            )
            if there != value
        ]
        if wrong:
            raise OptionError(f"lottery: {self.path} holds another search: {'; '.join(wrong)}. Give another folder")
        text = json.dumps({**settings, "seeds": met | now}, indent=2)
        write_atomically(file, lambda goal: goal.write(text.encode()))

    def read(self, seed: int, round: int, kind: Kind) -> Done | None:
        """The run, where it is done."""
        file = self._file(seed, round, kind)
        if not file.exists():
            return None
        try:
            return Done(**torch.load(file, weights_only=True))
        except Exception as error:  # torch raises whatever its unpickler meets
            raise OptionError(
                f"lottery: {file} is damaged ({type(error).__name__}): remove it to have it made again"
            ) from error

    def write(self, seed: int, round: int, kind: Kind, done: Done) -> None:
        held = {name: value if name == "metric" else dict(value) for name, value in vars(done).items()}
        write_atomically(self._file(seed, round, kind), lambda goal: torch.save(held, goal))

    def _file(self, seed: int, round: int, kind: Kind) -> Path:
        return self.path / f"{seed}-{round}-{kind}.pt"


def write_atomically(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Fill a file that takes its name once it is whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OptionError(f"lottery: cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:57]}..."
