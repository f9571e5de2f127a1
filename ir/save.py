"""Writing models and artifact folders so that a killed process never leaves half of one.

Everything is written next to its target under a temporary name that holds the writer's process id, flushed to the
disk, and renamed into place as the last action. What a dead process left behind is removed at the next write.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx_ir

from .errors import OptionError

#: Models whose weights are no larger than this many bytes are one file; larger ones get `<name>.onnx.data`.
INLINE_LIMIT = 32 * 1024 * 1024

#: Weights of at least 1 MiB start at a multiple of this many bytes, so that runtimes can map them.
ALIGNMENT = 4096

_MANIFEST = "manifest.json"


def save(model: onnx_ir.Model, path: str | Path) -> None:
    """Write `model` as one `.onnx` file, or as that and `<name>.onnx.data` when its weights exceed INLINE_LIMIT.

    The model is unchanged, and stays usable when its own weights are mapped from the files that are replaced. External
    data is streamed tensor by tensor. Each file is replaced atomically, the data before the model; to have both or
    neither, write into an `atomic_folder`. Raises OptionError where the folder is missing or cannot be written.
    """
    target = Path(path)
    data_name = f"{target.name}.data"
    external = sum(tensor.nbytes for tensor in _initializers(model)) > INLINE_LIMIT
    with _explained(target), _scratch(target) as folder:
        _internalize_attributes(model)
        written = folder / target.name
        _pin(model, (target, target.with_name(data_name)))
        if external:
            onnx_ir.save(model, written, external_data=data_name, alignment=ALIGNMENT)
            _replace(folder / data_name, target.with_name(data_name))
        else:
            written.write_bytes(serialized(model))
        _replace(written, target)
        if not external:
            target.with_name(data_name).unlink(missing_ok=True)
        _flush(target.parent)


def serialized(model: onnx_ir.Model) -> bytes:
    """The model as the bytes of one `.onnx` file, weights that lie in other files included. The model is unchanged."""
    with _in_memory(model):
        data: bytes = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    return data


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends, and disappears when the block raises.

    Replaces an empty folder and an earlier artifact (a folder with a manifest.json); an earlier artifact stays whole
    until the swap. Missing parents are made. Raises OptionError before anything is written when `target` is a file or
    a folder of something else, or when its parent cannot be written.
    """
    goal = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow a link that is to be replaced
    _check_replaceable(goal)
    with contextlib.ExitStack() as stack:
        with _explained(goal):
            goal.parent.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(_scratch(goal))
            inner = scratch / goal.name
            inner.mkdir()
        yield inner
        _check_replaceable(goal)
        with _explained(goal):
            for entry in (*inner.rglob("*"), inner):
                _flush(entry)
            _swap_in(inner, goal, scratch / "old")
            _flush(goal.parent)


def sha256(path: str | Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """OSErrors become OptionErrors that name the target."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OptionError(f"cannot write {target}: {reason}; choose another place for the output") from error


def _check_replaceable(goal: Path) -> None:
    if not goal.exists():
        return
    if not goal.is_dir():
        raise OptionError(f"output {goal} is a file, expected a folder: choose another name")
    if (goal / _MANIFEST).is_file():
        return
    found = sorted(entry.name for entry in goal.iterdir())
    if found:
        listing = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise OptionError(
            f"output folder {goal} is not empty and no tersor artifact (no {_MANIFEST}; it holds {listing}): "
            "choose an empty or new folder"
        )


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A temporary sibling folder of `target`, removed at the end; those of dead processes are removed first."""
    prefix = f".{target.name}.tersor-"
    _sweep(target, prefix)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(target: Path, prefix: str) -> None:
    for stale in target.parent.glob(f"{glob.escape(prefix)}*"):
        found = re.fullmatch(r"(\d+)-\w+", stale.name.removeprefix(prefix))
        if found is None or _alive(int(found[1])):
            continue
        # A process that died between the two renames of a swap leaves the earlier artifact here.
        if (stale / "old").is_dir() and not target.exists():
            (stale / "old").rename(target)
        shutil.rmtree(stale, ignore_errors=True)


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _swap_in(source: Path, goal: Path, aside: Path) -> None:
    if not goal.exists():
        source.rename(goal)
        return
    if _exchange(source, goal):
        return
    goal.rename(aside)
    source.rename(goal)


def _exchange(source: Path, goal: Path) -> bool:
    """Swap two folders in one step (Linux); False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    at_cwd, exchange = -100, 2
    if renameat2(at_cwd, os.fsencode(source), at_cwd, os.fsencode(goal), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(goal))


def _replace(source: Path, target: Path) -> None:
    _flush(source)
    source.replace(target)


def _flush(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _initializers(model: onnx_ir.Model) -> Iterator[onnx_ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value


def _pin(model: onnx_ir.Model, targets: tuple[Path, ...]) -> None:
    """Map the external tensors that live in a file about to be replaced: a mapping outlives the file's name."""
    for tensor in _initializers(model):
        if isinstance(tensor, onnx_ir.ExternalTensor):
            home = Path(tensor.path)
            if any(target.exists() and home.exists() and home.samefile(target) for target in targets):
                tensor.numpy()


@contextlib.contextmanager
def _in_memory(model: onnx_ir.Model) -> Iterator[None]:
    """For the time of the block, external initializers are plain tensors, so that serializing writes their bytes."""
    swapped: list[tuple[onnx_ir.Value, onnx_ir.ExternalTensor]] = []
    try:
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if isinstance(tensor, onnx_ir.ExternalTensor):
                    swapped.append((value, tensor))
                    value.const_value = _loaded(tensor)
        yield
    finally:
        for value, tensor in swapped:
            value.const_value = tensor


def _internalize_attributes(model: onnx_ir.Model) -> None:
    """External tensors in attributes have a place relative to the file they came from: hold their bytes instead."""
    scopes: list[onnx_ir.Graph | onnx_ir.Function] = [model.graph, *model.functions.values()]
    for scope in scopes:
        for node in scope.all_nodes():
            for name, attribute in tuple(node.attributes.items()):
                tensor = None if attribute.is_ref() else attribute.value
                if isinstance(tensor, onnx_ir.ExternalTensor):
                    node.attributes[name] = onnx_ir.AttrTensor(name, _loaded(tensor))


def _loaded(tensor: onnx_ir.ExternalTensor) -> onnx_ir.TensorProtocol:
    return onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)
