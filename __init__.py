"""tersor: a graph compiler that makes neural networks smaller and faster before they are deployed.

    artifact = tersor.compile("model.onnx", target="cpu", output="compiled")
    artifact.session.run({"input_ids": ids})

Names are imported when they are first used, so that `import tersor` loads neither torch nor onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backends.base import Session as Session
    from .driver.artifact import Artifact as Artifact
    from .driver.artifact import open as open
    from .driver.compile import compile as compile
    from .driver.compile import run_passes as run_passes
    from .driver.gradual import GradualPruning as GradualPruning
    from .driver.lottery import lottery as lottery
    from .driver.tickets.outcome import Lottery as Lottery
    from .driver.tickets.ticket import Ticket as Ticket
    from .ir.compare import Comparison as Comparison
    from .ir.compare import compare as compare
    from .ir.cost import Cost as Cost
    from .ir.cost import cost as cost
    from .ir.errors import ContractError as ContractError
    from .ir.errors import ModelError as ModelError
    from .ir.errors import OptionError as OptionError
    from .ir.errors import PassError as PassError
    from .ir.errors import TersorError as TersorError
    from .ir.errors import UnsupportedError as UnsupportedError
    from .ir.fx import to_fx as to_fx
    from .ir.load import load as load
    from .ir.save import save as save
    from .passes.base import Context as Context
    from .passes.base import Exact as Exact
    from .passes.base import Lossy as Lossy
    from .passes.base import Match as Match
    from .passes.base import Miss as Miss
    from .passes.base import Pass as Pass
    from .passes.base import Rewrite as Rewrite
    from .passes.pipeline import Pipeline as Pipeline
    from .passes.report import Report as Report

    __version__: str

_HOMES = {
    ".backends.base": ("Session",),
    ".driver.artifact": ("Artifact", "open"),
    ".driver.compile": ("compile", "run_passes"),
    ".driver.gradual": ("GradualPruning",),
    ".driver.lottery": ("lottery",),
    ".driver.tickets.outcome": ("Lottery",),
    ".driver.tickets.ticket": ("Ticket",),
    ".ir.compare": ("Comparison", "compare"),
    ".ir.cost": ("Cost", "cost"),
    ".ir.errors": ("ContractError", "ModelError", "OptionError", "PassError", "TersorError", "UnsupportedError"),
    ".ir.fx": ("to_fx",),
    ".ir.load": ("load",),
    ".ir.save": ("save",),
    ".passes.base": ("Context", "Exact", "Lossy", "Match", "Miss", "Pass", "Rewrite"),
    ".passes.pipeline": ("Pipeline",),
    ".passes.report": ("Report",),
}

_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Artifact",
    "Comparison",
    "Context",
    "ContractError",
    "Cost",
    "Exact",
    "GradualPruning",
    "Lossy",
    "Lottery",
    "Match",
    "Miss",
    "ModelError",
    "OptionError",
    "Pass",
    "PassError",
    "Pipeline",
    "Report",
    "Rewrite",
    "Session",
    "TersorError",
    "Ticket",
    "UnsupportedError",
    "__version__",
    "compare",
    "compile",
    "cost",
    "load",
    "lottery",
    "open",
    "run_passes",
    "save",
    "to_fx",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("tersor")
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name], __name__), name)
    else:
        raise AttributeError(f"module 'tersor' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
