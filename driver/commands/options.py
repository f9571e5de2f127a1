"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from ...ir.errors import OptionError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="The model: an .onnx file, a Hugging Face folder, a .pt2 file, an artifact folder, or "
        "package.module:function returning module, example inputs and dynamic dimensions.",
    ),
]

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Feeds: an .npz file, a folder of them, texts.jsonl+tokenizer.json, or module:function. Seeded random "
        "when left out.",
    ),
]

Dimensions = Annotated[
    str | None,
    typer.Option("--dims", metavar="NAME=SIZE,...", help="Sizes of named dimensions, as in batch=8,sequence=128."),
]

Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]


def dimensions(text: str | None, batch: int | None = None) -> dict[str, int]:
    """Read `batch=8,sequence=128`; `batch` is short for its batch part. Raises OptionError on anything else.

    >>> dimensions("batch=8, sequence=128")
    {'batch': 8, 'sequence': 128}
    """
    sizes = {} if batch is None else {"batch": batch}
    for item in (text or "").split(","):
        if not item.strip():
            continue
        name, equals, size = (part.strip() for part in item.partition("="))
        if not equals or not name or not size.isdecimal():
            raise OptionError(f"--dims: expected name=size like batch=8,sequence=128, found {item.strip()!r}")
        sizes[name] = int(size)
    return sizes
