"""Run a model to check it: the FX interpreter where it knows every op, else ONNX Runtime, else ONNX's reference."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from .errors import ModelError
from .feeds import Array, Feeds, Run, default_sizes, random_feeds
from .save import serialized

if TYPE_CHECKING:
    import torch

    from .fx.held import Held

#: Sizes that trial feeds give to dynamic dimensions other than an input's first.
_TRIALS = (16, 64, 256, 1024)

#: Protobuf's limit is 2 GiB; larger models go through a file.
_IN_MEMORY = 1 << 30


def runner(model: ir.Model) -> Run:
    """A function from feeds to the model's outputs by name."""
    from .fx import Interpreter, missing, to_fx

    if missing(model):
        return outside(model)
    interpreter = Interpreter(to_fx(model))
    return lambda feeds: dict(interpreter.run(feeds))


def trial_feeds(model: ir.Model, *, seed: int = 0) -> dict[str, Array]:
    """Seeded random feeds on which the model runs: sizes that nobody gave grow until it does.

    A window, a padding or a stride may need more than the few elements that random feeds start with. Raises the first
    ModelError when none of the sizes will do.
    """
    run = runner(model)
    failure: ModelError | None = None
    for size in _TRIALS:
        feeds = random_feeds(model, default_sizes(model, other=size), seed=seed)
        try:
            run(feeds)
        except ModelError as error:
            failure = failure or error
        else:
            return feeds
    assert failure is not None
    raise failure


def force(model: ir.Model, feeds: Feeds, names: Collection[str], see: Callable[[str, Array], Array | None]) -> bool:
    """As `watch`, but an array that `see` returns takes the value's place for everything that runs after.

    Gives False, and runs nothing, for a model that the interpreter cannot run.
    """
    from .fx import Interpreter, missing, to_fx

    if missing(model):
        return False
    from .fx.dtypes import to_numpy, to_torch

    interpreter = Interpreter(to_fx(model))

    def tap(name: str, value: torch.Tensor) -> torch.Tensor | None:
        forced = see(name, to_numpy(value))
        return None if forced is None else to_torch(forced)

    interpreter.run(feeds, taps=[name for name in names if name in interpreter.values], tap=tap)
    return True


def watch(model: ir.Model, feeds: Feeds, names: Collection[str], see: Callable[[str, Array], bool]) -> None:
    """Run the model once and show `see` the values of these names in the order of execution, until it returns False.

    What the interpreter folds away is not shown. Nothing is held for the caller, except where ONNX Runtime has to run
    the model: there all the named values of the run are computed first.
    """
    Watcher(model).watch(feeds, names, see)


def values(model: ir.Model, feeds: Feeds, names: Collection[str]) -> dict[str, Array]:
    """What values are on some feeds, by name; inputs as they are fed. Strings and what the run never makes are left
    out.
    """
    found: dict[str, Array] = {name: np.asarray(feeds[name]) for name in set(names) & feeds.keys()}
    left = set(names) - found.keys()

    def see(name: str, array: Array) -> bool:
        # the run may hand out what it uses again
        found[name] = array.copy()
        left.discard(name)
        return bool(left)

    if left:
        watch(model, feeds, sorted(left), see)
    return found


class Watcher:
    """`watch` on one model again and again, which stays as it is.

    hold: keeps what follows from weights alone, such as dequantized weights, from one run to the next, and for watchers
    of other models that share it, where these have the same weights still.
    """

    def __init__(self, model: ir.Model, hold: Held | None = None) -> None:
        from .fx import Interpreter, missing, to_fx

        self._model = model
        weights = {name: value.const_value for name, value in model.graph.initializers.items()}
        self._interpreter = None if missing(model) else Interpreter(to_fx(model), hold=hold, weights=weights)

    def watch(self, feeds: Feeds, names: Collection[str], see: Callable[[str, Array], bool]) -> None:
        """As the function of that name."""
        if self._interpreter is None:
            _watch_outside(self._model, feeds, names, see)
            return
        from .fx.dtypes import to_numpy

        def tap(name: str, value: torch.Tensor) -> None:
            if not see(name, to_numpy(value)):
                raise _Enough

        with contextlib.suppress(_Enough):
            self._interpreter.run(feeds, taps=[name for name in names if name in self._interpreter.values], tap=tap)


class _Enough(Exception):  # noqa: N818  # no error: it ends a run early
    """The watcher has seen what it wanted."""


def _watch_outside(model: ir.Model, feeds: Feeds, names: Collection[str], see: Callable[[str, Array], bool]) -> None:
    clone = model.clone()
    wanted = [
        value for node in clone.graph for value in node.outputs if value.name in names and value.dtype is not None
    ]
    clone.graph.outputs[:] = wanted
    for name, array in outside(clone)(feeds).items():
        if not see(name, array):
            return


def outside(model: ir.Model) -> Run:
    """Run on ONNX Runtime without its optimizations; on ONNX's reference evaluator what it refuses.

    A run raises ModelError for feeds on which the model fails.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    outputs = [value.name or "" for value in model.graph.outputs]
    with tempfile.TemporaryDirectory() as folder:
        source = _serialized(model, Path(folder))
        try:
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime's errors have no common base that is public
            return _reference(source, outputs)
    return _named(outputs, lambda feeds: session.run(outputs, dict(feeds)))


def _reference(source: bytes | str, outputs: list[str]) -> Run:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(source)
    return _named(outputs, lambda feeds: list(evaluator.run(None, dict(feeds))))


def _named(outputs: list[str], call: Callable[[Feeds], Sequence[Array]]) -> Run:
    def run(feeds: Feeds) -> dict[str, Array]:
        try:
            return dict(zip(outputs, call(feeds), strict=True))
        except Exception as error:  # neither runtime's errors have a common base that is public
            raise ModelError(f"the model does not run on these feeds: {error}") from error

    return run


def _serialized(model: ir.Model, folder: Path) -> bytes | str:
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size < _IN_MEMORY:
        return serialized(model)
    path = folder / "model.onnx"
    ir.save(model, path, external_data="model.data")
    return str(path)
