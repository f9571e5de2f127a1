"""Stored tables that rows are looked up of, and the output heads tied to them.

    e = Gather(table, ids)                      a lookup                  [*ids, width]
    logits = x @ table.T + b                    a head tied to it         [.., rows]
    logits = x @ heads.T + b                    a head of its own, as long as some vocabulary

What may stand for such a table is a `Lookup` (`passes.replacing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..ir.content import dimensions
from ..ir.provenance import scope, sources
from ..ir.site import Kind, Site, sites
from ..ir.text import place
from ..ir.walk import every_node, held_graphs
from ..ir.weight import Weight, resolve
from .accumulators import TokenCounts
from .base import Context, Finding, Miss, Pass, Several
from .choosing import Choice, left_out, names, sparing_nothing
from .edit import Array, attribute, is_op
from .placing import matrix
from .statistics import Want
from .views import Dims

#: What hands on the scores of a vocabulary on their way out.
_ONWARD = (
    *("Identity", "Cast", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Concat"),
    *("Add", "Sub", "Mul", "Div", "Neg", "Clip", "Tanh", "Where", "Softmax", "LogSoftmax", "Sigmoid"),
    *("ArgMax", "TopK", "ReduceMax"),
)
#: On nodes: what they read stands for a weight already.
_STANDS = "tersor.stands"


@dataclass(frozen=True, eq=False)
class Table:
    """A stored table [rows, width] and all that reads it.

    weight: where it is stored, whichever way round. lookups: sites of kind embedding, with ids `site.activation`.
    heads: linear sites whose outputs are scores of the rows. A head of its own has no lookups. node: what findings
    speak of. held: why nothing may stand for it.
    """

    weight: ir.Value
    rows: int
    width: int
    lookups: tuple[Site, ...]
    heads: tuple[Site, ...]
    node: ir.Node
    held: Miss | None

    @property
    def sites(self) -> tuple[Site, ...]:
        """Lookups, then heads."""
        return self.lookups + self.heads

    @property
    def name(self) -> str:
        """What findings call it."""
        return self.sites[0].name if self.sites else self.weight.name or ""

    @property
    def names(self) -> list[str]:
        """What patterns know it by: all of its sites' names, kinds and blocks."""
        return list(dict.fromkeys([self.name, *(name for site in self.sites for name in names(site))]))

    @property
    def bytes(self) -> int:
        """Bytes that it takes as stored."""
        return 0 if self.weight.const_value is None else self.weight.const_value.nbytes

    def dense(self) -> Array:
        """The table [rows, width] in the type that it is stored in; a view."""
        tensor, site = self.weight.const_value, self.sites[0]
        assert tensor is not None  # a table that is not held is stored
        return matrix(site, tensor.numpy()).T

    def verdict(self, *, smallest: int = 0, only: Sequence[str] = (), ignore: Sequence[str] = ()) -> Miss | None:
        """Why it stays as it is: what `only`, `ignore` and `smallest` leave out, what stands for another weight
        already, what is held, quantized, not finite.

        smallest: fewest numbers. Reads the table, where it comes to that.
        """
        nodes = (self.node, *(site.node for site in self.sites))
        left = left_out(self.names, only, ignore) or standing(self.name, nodes)
        if left is not None or not self.sites:
            return left or self.held
        choice = Choice(kinds=(Kind.EMBEDDING, Kind.LINEAR), smallest=smallest, tied=True)
        return choice.verdict(self.sites[0]) or self.held


def tables(model: ir.Model, *, heads: bool = False) -> list[Table]:
    """All tables of the model that rows are looked up of, held ones too.

    heads: also the linear weights that give out scores of as many rows as some table has, tied to none.
    """
    every: dict[ir.Value, list[Site]] = {}
    for site in sites(model):
        every.setdefault(site.weight, []).append(site)
    found = [_table(weight, its) for weight, its in every.items() if any(site.kind is Kind.EMBEDDING for site in its)]
    found += [_unread(weight, node) for weight, node in _others(model, every).items()]
    sizes = {table.rows for table in found if table.lookups}
    for weight, its in every.items() if heads else ():
        if all(site.kind is Kind.LINEAR and site.out_features in sizes for site in its) and any(map(_answers, its)):
            found.append(_table(weight, its))
    return found


def counts(model: ir.Model, among: Iterable[Table], context: Context) -> dict[Table, NDArray[np.int64]]:
    """How often each row is looked up for the calibration data, padding apart; empty without such data.

    A head of its own has the counts of the tables with as many rows, taken together. Left out: tables whose ids are
    computed in subgraphs, which run at some feeds and not at others.
    """
    if context.calibration is None:
        return {}
    listed = list(among)
    wants = {
        table: [Want(site.activation, TokenCounts, table.rows, view=_FromZero(table.rows)) for site in table.lookups]
        for table in listed
        if table.lookups and all(site.activation.graph is model.graph for site in table.lookups)
    }
    seen = context.statistics(model, [want for each in wants.values() for want in each]) if wants else None
    made: dict[Table, NDArray[np.int64]] = {}
    for table, each in wants.items():
        assert seen is not None
        asked = (seen.of(want.value, TokenCounts, view=want.view) for want in dict.fromkeys(each))
        made[table] = sum((found.counts for found in asked), np.zeros(table.rows, np.int64))
    for table in listed:
        alike = [made[other] for other in listed if other in made and other.lookups and other.rows == table.rows]
        if not table.lookups and alike:
            made[table] = sum(alike, np.zeros(table.rows, np.int64))
    return made


def slow(made: Pass, model: ir.Model, table: Table, every: Sequence[Table], context: Context) -> Miss | None:
    """Why a table with a head stays as it is on the target. Lookups are a sliver of any run: nobody asks.

    made: the pass; a head that is timed alone reads a matrix of its own. every: all tables, of which one with as many
    rows is timed beside a head that is tied to none.
    """
    if context.pays is None or not table.heads:
        return None
    beside = [other.lookups[0].node for other in every if other.lookups and other.rows == table.rows]
    nodes = tuple(dict.fromkeys([*(site.node for site in table.sites), *beside[: not table.lookups]]))
    return context.pays(made, model, Several(table.name, nodes))


def mark(nodes: Iterable[ir.Node]) -> None:
    """Note on nodes, and on those inside of them, that what they read stands for a weight already."""
    for node in nodes:
        for each in (node, *(inner for held in held_graphs(node) for inner in every_node(held))):
            each.metadata_props[_STANDS] = "weight"


def standing(name: str, nodes: Iterable[ir.Node]) -> Miss | None:
    """Why what some nodes read stays as it is: it stands for another weight already."""
    if any(_STANDS in node.metadata_props for node in nodes):
        return Miss("factored", name, "a weight that stands for no other")
    return None


@dataclass(frozen=True)
class _FromZero:
    """Ids of a table of so many rows, counted from 0: other tables may be looked up by the same ids."""

    rows: int

    def __call__(self, array: Array, dims: Dims) -> tuple[Array, Dims]:
        wide = array.astype(np.int64)
        return np.where((wide < 0) & (wide >= -self.rows), wide + self.rows, wide), dims


def findings(
    verdicts: Sequence[tuple[Table, Miss | None]], chosen: Mapping[Table, str], ignore: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """One for each table, and for each pattern of `ignore` that spares none. chosen: what was taken there."""
    told = [
        Finding(
            f"{table.name} ({place(table.node)})",
            sources(table.node),
            miss,
            scope(table.node),
            "" if miss is not None else chosen.get(table, ""),
        )
        for table, miss in verdicts
    ]
    return (*told, *sparing_nothing(ignore, [table.names for table, _ in verdicts], "a table"))


def _table(weight: ir.Value, its: Sequence[Site]) -> Table:
    lead = next((site for site in its if site.kind is Kind.EMBEDDING), its[0])
    alike = [site for site in its if site is lead or _reads_alike(lead, site)]
    lookups = tuple(site for site in alike if site.kind is Kind.EMBEDDING)
    heads = tuple(site for site in alike if site.kind is Kind.LINEAR)
    rows, width = (lead.in_features, lead.out_features) if lookups else (lead.out_features, lead.in_features)
    held = _held(weight, [*lookups, *heads]) or next((miss for site in heads if (miss := _unfit(site))), None)
    return Table(weight, rows, width, lookups, heads, lead.node, held)


def _reads_alike(lead: Site, site: Site) -> bool:
    """Whether a site reads the table that the first one does, looked up or from the left as a head does."""
    if site.kind not in (Kind.EMBEDDING, Kind.LINEAR) or {lead.in_features, lead.out_features} != {
        site.in_features,
        site.out_features,
    }:
        return False
    tensor = lead.view.root.const_value
    if tensor is None:
        return False
    # views of memory that nobody reads tell by their strides which number is where
    ghost = np.empty(tensor.shape.numpy(), np.uint8)
    first, second = matrix(lead, ghost), matrix(site, ghost)
    if np.may_share_memory(first, ghost) and np.may_share_memory(second, ghost):
        return _steps(first) == _steps(second)
    numbers = np.arange(tensor.size).reshape(ghost.shape)
    return np.array_equal(matrix(lead, numbers), matrix(site, numbers))


def _steps(view: Array) -> list[tuple[int, int]]:
    """The length of each axis, and how far its numbers lie apart."""
    return [(size, step if size > 1 else 0) for size, step in zip(view.shape, view.strides, strict=True)]


def _held(weight: ir.Value, its: Sequence[Site]) -> Miss | None:
    """Why what reads a table besides lookups and heads does not let it go."""
    for value in (weight, *(node.outputs[0] for site in its for node in site.view.path)):
        if value.is_graph_output():
            return Miss("output", value.name or "", "a table that the model does not give out", near=True)
    nodes = {site.node for site in its} | {node for site in its for node in site.view.path}
    for reader in _readers(weight, nodes):
        return _stranger(reader)
    return None


def _readers(value: ir.Value, nodes: set[ir.Node]) -> Iterator[ir.Node]:
    """What reads a table, or views of it, besides these nodes."""
    for node in value.consumers():
        if node not in nodes:
            yield node
        elif node.outputs[0] is not value and _is_view(node, value):
            yield from _readers(node.outputs[0], nodes)


def _is_view(node: ir.Node, value: ir.Value) -> bool:
    return resolve(node.outputs[0]) is not None and node.inputs[0] is value


def _stranger(node: ir.Node) -> Miss:
    if is_op(node, "Gather"):
        if attribute(node, "axis", 0):
            return Miss("axis", f"{attribute(node, 'axis', 0)} at {place(node)}", "lookups along axis 0")
        ids = node.inputs[1]
        if ids is not None and resolve(ids) is not None:
            return Miss("ids", f"constant at {place(node)}", "ids that are fed; run fold-constants first")
    return Miss("read", f"by {place(node)}", "a table that lookups and output heads alone read", near=True)


def _unfit(site: Site) -> Miss | None:
    """Why the scores of a head cannot be computed in another way."""
    axis, dims = site.axis, dimensions(site.activation)
    if axis != -1 and dims is None:
        return Miss("rank", site.activation.name or "", "an activation whose axes are known; run infer-shapes first")
    if site.node.op_type == "Conv":
        for name, plain in (("strides", 1), ("pads", 0)):
            given = site.node.attributes.get(name)
            if given is not None and any(number != plain for number in given.as_ints()):
                return Miss(name, str(list(given.as_ints())), f"a convolution with {name} of {plain}")
    elif len(site.view.shape) != 2:
        return Miss("head", f"{list(site.view.shape)} at {place(site.node)}", "a head that is read as a matrix")
    return None


def _others(model: ir.Model, known: Mapping[ir.Value, object]) -> dict[ir.Value, ir.Node]:
    """Stored matrices of floats that are looked up in ways that are no lookups of rows by ids alone."""
    found: dict[ir.Value, ir.Node] = {}
    for node in model.graph.all_nodes():
        value = node.inputs[0] if is_op(node, "Gather") else None
        view = None if value is None else resolve(value)
        if view is not None and view.root not in known and len(view.shape) == 2 and _is_table(view):
            found.setdefault(view.root, node)
    return found


def _is_table(view: Weight) -> bool:
    return view.root.is_initializer() and view.dtype.is_floating_point()


def _unread(weight: ir.Value, node: ir.Node) -> Table:
    """A table that nothing looks up as a table is."""
    return Table(weight, 0, 0, (), (), node, _stranger(node))


def _answers(site: Site) -> bool:
    """Whether the scores of a site leave the model, perhaps as probabilities or as the best of them."""
    stack, seen = [site.output], set[ir.Value]()
    while stack:
        value = stack.pop()
        if value.is_graph_output():
            return True
        for use in value.uses():
            if is_op(use.node, *_ONWARD) and use.node.outputs[0] not in seen:
                seen.add(use.node.outputs[0])
                stack += use.node.outputs
    return False
