"""Which weights can be pruned, and which of them go."""

from __future__ import annotations

import pytest
import torch
from tersor.driver.tickets.masks import everything, groups, pruned, shuffled, spread
from tersor.ir.errors import OptionError
from torch import Tensor, nn


class Words(nn.Module):
    """A little of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.lstm = nn.LSTM(8, 4, 2, bidirectional=True)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv1d(8, 6, 3)
        self.tied = nn.Linear(8, 9)
        self.tied.weight = self.table.weight
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(8, 8))


WEIGHTS = [
    "scale",
    *(f"lstm.weight_{kind}_l{layer}{end}" for layer in (0, 1) for end in ("", "_reverse") for kind in ("ih", "hh")),
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "conv.weight",
]
UNITS = {
    "lstm.l0": 4, "lstm.l0_reverse": 4, "lstm.l1": 4, "lstm.l1_reverse": 4,
    "attention": 2, "attention.out_proj": 8, "conv": 6,
}  # fmt: skip


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters()}


class TestWhatCanBePruned:
    def test_weights_but_no_tables_norms_biases_or_frozen_ones(self) -> None:
        assert [group.name for group in groups(Words(), structured=False)] == WEIGHTS

    def test_units_of_layers(self) -> None:
        assert {group.name: group.units for group in groups(Words(), structured=True)} == UNITS

    def test_patterns_choose(self) -> None:
        found = groups(Words(), structured=False, only=("lstm.*", "conv.bias"), ignore=("*_hh_*", "*bias_ih*"))
        assert [group.name for group in found] == [
            *(name for name in WEIGHTS if name.startswith("lstm.weight_ih")), "conv.bias",
        ]  # fmt: skip
        assert [group.name for group in groups(Words(), structured=False, only=("table.*",))] == ["table.weight"]
        assert [group.name for group in groups(Words(), structured=True, only=("conv", "*.out_proj.weight"))] == [
            "attention.out_proj", "conv",
        ]  # fmt: skip

    @pytest.mark.parametrize("options", [{"only": ("covn",)}, {"ignore": ("covn",)}])
    def test_a_pattern_that_fits_nothing_is_refused(self, options: dict[str, tuple[str, ...]]) -> None:
        with pytest.raises(OptionError, match=r"'covn'; did you mean conv\?"):
            groups(Words(), structured=True, **options)

    def test_nothing_to_prune_is_refused(self) -> None:
        with pytest.raises(OptionError, match="LayerNorm has nothing to prune: expected weights of two axes"):
            groups(nn.LayerNorm(4), structured=False)


class TestMasks:
    def test_a_hidden_unit_is_a_row_of_every_gate(self) -> None:
        (group,) = groups(nn.LSTM(3, 4), structured=True)
        masks = group.masks(torch.tensor([True, False, True, True]))
        assert set(masks) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
        for mask in masks.values():
            assert torch.equal((~mask.reshape(16, -1)).any(1).nonzero().ravel(), torch.tensor([1, 5, 9, 13]))
            assert not mask[[1, 5, 9, 13]].any()

    def test_a_silenced_hidden_unit_stays_zero(self) -> None:
        lstm = nn.LSTM(3, 4)
        (group,) = groups(lstm, structured=True)
        with torch.no_grad():
            for name, mask in group.masks(torch.tensor([True, False, True, True])).items():
                lstm.get_parameter(name).mul_(mask)
        states = lstm(torch.randn(5, 2, 3))[0]
        assert states[..., 1].abs().max() == 0
        assert states[..., [0, 2, 3]].abs().min() > 0

    def test_a_silenced_head_says_nothing(self) -> None:
        attention = nn.MultiheadAttention(8, 2)
        group = groups(attention, structured=True)[0]
        with torch.no_grad():
            for name, mask in group.masks(torch.tensor([False, True])).items():
                attention.get_parameter(name).mul_(mask)
            before = attention(*[torch.randn(5, 1, 8, generator=torch.Generator().manual_seed(0))] * 3)[0]
            attention.out_proj.weight[:, :4] = 1e6
            after = attention(*[torch.randn(5, 1, 8, generator=torch.Generator().manual_seed(0))] * 3)[0]
        torch.testing.assert_close(before, after)

    def test_units_score_by_the_root_of_the_mean_square(self) -> None:
        layer = nn.Linear(3, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
            layer.bias.copy_(torch.tensor([2.0, 4.0]))
        (group,) = groups(layer, structured=True)
        assert group.scores(weights(layer)).tolist() == pytest.approx([(18 / 4) ** 0.5, (16 / 4) ** 0.5])


class Two(nn.Module):
    """Weights 1..4 in a and 10..60 in b, a's with signs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
        self.b = nn.Parameter(torch.tensor([[30.0, 20.0, 10.0], [60.0, 50.0, 40.0]]))


class TestPruning:
    def kept(self, rate: float, scope: str, rounds: int = 1) -> dict[str, list[list[int]]]:
        model = Two()
        found = groups(model, structured=False)
        kept = everything(found)
        for _ in range(rounds):
            kept = pruned(found, kept, weights(model), rate, scope)  # type: ignore[arg-type]
        return {name: mask.int().tolist() for name, mask in spread(found, kept).items()}

    def test_the_least_of_all(self) -> None:
        assert self.kept(0.3, "global") == {"a": [[0, 0], [0, 1]], "b": [[1, 1, 1], [1, 1, 1]]}

    def test_the_least_of_each(self) -> None:
        assert self.kept(0.5, "layer") == {"a": [[0, 0], [1, 1]], "b": [[0, 0, 0], [1, 1, 1]]}

    def test_a_part_of_what_is_left(self) -> None:
        # 10 -> 8 -> 7 (1.6 rounded down): the two least go, then the next
        assert self.kept(0.2, "global", 2) == {"a": [[0, 0], [0, 1]], "b": [[1, 1, 1], [1, 1, 1]]}
        assert self.kept(0.5, "layer", 2) == {"a": [[0, 0], [0, 1]], "b": [[0, 0, 0], [1, 1, 0]]}

    @pytest.mark.parametrize("scope", ["global", "layer"])
    def test_no_group_is_pruned_to_nothing(self, scope: str) -> None:
        assert self.kept(0.99, scope, 5) == {"a": [[0, 0], [0, 1]], "b": [[0, 0, 0], [1, 0, 0]]}

    def test_a_group_on_its_last_costs_the_others_nothing_more(self) -> None:
        """Of 10, 5 go: three of a, then two of b, since a keeps its last."""
        assert self.kept(0.5, "global") == {"a": [[0, 0], [0, 1]], "b": [[1, 0, 0], [1, 1, 1]]}

    def test_a_product_that_is_a_whole_number_is_not_rounded_below_it(self) -> None:
        model = nn.Linear(10, 10)
        found = groups(model, structured=False)
        kept = pruned(found, everything(found), weights(model), 0.29, "global")
        assert int((~kept["weight"]).sum()) == 29

    def test_random_masks_keep_as_many_of_each(self) -> None:
        kept = {"a": torch.arange(100) < 20, "b": torch.arange(50) < 40}
        first, again, other = shuffled(kept, 1), shuffled(kept, 1), shuffled(kept, 2)
        assert {name: int(mask.sum()) for name, mask in first.items()} == {"a": 20, "b": 40}
        assert all(torch.equal(first[name], again[name]) for name in kept)
        assert not torch.equal(first["a"], other["a"])
        assert not torch.equal(first["a"], kept["a"])
