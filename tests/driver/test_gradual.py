"""Weights that go while a model trains: how many at which step, which, and that they stay away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tersor import GradualPruning, OptionError, load, run_passes
from tersor.ir.constants import constant_of
from tersor.ir.site import sites
from tersor.passes.prune.methods.schedules import cubic, gradual
from torch import nn


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 5))


def zeros(model: nn.Module) -> list[int]:
    return [int((each == 0).sum()) for each in model.parameters() if each.ndim > 1]


def jitter(model: nn.Module) -> None:
    """A step of an optimizer that knows nothing of masks."""
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.01 * torch.randn_like(each))


def test_sparsity_follows_the_cubic_schedule() -> None:
    model = layers()
    with GradualPruning(model, sparsity=0.8, begin=2, end=10, every=2) as pruning:
        for step in range(1, 13):
            jitter(model)
            pruning.after_step()
            # between updates it stays; a share is rounded down to whole weights, of 260
            at = min(max(step - step % 2, 0), 10)
            wanted = cubic(at, start=2, end=10, final=0.8) if step >= 2 else 0.0
            assert wanted - 1.01 / 260 * max(at, 1) <= pruning.sparsity <= wanted + 1e-9
            assert sum(zeros(model)) == round(260 * pruning.sparsity)


def test_the_smallest_go() -> None:
    model = layers()
    before = [each.detach().clone() for each in model.parameters() if each.ndim > 1]
    with GradualPruning(model, sparsity=0.5, begin=0, end=1) as pruning:
        pruning.after_step()
    gone = torch.cat(
        [each[~torch.as_tensor(mask)].abs() for each, mask in zip(before, pruning.masks.values(), strict=True)]
    )
    left = torch.cat(
        [each[torch.as_tensor(mask)].abs() for each, mask in zip(before, pruning.masks.values(), strict=True)]
    )
    assert len(gone) == 130
    assert gone.max() <= left.min()


def test_each_layer_loses_its_share() -> None:
    model = layers()
    with GradualPruning(model, sparsity=0.5, begin=0, end=1, scope="layer") as pruning:
        pruning.after_step()
    assert zeros(model) == [80, 50]


def test_what_went_stays_away_and_has_no_gradient() -> None:
    model = layers()
    with GradualPruning(model, sparsity=0.6, begin=0, end=4) as pruning:
        before = {name: mask.copy() for name, mask in pruning.masks.items()}
        for _ in range(6):
            jitter(model)
            pruning.after_step()
            for name, mask in pruning.masks.items():
                assert not (mask & ~before[name]).any()
                assert not model.get_parameter(name).detach().numpy()[~mask].any()
            before = {name: mask.copy() for name, mask in pruning.masks.items()}
        model(torch.ones(3, 8)).sum().backward()
        for name, mask in pruning.masks.items():
            gradient = model.get_parameter(name).grad
            assert gradient is not None and not gradient.numpy()[~mask].any()
    # behind the block gradients are whole again
    model.zero_grad()
    model(torch.ones(3, 8)).sum().backward()
    assert all(model.get_parameter(f"{at}.weight").grad.ne(0).any() for at in (0, 2))  # type: ignore[union-attr]
    hooks = [model.get_parameter(f"{at}.weight")._backward_hooks for at in (0, 2)]
    assert not any(hooks)


def test_ramps_are_thresholds_of_each_layer() -> None:
    model = layers()
    weights = {name: each.detach().clone() for name, each in model.named_parameters() if each.ndim > 1}
    reach = {
        name: float(each.abs().double().flatten().sort().values[int(0.5 * each.numel())])
        for name, each in weights.items()
    }
    with GradualPruning(model, sparsity=0.5, begin=3, end=9, schedule="ramps") as pruning:
        for step in range(1, 12):
            pruning.after_step()
            for name, each in weights.items():
                at = min(step, 9)
                low = gradual(at, start=2, ramp=6, end=10, reach=reach[name]) if at > 2 else 0.0
                np.testing.assert_array_equal(pruning.masks[name], (each.abs().double() >= low).numpy())
    assert pruning.sparsity == pytest.approx(0.5, abs=0.1)


def test_units_go_whole() -> None:
    model = layers()
    with GradualPruning(model, sparsity=0.5, begin=0, end=1, structured=True, only=("0",)) as pruning:
        pruning.after_step()
    rows = (model[0].weight == 0).all(1)
    assert rows.sum() == 10
    assert torch.equal(model[0].bias == 0, rows)


def test_each_layer_keeps_its_largest_weight() -> None:
    model = layers()
    with GradualPruning(model, sparsity=0.999, begin=0, end=1) as pruning:
        pruning.after_step()
    assert all(mask.any() for mask in pruning.masks.values())


def test_the_masks_prune_the_traced_model(tmp_path: Path) -> None:
    model = layers()
    with GradualPruning(model, sparsity=0.75, begin=0, end=2) as pruning:
        for _ in range(2):
            jitter(model)
            pruning.after_step()
    pruning.save_masks(tmp_path / "masks.npz")
    jitter(model)
    traced = load(model.eval(), args=(torch.ones(2, 8),))
    run_passes(traced, f"prune-ticket{{masks={tmp_path / 'masks.npz'}, storage=dense}}")
    found = [np.asarray(constant_of(site.weight)) for site in sites(traced)]
    assert sum(int((each == 0).sum()) for each in found) == round(260 * pruning.sparsity)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sparsity": 1.0}, "sparsity to be at least 0 and less than 1"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"begin": 5}, "begin to be a step from 0 on and before the end, 5"),
        ({"begin": -1}, "begin"),
        ({"every": 0}, "every to be at least 1 step"),
        ({"schedule": "linear"}, "schedule to be cubic or ramps"),
        ({"scope": "all"}, "scope"),
        ({"only": ("nothing",)}, "nothing that can be pruned is called 'nothing'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], told: str) -> None:
    given: dict[str, object] = {"sparsity": 0.5, "begin": 0, "end": 5} | options
    with pytest.raises(OptionError, match=told):
        GradualPruning(layers(), **given)  # type: ignore[arg-type]
