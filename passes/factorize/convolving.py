"""Convolutions as chains of smaller ones.

    before   y = Conv[3x3](x)
    tucker   y = Conv[1x1](Conv[3x3, r1 -> r2](Conv[1x1](x)))                            Kim et al., 2016, equation 3
    cp       y = Conv[1x1](depthwise Conv[1x3](depthwise Conv[3x1](Conv[1x1](x))))       Lebedev et al., 2015, eq. 5
    tt       y = Conv[1x1](Conv[1x3, r2 -> r3](Conv[3x1, r1 -> r2](Conv[1x1](x))))       one core for each axis
    block-term     as tucker, the middle one in as many groups as there are blocks

Each axis of taps keeps its own stride, padding and dilation; axes of one tap go with the first of more. Groups are
decomposed each by itself, with ranks of their own number. Transposed convolutions become such chains as well.
Sources: Kim et al., Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications, 2016;
Lebedev et al., Speeding-up Convolutional Neural Networks Using Fine-tuned CP-decomposition, 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.site import Site
from ..base import Miss
from ..edit import Array, Tape, attribute, replace
from ..lookups import mark
from ..numerics.arrays import Floats
from ..seen import Seen
from .fitted import nbytes
from .methods import block_term, cp, tensor_train, tucker
from .networks import Around
from .tensor_forms import Format, Size, cut
from .weighing import Weighing


@dataclass(frozen=True)
class Stage:
    """One convolution of a chain. weight: as the node stores it. axes: of taps whose attributes it has."""

    weight: Array
    groups: int
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chain:
    """Convolutions one after the other. told: the ranks, for reports. error: what is lost, as a share."""

    stages: tuple[Stage, ...]
    told: str
    error: float

    @property
    def numbers(self) -> int:
        return sum(stage.weight.size for stage in self.stages)

    def multiply_adds(self, site: Site, around: Around) -> int:
        """For one image."""
        done, total = set[int](), 0
        for stage in self.stages:
            # every number of a weight meets each place once, of a transposed convolution each place that it reads
            before = _places(around, done)
            done |= set(stage.axes)
            total += stage.weight.size * (before if _turned(site) and stage.axes else _places(around, done))
        return total


def _places(around: Around, done: set[int]) -> int:
    """How many places there are when these axes are done."""
    pairs = enumerate(zip(around.before, around.behind, strict=True))
    return math.prod(behind if at in done else before for at, (before, behind) in pairs)


def tensors(site: Site) -> list[Floats]:
    """The weight of each group as [in, taps.., out], axes of one tap left out."""
    array, groups = np.asarray(site.view.array(), np.float64), attribute(site.node, "group", 1)
    taps = [size for size in array.shape[2:] if size > 1]
    parts = np.split(array, groups, 0)
    if _turned(site):
        return [np.moveaxis(part.reshape(len(part), part.shape[1], *taps), 1, -1) for part in parts]
    return [np.moveaxis(part.reshape(len(part), part.shape[1], *taps), 0, -1) for part in parts]


def unfit(site: Site, format: Format) -> Miss | None:
    """Why a convolution cannot be written as a chain."""
    node, taps = site.node, site.view.shape[2:]
    groups = attribute(node, "group", 1)
    channels = (site.view.shape[0] // groups, site.view.shape[1])
    if all(size == 1 for size in taps):
        return Miss("taps", f"1 in {groups} groups", "a kernel of more than one tap, or one group")
    if min(channels) == 1:
        return Miss("channels", f"1 on one side of {groups} groups", "more than one in each group, on both sides")
    if "output_shape" in node.attributes and format in ("cp", "tt"):
        return Miss("output_shape", str(list(node.attributes["output_shape"].as_ints())), "pads and output_padding")
    return None


def fit(
    site: Site, format: Format, size: Size, seen: Seen | None, around: Around, seed: int
) -> tuple[Chain, str] | Miss:
    """The chain that loses least of those within the size, and what is said of it.

    seen: what is known of the inputs, where they weigh the error.
    """
    weight = site.view.array()
    try:
        made = chain(site, format, size, _weighings(site, seen), seed)
    except ValueError as error:
        if size.rank is None:
            raise
        return Miss("rank", str(size.rank), f"no more than the full rank: {error}")
    if made is None:
        return Miss("ratio", f"{size.share:g}", "a ratio that rank one is within")
    if made.numbers * weight.itemsize >= nbytes(site):
        return Miss("bytes", str(made.numbers * weight.itemsize), f"fewer than the weight's {nbytes(site)}")
    before = weight.size * math.prod(around.before if _turned(site) else around.behind)
    cost = made.multiply_adds(site, around)
    if cost > before:
        return Miss(
            "multiply-adds", str(cost), f"as many as the weight's {before} at most; a smaller ratio takes fewer"
        )
    share = f"{made.numbers / weight.size:.3f} of the numbers, {cost / before:.2f} of the multiply-adds"
    return made, f"{made.told}: {share}, loses {made.error:.3g}"


def _weighings(site: Site, seen: Seen | None) -> list[Weighing]:
    groups, taps = attribute(site.node, "group", 1), [size for size in site.view.shape[2:] if size > 1]
    if seen is None or len(seen.parts) != groups:
        return [Weighing({})] * groups
    channels = site.view.shape[0] if _turned(site) else site.view.shape[1]
    modes = (channels,) if _turned(site) else (channels, *taps)
    return [Weighing.of(part.matrix, modes) for part in seen.parts]


def chain(site: Site, format: Format, size: Size, weighings: Sequence[Weighing], seed: int) -> Chain | None:
    """The chain that loses least within the size; None where none holds as few numbers.

    weighings: of [in, taps..], for each group. Raises ValueError for ranks above full.
    """
    groups = [each.on(tensor) for each, tensor in zip(weighings, tensors(site), strict=True)]
    numbers = None if size.share is None else size.share * groups[0].size
    shape = groups[0].shape
    if format == "cp":
        rank = size.rank if numbers is None else min(int(numbers) // sum(shape), cp.most(shape))
        parts = [cp.cp(each, rank, seed=seed) for each in groups] if rank else None
        return None if parts is None or rank is None else _cp(site, parts, groups, weighings, rank)
    if format == "tt":
        most = tensor_train.most(shape)
        ranks = tensor_train.ranks_within(groups, numbers) if numbers is not None else cut(size.rank, most)
        return None if ranks is None else _train(site, ranks, groups, weighings)
    kept = range(1, len(shape) - 1)
    blocks = size.blocks if format == "block-term" else 1
    if numbers is None:
        given = [shape[at] if at in kept else each for at, each in enumerate(cut(size.rank, tucker.most(shape)))]
        ranks = tucker.feasible(given, kept)
    else:
        ranks = tucker.ranks_within(groups, numbers / blocks, kept)
    return None if ranks is None else _tucker(site, ranks, blocks, groups, weighings)


def put(site: Site, made: Chain) -> None:
    """Let the chain stand for the site's node; its bias is added by the last convolution."""
    node, tape = site.node, Tape()
    value, count = node.inputs[0], len(site.view.shape) - 2
    assert value is not None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    dtype = site.view.array().dtype
    split = len([stage for stage in made.stages if stage.axes]) > 1
    for at, stage in enumerate(made.stages):
        last = at + 1 == len(made.stages)
        held = tape.weight(np.ascontiguousarray(stage.weight, dtype), f"{site.weight.name}_{at}")
        inputs = [value, held, bias if last else None]
        given = _attributes(node, stage.axes, count, split) if stage.axes else {}
        op = node.op_type if stage.axes else "Conv"
        value = tape.node(op, inputs, {**given, "group": stage.groups if stage.groups > 1 else None}).outputs[0]
    mark(tape.nodes)
    replace(tape, [node.outputs[0]], [value], matched=[node])


def _attributes(node: ir.Node, axes: Sequence[int], count: int, split: bool) -> dict[str, ir.Attr | list[int]]:
    """The node's own attributes as far as they belong to these axes."""
    found: dict[str, ir.Attr | list[int]] = {}
    for name, plain in (("strides", 1), ("dilations", 1), ("output_padding", 0)):
        if name in node.attributes:
            given = node.attributes[name].as_ints()
            found[name] = [given[at] if at in axes else plain for at in range(count)]
    if "pads" in node.attributes:
        given = node.attributes["pads"].as_ints()
        found["pads"] = [given[at] if at % count in axes else 0 for at in range(2 * count)]
    for name in ("auto_pad", *(() if split else ("output_shape",))):
        if name in node.attributes:
            found[name] = node.attributes[name]
    return found


def _turned(site: Site) -> bool:
    return site.node.op_type == "ConvTranspose"


def _tapped(site: Site) -> list[tuple[int, ...]]:
    """The axes of more than one tap, and with the first of them all others."""
    taps = site.view.shape[2:]
    wide = [at for at, size in enumerate(taps) if size > 1]
    narrow = [at for at, size in enumerate(taps) if size == 1]
    return [(*([] if at != wide[0] else narrow), at) for at in wide]


def _kernel(site: Site, axes: Sequence[int]) -> list[int]:
    return [size if at in axes else 1 for at, size in enumerate(site.view.shape[2:])]


def _pointwise(matrices: Sequence[Floats], site: Site) -> Stage:
    """[in, out] of each group as a convolution by one tap."""
    stacked = np.concatenate([each.T for each in matrices])
    return Stage(stacked.reshape(*stacked.shape, *_kernel(site, ())), len(matrices))


def _spatial(parts: Sequence[Floats], site: Site, axes: tuple[int, ...]) -> Stage:
    """[in, taps.., out] of each group as the convolution that the site is."""
    kernel = _kernel(site, axes)
    moved = (np.moveaxis(each, -1, 1 if _turned(site) else 0) for each in parts)
    shaped = [each.reshape(*each.shape[:2], *kernel) for each in moved]
    return Stage(np.concatenate(shaped), len(parts))


def _cp(
    site: Site, parts: list[list[Floats]], whole: Sequence[Floats], weighings: Sequence[Weighing], rank: int
) -> Chain:
    lost = _lost([cp.product(part) for part in parts], whole)
    for part, weighing in zip(parts, weighings, strict=True):
        for at, (_, inverse) in weighing.roots.items():
            part[at] = inverse @ part[at]
    stages = [_pointwise([part[0] for part in parts], site)]
    for at, axes in enumerate(_tapped(site), 1):
        taps = np.concatenate([part[at].T for part in parts])
        stages.append(Stage(taps.reshape(len(taps), 1, *_kernel(site, axes)), len(taps), axes))
    stages.append(_pointwise([part[-1].T for part in parts], site))
    return Chain(tuple(stages), f"rank {rank}", lost)


def _train(site: Site, ranks: Sequence[int], whole: Sequence[Floats], weighings: Sequence[Weighing]) -> Chain:
    trains = [tensor_train.tensor_train(each, ranks)[0] for each in whole]
    lost = _lost([_joined(cores) for cores in trains], whole)
    for cores, weighing in zip(trains, weighings, strict=True):
        for at, (_, inverse) in weighing.roots.items():
            cores[at] = np.einsum("ij,ajb->aib", inverse, cores[at])
    stages = [_pointwise([cores[0][0] for cores in trains], site)]
    for at, axes in enumerate(_tapped(site), 1):
        made = _spatial([cores[at] for cores in trains], site, axes)
        stages.append(Stage(made.weight, made.groups, axes))
    stages.append(_pointwise([cores[-1][:, :, 0] for cores in trains], site))
    return Chain(tuple(stages), f"rank {'x'.join(map(str, ranks))}", lost)


def _tucker(
    site: Site, ranks: Sequence[int], blocks: int, whole: Sequence[Floats], weighings: Sequence[Weighing]
) -> Chain:
    found = [block_term.block_term(each, ranks, blocks) for each in whole]
    lost = _lost([block_term.dense(each) for each in found], whole)
    # an axis of full rank needs no convolution of its own
    narrowed, widened = (blocks > 1 or ranks[at] < whole[0].shape[at] for at in (0, -1))
    first, middle, last = [], list[Floats](), []
    for each, weighing in zip(found, weighings, strict=True):
        inverse = {at: pair[1] for at, pair in weighing.roots.items()}
        for block in each:
            inside = Weighing({at: (root, root) for at, root in inverse.items() if at or not narrowed})
            middle.append(inside.on(block.core))
        before = [_basis(block.bases[0], ranks[0]) for block in each]
        first.append(np.concatenate([inverse[0] @ base if 0 in inverse else base for base in before], 1))
        last.append(np.concatenate([_basis(block.bases[-1], ranks[-1]).T for block in each]))
    axes = tuple(range(len(site.view.shape) - 2))
    core = _spatial(middle, site, axes)
    stages = [
        *([_pointwise(first, site)] if narrowed else []),
        Stage(core.weight, core.groups, axes),
        *([_pointwise(last, site)] if widened else []),
    ]
    told = f"rank {ranks[0]}x{ranks[-1]}" + (f", {blocks} blocks" if blocks > 1 else "")
    return Chain(tuple(stages), told, lost)


def _basis(base: Floats | None, rank: int) -> Floats:
    return np.eye(rank) if base is None else base


def _joined(cores: Sequence[Floats]) -> Floats:
    found = cores[0]
    for core in cores[1:]:
        found = np.tensordot(found, core, 1)
    return found.reshape(found.shape[1:-1])


def _lost(found: Sequence[Floats], whole: Sequence[Floats]) -> float:
    error = sum(float(np.sum((each - other) ** 2)) for each, other in zip(found, whole, strict=True))
    return error / max(sum(float(np.sum(each**2)) for each in whole), np.finfo(np.float64).tiny)
