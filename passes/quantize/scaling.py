"""Scales of an activation's features, folded into what produces it: those that read it see it divided, at no cost.

    before   x = LayerNormalization(h, g, b)             y = x @ W
    after    x = LayerNormalization(h, g / s, b / s)     y = x @ (s * W)

Exact, for s above zero, up to the rounding of quotients. What can take scales: the scale and bias of a layer or root
mean square normalization; factors that are stored; the output columns and bias of a linear layer or convolution; the
columns of a table. Between these and the activation may lie what is homogeneous in each feature, f(x / s) == f(x) / s:
Relu and its kin, products with anything else (a gate), and the values of Attention whose heads lie side by side and are
as many as the queries'. Nobody else may read what is divided. Constants that others share are written anew for the
reader at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.content import dimensions
from ...ir.provenance import divide
from ...ir.site import Kind, Site, sites
from ..base import Miss
from ..edit import Array, Tape, attribute, constant_of, is_op, reroute, rewrite_constant

#: The inputs that hold the scale and the bias of a normalization.
_NORMALIZATIONS = {"LayerNormalization": (1, 2), "RMSNormalization": (1,)}
#: The inputs in which an op is homogeneous, feature by feature, for positive factors.
_HOMOGENEOUS = {
    "Identity": (0,),
    "Relu": (0,),
    "LeakyRelu": (0,),
    "PRelu": (0,),
    "Neg": (0,),
    "Mul": (0, 1),
    "Div": (0,),
    "Attention": (2,),
}
#: Nodes between an activation and what takes its scales.
_REACH = 4


@dataclass(frozen=True)
class Fan:
    """The sites that share one activation, in graph order; its features lie on `axis`."""

    activation: ir.Value
    axis: int
    sites: tuple[Site, ...]

    @property
    def plain(self) -> bool:
        """Whether each site reads the activation for its product alone."""
        return all(list(site.node.inputs).count(self.activation) == 1 for site in self.sites)

    def divide(self, scales: Array) -> None:
        """Let the sites of a plain fan read the activation over `scales`, [in], by a Mul before them in each graph."""
        dtype = self.activation.dtype or self.sites[0].view.dtype
        seen: dict[ir.Graph | ir.Function | None, ir.Value] = {}
        for site in self.sites:
            tape = Tape()
            if site.node.graph not in seen:
                stored = (1 / _along(scales, self._from_end(site))).astype(dtype.numpy())
                by = tape.weight(stored, f"{site.weight.name}_input_scale")
                made = seen[site.node.graph] = tape("Mul", self.activation, by)
                made.type, made.shape = ir.TensorType(dtype), self.activation.shape
            reroute(tape, site.node, self.activation, seen[site.node.graph])

    def _from_end(self, site: Site) -> int:
        # a positive axis is a convolution's, whose activation has as many axes as its weight
        return self.axis if self.axis < 0 else self.axis - len(site.view.shape)


@dataclass(frozen=True)
class Constant:
    """Stored numbers and the node that reads them; their features lie on `axis`, from the end."""

    node: ir.Node
    value: ir.Value
    axis: int
    multiplied: bool = False

    def divided(self, scales: Array) -> Array:
        """The numbers over those of their features, or times these; infinite where the dtype cannot hold them."""
        array = constant_of(self.value)
        assert array is not None  # `_writable` was asked
        wide, along = np.asarray(array, np.float64), _along(scales, self.axis)
        with np.errstate(over="ignore"):
            scaled: Array = (wide * along if self.multiplied else wide / along).astype(array.dtype)
        return scaled

    def write(self, array: Array) -> None:
        """Let the node read `array` instead, by the same name where nobody else reads it."""
        rewrite_constant(self.node, self.value, array)


@dataclass(frozen=True)
class Scalable:
    """Constants that a scaling of features changes, all or none.

    made: the output of a weight site that is divided with them, and the axis of its features from the end.
    """

    constants: tuple[Constant, ...]
    made: tuple[ir.Value, int] | None = None

    def divide(self, scales: Array) -> bool:
        """Divide by scales above zero, one for each feature; False, and nothing changes, where that is not finite."""
        made = [constant.divided(scales) for constant in self.constants]
        if not all(np.isfinite(array.astype(np.float32, copy=False)).all() for array in made):
            return False
        for constant, array in zip(self.constants, made, strict=True):
            constant.write(array)
        if self.made is not None:
            divide(self.made[0], np.asarray(scales, np.float64), self.made[1])
        return True


def fans(chosen: Iterable[Site]) -> list[Fan]:
    """The sites by the activation that they share."""
    found: dict[tuple[ir.Value, int], list[Site]] = {}
    for site in chosen:
        found.setdefault((site.activation, site.axis), []).append(site)
    return [Fan(activation, axis, tuple(members)) for (activation, axis), members in found.items()]


def makers(model: ir.Model) -> dict[ir.Value, Site]:
    """The linear layer, convolution or table that makes a value, its bias added."""
    kinds = (Kind.LINEAR, Kind.CONV, Kind.EMBEDDING)
    return {site.output: site for site in sites(model) if site.kind in kinds and site.node.op_type != "ConvTranspose"}


def producer(fan: Fan, made_by: Mapping[ir.Value, Site]) -> Scalable | Miss:
    """What takes the scales that the fan's activation is divided by. made_by: `makers` of the model as it is."""
    activation, readers = fan.activation, {site.node for site in fan.sites}
    if activation.is_graph_output() or len(activation.uses()) != len(readers):
        others = [node.name or node.op_type for node in activation.consumers() if node not in readers]
        return Miss("readers", ", ".join(others) or "an output", "an activation that only these sites read")
    return _behind(activation, fan.axis, fan.sites[0].in_features, made_by, _REACH)


def _behind(value: ir.Value, axis: int, features: int, made_by: Mapping[ir.Value, Site], reach: int) -> Scalable | Miss:
    """What takes scales of the features of a value that nobody but the reader at hand reads."""
    dims = dimensions(value)
    if axis >= 0 and dims is None:
        return Miss("shape", value.name or "", "an activation whose rank is known")
    axis = axis if axis < 0 or dims is None else axis - len(dims)
    site, node = made_by.get(value), value.producer()
    if site is not None:
        return _site(site, axis, features, len(dims or ()))
    if node is None:
        return Miss("producer", f"{value.name}, an input", "a normalization or linear layer")
    if is_op(node, *_NORMALIZATIONS):
        return _normalization(node, axis, features)
    factor = _factor(node, axis, features)
    if factor is not None:
        return Scalable((factor,))
    if node.domain or not reach or (node.op_type == "Attention" and not _mixes_rows(node, value, axis)):
        return _stuck(node)
    for index in _HOMOGENEOUS.get(node.op_type, ()):
        operand = node.inputs[index]
        if operand is not None and len(operand.uses()) == 1 and not operand.is_graph_output():
            found = _behind(operand, axis, features, made_by, reach - 1)
            if isinstance(found, Scalable):
                return found
    return _stuck(node)


def _stuck(node: ir.Node) -> Miss:
    return Miss("producer", node.op_type, "a normalization or linear layer, or what scales pass on the way from one")


def _mixes_rows(node: ir.Node, value: ir.Value, axis: int) -> bool:
    """Whether Attention makes each feature of a value a mix of the same feature's rows: no past, no groups of heads."""
    rank = len(dimensions(node.inputs[2]) or ())
    heads = [attribute(node, name, 0) for name in ("q_num_heads", "kv_num_heads")]
    alone = not any(each.uses() or each.is_graph_output() for each in node.outputs[1:])
    fresh = all(each is None for each in node.inputs[4:6])
    return value is node.outputs[0] and rank == 3 and axis == -1 and heads[0] == heads[1] > 0 and alone and fresh


def _factor(node: ir.Node, axis: int, features: int) -> Constant | None:
    """What a node multiplies each feature by, where that is stored."""
    for value in node.inputs if is_op(node, "Mul") else ():
        if value is None or not _writable(value) or value.shape is None:
            continue
        dims = list(value.shape)
        if len(dims) >= -axis and dims[axis] == features and all(dim == 1 for dim in dims[:axis] + dims[axis:][1:]):
            return Constant(node, value, axis)
    return None


def _normalization(node: ir.Node, axis: int, features: int) -> Scalable | Miss:
    indices = [index for index in _NORMALIZATIONS[node.op_type] if index < len(node.inputs)]
    held = [value for value in (node.inputs[index] for index in indices) if value is not None]
    for value in held:
        array = constant_of(value)
        if not _writable(value) or array is None or array.shape != (features,) or axis != -1:
            return Miss("normalization", value.name or "", f"stored numbers for each of {features} features")
    return Scalable(tuple(Constant(node, value, -1) for value in dict.fromkeys(held)))


def _site(site: Site, axis: int, features: int, rank: int) -> Scalable | Miss:
    """The columns and the bias of a layer whose output has features on `axis`, from the end, of `rank` axes."""
    along = site.output_axis if site.output_axis < 0 else site.output_axis - rank
    if site.out_features != features or along != axis:
        return Miss("features", f"{site.out_features} on axis {along}", f"{features} on axis {axis}")
    column = -len(site.view.shape) if _convolves(site) else -2 if site.transposed else -1
    weight = _stored(site, column)
    if isinstance(weight, Miss):
        return weight
    if site.bias is None and all(value is None for value in site.node.inputs[2:]):
        return Scalable((weight,), made=(site.output, axis))
    if site.bias is None or site.bias_node is None or not _writable(site.bias):
        return Miss("bias", site.name, "a bias that is stored")
    bias = Constant(site.bias_node, site.bias, -1 if site.bias_node is site.node else axis)
    return Scalable((weight, bias), made=(site.output, axis))


def rows(fan: Fan) -> Scalable | Miss:
    """What undoes the division of the fan's activation: the weights' rows, which are multiplied.

    The sites are linear ones and inputs of recurrences.
    """
    found = []
    for site in fan.sites:
        row = 1 - len(site.view.shape) if _convolves(site) else -1 if site.transposed else -2
        weight = _stored(site, row)
        if isinstance(weight, Miss):
            return weight
        found.append(replace(weight, multiplied=True))
    return Scalable(tuple(found))


def _stored(site: Site, axis: int) -> Constant | Miss:
    """The weight, whose features lie on `axis`, where it is stored."""
    path = site.view.path
    if not _writable(site.weight) or not all(_turns(node) for node in path) or (path and len(site.view.shape) != 2):
        return Miss("weight", site.name, "a weight that is stored as it is read, or turned")
    passed = (site.weight, *(node.outputs[0] for node in path))
    if site.tied or any(len(value.uses()) != 1 or value.is_graph_output() for value in passed):
        return Miss("tied", ", ".join(site.tied) or site.name, "a weight that one node reads")
    return Constant(path[0] if path else site.node, site.weight, axis)


def _turns(node: ir.Node) -> bool:
    """Whether a node swaps the axes of a matrix."""
    return is_op(node, "Transpose") and (
        "perm" not in node.attributes or list(node.attributes["perm"].as_ints()) == [1, 0]
    )


def _convolves(site: Site) -> bool:
    return site.node.op_type == "Conv"


def _along(scales: Array, axis: int) -> NDArray[np.float64]:
    """Numbers for each feature as they meet an array whose features lie on `axis`, counted from the end."""
    return np.asarray(scales, np.float64).reshape([-1] + [1] * (-axis - 1))


def _writable(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input() and value.const_value is not None
