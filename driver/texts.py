"""Texts and a `tokenizers` file -> feeds of a text model.

Lines are taken in file order, a batch at a time, padded to the longest of the batch (or to the model's fixed length)
and cut to the longest that the model takes. Arrays are made for the inputs that the model has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..backends.base import Interface
from ..ir.errors import ModelError, OptionError
from ..ir.feeds import Array
from ..ir.level import Port
from ..passes.reading import json_lines, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

#: The inputs that can be made from text, and the field of an encoding that each is.
FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}

_PADS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")


@dataclass(frozen=True)
class Length:
    """How long a row is: `fixed`, or padded to the longest of its batch and cut at `longest`."""

    fixed: int | None = None
    longest: int | None = None


def read_texts(spec: str, interface: Interface, batch: int) -> Iterator[tuple[str, object]]:
    """(place, feeds) for `texts.jsonl+tokenizer.json`; without a tokenizer, the `tokenizer.json` beside the texts.

    Raises OptionError for a missing file, UnsupportedError where `tokenizers` is not installed, ModelError for a line
    that is no text and for a model whose inputs are not those of a text model.
    """
    texts, tokenizer = _paths(spec)
    ports = _ports(interface)
    rows = ports["input_ids"].shape or (None, None)
    length = _length(rows, interface)
    encode = read_tokenizer(tokenizer)
    size = rows[0] if isinstance(rows[0], int) else batch
    encode.no_padding()
    longest = length.fixed or length.longest
    if longest is not None:
        encode.enable_truncation(longest)
    pad = _pad(encode)
    lines = json_lines(texts)
    while block := list(islice(lines, size)):
        if isinstance(rows[0], int) and len(block) < size:
            return
        encodings = encode.encode_batch([text for _, text in block])
        yield f"{texts}: lines {block[0][0]} to {block[-1][0]}", _arrays(encodings, ports, pad, length)


def _paths(spec: str) -> tuple[Path, Path]:
    texts, _, tokenizer = spec.rpartition(".jsonl+") if ".jsonl+" in spec else (spec.removesuffix(".jsonl"), "", "")
    first = Path(f"{texts}.jsonl").expanduser()
    second = Path(tokenizer).expanduser() if tokenizer else first.with_name("tokenizer.json")
    if not first.is_file():
        raise OptionError(f"data: no file {first}")
    if not second.is_file():
        raise OptionError(f"data: texts need a tokenizers file, and there is no {second}: write {first}+tokenizer.json")
    return first, second


def _ports(interface: Interface) -> dict[str, Port]:
    ports = {port.name: port for port in interface.signature.inputs}
    other = sorted(ports.keys() - FIELDS.keys())
    if other or "input_ids" not in ports:
        raise ModelError(
            f"texts give {', '.join(FIELDS)}; the model's inputs are {', '.join(ports)}: "
            "give its data as .npz files or package.module:function"
        )
    return ports


def _length(rows: Sequence[int | str | None], interface: Interface) -> Length:
    dim = rows[1] if len(rows) > 1 else None
    if isinstance(dim, int):
        return Length(fixed=dim)
    return Length(longest=interface.ranges.get(dim, (0, None))[1]) if dim is not None else Length()


def _pad(tokenizer: Tokenizer) -> int:
    found = (tokenizer.token_to_id(name) for name in _PADS)
    return next((number for number in found if number is not None), 0)


def _arrays(encodings: Sequence[Encoding], ports: dict[str, Port], pad: int, length: Length) -> dict[str, Array]:
    """[batch, sequence] of each input, rows padded on the right."""
    width = length.fixed or max(1, *(len(encoding.ids) for encoding in encodings))
    made: dict[str, Array] = {}
    for name, port in ports.items():
        dtype = np.dtype(np.int64) if port.dtype is None else port.dtype.numpy()
        array = np.full((len(encodings), width), pad if name == "input_ids" else 0, dtype)
        for row, encoding in zip(array, encodings, strict=True):
            values = getattr(encoding, FIELDS[name])
            row[: len(values)] = values
        made[name] = array
    return made
