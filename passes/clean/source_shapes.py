"""Take dimensions from the model's inputs, not from values that are computed.

    before   Shape(softmax) --> Slice --> Squeeze --> Mul(4) --> Concat --> Reshape target
    after    Shape{start=0, end=1}(ids) --> Mul(4) --> Concat --> Reshape target

Equal dimensions are then spelled in one way, once, at the start of the graph, and no value stays alive, or is read by
more than its own consumers, for its shape alone. Exact wherever the model runs: two dimensions that bear one name are
one number. Left alone: dimensions that no input bears by itself, and graph outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import ClassVar, TypeAlias

import onnx_ir as ir

from ...ir.content import Element, content, dimensions
from ...ir.level import Level
from ...ir.polynomial import Polynomial, Quotient, Smallest
from ...ir.provenance import inherit
from ...ir.shape_contents import CONTENTS
from ...ir.text import place
from ...ir.walk import every_node
from ..base import Context, Finding, Outcome, Pass
from ..edit import Ledger, Tape, detach, integers_of, is_op, remove

#: ("numbers", 1, -1), ("shape", input, start, end), ("Mul", spelling, spelling), ("Concat", spelling, ...).
Spelling: TypeAlias = "tuple[str | int | ir.Value | Spelling, ...]"

#: Shape takes a part, and Squeeze its axes as an input, from here on.
_OPSET = 15
_ARITHMETIC = ("Add", "Mul", "Div", "Min")
#: A dimension is spelled by a handful of ops.
_DEPTH = 8


@dataclass(frozen=True, kw_only=True)
class SourceShapes(Pass):
    """Shape(anything) -> Shape(input)"""

    name: ClassVar[str] = "source-shapes"
    level: ClassVar[Level] = Level.IMPORTED

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        if model.opset_imports.get("", 0) < _OPSET or not len(model.graph):
            return Outcome()
        speller = _Speller(model.graph)
        if not speller.places:
            return Outcome()
        known = _known(model.graph)
        found: list[Finding] = []
        made: dict[Spelling, ir.Value] = {}
        tape, stood_for, removed = Tape(), list[ir.Node](), list[ir.Node]()
        for value, elements in reversed(known.items()):
            node = value.producer()
            readers = [use for use in value.uses() if use.node.outputs[0] not in known]
            if node is None or node.graph is None or not readers or value.is_graph_output():
                continue
            wanted = speller.spell(elements, scalar=_rank(value) == 0)
            if wanted is None or wanted == speller.read(value):
                continue
            found.append(Finding(place(node)))
            new = _emit(tape, wanted, made)
            new.type, new.shape = value.type, value.shape
            for use in readers:
                use.node.replace_input_with(use.idx, new)
            dead = detach([node])
            stood_for += [node, *dead]
            removed += dead
        remove(removed)
        if found:
            _place(tape, model.graph, made)
            inherit(tape.nodes, list(dict.fromkeys(stood_for)))
        return Outcome(tuple(found))


def _known(graph: ir.Graph) -> dict[ir.Value, list[Polynomial]]:
    """Shape arithmetic of which all is known, and not all by number."""
    known: dict[ir.Value, list[Polynomial]] = {}
    for node in every_node(graph):
        if node.domain or node.op_type not in CONTENTS or len(node.outputs) != 1:
            continue
        value = node.outputs[0]
        if value.dtype != ir.DataType.INT64 or _rank(value) not in (0, 1):
            continue
        elements = content(value)
        if elements is not None and None not in elements and any(isinstance(item, str) for item in elements):
            known[value] = [_number(item) for item in elements]
    return known


@dataclass(eq=False)
class _Speller:
    """The one way in which dimensions are spelled in a graph."""

    graph: ir.Graph
    inputs: list[tuple[ir.Value, list[Polynomial]]] = field(default_factory=list)
    #: Where a named dimension is first met.
    places: dict[str, Spelling] = field(default_factory=dict)
    runs: dict[int, dict[tuple[Polynomial, ...], Spelling]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for value in self.graph.inputs:
            dims = dimensions(value) or []
            if None not in dims:
                self.inputs.append((value, [_number(dim) for dim in dims]))
            for axis, dim in enumerate(dims):
                if isinstance(dim, str) and Polynomial.of(dim) == Polynomial.parse(dim):
                    self.places.setdefault(dim, ("shape", value, axis, axis + 1))

    def spell(self, elements: Sequence[Polynomial], *, scalar: bool) -> Spelling | None:
        """These elements as a vector or a scalar, None where a dimension is no input's."""
        if scalar:
            one = self._element(elements[0]) if len(elements) == 1 else None
            return None if one is None else ("Squeeze", one)
        parts: list[Spelling] = []
        for fixed, run in groupby(elements, key=lambda item: item.constant is not None):
            items = list(run)
            whole = self._whole(items)
            if fixed:
                parts.append(("numbers", *map(int, items)))
            elif whole is not None:
                parts.append(whole)
            else:
                spelled = [self._element(item) for item in items]
                if any(item is None for item in spelled):
                    return None
                parts += [item for item in spelled if item is not None]
        together = self._whole(elements) if len(parts) > 1 else None
        if together is not None:
            return together
        return parts[0] if len(parts) == 1 else ("Concat", *parts)

    def read(self, value: ir.Value, depth: int = _DEPTH) -> Spelling | None:
        """How a value is spelled, None where it is in some other way."""
        numbers = integers_of(value)
        if numbers is not None:
            return ("numbers", *numbers)
        node = value.producer()
        if node is None or node.domain or not depth:
            return None
        if node.op_type == "Shape":
            source = node.inputs[0]
            if source is None or source.graph is not self.graph or not source.is_graph_input() or source.shape is None:
                return None
            bounds = (node.attributes.get(name) for name in ("start", "end"))
            cut = slice(*(None if bound is None else bound.as_int() for bound in bounds))
            return ("shape", source, *cut.indices(len(source.shape))[:2])
        if is_op(node, "Squeeze", "Reshape") and _rank(value) == 0:
            parts = [node.inputs[0]]
        elif is_op(node, *_ARITHMETIC, "Concat"):
            parts = list(node.inputs)
        else:
            return None
        spelled = [None if part is None else self.read(part, depth - 1) for part in parts]
        if any(part is None for part in spelled):
            return None
        op_type = "Squeeze" if node.op_type == "Reshape" else node.op_type
        return (op_type, *(part for part in spelled if part is not None))

    def _whole(self, elements: Sequence[Polynomial]) -> Spelling | None:
        """Several elements as neighbouring dimensions of one input."""
        count = len(elements)
        return self._runs(count).get(tuple(elements)) if count > 1 else None

    def _runs(self, count: int) -> Mapping[tuple[Polynomial, ...], Spelling]:
        """So many neighbouring dimensions, and where they are first met. All inputs are read once for each count."""
        if count not in self.runs:
            found = self.runs[count] = {}
            for value, dims in self.inputs:
                for start in range(len(dims) - count + 1):
                    found.setdefault(tuple(dims[start : start + count]), ("shape", value, start, start + count))
        return self.runs[count]

    def _element(self, number: Polynomial) -> Spelling | None:
        """A vector of one element."""
        terms: list[Spelling] = []
        for monomial, factor in number.terms.items():
            atoms = [self._atom(atom) for atom in monomial]
            if any(atom is None for atom in atoms):
                return None
            factors = [atom for atom in atoms if atom is not None]
            if factor != 1 or not factors:
                factors.append(("numbers", factor))
            terms.append(_chain("Mul", factors))
        return _chain("Add", terms) if terms else ("numbers", 0)

    def _atom(self, atom: str | Quotient | Smallest) -> Spelling | None:
        if isinstance(atom, str):
            return self.places.get(atom)
        parts = (atom.numerator, atom.divisor) if isinstance(atom, Quotient) else atom.parts
        if isinstance(atom, Quotient) and not all(part.nonnegative for part in parts):
            return None
        spelled = [self._element(part) for part in parts]
        known = [part for part in spelled if part is not None]
        return _chain("Div" if isinstance(atom, Quotient) else "Min", known) if len(known) == len(parts) else None


def _chain(op_type: str, parts: Sequence[Spelling]) -> Spelling:
    first, *others = parts
    for other in others:
        first = (op_type, first, other)
    return first


def _emit(tape: Tape, spelling: Spelling, made: dict[Spelling, ir.Value]) -> ir.Value:
    """The value so spelled, made once."""
    if spelling not in made:
        made[spelling] = _made(tape, spelling, made)
    return made[spelling]


def _made(tape: Tape, spelling: Spelling, made: dict[Spelling, ir.Value]) -> ir.Value:
    kind, *parts = spelling
    if kind == "numbers":
        return tape.constant([part for part in parts if isinstance(part, int)], "numbers")
    if kind == "shape":
        source, start, end = parts
        assert isinstance(source, ir.Value) and isinstance(start, int) and isinstance(end, int)
        return _typed(tape("Shape", source, start=start, end=end), end - start)
    values = [_emit(tape, part, made) for part in parts if isinstance(part, tuple)]
    if kind == "Squeeze":
        return _typed(tape("Squeeze", *values, _emit(tape, ("numbers", 0), made)), None)
    if kind == "Concat":
        return _typed(tape("Concat", *values, axis=0), sum(map(_count, values)))
    return _typed(tape(str(kind), *values), 1)


def _typed(value: ir.Value, size: int | None) -> ir.Value:
    value.type, value.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([] if size is None else [size])
    return value


def _count(value: ir.Value) -> int:
    size = value.shape[0] if value.shape is not None else None
    assert isinstance(size, int)
    return size


def _place(tape: Tape, graph: ir.Graph, made: dict[Spelling, ir.Value]) -> None:
    """Put what was made at the start of the graph, under names that say what it is."""
    ledger = Ledger.of(graph)
    for spelling, value in made.items():
        value.name = ledger.unique("/".join(_words(spelling)))
    for value in tape.constants:
        graph.register_initializer(value)
    first = next(iter(graph))
    ledger.forget_order()
    ledger.place(tape.nodes, first)


def _words(spelling: Spelling) -> Iterator[str]:
    kind, *parts = spelling
    if kind == "shape":
        source, start, end = parts
        assert isinstance(source, ir.Value) and isinstance(start, int) and isinstance(end, int)
        yield f"{source.name}/shape{start}" if end - start == 1 else f"{source.name}/shape{start}to{end}"
    else:
        yield f"shape/{str(kind).lower()}"


def _number(element: Element) -> Polynomial:
    assert element is not None
    return Polynomial.of(element) if isinstance(element, int) else Polynomial.parse(element)


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)
