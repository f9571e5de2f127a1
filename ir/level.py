"""The levels of the IR, and the checks that hold a model to them.

    imported     whatever a loader accepts
    semantic     one opset; ops that carry meaning are whole; contrib ops only where none could be raised
    lowered      after a backend's pipeline; contrib ops are at home

At every level: nodes sorted, value names unique, inputs and outputs as they were, no initializer that nobody reads.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from .errors import PassError
from .text import place
from .walk import held_graphs

#: The opset of the semantic level: the newest that torch's exporter emits.
SEMANTIC_OPSET = 23

#: Domain of the model-local functions that tersor's passes define.
DOMAIN = "tersor"


class Level(enum.Enum):
    """How far a model has come: imported, semantic or lowered."""

    IMPORTED = "imported"
    SEMANTIC = "semantic"
    LOWERED = "lowered"


@dataclass(frozen=True)
class Port:
    """One input or output: its name, dtype, and shape with numbers, names or None for unknown dimensions."""

    name: str
    dtype: ir.DataType | None
    shape: tuple[int | str | None, ...] | None

    @classmethod
    def of(cls, value: ir.Value) -> Port:
        shape = None if value.shape is None else tuple(_dimension(dim) for dim in value.shape)
        return cls(value.name or "", value.dtype, shape)

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype.name.lower() if self.dtype else '?'}[{dims}]"


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Signature:
        graph = model.graph
        return cls(tuple(map(Port.of, graph.inputs)), tuple(map(Port.of, graph.outputs)))


def detect(model: ir.Model) -> Level:
    """The level a model is at, judged by its opset and the domains of its nodes."""
    contrib = any(domain not in ("", DOMAIN) for domain in _domains(model))
    if not contrib and model.opset_imports.get("") == SEMANTIC_OPSET:
        return Level.SEMANTIC
    return Level.IMPORTED


def violations(model: ir.Model, level: Level, *, signature: Signature | None = None) -> list[str]:
    """Everything in `model` that its level forbids, one sentence each; empty when it holds.

    `signature` is what inputs and outputs must still be. Refining an unknown dtype, shape or dimension is allowed.
    """
    found = [
        sentence
        for body in _bodies(model)
        for sentence in (*_order(body, set()), *_names(body), *_unread(body), *_domains_used(body))
    ]
    if signature is not None:
        found += _signature(Signature.of(model), signature)
    if level is Level.SEMANTIC:
        opset = model.opset_imports.get("")
        if opset is not None and opset != SEMANTIC_OPSET:
            found.append(f"the semantic level is opset {SEMANTIC_OPSET}, the model imports {opset}")
    return found


def check(model: ir.Model, level: Level, *, signature: Signature | None = None) -> None:
    """Raise PassError when `violations` finds any."""
    found = violations(model, level, signature=signature)
    if found:
        raise PassError(f"the graph is not at the {level.value} level: {'; '.join(found[:5])}")


def _domains_used(body: ir.Graph | ir.Function) -> Iterator[str]:
    for node in body.all_nodes():
        if node.domain not in body.opset_imports:
            yield f"{place(node)}: domain {node.domain!r} is not imported"


def _dimension(dim: int | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value


def _domains(model: ir.Model) -> set[str]:
    functions = {(function.domain, function.name) for function in model.functions.values()}
    return {node.domain for node in model.graph.all_nodes() if (node.domain, node.op_type) not in functions}


def _bodies(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    yield model.graph
    yield from model.functions.values()


def _scopes(body: ir.Graph | ir.Function) -> Iterator[ir.Graph | ir.Function]:
    yield body
    yield from body.subgraphs()


def _initializers(scope: ir.Graph | ir.Function) -> Mapping[str, ir.Value]:
    return scope.initializers if isinstance(scope, ir.Graph) else {}


def _order(scope: ir.Graph | ir.Function, known: set[ir.Value]) -> Iterator[str]:
    """Whatever is read before it is computed, or never is; `known` is what the scopes around define so far."""
    mine = {*scope.inputs, *_initializers(scope).values()} - known
    known |= mine
    for node in scope:
        for value in node.inputs:
            if value is not None and value not in known:
                yield f"{place(node)}: its input {value.name!r} is not computed before it"
        for held in held_graphs(node):
            yield from _order(held, known)
        known.update(node.outputs)
        mine.update(node.outputs)
    for value in scope.outputs:
        if value not in known:
            yield f"the output {value.name!r} is not computed"
    known -= mine


def _names(body: ir.Graph | ir.Function) -> Iterator[str]:
    seen: dict[str, ir.Value] = {}
    for scope in _scopes(body):
        defined = [*scope.inputs, *_initializers(scope).values(), *(out for node in scope for out in node.outputs)]
        for value in defined:
            if not value.name:
                if value.uses() or value.is_graph_output():
                    yield f"a value produced by {place(value.producer())} has no name"
            elif seen.setdefault(value.name, value) is not value:
                yield f"two values are named {value.name!r}"


def _unread(body: ir.Graph | ir.Function) -> Iterator[str]:
    for scope in _scopes(body):
        for name, value in _initializers(scope).items():
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                yield f"nobody reads the initializer {name!r}"


def _signature(found: Signature, wanted: Signature) -> Iterator[str]:
    for kind, have, want in (("input", found.inputs, wanted.inputs), ("output", found.outputs, wanted.outputs)):
        if [port.name for port in have] != [port.name for port in want]:
            yield f"{kind}s were {[p.name for p in want]}, are {[p.name for p in have]}"
            continue
        for new, old in zip(have, want, strict=True):
            if old.dtype not in (None, new.dtype) or not _refines(new.shape, old.shape):
                yield f"{kind} was {old}, is {new}"


def _refines(new: tuple[int | str | None, ...] | None, old: tuple[int | str | None, ...] | None) -> bool:
    if old is None:
        return True
    if new is None or len(new) != len(old):
        return False
    return all(before is None or before == after for before, after in zip(old, new, strict=True))
