"""Which ops of a model have no lowering, all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as oir

from ..errors import UnsupportedError
from .control import FORMS
from .lowering import keywords, lookup
from .table import DEVICE

STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class MissingOp:
    """A node that `to_fx` cannot express: where it is, what reads it, and the attribute at fault if it is only that."""

    domain: str
    op: str
    opset: int
    place: str
    users: tuple[str, ...]
    attribute: str | None = None

    @property
    def name(self) -> str:
        """The op as it is written: `STFT`, `com.microsoft.Inverse`, `Resize{antialias}`."""
        op = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{op}{{{self.attribute}}}" if self.attribute else op


def domain_of(node: oir.Node) -> str:
    """The domain with the two spellings of the standard one made one."""
    return "" if node.domain in STANDARD else node.domain


def opset_of(node: oir.Node, opsets: Mapping[str, int]) -> int:
    """The opset a node is read at. Contrib domains that the file forgot to import count as version 1."""
    domain = domain_of(node)
    if domain == "":
        return opsets.get("", opsets.get("ai.onnx", 1))
    return opsets.get(domain, 1)


def missing(model: oir.Model) -> list[MissingOp]:
    """Every node, in subgraphs and called functions too, that has no lowering or has an attribute it does not know."""
    return list(_missing(model, model.graph, model.graph.opset_imports, set()))


def refuse(absent: list[MissingOp]) -> UnsupportedError:
    """The error that lists them, one line an op."""
    groups: dict[tuple[str, int], list[MissingOp]] = {}
    for item in absent:
        groups.setdefault((item.name, item.opset), []).append(item)
    lines = []
    for (name, opset), items in groups.items():
        more = f" and {len(items) - 1} more" if len(items) > 1 else ""
        users = f"   used by {', '.join(items[0].users)}" if items[0].users else ""
        lines.append(f"  {name} (opset {opset})  at {items[0].place}{more}{users}")
    count = "1 op has" if len(groups) == 1 else f"{len(groups)} ops have"
    return UnsupportedError(
        f"torch.fx: {count} no lowering\n"
        + "\n".join(lines)
        + "\n  hint: decompose them into standard ops first, or add a row to the table of their family in ir/fx"
    )


def _missing(
    model: oir.Model, graph: oir.Graph | oir.Function, opsets: Mapping[str, int], seen: set[oir.OperatorIdentifier]
) -> Iterator[MissingOp]:
    for node in graph:
        domain, opset = domain_of(node), opset_of(node, opsets)
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == oir.AttributeType.GRAPH:
                yield from _missing(model, attribute.as_graph(), opsets, seen)
            elif attribute.type == oir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    yield from _missing(model, inner, opsets, seen)
        if lookup(FORMS, domain, node.op_type, opset) is not None:
            continue
        entry = lookup(DEVICE, domain, node.op_type, opset)
        if entry is not None:
            known = keywords(entry.function)
            for name in node.attributes:
                if snake(name) not in known:
                    yield _report(node, opset, name)
        elif (function := model.functions.get(node.op_identifier())) is not None:
            if function.identifier() not in seen:
                seen.add(function.identifier())
                yield from _missing(model, function, function.opset_imports, seen)
        else:
            yield _report(node, opset)


def _report(node: oir.Node, opset: int, attribute: str | None = None) -> MissingOp:
    users = tuple(dict.fromkeys(_name(user) for user in node.successors()))
    return MissingOp(domain_of(node), node.op_type, opset, _name(node), users, attribute)


def _name(node: oir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), None) or node.op_type


def snake(name: str) -> str:
    """`transA` -> `trans_a`; ONNX's other attribute names are snake case already."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
