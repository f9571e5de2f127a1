"""Models in fewer bits, for tables that tell what that costs: one compile for each row."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tersor
from tersor.examples.data import Feeds, Run


@dataclass(frozen=True)
class Quantized:
    """What answers, its bytes on disk, and the seconds that it took to make."""

    run: Run
    bytes: int
    seconds: float = 0.0


def quantized(
    model: object,
    passes: str,
    folder: Path,
    *,
    threads: int,
    data: str | Iterable[Feeds] | None = None,
    backend: str = "onnxruntime",
    options: str = "",
    size_first: bool = True,
) -> Quantized:
    """A model compiled with these passes, however fast their kernels are unless told; an artifact in `folder`.

    options: of the backend, beside the threads.
    """
    start = time.perf_counter()
    artifact = tersor.compile(
        model,
        target=f"{backend}{{{', '.join(filter(None, (f'threads={threads}', options)))}}}",
        passes=passes,
        data=data,
        output=folder,
        verify="off",
        size_first=size_first,
    )
    seconds = time.perf_counter() - start
    size = sum(file["bytes"] for file in artifact.manifest["files"] if file["role"] == "model")
    return Quantized(artifact.session.run_unchecked, size, seconds)
