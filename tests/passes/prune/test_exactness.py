"""What adds nothing can go: units, heads, branches and blocks of zeros, neurons that are there twice, unread rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from tersor.ir.axes import Axis, Dependencies, Mask, kept
from tersor.ir.block import blocks
from tersor.ir.compare import compare
from tersor.ir.constants import tensor_of
from tersor.ir.runner import runner
from tersor.ir.site import Site, sites
from tersor.passes.base import Context, Pass
from tersor.passes.pipeline import Pipeline
from tersor.passes.prune.drop_layers import DropLayers
from tersor.passes.prune.drop_sublayers import DropSublayers
from tersor.passes.prune.merge_neurons import MergeNeurons
from tersor.passes.prune.prune_heads import PruneHeads
from tersor.passes.prune.prune_neurons import PruneNeurons
from tersor.passes.prune.prune_ticket import PruneTicket
from tersor.passes.prune.stream import branches
from tersor.passes.prune.unit_pass import UnitPass
from tersor.passes.prune.units import Units, units
from tersor.tests.passes.models import MODELS, SMALL, Example, example, write_ticket
from tersor.tests.support import distance

#: As of exact passes: arithmetic is reordered. Here it is what the issue of pruning promises.
EXACT = 1e-5

KINDS = "convolutions=true, recurrent=true"
SCORES = ("magnitude", "obs", "inorm", "onorm", "activation", "taylor", "fisher")
WITH_HEADS = ("blocks", "minilm", "babyllama", "gpt2", "llama", "t5-decoder", "vit")
WITH_BLOCKS = (*WITH_HEADS, "squeezebert")
#: Their blocks end in a norm, which takes the size out of the stream: it cannot be fitted to what is behind one.
NORM_LAST = ("minilm", "squeezebert")
WITH_TOKENS = ("recurrent", "minilm", "babyllama", "g2p", "gpt2", "llama", "t5-decoder", "squeezebert")


def marked(names: Iterable[str], *others: object) -> list[object]:
    """Parameters of a test: all but the small graphs are slow."""
    return [pytest.param(*others, name, marks=() if name in SMALL else pytest.mark.slow) for name in names]


def store(value: ir.Value, array: NDArray[np.generic]) -> None:
    """Let an initializer be these numbers."""
    tensor = tensor_of(value)
    assert tensor is not None
    assert value.is_initializer()
    value.const_value = ir.Tensor(array.astype(tensor.dtype.numpy()), dtype=tensor.dtype, name=value.name)


def floats(value: ir.Value) -> NDArray[np.generic] | None:
    tensor = tensor_of(value)
    return None if tensor is None or not tensor.dtype.is_floating_point() else tensor.numpy().copy()


def silence(found: Dependencies, keep: Mapping[Axis, Mask]) -> None:
    """Zeros in every weight at what of the axes is not kept."""
    for value, axes in found.axes.items():
        array, masks = floats(value), [kept(axis, keep) for axis in axes]
        if array is None or all(mask.all() for mask in masks):
            continue
        for at, mask in enumerate(masks):
            array[(slice(None),) * at + (~mask,)] = 0
        store(value, array)


def nullify(listed: Iterable[Site]) -> None:
    """Zeros for the weights and biases of sites."""
    for site in listed:
        for value in filter(None, (site.weight, site.bias)):
            array = floats(value)
            if array is not None:
                store(value, np.zeros_like(array))


def loses_nothing(made: Pass, model: ir.Model, source: Example) -> None:
    """The pass fires, and the answers stay."""
    after = model.clone()
    assert made.apply(after, source.context).matches
    assert compare(model, after, source.feeds[:2]).within(EXACT)


def taken(made: UnitPass, model: ir.Model) -> list[Units]:
    found = [group for group in units(model) if made.verdict(group) is None]
    assert found
    return found


UNIT_PASSES = [
    *(case for score in SCORES for case in marked(SMALL, PruneNeurons, score)),
    *(case for score in SCORES for case in marked(WITH_HEADS[:1], PruneHeads, score)),
    *(case for score in SCORES[:2] for case in marked(MODELS[len(SMALL) :], PruneNeurons, score)),
    *(case for score in SCORES[:2] for case in marked(WITH_HEADS[1:], PruneHeads, score)),
]


@pytest.mark.parametrize(("kind", "score", "name"), UNIT_PASSES)
def test_units_of_zeros(kind: type[UnitPass], score: str, name: str, shared_tmp: Path) -> None:
    """With the score of magnitudes as they are; with the others what reads the rest is fitted, to what it was."""
    source, rng = example(name, shared_tmp), np.random.default_rng(0)
    model, made = source.model.clone(), kind(ratio=0.5, score=score, repair=score != "magnitude")  # type: ignore[call-arg]
    groups = taken(made, model)
    keep: dict[Axis, Mask] = {}
    for group in groups:
        keep[group.axis] = np.ones(group.size, np.bool_)
        keep[group.axis][rng.permutation(group.size)[made.left(group.first) :]] = False
    silence(groups[0].found, keep)
    loses_nothing(made, model, source)


@pytest.mark.parametrize("score", ["output", "influence", "spectral"])
@pytest.mark.parametrize("name", marked(WITH_BLOCKS))
def test_a_branch_of_zeros(score: str, name: str, shared_tmp: Path) -> None:
    source = example(name, shared_tmp)
    model = source.model.clone()
    listed = branches(model)
    nullify([listed[len(listed) // 2].site])
    loses_nothing(DropSublayers(score=score), model, source)  # type: ignore[arg-type]


@pytest.mark.parametrize("score", ["output", "influence"])
@pytest.mark.parametrize("name", marked(WITH_BLOCKS))
def test_a_block_of_zeros(score: str, name: str, shared_tmp: Path) -> None:
    """Between norms that scale nothing, so that a second one changes nothing."""
    source = example(name, shared_tmp)
    model = source.model.clone()
    for node in model.graph:
        if node.op_type.endswith("Normalization"):
            for value, array in zip(node.inputs[1:], (np.ones, np.zeros), strict=False):
                if value is not None and value.shape is not None:
                    store(value, array(value.shape.numpy()))
    listed = blocks(model)
    inside = set(listed[len(listed) // 2].nodes)
    nullify(site for site in sites(model) if site.node in inside)
    loses_nothing(DropLayers(score=score, repair=name not in NORM_LAST), model, source)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", marked(MODELS))
def test_neurons_that_are_there_twice(name: str, shared_tmp: Path) -> None:
    source = example(name, shared_tmp)
    model = source.model.clone()
    for one in taken(PruneNeurons(recurrent=False), model):
        halves = np.arange(one.size) // (one.size // 2)
        read = {site.weight for site in one.readers}
        for value, at in one.group.weights:
            array = floats(value)
            if array is not None and value not in read:
                first, second = (kept(one.found.axes[value][at], {one.axis: halves == half}) for half in (0, 1))
                wide = np.moveaxis(array, at, 0)
                wide[second] = wide[first]
                store(value, array)
    loses_nothing(MergeNeurons(threshold=0, multiple=1), model, source)


@pytest.mark.parametrize("ids", ["old", "new"])
@pytest.mark.parametrize("name", marked(WITH_TOKENS))
def test_rows_that_nothing_reads(ids: str, name: str, shared_tmp: Path) -> None:
    source = example(name, shared_tmp)
    model = source.model.clone()
    outcome = Pipeline.of(f"trim-vocabulary{{unknown=0, ids={ids}}}").apply(model, source.context)
    assert outcome.matches
    given = Context(feeds=source.feeds[:2]).after(outcome.renumbered).feeds
    for before, after in zip(source.feeds, given, strict=False):
        wanted, found = (list(runner(one)(feeds).values()) for one, feeds in ((source.model, before), (model, after)))
        assert distance(found, wanted) <= EXACT


@pytest.mark.parametrize("name", marked(MODELS))
@pytest.mark.parametrize("passes", ["prune-magnitude{scope=output, ", "prune-wanda{", "prune-obs{"])
def test_weights_that_are_zero(passes: str, name: str, shared_tmp: Path) -> None:
    """More of them than are to go: no others do but those of inputs that are zero."""
    source = example(name, shared_tmp)
    model = source.model.clone()
    Pipeline.of(f"prune-magnitude{{scope=output, storage=dense, {KINDS}}}").apply(model, Context())
    after = model.clone()
    Pipeline.of(f"{passes}sparsity=0.25, {KINDS}}}").apply(after, source.context)
    assert compare(model, after, source.feeds[:2]).within(EXACT)


@pytest.mark.parametrize("name", marked(MODELS))
def test_a_ticket_of_weights_that_are_zero(name: str, shared_tmp: Path, tmp_path: Path) -> None:
    source = example(name, shared_tmp)
    model = source.model.clone()
    write_ticket(tmp_path / "masks.npz", model)
    PruneTicket(masks=str(tmp_path / "masks.npz"), storage="dense").apply(model, Context())
    loses_nothing(PruneTicket(masks=str(tmp_path / "masks.npz")), model, source)
