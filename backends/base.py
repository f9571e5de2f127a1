"""What a backend is: a lowering pipeline, files that run without tersor, and a session over them."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..ir.dimensions import Range, ranges
from ..ir.errors import MissingOp, ModelError, OptionError, TersorError
from ..ir.feeds import Array, Feeds, check_feeds
from ..ir.level import Signature
from ..passes.pipeline import Pipeline


@dataclass(frozen=True)
class Interface:
    """What a session accepts: inputs and outputs with dtypes and shapes, and the ranges of the named dimensions."""

    signature: Signature
    ranges: Mapping[str, Range] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ir.Model) -> Interface:
        return cls(Signature.of(model), ranges(model))


class Session(ABC):
    """A model ready to run."""

    def __init__(self, interface: Interface, keep: object = None) -> None:
        """`keep` lives as long as the session: the temporary folder that the files lie in, for one."""
        self.interface = interface
        self._keep = keep

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name.

        Raises ModelError for a wrong name, dtype, rank or dimension before anything runs, and for numbers that the
        model fails on, such as an index beyond its table where the runtime checks that.
        """
        check_feeds(self.interface.signature, feeds, self.interface.ranges)
        arrays = {name: np.asarray(array) for name, array in feeds.items()}
        try:
            return self.run_unchecked(arrays)
        except (TersorError, MemoryError):
            raise
        except Exception as error:  # each runtime has errors of its own
            raise ModelError(f"the model does not run on these feeds: {error}") from error

    @abstractmethod
    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name for feeds that are known to fit: what benchmarks time."""


@dataclass(frozen=True, kw_only=True)
class Backend(ABC):
    """One way to run a model. Its fields are its options.

    threads: intra-op threads; 0 leaves the choice to the runtime.
    """

    name: ClassVar[str]
    #: The line that installs it, for the error when it is missing.
    install: ClassVar[str] = "pip install tersor"
    #: Whether a tiny model compiles in well under a second.
    quick: ClassVar[bool] = True
    threads: int = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise OptionError(
                f"{self.name}: option threads is a count, 0 for the runtime's own choice; found {self.threads}"
            )

    @classmethod
    @abstractmethod
    def version(cls) -> str | None:
        """The runtime's version, or None where it is not installed."""

    @classmethod
    def obstacle(cls) -> tuple[str, str] | None:
        """What keeps the installed runtime from compiling on this machine, and what to do about it."""
        return None

    @abstractmethod
    def pipeline(self) -> Pipeline:
        """The lowering, from the semantic level to what this runtime runs fastest."""

    @abstractmethod
    def supports(self, model: ir.Model) -> Sequence[MissingOp]:
        """Every op of a lowered model that this runtime cannot run; empty when all can."""

    @abstractmethod
    def write(self, model: ir.Model, folder: Path) -> None:
        """Write a lowered model into `folder` so that the plain runtime can load it. Raises UnsupportedError."""

    @abstractmethod
    def open(self, folder: Path, interface: Interface) -> Session:
        """A session over what `write` wrote."""

    def needs(self, folder: Path) -> dict[str, object]:
        """What the files in `folder` need of the machine that runs them, for the manifest; empty where any will do."""
        return {}

    def compile(self, model: ir.Model) -> Session:
        """A session for a lowered model, its files in a temporary folder that goes with the session."""
        keep = tempfile.TemporaryDirectory(prefix="tersor-")
        folder = Path(keep.name)
        self.write(model, folder)
        session = self.open(folder, Interface.of(model))
        session._keep = keep
        return session
