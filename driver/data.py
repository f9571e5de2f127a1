"""Calibration and evaluation data: files or a function -> feeds.

batch.npz                        one batch: an array for each input, by name
folder/                          one such file a batch, in the order of their names
texts.jsonl+tokenizer.json       one text a line, through a `tokenizers` file
package.module:function          called without arguments, yields feeds
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backends.base import Interface
from ..ir import reference
from ..ir.errors import ModelError, OptionError, TersorError
from ..ir.feeds import Feeds, check_feeds

#: What is kept of longer data: this many batches, and this many bytes of them.
MAX_BATCHES = 256
MAX_BYTES = 256 * 1024 * 1024

#: One batch of this many is held out for measuring quality.
HOLD_OUT = 5


@dataclass(frozen=True)
class Split:
    """Batches that passes may see, and batches that quality is read on; the same single batch where there is only one.

    note: how they were chosen, for people.
    """

    calibration: Sequence[Feeds]
    quality: Sequence[Feeds]
    held_out: bool
    note: str


def load_data(spec: str | Path, interface: Interface, *, batch: int = 8) -> Iterator[Feeds]:
    """Feeds for a model with `interface`, one batch at a time, each checked.

    spec: an `.npz` file (one batch: arrays by input name) or a folder of them; `texts.jsonl+tokenizer.json`, a JSON
    text or an object with `text` (and `text_pair`) a line, `batch` texts at a time; or `package.module:function`.

    Raises OptionError where there is nothing of that name or kind, ModelError that names the file or line for data
    that is empty or does not fit.
    """
    text, path = str(spec), Path(spec).expanduser()
    if path.is_dir():
        return checked(_folder(path), interface)
    if path.suffix == ".npz":
        return checked([(str(path), _npz(path))], interface)
    if path.suffix == ".jsonl" or ".jsonl+" in text:
        from .texts import read_texts

        return checked(read_texts(text, interface, batch), interface)
    if not path.exists() and reference.is_reference(text):
        return checked(_called(text), interface)
    raise OptionError(
        f"data {text!r}: expected an .npz file, a folder of them, texts.jsonl+tokenizer.json or "
        f"package.module:function, {'found another file' if path.exists() else 'and there is no such file'}"
    )


def checked(batches: Iterable[tuple[str, object]], interface: Interface) -> Iterator[Feeds]:
    """Each (place, feeds), refused with a ModelError that names the place where it does not fit the interface."""
    place = "data"
    for place, feeds in batches:
        if not isinstance(feeds, Mapping):
            raise ModelError(f"{place}: expected {{input name: array}}, found {type(feeds).__name__}")
        arrays = {str(name): np.asarray(value) for name, value in feeds.items()}
        try:
            check_feeds(interface.signature, arrays, interface.ranges)
        except ModelError as error:
            raise ModelError(f"{place}: {error}") from error
        for name, array in arrays.items():
            _refuse_unusable(place, name, array)
        yield arrays


def numbered(batches: Iterable[object], what: str = "data") -> Iterator[tuple[str, object]]:
    """Each batch with its place: `data: batch 3`, counted from 1."""
    return ((f"{what}: batch {index}", feeds) for index, feeds in enumerate(batches, 1))


def take(batches: Iterable[Feeds]) -> tuple[list[Feeds], bool]:
    """The first batches, up to MAX_BATCHES and MAX_BYTES but at least two, and whether there were more.

    Raises ModelError where there are none.
    """
    kept: list[Feeds] = []
    size = 0
    for feeds in batches:
        if len(kept) >= MAX_BATCHES or (size > MAX_BYTES and len(kept) > 1):
            return kept, True
        kept.append(feeds)
        size += sum(array.nbytes for array in feeds.values())
    if not kept:
        raise ModelError("the data is empty: expected at least one batch of {input name: array}")
    return kept, False


def absolute(spec: str) -> str:
    """A spec as a recipe records it: its paths absolute."""
    if not Path(spec).expanduser().exists() and reference.is_reference(spec):
        return spec
    parts = spec.split(".jsonl+")
    if len(parts) == 2:
        return "+".join(str(Path(part).expanduser().resolve()) for part in (f"{parts[0]}.jsonl", parts[1]))
    return str(Path(spec).expanduser().resolve())


def split(batches: Sequence[Feeds], *, more: bool = False) -> Split:
    """Hold every fifth batch out, or the last of fewer than five."""
    clipped = f"; there are more than these {len(batches)}" if more else ""
    clipped += "".join(f"; {remark}" for remark in remarks(batches))
    if len(batches) == 1:
        note = f"one batch only: quality was read on the batch that calibrated{clipped}"
        return Split(batches, batches, False, note)
    out = [index for index in range(len(batches)) if index % HOLD_OUT == HOLD_OUT - 1] or [len(batches) - 1]
    calibration = [feeds for index, feeds in enumerate(batches) if index not in out]
    note = f"{len(calibration)} batches for calibration, {len(out)} held out for quality{clipped}"
    return Split(calibration, [batches[index] for index in out], True, note)


def remarks(batches: Sequence[Feeds]) -> Iterator[str]:
    """What makes data that fit the model poor ones to calibrate on: one sample, inputs or features that never vary.

    Only inputs of floats are looked at: masks and types of tokens are often the same throughout.
    """
    if len(batches) == 1 and all(len(array) == 1 for array in batches[0].values() if array.ndim):
        yield "one sample only, which stands for no other"
    for name, first in batches[0].items():
        arrays = [feeds[name] for feeds in batches if feeds[name].size]
        if not np.issubdtype(first.dtype, np.floating) or not first.ndim or not arrays:
            continue
        low, high = (min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays))
        if low == high:
            yield f"input {name!r} is {low:g} throughout"
            continue
        if first.ndim > 1 and len({array.shape[-1] for array in arrays}) == 1:
            used = np.any([array.reshape(-1, array.shape[-1]).any(axis=0) for array in arrays], axis=0)
            if not used.all():
                yield f"{np.sum(~used)} of {len(used)} channels of input {name!r} are zero throughout"


def _folder(folder: Path) -> Iterator[tuple[str, object]]:
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise ModelError(f"data folder {folder} holds no .npz file: save each batch with numpy.savez(file, **feeds)")
    return ((str(file), _npz(file)) for file in files)


def _npz(path: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    if not path.is_file():
        raise OptionError(f"data: no file {path}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path} cannot be read as .npz ({error}): save a batch with numpy.savez(file, **feeds); pickled objects "
            "are never loaded"
        ) from error


def _called(text: str) -> Iterator[tuple[str, object]]:
    function = reference.resolve(text, "data")
    with reference.importable():
        try:
            made = function()
            if isinstance(made, Mapping) or not isinstance(made, Iterable):
                raise ModelError(f"{text} returned a {type(made).__name__}: expected an iterable of feeds")
            yield from numbered(made, text)
        except TersorError:
            raise
        except (Exception, SystemExit) as error:
            raise ModelError(f"{text} failed with {type(error).__name__}: {error}") from error


def _refuse_unusable(place: str, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    # An empty cache, [batch, heads, 0, size], is a fine input; a batch of nothing is not.
    if array.ndim and not array.shape[0]:
        raise ModelError(f"{place}: input {name!r} is empty, its shape is {list(array.shape)}")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        first = [int(axis) for axis in np.argwhere(~np.isfinite(array))[0]]
        raise ModelError(f"{place}: input {name!r} holds {array[tuple(first)]} at {first}: expected finite numbers")


def batches(data: str | Path | Iterable[object], interface: Interface) -> tuple[list[Feeds], bool]:
    """Data as `compile` takes it, a spec or an iterable of feeds: checked and bounded as `take` does."""
    if isinstance(data, str | Path):
        return take(load_data(data, interface))
    if isinstance(data, Mapping):
        raise OptionError("data: expected an iterable of feeds, found one mapping; write [feeds]")
    return take(checked(numbered(data), interface))
