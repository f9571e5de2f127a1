"""What a pipeline did: one record a pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ..ir.text import spelled
from ..ir.walk import every_node, held_graphs, may_hold_graphs
from .base import Contract, Curve, Finding, Lossy
from .renumbering import Renumbering


@dataclass(frozen=True)
class Size:
    """Nodes of a graph, subgraphs included, and bytes of its distinct constants as stored.

    A constant is an initializer or the value of a Constant node; neither is counted twice for being read twice.
    """

    nodes: int
    bytes: int

    @classmethod
    def of(cls, model: ir.Model) -> Size:
        tensors: dict[int, ir.TensorProtocol] = {}
        graphs, nodes = [model.graph], 0
        while graphs:
            graph = graphs.pop()
            stored = (value.const_value for value in graph.initializers.values())
            tensors |= {id(each): each for each in stored if each is not None}
            for node in graph:
                nodes += 1
                if node.op_type == "Constant" and not node.domain and "value" in node.attributes:
                    # `as_tensor` would ask whether the tensor has every method that tensors have
                    tensor: ir.TensorProtocol = node.attributes["value"].value
                    tensors[id(tensor)] = tensor
                elif may_hold_graphs(node):
                    graphs += held_graphs(node)
        return cls(nodes, sum(tensor.nbytes for tensor in tensors.values()))


def count(model: ir.Model, ops: Collection[str]) -> int:
    """Nodes of these ops in a graph, subgraphs included."""
    return sum(spelled(node) in ops for node in every_node(model.graph))


@dataclass(frozen=True)
class PassReport:
    """One pass: what it found, what became of the graph, how long it took, and what it measurably changed.

    loss: the error over the verified stretch that ends with this pass, in the contract's metric; None where none was
    measured. subject: what a raising pass looks for; whole: how many of them were whole before it ran. over: what the
    error would have said of a loss over the contract that was let through; else empty. curve: between what it chose.
    files, renumbered: as in `base.Outcome`.
    """

    text: str
    contract: Contract
    findings: tuple[Finding, ...]
    before: Size
    after: Size
    seconds: float
    loss: float | None = None
    subject: str = ""
    whole: int = 0
    over: str = ""
    curve: Curve | None = None
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    renumbered: tuple[Renumbering, ...] = ()

    @property
    def matches(self) -> int:
        return sum(finding.miss is None for finding in self.findings)

    @property
    def changed(self) -> bool:
        return bool(self.matches) or self.before != self.after

    @property
    def misses(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.miss is not None)

    @property
    def away(self) -> tuple[Finding, ...]:
        """The misses that tell of something: the near ones of a pass that looks for a subject, all of another."""
        return tuple(item for item in self.misses if not self.subject or (item.miss is not None and item.miss.near))

    def to_dict(self) -> dict[str, object]:
        """As written to `manifest.json`."""
        return {
            "pass": self.text,
            "contract": str(self.contract),
            "lossy": isinstance(self.contract, Lossy),
            "matches": self.matches,
            "misses": [
                {
                    "place": f.place,
                    "sources": list(f.sources),
                    "scope": f.scope,
                    "rule": m.rule,
                    "value": m.value,
                    "need": m.need,
                    "near": m.near,
                }
                for f in self.misses
                if (m := f.miss) is not None
            ],
            "subject": self.subject,
            "whole": self.whole,
            "nodes": [self.before.nodes, self.after.nodes],
            "bytes": [self.before.bytes, self.after.bytes],
            "seconds": round(self.seconds, 4),
            "loss": self.loss,
            "over": self.over,
            **self._choice(),
        }

    def _choice(self) -> dict[str, object]:
        """What a pass that had a choice took, place by place, and between what."""
        if self.curve is None:
            return {}
        taken = [{"place": f.place, "scope": f.scope, "chosen": f.chosen} for f in self.findings if f.chosen]
        curve = {
            "x": self.curve.x,
            "y": self.curve.y,
            "points": list(map(list, self.curve.points)),
            "chosen": list(self.curve.chosen),
            "others": list(map(list, self.curve.others)),
        }
        return {"chosen": taken, "curve": curve}


@dataclass(frozen=True)
class Report:
    """What a pipeline did, pass by pass."""

    passes: tuple[PassReport, ...] = ()

    @property
    def seconds(self) -> float:
        """Time inside passes, verification apart."""
        return sum(record.seconds for record in self.passes)

    @property
    def changed(self) -> bool:
        return any(record.changed for record in self.passes)

    @property
    def files(self) -> dict[str, bytes]:
        """What goes into the artifact beside the model, by name; of two of one name the later."""
        return {name: content for record in self.passes for name, content in record.files.items()}

    @property
    def renumbered(self) -> tuple[Renumbering, ...]:
        """What became of feeds and answers, in order."""
        return tuple(each for record in self.passes for each in record.renumbered)

    def __add__(self, other: Report) -> Report:
        return Report(self.passes + other.passes)

    def to_dict(self) -> list[dict[str, object]]:
        return [record.to_dict() for record in self.passes]

    def __str__(self) -> str:
        head = f"{'pass':40} {'fired':>6} {'missed':>6} {'nodes':>12} {'MB':>16} {'ms':>8}  loss"
        return "\n".join([head, *(_row(record) for record in self.passes)])


def _row(record: PassReport) -> str:
    nodes = f"{record.before.nodes} > {record.after.nodes}"
    size = f"{record.before.bytes / 1e6:.2f} > {record.after.bytes / 1e6:.2f}"
    loss = "" if record.loss is None else f"{record.loss:.2e}"
    counts = f"{record.matches:>6} {len(record.away):>6}"
    return f"{record.text:40} {counts} {nodes:>12} {size:>16} {record.seconds * 1e3:>8.1f}  {loss}"
