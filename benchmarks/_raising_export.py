"""Export the architectures of the raising benchmark as users of torch do: `torch.onnx.export`, both exporters.

    python -m tersor.benchmarks._raising_export --folder FOLDER [--only REGEX] [--exporters dynamo18,script17]

Files are called `<architecture>--<exporter><opset>--<attention>.onnx`; what failed leaves its error in `....error`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tersor.benchmarks._processes import described
from tersor.benchmarks._raising_architecture import Architecture, AttentionMissingError
from tersor.benchmarks._raising_architectures import architectures
from tersor.benchmarks._raising_calls import TRACED, Wrapped
from tersor.ir.errors import colourless

EXPORTERS = ("dynamo18", "dynamo23", "script14", "script17")
ATTENTION = ("eager", "sdpa")


@dataclass(frozen=True)
class Cell:
    """One export: which model, by which exporter at which opset, with which attention."""

    architecture: str
    exporter: str
    attention: str

    def __str__(self) -> str:
        return f"{self.architecture}--{self.exporter}--{self.attention}"

    @property
    def dynamo(self) -> bool:
        return self.exporter.startswith("dynamo")

    @property
    def opset(self) -> int:
        return int(self.exporter.removeprefix("dynamo").removeprefix("script"))

    def path(self, folder: Path) -> Path:
        return folder / f"{self}.onnx"

    def failure(self, folder: Path) -> Path:
        """Where the error of an export that failed is written."""
        return folder / f"{self}.error"


def exported(cell: Cell, folder: Path) -> str:
    """Export into `folder` where that is not done yet; the error if there was one, else nothing."""
    if cell.path(folder).exists():
        return ""
    if cell.failure(folder).exists():
        return colourless(cell.failure(folder).read_text(encoding="utf-8"))
    try:
        architecture = architectures()[cell.architecture]
        export(architecture, architecture.build(cell.attention), cell, folder)
    except AttentionMissingError as error:
        return str(error)
    except Exception as error:  # of torch and transformers, of any class
        text = described(_root(error))
        cell.failure(folder).write_text(text, encoding="utf-8")
        return text
    return ""


def _root(error: BaseException) -> BaseException:
    """What an exporter's error came of."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def export(architecture: Architecture, module: Wrapped, cell: Cell, folder: Path) -> None:
    """Write the file of a cell."""
    call = architecture.call
    args = tuple(torch.from_numpy(array) for array in call.feeds(TRACED).values())
    names, axes = list(call.ports), call.axes()
    outputs = list(module.answers(call.feeds(TRACED)))
    part = cell.path(folder).with_suffix(f".{os.getpid()}.part")
    with _quiet(), torch.no_grad():
        if cell.dynamo:
            shapes = (tuple(axes[name] for name in names),)
            torch.onnx.export(
                module,
                args,
                part,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=cell.opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        else:
            torch.onnx.export(
                module,
                args,
                str(part),
                input_names=names,
                output_names=outputs,
                dynamic_axes=_script_axes(axes),
                opset_version=cell.opset,
                dynamo=False,
            )
    part.rename(cell.path(folder))


def _script_axes(axes: Mapping[str, Mapping[int, str]]) -> dict[str, dict[int, str]]:
    """Named as the TorchScript exporter takes them."""
    return {name: {axis: dim.replace("+", "_plus_") for axis, dim in found.items()} for name, found in axes.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def cells(only: str = "", exporters: Sequence[str] = EXPORTERS, attention: Sequence[str] = ATTENTION) -> Iterator[Cell]:
    """By architecture, then exporter and attention; `only` is a regular expression that architectures match."""
    names = [name for name in architectures() if re.search(only, name)]
    return itertools.starmap(Cell, itertools.product(names, exporters, attention))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", default="", help="a regular expression that the names of architectures match")
    parser.add_argument("--exporters", default=",".join(EXPORTERS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for cell in cells(given.only, tuple(given.exporters.split(","))):
        begun = time.perf_counter()
        print(f"{cell}: {exported(cell, given.folder) or 'ok'} ({time.perf_counter() - begun:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
