"""Write on every value the type and the dimensions that follow, for every size that the dynamic dimensions may take
and that does not leave the value empty (docs/decisions/0012).

One walk in graph order by the rules of `shapes`, strictly: what only some sizes bear out is not written. ONNX's own
inference is asked about ops that have no rule (`shape_onnx`); how what follows is put on a value is in `shape_write`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import onnx_ir as ir

from .polynomial import Number, Polynomial
from .shape_bounds import Bounds
from .shape_onnx import results, take_answers
from .shape_scope import Dims
from .shape_types import certain_type
from .shape_write import write
from .shapes import Place, Shapes, dimension_names


def annotate(model: ir.Model) -> int:
    """Annotate `model` in place; how many values are better known than before.

    What is declared for inputs and outputs stays; an unknown dimension of an output may become known. Other values keep
    numbers and the names of the inputs' dimensions; a name that stands for nothing else gives way to the formula that
    follows. A dimension that nothing is known about is given a name of its own, `unk__0`, which its readers share.
    """
    take_answers(model)
    if _finished(model):
        return 0
    walk = _Annotations(model, {})
    return sum(write(value, walk.types.get(value), walk.bounds.settle(walk.dims.get(value))) for value in walk.open)


def _finished(model: ir.Model) -> bool:
    """Whether each value has its type, and each dimension is written as well as it can be."""
    names = frozenset(dimension_names(model))
    known: dict[str | None, bool] = {}

    def final(dim: int | ir.SymbolicDim) -> bool:
        if isinstance(dim, int):
            return True
        text = dim.value
        if text not in known:
            known[text] = text is not None and _is_final(text, names)
        return known[text]

    return all(
        value.type is not None and value.shape is not None and all(map(final, value.shape)) for value in results(model)
    )


def _is_final(dim: str, names: frozenset[str]) -> bool:
    """Whether a dimension is in terms of the inputs', and no bound on them could say more."""
    number = Polynomial.parse(dim)
    return not number.open and number.names <= names


@dataclass(eq=False)
class _Annotations(Shapes):
    """What follows for each value."""

    aliases: dict[str, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.strict = True
        self._fresh = _fresh(self.model)
        #: What was not known in whole before; in the main graph and subgraphs, not in functions.
        self.open: list[ir.Value] = []
        self._calls = 0
        self.bounds = Bounds(self.model.graph)
        super().__post_init__()

    def _dim(self, dim: int | ir.SymbolicDim, unnamed: str | None = None) -> Polynomial | None:
        if isinstance(dim, int):
            return Polynomial.of(dim)
        return None if dim.value is None else Polynomial.parse(dim.value).at(self.aliases)

    def _follow_rule(self, node: ir.Node) -> list[Dims]:
        """What a rule finds, asked only where something is missing: of what is known in whole it could say no more."""
        missing = [value for value in node.outputs if value.name and not self._settled(value)]
        if not self._calls:
            self.open += missing
        if self.bounds.teaches(node):
            read = [value for value in node.inputs if value is not None]
            if self.bounds.learn(node, [self.of(value) for value in read]):
                self.dims |= {value: self.bounds.settle(self.of(value)) for value in read}
        return super()._follow_rule(node) if missing else []

    def _settled(self, value: ir.Value) -> bool:
        """Whether the type is known, and each dimension as a number or in terms of the inputs'."""
        if value.type is None or value.shape is None:
            return False
        return all(map(self._final, value.shape))

    def _final(self, dim: int | ir.SymbolicDim) -> bool:
        """Whether a dimension is written as well as it can be; that a name stands for something is to be written."""
        if isinstance(dim, int):
            return True
        return dim.value is not None and _is_final(dim.value, self.names)

    def _call(self, node: ir.Node, body: ir.Function, where: Place) -> None:
        if not self._calls:
            self.open += [value for value in node.outputs if value.name and not self._settled(value)]
        self._calls += 1
        super()._call(node, body, where)
        self._calls -= 1
        for value in node.outputs:
            self.dims[value] = self._settle(value, self.dims.get(value))
            self.types[value] = value.dtype or self.types.get(value)

    def _type(self, node: ir.Node, index: int) -> ir.DataType | None:
        return certain_type(node, index, self)

    def _settle(self, value: ir.Value, found: Dims) -> Dims:
        declared = self._declared(value)
        if found is None or (declared is not None and len(declared) != len(found)):
            found = declared
        elif declared is not None:
            found = tuple(self._better(mine, theirs) for mine, theirs in zip(found, declared, strict=True))
        if found is None or value.is_graph_output():
            return found
        return tuple(Polynomial.of(next(self._fresh)) if dim is None else dim for dim in found)

    def _better(self, found: Polynomial | None, declared: Polynomial | None) -> Polynomial | None:
        if found is None or declared is None or found == declared:
            return declared if found is None else found
        if declared.constant is not None or (found.constant is None and declared.names <= self.names):
            return declared
        (name, *others) = declared.names
        if not others and declared == Polynomial.of(name) and name not in self.names and name not in found.names:
            self.aliases[name] = found
        return found

    def _loop(self, node: ir.Node, graph: ir.Graph, where: Place) -> None:
        """A state keeps its first shape only if the body gives that shape back; what it holds changes in any case."""
        skipped = 2 if node.op_type == "Loop" else 0
        scanned = self.integer(node, "num_scan_inputs", 0) if node.op_type == "Scan" else 0
        states = slice(skipped, len(graph.inputs) - scanned)
        self._bind_body(node, graph)
        for value in graph.inputs[:skipped]:
            self.dims[value] = ()
        axes = self.integers(node, "scan_input_axes", [0] * scanned)
        # before opset 9 a Scan has its lengths first, and a batch: of that nothing is known
        given = node.inputs if node.op_type == "Loop" or len(node.inputs) == len(graph.inputs) else []
        for value in graph.inputs if not given else ():
            self.dims[value] = None
        for axis, inner, outer in zip(axes, graph.inputs[states.stop :], given[states.stop :], strict=bool(given)):
            dims = None if outer is None else self.of(outer)
            self.dims[inner] = None if not dims else tuple(dim for at, dim in enumerate(dims) if at != axis % len(dims))
        for value in graph.inputs:
            self.contents.pop(value, None)
        results = graph.outputs[1:] if node.op_type == "Loop" else graph.outputs
        aliases = dict(self.aliases)
        while True:
            self.aliases = dict(aliases)
            self._walk(graph, where)
            changing = [
                (value, joined)
                for value, result in zip(graph.inputs[states], results, strict=False)
                if (joined := _kept(self.dims.get(value), self.of(result))) != self.dims.get(value)
            ]
            if not changing:
                return
            for value, joined in changing:
                self.dims[value] = joined


def _fresh(model: ir.Model) -> Iterator[str]:
    """Names that no dimension has."""
    taken = {dim.value for value in results(model) for dim in value.shape or () if not isinstance(dim, int)}
    yield from (name for name in (f"unk__{number}" for number in count()) if name not in taken)


def _kept(before: Dims, after: Dims) -> Dims:
    """What two rounds of a loop have in common."""
    if before is None or after is None or len(before) != len(after):
        return None
    return tuple(old if old == new else None for old, new in zip(before, after, strict=True))
