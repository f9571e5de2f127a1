"""Which ops of a model have no lowering, all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as oir

from ..errors import MissingOp, UnsupportedError, unsupported
from ..text import spelled
from .lowering import keywords, lookup
from .ops.contrib.absent import ABSENT
from .table import DEVICE, FORMS, TEXT

STANDARD = ("", "ai.onnx")
CONTRIB_DOMAIN = "com.microsoft."


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
    """Every node, in subgraphs and called functions too, that has no lowering or has an attribute it does not know.

    The latter is written `Resize{antialias}`; an op that has a lowering for numbers only, `Relu{strings}`.
    """
    return list(_missing(model, model.graph, model.graph.opset_imports, set()))


def refuse(absent: list[MissingOp]) -> UnsupportedError:
    """The error that lists them, one line an op, and why ONNX Runtime's own among them have none."""
    known = dict.fromkeys(item.op for item in absent if item.op.removeprefix(CONTRIB_DOMAIN) in ABSENT)
    reasons = [f"{op}: {ABSENT[op.removeprefix(CONTRIB_DOMAIN)]}" for op in known]
    hint = "decompose them into standard ops first, or add a row to the table of their family in ir/fx"
    return unsupported("torch.fx", absent, "\n  ".join([hint, *reasons]))


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
            texts = any(value is not None and value.dtype is oir.DataType.STRING for value in node.inputs)
            if texts and lookup(TEXT, domain, node.op_type, opset) is None:
                yield _report(node, opset, "strings")
        elif (function := model.functions.get(node.op_identifier())) is not None:
            if function.identifier() not in seen:
                seen.add(function.identifier())
                yield from _missing(model, function, function.opset_imports, seen)
        else:
            yield _report(node, opset)


def _report(node: oir.Node, opset: int, attribute: str | None = None) -> MissingOp:
    op = f"{spelled(node)}{{{attribute}}}" if attribute else spelled(node)
    return MissingOp(op, opset, _name(node), tuple(dict.fromkeys(_name(user) for user in node.successors())))


def _name(node: oir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), None) or node.op_type


def snake(name: str) -> str:
    """`transA` -> `trans_a`; ONNX's other attribute names are snake case already."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
