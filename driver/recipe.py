"""Recipes: a compile as a YAML file.

target: onnxruntime{threads=2}
passes:
  - fold-constants
  - quantize-dynamic: {rows: true}
data: texts.jsonl+tokenizer.json
max_drop: 1%
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..ir import reference
from ..ir.errors import OptionError, TersorError, nearest
from ..passes.base import Pass
from ..passes.pipeline import Pipeline
from ..passes.run import Verify

NAME = "recipe.yaml"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a compile. In YAML each field is a key of the same name; None is left out.

    source: path or `package.module:function`. data, metric: as `load_data` and `compile` read them, as text.
    timing_seconds: how long candidates of a group target are timed against each other.
    """

    source: str | None = None
    target: str | None = None
    passes: Pipeline | None = None
    data: str | None = None
    metric: str | None = None
    max_drop: str | None = None
    exact: bool | None = None
    strict: bool | None = None
    force: bool | None = None
    size_first: bool | None = None
    verify: Verify | None = None
    timing_seconds: float | None = None

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a file. Raises OptionError for an unknown key (with the nearest), a wrong type, or bad YAML."""
        try:
            stored = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise OptionError(f"cannot read the recipe {path}: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise OptionError(f"the recipe {path} is no YAML: {' '.join(str(error).split())}") from error
        return cls.of(stored if stored is not None else {}, f"the recipe {path}")

    @classmethod
    def of(cls, data: object, owner: str = "the recipe") -> Recipe:
        """From what a YAML document holds. Raises OptionError."""
        if not isinstance(data, Mapping):
            raise OptionError(f"{owner}: expected keys and values, found {type(data).__name__}")
        values: dict[str, object] = {}
        for key, value in data.items():
            if key not in _READERS:
                raise OptionError(f"{owner} has an unknown key {key!r}; {nearest(str(key), _READERS)}")
            if value is None:
                continue
            try:
                values[key] = _READERS[key](value)
            except (TersorError, TypeError, ValueError) as error:
                raise OptionError(f"{owner}: {key}: {error}") from error
        return cls(**values)  # type: ignore[arg-type]  # each reader returns its field's type

    def over(self, base: Recipe) -> Recipe:
        """This recipe, what it leaves open taken from `base`."""
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})

    def data_dict(self) -> dict[str, object]:
        """What `of` reads back: YAML's own types, in the fields' order."""
        values = ((item.name, getattr(self, item.name)) for item in dataclasses.fields(self))
        return {name: _plain(value) for name, value in values if value is not None}

    def text(self, *, notes: tuple[str, ...] = ()) -> str:
        """The YAML that `read` reads back; `notes` lead it as comments."""
        head = "".join(f"# {line}\n" for note in notes for line in note.splitlines())
        return head + yaml.safe_dump(self.data_dict(), sort_keys=False, allow_unicode=True)


def _plain(value: object) -> object:
    if isinstance(value, Pipeline):
        return value.data()
    return value.value if isinstance(value, Verify) else value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"expected text, found {value!r}")
    return value


def _drop(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"expected a share like 1% or 0.01, found {value!r}")
    return str(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, found {value!r}")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise TypeError(f"expected seconds above 0, found {value!r}")
    return float(value)


def pipeline_of(value: str | Pass | Sequence[object]) -> Pipeline:
    """`Pipeline.of`, with the working directory on the import path for passes that live in the user's own files."""
    with reference.importable():
        return Pipeline.of(value)


def verify_of(value: object) -> Verify:
    """The `Verify` that a name stands for. Raises OptionError with the names."""
    # YAML reads a bare `off` as false.
    name = "off" if value is False else value.value if isinstance(value, Verify) else value
    if name not in [mode.value for mode in Verify]:
        raise OptionError(f"verify is one of {', '.join(mode.value for mode in Verify)}; found {value!r}")
    return Verify(name)


_READERS: Mapping[str, Callable[[object], object]] = {
    "source": _text,
    "target": _text,
    "passes": pipeline_of,  # type: ignore[dict-item]  # refuses what is no pipeline
    "data": _text,
    "metric": _text,
    "max_drop": _drop,
    "exact": _flag,
    "strict": _flag,
    "force": _flag,
    "size_first": _flag,
    "verify": verify_of,
    "timing_seconds": _seconds,
}
