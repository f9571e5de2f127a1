"""Whether a pass pays on the target: one site or attention alone, as floats and as the pass leaves it, timed in pairs.

    x [as on the first batch] --> MatMul(x, W) --> y        before, and after the same pass with the same options

Both are lowered and opened as the whole model will be. Sites alike (op, attributes, shapes, dtypes) are timed once. Not
seen is what a site has to do with others: nodes that backends fuse across sites, a rounding that several share, caches
that the rest of the model fills.

An attention stores nothing: in fewer bits it is faster or of no use. Where it is slower it stays as it was, as a site
does, and `--size-first`, which times nothing, takes it all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..backends.base import Backend, Session
from ..ir.errors import TersorError, unsupported
from ..ir.feeds import Array, Feeds
from ..ir.runner import watch
from ..ir.site import Site, sites
from ..ir.weight import resolve
from ..passes.base import Candidate, Context, Miss, Pass, Several
from ..passes.pipeline import title
from ..passes.run import Observer, Verify, run_pipeline
from ..passes.statistics import Calibration
from .timing import Contestant, Interval, paired

#: Seconds of a first heat, and of a second one where the first says that a site does not pay.
HEATS = 0.15, 0.3

#: Pairs that are timed however long they take, and seconds of untimed calls before each: both run on one runtime.
PAIRS = 5
SETTLE = 0.005

#: Options of passes that say which sites of a whole model are taken on.
_CHOOSING = {"only": (), "ignore": (), "smallest": 1}

#: How many times faster the second contestant is than the first.
Timer = Callable[[Contestant, Contestant, Feeds], Interval]


def timed(plain: Contestant, rewritten: Contestant, feeds: Feeds) -> Interval:
    """The speed of `rewritten` over that of `plain`. Slower counts only where two heats agree."""
    contestants = {"plain": plain, "rewritten": rewritten}
    for seconds in HEATS:
        timings = paired(contestants, [feeds], rounds=1000, budget_seconds=seconds, least=PAIRS, settle=SETTLE)
        speed = timings.ratio("plain", "rewritten")
        if not _slower(speed):
            break
    return speed


@dataclass(eq=False)
class Pays:
    """Answers `Context.pays` for a target of one backend or of several candidates, on the shapes of one batch.

    A site stays as it was only where it pays on no candidate. Backends that take long to compile (`Backend.quick`) are
    not asked, nor those that cannot run the site; where none is left, nothing is known and the pass goes on. What a
    pass needs of calibration data it gets from seeded random numbers: they decide no more than what is timed.
    timer: of a contestant in floats and one rewritten, `timed` unless told.
    """

    backends: Sequence[Backend]
    feeds: Feeds
    timer: Timer | None = None
    observe: Observer | None = None
    _known: dict[tuple[object, ...], Miss | None] = field(default_factory=dict, repr=False)
    _seen: dict[str, Array] = field(default_factory=dict, repr=False)

    def __call__(self, made: Pass, model: ir.Model, site: Candidate) -> Miss | None:
        """Why the site stays as it was; None where the pass goes on."""
        nodes = _nodes(site)
        if any(node.graph is not model.graph for node in nodes):
            return None
        if not any(backend.quick for backend in self.backends):
            # what stores nothing is taken for its speed alone
            return None if isinstance(site, Site) else _UNTIMED
        self._watch(model, nodes)
        fed = {value.name or "": self._seen.get(value.name or "") for value in _fed(nodes)}
        known = {name: array for name, array in fed.items() if array is not None}
        if len(known) < len(fed):
            return None
        step = dataclasses.replace(made, **{name: _CHOOSING[name] for name in _CHOOSING if hasattr(made, name)})
        key = title(step), *(each for node in nodes for each in _alike(node, known))
        if key not in self._known:
            if self.observe is not None:
                self.observe(f"{title(made)}: time {site.name}")
            self._known[key] = self._timed(step, model, nodes, known)
        return self._known[key]

    def _watch(self, model: ir.Model, asked: Sequence[ir.Node]) -> None:
        """Learn what reaches the sites of the model, unless it is known of these."""
        if all(value.name in self._seen for value in _fed(asked)):
            return
        ops = {node.op_identifier() for node in asked}
        alike = (node for node in model.graph if node.op_identifier() in ops)
        nodes = {*alike, *(other.node for other in sites(model))}
        every = (node for node in nodes if node.graph is model.graph)
        names = {value.name or "" for node in every for value in _read(node)} - self._seen.keys()

        def see(name: str, array: Array) -> bool:
            # of floats the shape is enough; numbers that index have to be those that the model computes
            floats = not np.issubdtype(array.dtype, np.integer) and array.dtype != np.bool_
            self._seen[name] = np.broadcast_to(np.zeros((), array.dtype), array.shape) if floats else array.copy()
            names.discard(name)
            return bool(names)

        for name in sorted(names & self.feeds.keys()):
            see(name, np.asarray(self.feeds[name]))
        if names:
            watch(model, self.feeds, list(names), see)

    def _timed(self, step: Pass, model: ir.Model, nodes: Sequence[ir.Node], seen: Feeds) -> Miss | None:
        feeds = {name: _numbers(array) for name, array in seen.items()}
        slower: list[str] = []
        for backend in self.backends:
            if not backend.quick:
                continue
            plain = _alone(model, nodes, feeds)
            rewritten = plain.clone()
            try:
                outcome = step.apply(rewritten, Context(feeds=[feeds], calibration=Calibration([feeds])))
                if not outcome.matches:
                    return None
                first, second = opened(backend, plain), opened(backend, rewritten)
                first.run(feeds), second.run(feeds)
            except TersorError:
                continue
            speed = (self.timer or timed)(first.run_unchecked, second.run_unchecked, feeds)
            if not _slower(speed):
                return None
            slower.append(f"{speed} of the speed of the float kernel on {backend.name}")
        if not slower:
            return None
        return Miss("speed", ", ".join(slower), "a kernel at least as fast; --size-first takes it all the same")


_UNTIMED = Miss("speed", "not timed: the target takes long to compile", "a speed; --size-first takes it all the same")


def _slower(speed: Interval) -> bool:
    return speed.high < 1


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads that is no constant."""
    return (value for value in dict.fromkeys(node.inputs) if value is not None and resolve(value) is None)


def _nodes(candidate: Candidate) -> tuple[ir.Node, ...]:
    return candidate.nodes if isinstance(candidate, Several) else (candidate.node,)


def _fed(nodes: Sequence[ir.Node]) -> Iterator[ir.Value]:
    """What nodes read that is no constant and that none of them gives."""
    inner = {value for node in nodes for value in node.outputs}
    return (value for value in dict.fromkeys(v for node in nodes for v in _read(node)) if value not in inner)


def _alike(node: ir.Node, fed: Feeds) -> Iterator[object]:
    """What two nodes have in common where one timing serves both."""
    yield node.op_type
    yield tuple(sorted((name, str(attr.value)) for name, attr in node.attributes.items()))
    for value in node.inputs:
        view = None if value is None else resolve(value)
        array = None if value is None else fed.get(value.name or "")
        if view is not None:
            yield view.shape, view.dtype
        else:
            yield None if array is None else (array.shape, array.dtype)


def _numbers(array: Array) -> Array:
    """Seeded random numbers in the place of floats."""
    if np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_:
        return array
    return np.random.default_rng(0).standard_normal(array.shape, dtype=np.float32).astype(array.dtype)


def _alone(model: ir.Model, nodes: Sequence[ir.Node], feeds: Feeds) -> ir.Model:
    """A model of nodes, in order, and their constants; what they read else are its inputs."""
    made: dict[ir.Value, ir.Value] = {}
    inputs: list[ir.Value] = []
    for value in _fed(nodes):
        array = feeds[value.name or ""]
        dtype = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        shape = ir.Shape(array.shape) if value.shape is None else ir.Shape(list(value.shape))
        made[value] = ir.Value(name=value.name, type=dtype, shape=shape)
        inputs.append(made[value])
    for value in dict.fromkeys(value for node in nodes for value in node.inputs if value is not None):
        view = resolve(value)
        if view is not None:
            array = view.array()
            held = ir.Value(name=value.name, const_value=ir.tensor(array, name=value.name))
            held.type, held.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
            made[value] = held
    read = {value for node in nodes for value in node.inputs}
    copied, outputs = list[ir.Node](), list[ir.Value]()
    for node in nodes:
        given = [ir.Value(name=value.name, type=value.type, shape=value.shape) for value in node.outputs]
        outputs += [one for one, value in zip(given, node.outputs, strict=True) if value.name and value not in read]
        taken = [None if value is None else made[value] for value in node.inputs]
        attributes = list(node.attributes.values())
        copied.append(ir.Node(node.domain, node.op_type, taken, attributes, outputs=given, name=node.name))
        made |= dict(zip(node.outputs, given, strict=True))
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=copied,
        initializers=[value for value in made.values() if value.const_value is not None],
        opset_imports=dict(model.opset_imports),
        name="site",
    )
    return ir.Model(graph, ir_version=model.ir_version)


def opened(backend: Backend, model: ir.Model) -> Session:
    """A session over the model, lowered in place as a whole one is."""
    run_pipeline(backend.pipeline(), model, verify=Verify.OFF, undo=False)
    missing = backend.supports(model)
    if missing:
        raise unsupported(backend.name, missing, "choose another target")
    return backend.compile(model)
