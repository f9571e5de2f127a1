"""Shapes of all values as polynomials in the dynamic dimensions, and the numbers inside shape arithmetic.

    ids [batch, sequence] --> Shape --> Gather --> Concat --> Reshape target [batch, sequence, 12, 32]

One walk in graph order. Each op's rule gives the dimensions of its outputs; what the model declares fills gaps, and
ONNX's own inference (on a clone without weights) is asked only where something is still missing. Calls of model-local
functions are walked with the shapes of the call, subgraphs with those of the values they capture. Nothing in the
model changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from .errors import OptionError, nearest
from .polynomial import Polynomial
from .shape_compute import COMPUTE
from .shape_contents import CONTENTS, SMALL, lift
from .shape_layout import LAYOUT
from .shape_scope import Content, Dims, Scope
from .shape_types import output_type

RULES = {**COMPUTE, **LAYOUT}


@dataclass(frozen=True)
class Visit:
    """A node met on the walk: how often it runs (None: only the data tell), within which branch of which `If`
    (outermost first), and the node of the main graph that it is or lies within.
    """

    node: ir.Node
    times: Polynomial | None
    branch: tuple[tuple[ir.Node, str], ...]
    top: ir.Node


@dataclass(frozen=True)
class Place:
    """Where in the model the walk is."""

    times: Polynomial | None
    branch: tuple[tuple[ir.Node, str], ...]
    top: ir.Node | None

    def inside(self, node: ir.Node) -> Place:
        return self if self.top is not None else replace(self, top=node)


@dataclass(eq=False)
class Shapes(Scope):
    """What is known about each value; see `infer`."""

    model: ir.Model
    sizes: Mapping[str, int]
    hints: Mapping[ir.Value, Dims] = field(default_factory=dict)
    observe: Callable[[Shapes, Visit], None] | None = None

    def __post_init__(self) -> None:
        self.names = frozenset(dimension_names(self.model))
        functions = self.model.functions.values()
        self._functions = {(body.domain, body.name, body.overload): body for body in functions}
        for value in self.model.graph.inputs:
            self.dims[value] = self._input(value)
        self._walk(self.model.graph, Place(Polynomial.of(1), (), None))

    def of(self, value: ir.Value) -> Dims:
        """Dimensions of a value, None where even the rank is unknown."""
        if value in self.dims:
            return self.dims[value]
        tensor = ir.convenience.get_const_tensor(value)
        found = self._declared(value) if tensor is None else _whole(tensor)
        self.dims[value] = found
        return found

    def content(self, value: ir.Value | None) -> Content | None:
        """The numbers in a small integer tensor, as an array of polynomials (None where unknown)."""
        if value is None:
            return None
        if value not in self.contents:
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is None or tensor.size > SMALL or not (tensor.dtype.is_integer() or _is_bool(tensor)):
                return None
            self.contents[value] = lift(tensor.numpy())
        return self.contents[value]

    def _input(self, value: ir.Value) -> Dims:
        if value.shape is None:
            return None
        return tuple(self._dim(dim, f"{value.name}_dim_{axis}") for axis, dim in enumerate(value.shape))

    def _dim(self, dim: int | ir.SymbolicDim, unnamed: str | None = None) -> Polynomial | None:
        if isinstance(dim, int):
            return Polynomial.of(dim)
        text = dim.value or unnamed
        found = None if text is None else Polynomial.parse(text)
        return found.at(self.sizes) if found is not None and found.names <= self.names else None

    def _declared(self, value: ir.Value) -> Dims:
        if value.shape is None:
            return self.hints.get(value)
        return tuple(self._dim(dim) for dim in value.shape)

    def _walk(self, nodes: Iterable[ir.Node], where: Place) -> None:
        for node in nodes:
            body = self._functions.get((node.domain, node.op_type, node.overload))
            if body is not None:
                self._call(node, body, where.inside(node))
                continue
            if node.op_type in ("If", "Loop", "Scan"):
                self._enter(node, where.inside(node))
            found = self._follow_rule(node)
            for index, value in enumerate(node.outputs):
                if value.name:
                    self.dims[value] = self._settle(value, found[index] if index < len(found) else None)
                    self.types[value] = self._type(node, index)
            self._follow(node)
            if self.observe is not None:
                self.observe(self, Visit(node, where.times, where.branch, where.top or node))

    def _follow_rule(self, node: ir.Node) -> list[Dims]:
        rule = RULES.get((node.domain, node.op_type))
        return [] if rule is None else _attempt(rule(node, self))

    def _call(self, node: ir.Node, body: ir.Function, where: Place) -> None:
        for inner, outer in zip(body.inputs, node.inputs, strict=False):
            self.bind(inner, outer)
        outside, self.attributes = self.attributes, {**body.attributes, **node.attributes}
        self._walk(body, where)
        self.attributes = outside
        for outer, inner in zip(node.outputs, body.outputs, strict=False):
            self.bind(outer, inner)

    def _enter(self, node: ir.Node, where: Place) -> None:
        """Walk the subgraphs of If, Loop and Scan with the shapes that their inputs have."""
        for name, attr in node.attributes.items():
            if attr.type != ir.AttributeType.GRAPH:
                continue
            graph = attr.as_graph()
            if node.op_type == "If":
                alive = self.branches(node)
                branch = (*where.branch, (node, name)) if len(alive) > 1 else where.branch
                if name in alive or self.strict:
                    self._walk(graph, replace(where, branch=branch))
                continue
            trips = self.trips(node)
            times = None if where.times is None or trips is None else where.times * trips
            self._loop(node, graph, replace(where, times=times))

    def _loop(self, node: ir.Node, graph: ir.Graph, where: Place) -> None:
        """Walk the body of a Loop or Scan as its first round runs."""
        self._bind_body(node, graph)
        self._walk(graph, where)

    def _bind_body(self, node: ir.Node, graph: ir.Graph) -> None:
        """Give the inputs of a Loop's or Scan's body their shapes; a scanned input loses its first axis."""
        skipped = 2 if node.op_type == "Loop" else 0
        for value in graph.inputs[:skipped]:
            self.dims[value] = ()
        scanned = self.integer(node, "num_scan_inputs", 0)
        for index, inner in enumerate(graph.inputs[skipped:], skipped):
            self.bind(inner, node.inputs[index] if index < len(node.inputs) else None)
            dims = self.dims[inner]
            if dims and index >= len(graph.inputs) - scanned:
                self.dims[inner] = dims[1:]

    def _type(self, node: ir.Node, index: int) -> ir.DataType | None:
        return output_type(node, index, self)

    def _settle(self, value: ir.Value, found: Dims) -> Dims:
        """Join what the rule found with what is declared: numbers that are declared win, then the rule."""
        for other in (self._declared(value), self.hints.get(value)):
            if found is None:
                found = other
            elif other is not None and len(other) == len(found):
                found = tuple(_join(mine, theirs) for mine, theirs in zip(found, other, strict=True))
        return found

    def _follow(self, node: ir.Node) -> None:
        rule = CONTENTS.get(node.op_type) if node.domain == "" else None
        value = node.outputs[0] if node.outputs else None
        if rule is None or value is None:
            return
        self.contents.pop(value, None)
        try:
            found = rule(node, self)
        except (IndexError, TypeError, ValueError, ZeroDivisionError):
            return  # shape arithmetic on values that are not all known
        if found is not None and found.size <= SMALL:
            self.contents[value] = found


def infer(
    model: ir.Model,
    dimensions: Mapping[str, int] | None = None,
    observe: Callable[[Shapes, Visit], None] | None = None,
) -> Shapes:
    """Shapes of all values of `model`, with the dynamic dimensions that `dimensions` names put in as numbers.

    Inputs' unnamed dimensions are called `<input>_dim_<axis>`. `observe` is called at each node, while the shapes of
    the call that the node may be part of hold. Raises OptionError for a name that no input has.
    """
    sizes = dict(dimensions or {})
    known = dimension_names(model)
    for name in sizes:
        if name not in known:
            raise OptionError(f"the model has no dynamic dimension {name!r}; {nearest(name, known)}")
    shapes = Shapes(model, sizes)
    hints = {} if all(_complete(dims) for dims in shapes.dims.values()) else _hints(model)
    return Shapes(model, sizes, hints, observe) if hints or observe else shapes


def dimension_names(model: ir.Model) -> list[str]:
    """Names of the dynamic dimensions of the inputs in order; an unnamed one is `<input>_dim_<axis>`."""
    names: dict[str, None] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                text = dim.value or f"{value.name}_dim_{axis}"
                names |= dict.fromkeys(sorted(Polynomial.parse(text).names))
    return list(names)


def _hints(model: ir.Model) -> dict[ir.Value, Dims]:
    """Numbers that ONNX's inference knows and the model does not declare."""
    clone = model.clone()
    ShapeInferencePass(check_type=False, strict_mode=False)(clone)
    hints: dict[ir.Value, Dims] = {}
    for mine, theirs in zip(model.graph.all_nodes(), clone.graph.all_nodes(), strict=True):
        for value, other in zip(mine.outputs, theirs.outputs, strict=True):
            if other.shape is not None:
                hints[value] = tuple(Polynomial.of(dim) if isinstance(dim, int) else None for dim in other.shape)
    return hints


def _attempt(rule: Iterator[Dims]) -> list[Dims]:
    """What a rule yields until it meets something unknown."""
    found: list[Dims] = []
    try:
        found.extend(rule)
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return found
    return found


def _join(mine: Polynomial | None, theirs: Polynomial | None) -> Polynomial | None:
    if mine is None or (theirs is not None and theirs.constant is not None):
        return theirs
    return mine


def _complete(dims: Dims) -> bool:
    return dims is not None and all(dim is not None for dim in dims)


def _whole(tensor: ir.TensorProtocol) -> Dims:
    return tuple(Polynomial.of(dim) for dim in tensor.shape if isinstance(dim, int))


def _is_bool(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype == ir.DataType.BOOL
