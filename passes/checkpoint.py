"""Where a calibration run stood when it was stopped, so that the same run goes on from there.

Each run has a file of its own, `<hash>.npz`. The hash is of everything that decides what it gathers: the nodes and
weights before the values, the values and statistics wanted, the data, and the versions of tersor and torch. Anything
else is another run with another file, so that a file is never of a run that it does not fit. Once what the runs were
for is done, their files go; those of other runs stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..ir.errors import OptionError
from ..ir.feeds import Feeds
from .edit import Array

#: Of what the files hold.
_FORMAT = "1"

State = Mapping[str, Array]


@dataclass(eq=False)
class Checkpoints:
    """A folder of such files.

    every: seconds between two saves of a run, at least. patience: a save waits so many times as long as the last took.
    Raises OptionError where the folder cannot be made or written.
    """

    folder: Path
    every: float = 5.0
    patience: int = 20
    _due: float = field(default=0.0, repr=False)
    _runs: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, key: str, count: int) -> tuple[int, list[State]]:
        """How many batches the run `key` has done, and the state of its `count` accumulators then; 0 and none where
        there is no such file, or something has damaged it.
        """
        self._due = time.monotonic() + self.every
        self._runs.add(key)
        try:
            with np.load(self._file(key), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            done = int(arrays["done"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return 0, []
        states: list[dict[str, Array]] = [{} for _ in range(count)]
        for name, array in arrays.items():
            index, slash, inner = name.partition("/")
            if slash:
                states[int(index)][inner] = array
        return done, list(states)

    def save(self, key: str, done: int, states: Iterable[State], *, last: bool = False) -> None:
        """Write what the run has gathered on `done` batches, where it is time for that or it was the `last`."""
        start = time.monotonic()
        if start < self._due and not last:
            return
        arrays = {"done": np.asarray(done)}
        for index, state in enumerate(states):
            arrays |= {f"{index}/{name}": array for name, array in state.items()}
        goal = self._file(key)
        with self._explained():
            for left in self.folder.glob(f"{key}.*.partial"):
                left.unlink(missing_ok=True)
            partial = goal.with_suffix(f".{os.getpid()}.partial")
            with partial.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes names for options
                file.flush()
                os.fsync(file.fileno())
            partial.replace(goal)
        end = time.monotonic()
        self._due = end + max(self.every, self.patience * (end - start))

    def clear(self) -> None:
        """Remove the files of the runs that were asked for here. One that cannot be removed is left."""
        for key in self._runs:
            with contextlib.suppress(OSError):
                self._file(key).unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OptionError(
                f"cannot write {self.folder}: {error.strerror or error}; choose another folder to resume from"
            ) from error


def digest(*parts: object) -> str:
    """A hash of parts that say all there is to say about them in print."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()


def digest_of_data(batches: Iterable[Feeds]) -> str:
    """A hash of every number of the batches."""
    return digest(*([(name, _digest_of_array(array)) for name, array in sorted(feeds.items())] for feeds in batches))


def surroundings() -> str:
    """What beside model and data decides the numbers of a run."""
    found = [_FORMAT]
    for package in ("tersor", "torch"):
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("")
    return digest(found)


@dataclass(eq=False)
class Origins:
    """Hashes of what values are computed from: nodes, weights and the inputs they start at."""

    model: ir.Model
    _known: dict[ir.Value, str] = field(default_factory=dict)

    def of(self, values: Sequence[ir.Value]) -> list[str]:
        """One hash for each of these values of the main graph; what comes after the last is not looked at."""
        missing = {value for value in values if value.producer() is not None} - self._known.keys()
        for node in self.model.graph:
            if not missing:
                break
            self._learn(node)
            missing -= set(node.outputs)
        return [self._value(value) for value in values]

    def _learn(self, node: ir.Node) -> None:
        function = self.model.functions.get(node.op_identifier())
        body = None if function is None else self._body(function)
        attributes = [(name, self._attribute(attr)) for name, attr in sorted(node.attributes.items())]
        version = node.version or self.model.opset_imports.get(node.domain)
        read = [None if value is None else self._value(value) for value in node.inputs]
        made = digest(node.domain, node.op_type, version, attributes, read, body)
        self._known |= {value: digest(made, index) for index, value in enumerate(node.outputs)}

    def _value(self, value: ir.Value) -> str:
        known = self._known.get(value)
        if known is None:
            tensor = value.const_value
            what = None if tensor is None else _digest_of_tensor(tensor)
            known = self._known[value] = digest(value.name, str(value.type), str(value.shape), what)
        return known

    def _attribute(self, attr: ir.Attr) -> object:
        if attr.is_ref():
            return str(attr)
        if attr.type == ir.AttributeType.GRAPH:
            return self._body(attr.as_graph())
        if attr.type == ir.AttributeType.GRAPHS:
            return [self._body(graph) for graph in attr.as_graphs()]
        if attr.type == ir.AttributeType.TENSOR:
            return _digest_of_tensor(attr.as_tensor())
        if attr.type == ir.AttributeType.TENSORS:
            return [_digest_of_tensor(tensor) for tensor in attr.as_tensors()]
        return attr.type, str(attr.value)

    def _body(self, graph: ir.Graph | ir.Function) -> str:
        for node in graph:
            self._learn(node)
        return digest([value.name for value in graph.inputs], [self._value(value) for value in graph.outputs])


def _digest_of_tensor(tensor: ir.TensorProtocol) -> str:
    return digest(tensor.dtype, str(tensor.shape), hashlib.sha256(tensor.tobytes()).hexdigest())


def _digest_of_array(array: Array) -> str:
    if array.dtype == object:
        return digest(array.shape, array.tolist())
    return digest(array.dtype, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
