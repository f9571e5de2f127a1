"""What tests of dependent axes share: units set to zero, then cut, and whether the answers are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tersor.ir.axes import Axis, Dependencies, Group, Mask, Why, dependencies, kept
from tersor.ir.constants import tensor_of
from tersor.ir.level import Level, violations
from tersor.ir.text import graph
from tersor.passes.cutting import cut

Arrays = Sequence[NDArray[np.generic]]
Feeds = Mapping[str, NDArray[np.generic]]
Run = Callable[[ir.Model, Feeds], Arrays]


RNG = np.random.default_rng(0)


def weight(*shape: int) -> NDArray[np.float32]:
    """Normal numbers."""
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A graph and the sizes of its free groups."""

    name: str
    lines: tuple[str, ...]
    inputs: dict[str, str]
    weights: dict[str, object]
    free: list[int]
    run: Run | None = None
    outputs: tuple[str, ...] = ("y",)

    def model(self) -> ir.Model:
        return graph(*self.lines, inputs=self.inputs, outputs=self.outputs, **self.weights)


def assert_case(case: Case) -> None:
    """The groups that are free are those that are said to be, and each is as good as zero once it is cut."""
    found = dependencies(case.model())
    held = [(group.size, list(map(str, group.holds))) for group in found.groups]
    assert sorted(group.size for group in found.groups if cuttable(group)) == sorted(case.free), held
    assert_free_groups_can_be_cut(case.model, run=case.run or reference)


def cuttable(group: Group) -> bool:
    """Whether nothing holds a group, or only that the size of a head scales its scores, which `cut` sees to."""
    return all(hold.why is Why.HEAD_SIZE for hold in group.holds)


def random_feeds(model: ir.Model, seed: int = 1, dynamic: int = 3) -> dict[str, NDArray[np.generic]]:
    """Seeded numbers for each input, small ones where it takes integers."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[np.generic]] = {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None
        shape = [dim if isinstance(dim, int) else dynamic for dim in value.shape]
        numbers = rng.standard_normal(shape) if value.dtype.is_floating_point() else rng.integers(0, 2, shape)
        feeds[value.name or ""] = numbers.astype(value.dtype.numpy())
    return feeds


def reference(model: ir.Model, feeds: Feeds) -> Arrays:
    """The answers of ONNX's own evaluator."""
    return list(ReferenceEvaluator(ir.to_proto(model)).run(None, dict(feeds)))


def zero(found: Dependencies, keep: Mapping[Axis, Mask]) -> None:
    """Set the places of leaves that are not kept to zero, in all weights that have them."""
    for value, axes in found.axes.items():
        tensor = tensor_of(value)
        masks = [kept(axis, keep) for axis in axes]
        if tensor is None or all(mask.all() for mask in masks):
            continue
        array = tensor.numpy().copy()
        for at, mask in enumerate(masks):
            array[(slice(None),) * at + (~mask,)] = 0
        node = value.producer()
        if node is None:
            value.const_value = ir.tensor(array, name=value.name)
        else:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
            value.const_value = None


def assert_cut_is_zero(
    model: ir.Model, masks: Mapping[Axis, Mask], found: Dependencies, feeds: Feeds, run: Run = reference
) -> None:
    """Zeros in place, then the cut: the answers are those of the zeros, to 1e-5 of the largest."""
    zero(found, masks)
    before = run(model, feeds)
    cut(found, masks)
    assert violations(model, Level.IMPORTED) == []
    for one, other in zip(run(model, feeds), before, strict=True):
        scale = max(float(np.abs(other).max(initial=0)), 1e-3)
        np.testing.assert_allclose(np.float64(one) / scale, np.float64(other) / scale, rtol=0, atol=1e-5)


def assert_free_groups_can_be_cut(
    made: Callable[[], ir.Model], seed: int = 0, run: Run = reference, allowed: Callable[[Group], bool] = cuttable
) -> list[int]:
    """Each free group of a model, made anew for each, at random units; gives the sizes of the groups."""
    sizes = [group.size for group in dependencies(made()).groups if allowed(group)]
    for index in range(len(sizes)):
        model = made()
        found = dependencies(model)
        group = [group for group in found.groups if allowed(group)][index]
        mask = np.random.default_rng([seed, index]).random(group.size) < 0.5
        mask[index % group.size] = True
        mask[(index + 1) % group.size] = False
        assert_cut_is_zero(model, {group.axis: mask}, found, random_feeds(model, seed), run)
    return sorted(sizes)
