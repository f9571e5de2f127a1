"""What of recurrent layers is factored together: the weights that multiply one state, or one input.

states     h[t - 1] @ R of a layer, and x @ W of the layers whose x are these states
inputs     x @ W, of all directions
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.constants import STORED, tensor_of
from ...ir.content import dimensions
from ...ir.site import Kind, Site
from ..edit import attribute, integers_of, is_op
from ..numerics.arrays import Floats
from ..numerics.bases import Bases, bases
from ..placing import matrix
from ..seen import Seen

RECURRENT = ("LSTM", "GRU", "RNN")
#: In the metadata of a product that narrows what a layer reads.
_PROJECTS = "tersor.projects"
_VIEWS = ("Identity", "Squeeze", "Unsqueeze", "Transpose", "Reshape")


@dataclass(frozen=True)
class Item:
    """Weights that read one projection P of what they multiply.

    node: the layer. own: its weight, R or W, whichever. above: W of the layers that read its states, with R.
    """

    node: ir.Node
    own: Site
    above: tuple[Site, ...] = ()

    @property
    def ways(self) -> int:
        """How many projections there are: one for each direction of states, one for inputs."""
        return self.own.view.shape[0] if self.own.kind is Kind.RECURRENT_HIDDEN else 1

    @property
    def sites(self) -> tuple[Site, ...]:
        """The first site of each weight."""
        return (self.own, *self.above)

    @property
    def features(self) -> int:
        """Of a state, or of the input."""
        return self.own.in_features

    @property
    def outputs(self) -> int:
        """Columns of all that a projection is multiplied by."""
        if self.own.kind is Kind.RECURRENT_INPUT:
            return int(self.own.view.shape[0] * self.own.view.shape[1])
        return sum(int(site.view.shape[0] * site.view.shape[1]) for site in self.above) + int(self.own.view.shape[1])

    @property
    def most(self) -> int:
        """The rank from which on nothing is lost."""
        return min(self.features, self.outputs)

    @property
    def whole(self) -> int:
        """Numbers of the weights."""
        return self.ways * self.features * self.outputs

    def size(self, rank: int) -> int:
        """Numbers of the factors."""
        return self.ways * rank * (self.features + self.outputs)

    def smaller(self, rank: int) -> bool:
        """Whether factors of this rank are some, and have fewer numbers than the weights."""
        return rank <= self.most and self.size(rank) < self.whole

    def weights(self, way: int) -> list[Floats]:
        """What is multiplied by a direction's state, or by the input, [features, out] each."""
        if self.own.kind is Kind.RECURRENT_INPUT:
            return [np.asarray(matrix(self.own), np.float64)]
        rows = slice(way * self.features, (way + 1) * self.features)
        own = np.asarray(self.own.view.array()[way], np.float64).T
        return [own, *(np.asarray(matrix(site), np.float64)[rows] for site in self.above)]

    def basis(self, way: int, seen: Mapping[ir.Value, Seen], *, leading: bool, damping: float) -> Bases:
        """leading: the recurrent weight alone decides the projection."""
        weights = self.weights(way)
        if not seen:
            return bases(weights, leading=int(leading))
        grams = [seen[self.own.weight].parts[way].matrix]
        rows = slice(way * self.features, (way + 1) * self.features)
        grams += [seen[site.weight].gram[rows, rows] for site in self.above]
        # sums over as many steps, so that each error counts as often as it is made
        return bases(weights, inputs=grams, damping=damping, leading=int(leading))

    def lost(self, seen: Mapping[ir.Value, Seen], *, leading: bool, damping: float) -> Floats:
        """What each rank loses, from 0 on."""
        found = [self.basis(way, seen, leading=leading, damping=damping).lost.sum(0) for way in range(self.ways)]
        total: Floats = np.sum(found, axis=0)
        return total


def items(chosen: Sequence[Site], shared: bool) -> list[Item]:
    """What is factored together, in graph order. chosen: the first site of each weight. shared: whether layers read
    the projection of the states that they take."""
    hidden = {site.node: site for site in chosen if site.kind is Kind.RECURRENT_HIDDEN}
    above: dict[ir.Node, list[Site]] = {}
    for site in chosen:
        below = states_of(site.activation) if shared and site.kind is Kind.RECURRENT_INPUT else None
        if below in hidden and below.graph is site.node.graph and _alike(hidden[below], site):
            above.setdefault(below, []).append(site)
    taken = {site.weight for sites in above.values() for site in sites}
    return [
        Item(site.node, site, tuple(above.get(site.node, ())) if site.kind is Kind.RECURRENT_HIDDEN else ())
        for site in chosen
        if site.weight not in taken
    ]


def _alike(one: Site, other: Site) -> bool:
    return one.view.array().dtype == other.view.array().dtype


def states_of(value: ir.Value) -> ir.Node | None:
    """The recurrent node whose states the features of a value are, all directions side by side."""
    steps: list[ir.Node] = []
    node = value.producer()
    while is_op(node, *_VIEWS) and node.inputs[0] is not None:
        steps.append(node)
        value = node.inputs[0]
        node = value.producer()
    if not is_op(node, *RECURRENT) or value is not node.outputs[0]:
        return None
    dims = dimensions(node.outputs[0])
    weight = node.inputs[2]
    if weight is None or weight.shape is None or (dims is not None and len(dims) != 4):
        return None
    ways, _, hidden = weight.shape
    if not isinstance(ways, int) or not isinstance(hidden, int):
        return None
    axes = ["time", "batch", "way", "state"] if attribute(node, "layout", 0) else ["time", "way", "batch", "state"]
    for step in reversed(steps):
        found = _moved(step, axes, ways, hidden)
        if found is None:
            return None
        axes = found
    whole = axes[-1] == "states" or (ways == 1 and axes[-1] == "state")
    return node if whole else None


def _moved(node: ir.Node, axes: list[str], ways: int, hidden: int) -> list[str] | None:
    """Which axes a view has, the features last; None where they are not."""
    if node.op_type == "Identity":
        return axes
    if node.op_type == "Transpose":
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(len(axes))[::-1]
        return [axes[at] for at in perm]
    if node.op_type == "Reshape":
        dims = dimensions(node.outputs[0])
        if not dims or dims[-1] != ways * hidden or axes[-1] != "state":
            return None
        # what is cut last in memory stays together
        together = ways == 1 or axes[-2] == "way"
        return [*["any"] * (len(dims) - 1), "states"] if together else None
    given = integers_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None:
        return None
    if node.op_type == "Squeeze":
        gone = {at % len(axes) for at in given}
        kept = [axis for at, axis in enumerate(axes) if at not in gone]
        return kept if axes[-1] == kept[-1] and (ways == 1 or "way" not in {axes[at] for at in gone}) else None
    rank = len(axes) + len(given)
    new, left = {at % rank for at in given}, iter(axes)
    return ["any" if at in new else next(left) for at in range(rank)]


def project(value: ir.Value) -> None:
    """Mark the product that narrows what a layer reads."""
    node = value.producer()
    assert node is not None
    node.metadata_props[_PROJECTS] = "input"


def projections(value: ir.Value | None) -> list[ir.Value]:
    """What an input was narrowed by, [features, rank] for each direction of states; none where it was not."""
    node = None if value is None else value.producer()
    if is_op(node, "Concat"):
        parts = [projections(each) for each in node.inputs]
        return [each for part in parts for each in part] if all(parts) else []
    if not is_op(node, "MatMul") or _PROJECTS not in node.metadata_props or node.inputs[1] is None:
        return []
    return [node.inputs[1]]


def unprojected_input(value: ir.Value) -> ir.Value:
    """What an input was before it was narrowed."""
    node = value.producer()
    if node is None or not projections(value):
        return value
    if is_op(node, "Concat"):
        # products of the parts of one Split
        part = node.inputs[0].producer() if node.inputs[0] is not None else None
        split = None if part is None or part.inputs[0] is None else part.inputs[0].producer()
        node = split if is_op(split, "Split") else None
    return value if node is None or node.inputs[0] is None else node.inputs[0]


def factors(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """Z and P of a recurrent weight that is computed from them; None for others."""
    node = None if value is None else value.producer()
    if not is_op(node, "MatMul") or STORED not in node.metadata_props:
        return None
    left, right = node.inputs
    turn = None if right is None else right.producer()
    if left is None or not is_op(turn, "Transpose") or turn.inputs[0] is None:
        return None
    return left, turn.inputs[0]


def stepped(node: ir.Node) -> bool:
    """Whether a node is a layer whose steps are written out."""
    return node.op_type.startswith("Projected") and node.op_type.removeprefix("Projected") in RECURRENT


def layers(model: ir.Model) -> list[ir.Node]:
    """The recurrent layers of the main graph, those whose steps are written out too."""
    return [node for node in model.graph if is_op(node, *RECURRENT) or stepped(node)]


def held(model: ir.Model, *, in_bytes: bool = False) -> tuple[int, int]:
    """Of weights that are factors already: how many numbers, or bytes, they took at first, and take now."""
    first, now = 0, dict[ir.Value, int]()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type not in RECURRENT and not stepped(node):
            continue
        narrow, weight = projections(node.inputs[0]), node.inputs[1]
        if narrow and weight is not None and weight.shape is not None:
            rows = sum(sizes(each)[0] for each in narrow)
            ways, gates, _ = sizes(weight)
            first += rows * ways * gates * _width(weight, in_bytes)
            now[weight] = count(weight, in_bytes)
            # directions of one projection add up to it
            now |= {each: count(each, in_bytes) for each in narrow if each.producer() is None}
        found = (node.inputs[2], node.inputs[3]) if stepped(node) else factors(node.inputs[2])
        if found is not None and found[0] is not None and found[1] is not None:
            (ways, gates, _), hidden = sizes(found[0]), sizes(found[1])[-2]
            first += ways * gates * hidden * _width(found[0], in_bytes)
            now |= {each: count(each, in_bytes) for each in found if each is not None}
    return first, sum(now.values())


def count(value: ir.Value, in_bytes: bool = False) -> int:
    """Numbers, or bytes, of what is stored."""
    return math.prod(sizes(value)) * _width(value, in_bytes)


def _width(value: ir.Value, in_bytes: bool) -> int:
    """What a number of a weight takes, in bytes or as one."""
    tensor = tensor_of(value)
    return int(tensor.dtype.itemsize) if in_bytes and tensor is not None else 1


def sizes(value: ir.Value) -> tuple[int, ...]:
    """The shape of what is stored."""
    assert value.shape is not None
    return tuple(dim for dim in value.shape if isinstance(dim, int))
