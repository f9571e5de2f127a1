"""Weight sites: every place where a constant matrix or table meets an activation, however an exporter spelled it.

    MatMul(x, W) [+ Add b]     Gemm(x, W, b)       MatMul(W, x)           1x1 Conv           LINEAR
    Conv, ConvTranspose                                                                      CONV
    Gather(table, ids)                                                                       EMBEDDING
    LSTM / GRU / RNN: W and R of each direction                              RECURRENT_INPUT, RECURRENT_HIDDEN

with Identity, Cast, Transpose, Squeeze, Unsqueeze, Reshape or DequantizeLinear between the initializer and its use.
Each is seen as `output = activation @ dense() + bias`, with the features of the activation on `axis`. Subgraphs and the
bodies of model-local functions are searched too. Left out: weights computed at run time, batched weights (one matrix
for each element of a batch), and recurrent weights that are cut and joined by nodes (fold constants first). Weights
that nodes compute from constants alone, as codebooks and planes of bits are, `computed_sites` lists for reports.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .block import block_of
from .constants import is_constant, tensor_of
from .weight import Weight, resolve

Array = NDArray[np.generic]


class Kind(enum.Enum):
    """How a site uses its weight."""

    LINEAR = "linear"
    CONV = "conv"
    EMBEDDING = "embedding"
    RECURRENT_INPUT = "recurrent-input"
    RECURRENT_HIDDEN = "recurrent-hidden"


@dataclass(frozen=True)
class Site:
    """One use of one weight.

    `weight` is the initializer (or output of a Constant node), `view` how the node comes to read it. For a bias added
    by a node of its own `bias_node` is that node and `output` is after it; a bias that the weight's node takes has
    `bias_node is node`. A recurrent hidden site is fed by the node's own output, one step late, so `activation` is that
    output. The features of activation and output lie on `axis` and `output_axis`. `tied` names the other sites that
    read the same weight; `block` is the index of the repeated block (see `ir.block`) that holds the node.
    """

    kind: Kind
    name: str
    node: ir.Node
    view: Weight
    activation: ir.Value
    output: ir.Value
    in_features: int
    out_features: int
    bias: ir.Value | None = None
    bias_node: ir.Node | None = None
    flipped: bool = False
    direction: int = 0
    alpha: float = 1.0
    beta: float = 1.0
    axis: int = -1
    output_axis: int = -1
    tied: tuple[str, ...] = ()
    block: int | None = None

    @property
    def weight(self) -> ir.Value:
        """The initializer, or the output of a Constant node, that holds the stored weight."""
        return self.view.root

    @property
    def read(self) -> ir.Value:
        """What the node reads the weight as: the weight, or what nodes on the way made of it."""
        return self.view.path[-1].outputs[0] if self.view.path else self.weight

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored as [out, in]."""
        return self.kind not in (Kind.LINEAR, Kind.EMBEDDING) or self.flipped != self.view.swapped

    def dense(self) -> Array:
        """The weight as [in, out], in the dtype that the node reads; a view of the stored array where no cast or scale
        stands between.

        A convolution is unfolded to [channels * kernel, out], a ConvTranspose to [in, channels * kernel]; a table is
        [rows, width]; a recurrent weight is [in, gates * hidden] in ONNX's gate order.
        """
        array = self.view.array()
        if self.kind in (Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN):
            return np.asarray(array[self.direction]).T
        if self.node.op_type == "ConvTranspose":
            return array.reshape(self.in_features, self.out_features)
        if self.node.op_type == "Conv":
            return array.reshape(self.out_features, self.in_features).T
        matrix = array.reshape(array.shape[-2:])
        matrix = matrix.T if self.flipped else matrix
        return _scaled(matrix, self.alpha)

    def bias_array(self) -> Array | None:
        """The bias as [out], None without one. A recurrent site has its own half of the node's bias."""
        view = None if self.bias is None else resolve(self.bias)
        if view is None:
            return None
        array = view.array()
        if self.kind in (Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN):
            half = int(self.kind is Kind.RECURRENT_HIDDEN)
            return array[self.direction, half * self.out_features : (half + 1) * self.out_features]
        array = array.reshape(-1)
        if array.size == 1:
            array = np.broadcast_to(array, (self.out_features,))
        return _scaled(array, self.beta)


def sites(model: ir.Model) -> list[Site]:
    """All weight sites of the model in graph order, one pass over the nodes.

    A node that reads a weight twice, as both directions of a recurrent one do, gives one site for each use.
    """
    nodes = _nodes(model)
    fixed = computed_constants(nodes)
    found = [
        site for node in nodes if node.op_type in _RULES and node.domain == "" for site in _RULES[node.op_type](node)
    ]
    # the vectors of a codebook are looked up by what is the same at every run
    found = [site for site in found if site.kind is not Kind.EMBEDDING or site.activation not in fixed]
    return _place(_tie(_rename(found)), block_of(model))


def computed_sites(model: ir.Model) -> list[Site]:
    """Where a weight is used that nodes compute from constants alone: what is not quantized again, for reports.

    The view is of the constant that most of the weight lies in, and nothing is known about features.
    """
    nodes = _nodes(model)
    fixed = computed_constants(nodes)
    found = []
    for node in nodes:
        places = _PLACES.get(node.op_type, ()) if node.domain == "" else ()
        read = [node.inputs[place] for place in places if place < len(node.inputs)]
        if node.op_type == "MatMul" and all(value in fixed for value in read):
            continue
        for value in read:
            if value is not None and value in fixed and resolve(value) is None:
                kind = Kind.EMBEDDING if node.op_type == "Gather" else Kind.LINEAR
                kind = Kind.CONV if node.op_type.startswith("Conv") else kind
                if node.op_type in ("LSTM", "GRU", "RNN"):
                    kind = Kind.RECURRENT_INPUT if value is node.inputs[1] else Kind.RECURRENT_HIDDEN
                view = _source(value)
                if view is not None and not (kind is Kind.EMBEDDING and node.outputs[0] in fixed):
                    fed = next((other for other in node.inputs if other is not None and other is not value), value)
                    found.append(Site(kind, "", node, view, fed, node.outputs[0], 0, 0))
    return _place(_rename(found), block_of(model))


#: The inputs that may be weights.
_PLACES: Mapping[str, tuple[int, ...]] = {
    "MatMul": (0, 1),
    "Gemm": (1,),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}


def _nodes(model: ir.Model) -> list[ir.Node]:
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    return [node for scope in scopes for node in ir.traversal.RecursiveGraphIterator(scope)]


def computed_constants(nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """What nodes, in order, compute from constants alone."""
    found: set[ir.Value] = set()
    for node in nodes:
        read = [value for value in node.inputs if value is not None]
        if read and all(value in found or is_constant(value) for value in read):
            found.update(node.outputs)
    return found


def _source(value: ir.Value) -> Weight | None:
    """The constant of most numbers that a value is computed from, and the nodes on the way."""
    stack, nodes, constants = [value], dict[ir.Node, None](), list[tuple[ir.Value, ir.TensorProtocol]]()
    while stack:
        each = stack.pop()
        node, tensor = each.producer(), tensor_of(each)
        if tensor is not None:
            constants.append((each, tensor))
        elif node is not None and node not in nodes:
            nodes[node] = None
            stack += [read for read in node.inputs if read is not None]
    if not constants:
        return None
    root, tensor = max(constants, key=lambda held: held[1].size)
    return Weight(root, tuple(reversed(nodes)), tuple(tensor.shape.numpy()))


def _matmul(node: ir.Node) -> Iterator[Site]:
    left, right = node.inputs
    if left is None or right is None:
        return
    view = resolve(right)
    activation, flipped, axis = left, False, -1
    if view is None:
        view = resolve(left)
        activation, flipped, axis = right, True, -2
    elif resolve(left) is not None:
        return
    if view is None or not _is_matrix(view):
        return
    rows, columns = view.shape[-2:]
    features = (columns, rows) if flipped else (rows, columns)
    yield _with_bias(
        Site(
            Kind.LINEAR, "", node, view, activation, node.outputs[0], *features,
            flipped=flipped, axis=axis, output_axis=axis,
        )
    )  # fmt: skip


def _gemm(node: ir.Node) -> Iterator[Site]:
    activation = node.inputs[0]
    view = None if node.inputs[1] is None else resolve(node.inputs[1])
    if activation is None or view is None or not _is_matrix(view) or resolve(activation) is not None:
        return
    flipped = bool(_integer(node, "transB", 0))
    rows, columns = view.shape[-2:]
    features = (columns, rows) if flipped else (rows, columns)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    constant = bias is not None and resolve(bias) is not None and _is_bias(bias, features[1], -1)
    site = Site(
        Kind.LINEAR, "", node, view, activation, node.outputs[0], *features,
        bias=bias if constant else None, bias_node=node if constant else None, flipped=flipped,
        alpha=_float(node, "alpha", 1.0), beta=_float(node, "beta", 1.0), axis=0 if _integer(node, "transA", 0) else -1,
    )  # fmt: skip
    yield site if bias is not None else _with_bias(site)


def _conv(node: ir.Node) -> Iterator[Site]:
    activation = node.inputs[0]
    view = None if node.inputs[1] is None else resolve(node.inputs[1])
    if activation is None or view is None or resolve(activation) is not None:
        return
    first, second, *kernel = view.shape
    taps = int(np.prod(kernel, dtype=np.int64))
    pointwise = taps == 1 and _integer(node, "group", 1) == 1 and node.op_type == "Conv"
    features = (first, second * taps) if node.op_type == "ConvTranspose" else (second * taps, first)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    constant = bias is not None and resolve(bias) is not None
    site = Site(
        Kind.LINEAR if pointwise else Kind.CONV, "", node, view, activation, node.outputs[0], *features,
        bias=bias if constant else None, bias_node=node if constant else None, flipped=pointwise, axis=1, output_axis=1,
    )  # fmt: skip
    yield site if bias is not None or node.op_type != "Conv" else _with_bias(site)


def _gather(node: ir.Node) -> Iterator[Site]:
    table, indices = node.inputs
    view = None if table is None or _integer(node, "axis", 0) else resolve(table)
    if view is None or indices is None or len(view.shape) != 2 or resolve(indices) is not None:
        return
    if table is not None and _is_float(table, view):
        yield Site(Kind.EMBEDDING, "", node, view, indices, node.outputs[0], *view.shape)


def _recurrent(node: ir.Node) -> Iterator[Site]:
    activation, weight, recurrence, *rest = node.inputs
    outputs = [value for value in node.outputs if value.name]
    if activation is None or not outputs:
        return
    bias = rest[0] if rest and rest[0] is not None and resolve(rest[0]) is not None else None
    owner = None if bias is None else node
    for kind, fed, value in (
        (Kind.RECURRENT_INPUT, activation, weight),
        (Kind.RECURRENT_HIDDEN, outputs[0], recurrence),
    ):
        view = None if value is None else resolve(value)
        if view is not None and len(view.shape) == 3:
            for direction in range(view.shape[0]):
                _, out, width = view.shape
                yield Site(
                    kind, "", node, view, fed, outputs[0], width, out,
                    bias=bias, bias_node=owner, direction=direction,
                )  # fmt: skip


_RULES: Mapping[str, Callable[[ir.Node], Iterable[Site]]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gather": _gather,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}


def _with_bias(site: Site) -> Site:
    """The site with the constant that an Add right behind it adds to each output feature, if there is one."""
    uses = site.output.uses()
    if len(uses) != 1 or site.output.is_graph_output():
        return site
    use = next(iter(uses))
    reader = use.node
    if reader.op_type != "Add" or reader.domain != "":
        return site
    bias = reader.inputs[1 - use.idx]
    axis = site.output_axis if site.output_axis < 0 else 1 - len(site.view.shape)
    if bias is None or resolve(bias) is None or not _is_bias(bias, site.out_features, axis):
        return site
    return replace(site, bias=bias, bias_node=reader, output=reader.outputs[0])


def _is_bias(value: ir.Value, features: int, axis: int) -> bool:
    """Whether the constant adds one number to each output feature (or one to all) and broadcasts nothing else."""
    view = resolve(value)
    if view is None:
        return False
    if len(view.shape) < -axis:
        return view.shape == () or view.shape == (1,)
    beside = [dim for index, dim in enumerate(view.shape) if index != len(view.shape) + axis]
    return view.shape[axis] in (1, features) and all(dim == 1 for dim in beside)


def _scaled(array: Array, factor: float) -> Array:
    return array if factor == 1.0 else np.multiply(array, np.asarray(factor, array.dtype))


def _is_matrix(view: Weight) -> bool:
    return len(view.shape) >= 2 and all(dim == 1 for dim in view.shape[:-2])


def _is_float(value: ir.Value, view: Weight) -> bool:
    dtype = value.dtype or view.dtype
    return dtype.is_floating_point()


def _integer(node: ir.Node, name: str, default: int) -> int:
    attr = node.attributes.get(name)
    return default if attr is None or attr.is_ref() else attr.as_int()


def _float(node: ir.Node, name: str, default: float) -> float:
    attr = node.attributes.get(name)
    return default if attr is None or attr.is_ref() else attr.as_float()


_ENDING = re.compile(r"([./](weight|kernel|bias|w|W|R|B)|_(weight|bias|quantized|kept|mask_bits))(\.T)?$")


def _rename(found: list[Site]) -> list[Site]:
    """Names from the initializers: of weight, bias or node the first that has parts, as folded weights have no name of
    their own (`val_60`, `onnx::MatMul_12`). A name taken twice gets the op, then a number.
    """
    plain = [_plain_name(site) for site in found]
    often = Counter(plain)
    taken: Counter[str] = Counter()
    named = []
    for site, short in zip(found, plain, strict=True):
        name = short if often[short] == 1 else f"{short}:{site.kind.value}"
        taken[name] += 1
        named.append(replace(site, name=name if taken[name] == 1 else f"{name}#{taken[name]}"))
    return named


def _plain_name(site: Site) -> str:
    bias = site.bias.name if site.bias is not None else None
    names = [name for name in (site.weight.name, bias, site.node.name) if name]
    whole = next((name for name in names if "." in name or "/" in name), names[0] if names else site.node.op_type)
    short = _ENDING.sub("", whole) or whole
    if site.kind in (Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN):
        short += ".input" if site.kind is Kind.RECURRENT_INPUT else ".hidden"
        short += ".reverse" if site.direction else ""
    return short


def _tie(found: list[Site]) -> list[Site]:
    readers: dict[tuple[ir.Value, int], list[str]] = {}
    for site in found:
        readers.setdefault((site.weight, site.direction), []).append(site.name)
    return [
        replace(site, tied=tuple(name for name in readers[site.weight, site.direction] if name != site.name))
        for site in found
    ]


def _place(found: list[Site], owner: Mapping[ir.Node, int]) -> list[Site]:
    return [replace(site, block=owner.get(site.node)) for site in found]
