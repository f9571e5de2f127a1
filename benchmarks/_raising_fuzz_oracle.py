"""Whether a pass that raises kept what a graph computes: the graph before and after, run on several kinds of feeds."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import numpy_helper
from tersor.ir.compare import TOLERANCE, Tally
from tersor.ir.errors import TersorError
from tersor.ir.feeds import Array, random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import format_model, lines
from tersor.ir.walk import every_node
from tersor.passes.base import Context, Outcome, Pass
from tersor.passes.clean.infer_shapes import InferShapes
from tersor.passes.raising.upgrade_opset import UpgradeOpset

Arrays = dict[str, Array]

#: How much of the change that rounding the inputs brings about is rounding, and from where a graph tells nothing.
_ROUNDING, _CHAOS = 20.0, 3e-3
_UNFINITE = frozenset({"NaN", "infinite", "minus infinite"})
#: Relative size of one rounding in float32.
_ULP = 1.2e-7


@dataclass(frozen=True)
class Wrong:
    """A pass that changed what a graph computes."""

    made: str
    feeds: str
    text: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.made} on {self.feeds} feeds: {self.text}\n{self.before}\n  became\n{self.after}"


@dataclass(frozen=True)
class Feeding:
    """Feeds of one kind, the original's outputs on them, and how far apart rounding alone may bring others."""

    kind: str
    feeds: Arrays
    outputs: Arrays
    tolerance: float


def kinds(base: Arrays, rng: np.random.Generator) -> Iterator[tuple[str, Arrays]]:
    """`base`, and feeds that are large, tiny, zero, masked everywhere or in places, or not finite."""
    yield "normal", base
    for kind, factor in (("large", 1e3), ("tiny", 1e-6), ("zero", 0.0)):
        yield kind, {n: (a * factor).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in base.items()}
    if any(array.dtype.kind == "b" for array in base.values()):
        for kind, chance in (("all true", 1.0), ("all false", 0.0), ("mixed truth", 0.5)):
            yield (
                kind,
                {n: rng.random(a.shape) < chance if a.dtype.kind == "b" else a for n, a in base.items()},
            )
    floats = [name for name, array in base.items() if array.dtype.kind == "f" and array.size and array.ndim > 1]
    for kind, number in (("NaN", np.nan), ("infinite", np.inf), ("minus infinite", -np.inf)):
        if floats:
            name = floats[int(rng.integers(len(floats)))]
            array = base[name].copy()
            array.reshape(-1)[int(rng.integers(array.size))] = number
            yield kind, {**base, name: array}


def feedings(model: ir.Model, rng: np.random.Generator, sizes: Mapping[str, int] | None = None) -> list[Feeding]:
    """What the model computes on feeds of each kind; those it fails on are left out."""
    run, found = runner(model), []
    least = 2e-2 if _halves(model) else TOLERANCE
    base = {name: np.asarray(a) for name, a in random_feeds(model, sizes, seed=int(rng.integers(1 << 30))).items()}
    for kind, feeds in kinds(base, rng):
        try:
            with np.errstate(all="ignore"):
                outputs = {name: np.asarray(array) for name, array in run(feeds).items()}
                near = run({name: _nudged(array, rng) for name, array in feeds.items()})
        except TersorError:
            continue
        delta = max((Tally.of(a, near[name]).relative_l2 for name, a in outputs.items()), default=0.0)
        if delta < _CHAOS:
            found.append(Feeding(kind, feeds, outputs, max(least, _ROUNDING * delta)))
    return found


def _halves(model: ir.Model) -> bool:
    """Whether anything is computed below float32."""
    values = (value for node in every_node(model.graph) for value in (*node.inputs, *node.outputs) if value is not None)
    return any(value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) for value in values)


def _nudged(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    return (array * (1 + _ULP * rng.standard_normal(array.shape))).astype(array.dtype)


def disagreement(given: Feeding, found: Mapping[str, Array], *, hidden: bool) -> str:
    """How outputs differ from the original's, or nothing. `hidden`: rows that were NaN may be zero."""
    for name, wanted in given.outputs.items():
        other = np.asarray(found[name])
        if wanted.shape != other.shape or wanted.dtype != other.dtype:
            return f"{name}: {wanted.dtype}{list(wanted.shape)} became {other.dtype}{list(other.shape)}"
        if wanted.dtype.kind == "f":
            if given.kind in _UNFINITE and hidden:
                # a score that is infinite outweighs any number that hides it
                continue
            other = np.where(np.isinf(wanted) & (wanted == -other), wanted, other)
            if given.kind in _UNFINITE:
                # what NaN and infinity come to depends on the order of sums; of the rest nothing may change
                other = np.where(np.isfinite(wanted) & np.isfinite(other), other, wanted)
            elif hidden:
                other = np.where(np.isnan(wanted) & np.isfinite(other), wanted, other)
        elif wanted.dtype.itemsize == 1 and wanted.dtype.kind in "iu":
            # one step more or less where a number falls on a half
            steps = np.abs(np.int64(wanted) - np.int64(other))
            other = np.where((steps == 1) & (np.mean(steps != 0) < 0.05), wanted, other)
        tally = Tally.of(wanted, other)
        if not tally.relative_l2 <= given.tolerance:
            text = f", {tally.mismatch} places not finite on one side" if tally.mismatch else ""
            return f"{name} is off by {tally.relative_l2:.3g} (tolerance {given.tolerance:.2g}{text})"
    return ""


def understood(model: ir.Model, rng: np.random.Generator, sizes: Mapping[str, int] | None = None) -> Sequence[Feeding]:
    """Bring a graph to the semantic opset, in place, and find feeds that it runs on; none where it runs on nothing.

    Raises whatever a graph that is none makes its readers raise.
    """
    UpgradeOpset().apply(model, Context())
    InferShapes().apply(model, Context())
    return feedings(model, rng, sizes)


def judged(
    model: ir.Model, passes: Sequence[Pass], given: Sequence[Feeding], *, runtime: bool = False
) -> tuple[list[Wrong], int]:
    """Every pass alone, then all of them in a row: what was wrong, and how often anything was raised.

    A pass that raises an exception on a graph that runs is wrong, whatever the exception.
    """
    wrong: list[Wrong] = []
    fired = 0
    before = lines(model)
    if runtime:
        wrong += _by_runtime(model, passes, given)
    for made in passes:
        after = model.clone()
        outcome = _held(made.explain, made, model)
        if isinstance(outcome, Wrong):
            wrong.append(outcome)
            continue
        if lines(model) != before:
            wrong.append(Wrong(made.name, "no", "explain changed the model", "\n".join(before), format_model(model)))
            return wrong, fired
        if any(item.miss is None for item in outcome.findings) and made.name != "infer-shapes":
            done = _held(made.apply, made, after)
            if isinstance(done, Wrong):
                wrong.append(done)
            elif done.matches:
                fired += 1
                wrong += _compared(made.name, model, after, given)
    after = model.clone()
    for made in passes:
        step = after.clone()
        done = _held(made.apply, made, after)
        if isinstance(done, Wrong):
            return [*wrong, done], fired
        if done.matches and made.name != "infer-shapes":
            found = _compared(f"{made.name} in a row", step, after, given)
            if found:
                wrong += found
                break
    return wrong, fired


def _held(call: Callable[[ir.Model, Context], Outcome], made: Pass, model: ir.Model) -> Outcome | Wrong:
    """What a pass says of a model; an exception of it is wrong."""
    before = format_model(model)
    try:
        return call(model, Context())
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
        return Wrong(made.name, "any", text, before, "nothing")


def _compared(name: str, model: ir.Model, after: ir.Model, given: Sequence[Feeding]) -> list[Wrong]:
    hidden = any(node.op_type == "Attention" for node in after.graph.all_nodes())
    text = ""
    kind = ""
    try:
        run = runner(after)
        for item in given:
            kind = item.kind
            with np.errstate(all="ignore"):
                text = disagreement(item, {n: np.asarray(a) for n, a in run(item.feeds).items()}, hidden=hidden)
            if text:
                break
    except Exception as error:
        text = f"{type(error).__name__}: {str(error)[:300]}"
    if not text or not _runs(model, item) or _rounds(model, item):
        return []
    return [Wrong(name, kind, text, format_model(model), format_model(after))]


def _rounds(model: ir.Model, given: Feeding) -> bool:
    """Whether the original is as far from itself in float64: then what differs is rounding on its way."""
    wide = widened(model)
    feeds = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in given.feeds.items()}
    try:
        with np.errstate(all="ignore"):
            exact = runner(wide)(feeds)
    except Exception:
        return False
    errors = (Tally.of(np.float64(a) if a.dtype.kind == "f" else a, exact[n]) for n, a in given.outputs.items())
    return max((error.relative_l2 for error in errors), default=0.0) > given.tolerance / 10


def widened(model: ir.Model) -> ir.Model:
    """The model in float64 where it is in float32."""
    proto = ir.to_proto(model)
    _widen(proto.graph)
    return ir.from_proto(proto)


def _widen(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _widen(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.FLOAT:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _runs(model: ir.Model, given: Feeding) -> bool:
    """Whether ONNX Runtime takes the original too, and comes to the same."""
    try:
        outputs = by_runtime(model, given.feeds)
    except Exception as error:
        return "NOT_IMPLEMENTED" in str(error)
    return not disagreement(replace(given, tolerance=max(1e-3, given.tolerance)), outputs, hidden=False)


def by_runtime(model: ir.Model, feeds: Arrays) -> Arrays:
    """The outputs of ONNX Runtime, which runs the nodes that are there."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _by_runtime(model: ir.Model, passes: Sequence[Pass], given: Sequence[Feeding]) -> list[Wrong]:
    """ONNX Runtime on the original, against what FX makes of all that was raised."""
    try:
        outputs = by_runtime(model, given[0].feeds)
    except Exception:
        return []
    after = model.clone()
    for made in passes:
        made.apply(after, Context())
    first = Feeding(given[0].kind, given[0].feeds, outputs, max(given[0].tolerance, 1e-4))
    return _compared("all, by ONNX Runtime", model, after, [first])
