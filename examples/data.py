"""Where the example models and texts lie, and the two types that the examples share.

The folder is `TERSOR_DATA`, or `../shared/data` seen from the project's root. It is not part of the project:
what is in it, and under which licences, its own README says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds], Feeds]
"""One call of a model: arrays by input name in, arrays by output name out, in the model's order. `Session.run` is one.

The examples take outputs by their order, since exporters name them as they like."""


def data_dir() -> Path | None:
    """The data folder, or None where there is none."""
    named = os.environ.get("TERSOR_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


def data_file(relative: str) -> Path:
    """One file or folder under the data folder.

    Raises FileNotFoundError that names the variable to set.
    """
    folder = data_dir()
    if folder is None:
        raise FileNotFoundError(f"{relative}: no data folder; set TERSOR_DATA to the folder that holds it")
    path = folder / relative
    if not path.exists():
        raise FileNotFoundError(f"{relative}: not in the data folder {folder}")
    return path
