"""What a pass is: what it may change (its contract), where it fires (`Match`) and why it does not (`Miss`)."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import onnx_ir as ir

from ..ir.errors import OptionError, PassError, TersorError
from ..ir.feeds import Feeds
from ..ir.level import SEMANTIC_OPSET, Level
from ..ir.provenance import scope, sources
from ..ir.text import place, spelled
from ..ir.walk import every_node
from .edit import Ledger
from .failure import failure, no_verdict
from .renumbering import Renumbering
from .statistics import Calibration, Statistics, Want


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The same function up to floating-point reassociation.

    tolerance: the largest relative L2 error of any output that reassociation may cause, in float32.
    """

    tolerance: float = 1e-5

    def __str__(self) -> str:
        return f"exact (relative L2 <= {self.tolerance:g})"


@dataclass(frozen=True, kw_only=True)
class Lossy:
    """Another function, as close as `budget` says.

    metric: `cosine` is 1 - cosine similarity of an output, `relative-l2` its relative L2 error; the worst output
    counts.
    """

    metric: str = "cosine"
    budget: float = 0.05

    def __str__(self) -> str:
        return f"lossy ({self.metric} <= {self.budget:g})"


Contract = Exact | Lossy


@dataclass(frozen=True, kw_only=True)
class Match:
    """A place where a pass fires. Rewrites add what `rewrite` needs as further named fields."""

    node: ir.Node


@dataclass(frozen=True)
class Miss:
    """Why a pass does not fire at a place: the rule that failed, the value it failed on, and what was needed.

    near: the place is what the pass looks for but for this rule; reports count it as one that got away.
    far: the place shares its op with what the pass looks for and nothing else; `explain` tells of it, reports do not.
    reached: what the match came through before it stopped, in order.
    """

    rule: str
    value: str
    need: str
    near: bool = False
    far: bool = False
    reached: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule}: {self.value}; needed {self.need}"


@dataclass(frozen=True)
class Finding:
    """One candidate place, the source nodes it stands for, and the verdict: None when the pass fired.

    scope: the module that it was exported from, where that is known. chosen: what the pass took there, where it had a
    choice.
    """

    place: str
    sources: tuple[str, ...] = ()
    miss: Miss | None = None
    scope: str = ""
    chosen: str = ""

    @classmethod
    def at(cls, node: ir.Node, verdict: Match | Miss) -> Finding:
        return cls(place(node), sources(node), verdict if isinstance(verdict, Miss) else None, scope(node))


@dataclass(frozen=True)
class Curve:
    """What a pass could choose between, for reports to draw: the least y that each x allows.

    x, y: what is along the axes, with units. points: (x, y), smallest x first. chosen: the point that it took. others:
    points beside the curve that are known by a name.
    """

    x: str
    y: str
    points: tuple[tuple[float, float], ...]
    chosen: tuple[float, float]
    others: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What one application of a pass did, and between what it chose.

    files: what goes into the artifact beside the model, by name. renumbered: what the pass changed about feeds and
    answers, for those that come after it.
    """

    findings: tuple[Finding, ...] = ()
    curve: Curve | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    renumbered: tuple[Renumbering, ...] = ()

    @property
    def matches(self) -> int:
        return sum(finding.miss is None for finding in self.findings)

    @property
    def misses(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.miss is not None)


class Candidate(Protocol):
    """What a pass would rewrite: a node, such as that of a weight site, and what it is called."""

    @property
    def node(self) -> ir.Node: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Several:
    """Nodes that a pass would rewrite together, such as layers that read one activation; and what they are called."""

    name: str
    nodes: tuple[ir.Node, ...]

    @property
    def node(self) -> ir.Node:
        """The first of them."""
        return self.nodes[0]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a pass may consult beside the model.

    feeds: a few batches to verify on. calibration: the data to gather statistics on, where the user gave any. seed: of
    anything random. pays: why what a pass would rewrite stays as it was, its new kernel being slower on the
    target; without it nobody asks. latency: seconds that a small model takes on the target, on these feeds.
    """

    feeds: Sequence[Feeds] = ()
    seed: int = 0
    calibration: Calibration | None = None
    pays: Callable[[Pass, ir.Model, Candidate], Miss | None] | None = None
    latency: Callable[[ir.Model, Feeds], float] | None = None

    def after(self, renumbered: Iterable[Renumbering]) -> Context:
        """With feeds and calibration as a model takes them whose vocabulary was cut so."""
        found = self
        for each in renumbered:
            calibration = found.calibration
            if calibration is not None and each.renumbered:
                calibration = calibration.over([each.feeds(batch) for batch in calibration.batches])
            found = replace(found, feeds=[each.feeds(batch) for batch in found.feeds], calibration=calibration)
        return found

    def statistics(self, model: ir.Model, wants: Iterable[Want]) -> Statistics:
        """What calibration finds on the model as it is now. Raises OptionError where there are no data for it."""
        if self.calibration is None:
            raise OptionError(
                "calibration data are needed: give --data an .npz file, a folder of them, texts.jsonl+tokenizer.json "
                "or package.module:function. Random data would calibrate to nothing that the model will see"
            )
        return self.calibration.gather(model, wants)


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """One transformation of a model in place. Its fields are its options; its class says what it may change."""

    name: ClassVar[str]
    contract: ClassVar[Contract] = Exact()
    #: The level that it reads and writes.
    level: ClassVar[Level] = Level.SEMANTIC
    #: Whether it may change the model's inputs and outputs; what the compiler runs by default never does.
    changes_signature: ClassVar[bool] = False
    #: What a raising pass finds, in the words of a report: `attention: 11 of 12 raised`. Empty for other passes.
    subject: ClassVar[str] = ""
    #: The ops that its subject is whole as: models come with some.
    whole: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def apply(self, model: ir.Model, context: Context) -> Outcome:
        """Rewrite `model` in place and say what was found; places that do not fit are misses, never errors."""

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """What `apply` would find, leaving `model` as it is."""
        return self.apply(model.clone(), context)

    def options(self) -> dict[str, object]:
        """The options that differ from their defaults."""
        pairs = ((item, getattr(self, item.name)) for item in dataclasses.fields(self) if item.init)
        return {item.name: value for item, value in pairs if value != _default(item)}

    @classmethod
    def summary(cls) -> str:
        """The first line of the class's docstring."""
        return (cls.__doc__ or "").strip().split("\n")[0]


@dataclass(frozen=True, kw_only=True)
class Rewrite(Pass):
    """A pass made of one local decision.

    `match` is asked at every node whose op is in `anchors` (`Add`, `com.microsoft.BiasGelu`), in graph and subgraphs;
    where it answers with a `Match`, `rewrite` acts. What a rewrite places and what reads its results is asked again, so
    chains collapse in one application and the work stays linear in the nodes visited.
    """

    anchors: ClassVar[tuple[str, ...]]

    @abstractmethod
    def match(self, node: ir.Node) -> Match | Miss:
        """Decide, reading only."""

    @abstractmethod
    def rewrite(self, found: Match) -> None:
        """Act on a match; may not refuse."""

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        queue = deque(self._candidates(every_node(model.graph)))
        queued = set(queue)
        for graph in {node.graph for node in queue if isinstance(node.graph, ir.Graph)}:
            Ledger.of(graph).forget_order()
        limit = _SETTLED * (len(queue) + 1)
        fired: list[Finding] = []
        missed: dict[ir.Node, Finding] = {}
        placed: set[ir.Node] = set()
        while queue:
            node = queue.popleft()
            queued.discard(node)
            if node.graph is None:
                missed.pop(node, None)
                continue
            verdict = self._verdict(node)
            missed.pop(node, None)
            if isinstance(verdict, Miss):
                if node not in placed and not verdict.far:
                    missed[node] = Finding.at(node, verdict)
                continue
            finding = Finding.at(node, verdict)
            fired.append(finding)
            if len(fired) > limit:
                raise PassError(f"{self.name} does not settle: it fires again on what it made, last at {finding.place}")
            ledger, readers = Ledger.of(node.graph), [user for value in node.outputs for user in value.consumers()]
            ledger.placed.clear()
            try:
                self.rewrite(verdict)
            except TersorError:
                raise
            except Exception as error:
                raise failure(self.name, type(self), error, node) from error
            for function in ledger.take_functions():
                function.declare(model)
            new = ledger.take_placed()
            for other in new:
                model.graph.opset_imports.setdefault(other.domain, 1 if other.domain else SEMANTIC_OPSET)
            placed.update(new)
            again = [other for other in self._candidates((*new, *dict.fromkeys(readers))) if other not in queued]
            queue.extend(again)
            queued.update(again)
        alive = (finding for node, finding in missed.items() if node.graph is not None)
        return Outcome((*fired, *alive))

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every candidate, leaving `model` as it is."""
        candidates = self._candidates(every_node(model.graph))
        return Outcome(tuple(Finding.at(node, self._verdict(node)) for node in candidates))

    def _verdict(self, node: ir.Node) -> Match | Miss:
        """What `match` says. Raises PassError where it fails, or says nothing."""
        try:
            found = self.match(node)
        except TersorError:
            raise
        except Exception as error:
            raise failure(self.name, type(self), error, node) from error
        if not isinstance(found, Match | Miss):
            raise no_verdict(self.name, found, node)
        return found

    def _candidates(self, nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
        return (node for node in nodes if spelled(node) in self.anchors and node.graph is not None)


#: A rewrite fires at most this often for each place that there was at first: more, and it answers itself.
_SETTLED = 32


def _default(item: dataclasses.Field[object]) -> object:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default
