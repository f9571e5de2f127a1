"""What a model is, on one screen: interface, level, ops, repeated blocks, weight sites, and what each part costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir

from ..ir.block import Block, blocks
from ..ir.cost import Cost, cost
from ..ir.dimensions import Range, ranges
from ..ir.level import Signature, detect
from ..ir.polynomial import Polynomial
from ..ir.site import Site, sites
from .axes import AxisGroup, axis_groups
from .feeding import check_dimensions

#: A number, or a formula over dynamic dimensions as text.
Amount = int | str


@dataclass(frozen=True)
class Part:
    """What some nodes cost. flops: two for a multiply-add. traffic: bytes of activations read and written."""

    label: str
    nodes: int
    parameters: int
    bytes: int
    flops: Amount
    traffic: Amount


@dataclass(frozen=True)
class SiteGroup:
    """All weight sites of one kind; weights that several sites read count once. shapes: [in, out] and how often."""

    kind: str
    count: int
    parameters: int
    bytes: int
    shapes: Mapping[str, int]


@dataclass(frozen=True)
class Inspection:
    """blocks: one a repeated block, labelled `stack.index`. rest: what is outside of blocks, None without blocks.

    uncounted: nodes that FLOPs leave out, and why. axes: the groups of dependent axes, where they were asked for.
    """

    level: str
    ir_version: int
    producer: str
    opsets: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ranges: Mapping[str, Range]
    ops: Mapping[str, int]
    functions: tuple[str, ...]
    total: Part
    blocks: tuple[Part, ...]
    rest: Part | None
    sites: tuple[SiteGroup, ...]
    dimensions: Mapping[str, int]
    uncounted: tuple[str, ...]
    axes: tuple[AxisGroup, ...] | None = None


def inspect(model: onnx_ir.Model, dimensions: Mapping[str, int] | None = None, *, axes: bool = False) -> Inspection:
    """Read everything off `model`; costs are numbers where `dimensions` settle them, else formulas.

    axes: also the groups of dependent axes. Raises OptionError for a dimension that no input has, ModelError for a size
    out of its range, and for a model whose opset is too old for its axes to be followed.
    """
    check_dimensions(model, dimensions or {})
    spent = cost(model, dimensions)
    found = blocks(model)
    signature = Signature.of(model)
    nodes = list(model.graph.all_nodes())
    return Inspection(
        level=detect(model).value,
        ir_version=model.ir_version,
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part),
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        inputs=tuple(map(str, signature.inputs)),
        outputs=tuple(map(str, signature.outputs)),
        ranges=ranges(model),
        ops=dict(Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes).most_common()),
        functions=tuple(f"{function.domain}.{function.name}" for function in model.functions.values()),
        total=_part("total", len(nodes), spent),
        blocks=tuple(_block(block, spent) for block in found),
        rest=_rest(model, found, spent) if found else None,
        sites=tuple(_sites(sites(model))),
        dimensions=dict(dimensions or {}),
        uncounted=spent.unknown,
        axes=axis_groups(model) if axes else None,
    )


def _block(block: Block, spent: Cost) -> Part:
    return _part(f"{block.stack}.{block.index}", len(block.nodes), spent.of(block.nodes))


def _rest(model: onnx_ir.Model, found: Iterable[Block], spent: Cost) -> Part:
    inside = {node for block in found for node in block.nodes}
    outside = [node for node in model.graph if node not in inside]
    return _part("rest", len(outside), spent.of(outside))


def _part(label: str, nodes: int, spent: Cost) -> Part:
    return Part(label, nodes, spent.parameters, spent.bytes, _amount(spent.flops), _amount(spent.activation_bytes))


def _amount(value: Polynomial) -> Amount:
    return str(value) if value.constant is None else value.constant


def _sites(found: Iterable[Site]) -> Iterable[SiteGroup]:
    groups: dict[str, list[Site]] = {}
    for site in found:
        groups.setdefault(site.kind.value, []).append(site)
    for kind, members in groups.items():
        weights = {site.weight for site in members}
        tensors = [tensor for value in weights if (tensor := onnx_ir.convenience.get_const_tensor(value)) is not None]
        shapes = Counter(f"{site.in_features}x{site.out_features}" for site in members)
        yield SiteGroup(
            kind=kind,
            count=len(members),
            parameters=sum(tensor.size for tensor in tensors),
            bytes=sum(tensor.nbytes for tensor in tensors),
            shapes=dict(shapes.most_common()),
        )
