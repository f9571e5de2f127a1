"""What a training function is handed, and what it is held to."""

from __future__ import annotations

import pytest
import torch
from tersor.driver.tickets.ticket import Ticket
from tersor.ir.errors import OptionError
from torch import nn

MASK = {"weight": torch.tensor([[True, False], [True, True]])}


def filled() -> nn.Linear:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.ones_(layer.weight)
    return layer


class TestTraining:
    def test_pruned_weights_are_zero_before_and_after_each_step(self) -> None:
        layer = filled()
        with Ticket(layer, MASK, kind="ticket") as ticket:
            assert layer.weight.tolist() == [[1, 0], [1, 1]]
            with torch.no_grad():
                layer.weight.add_(1)
            ticket.after_step()
            assert layer.weight.tolist() == [[2, 0], [2, 2]]
        assert ticket.sparsity == 0.25

    def test_pruned_weights_have_no_gradient(self) -> None:
        layer = filled()
        with Ticket(layer, MASK, kind="ticket"):
            layer(torch.ones(1, 2)).sum().backward()
            assert layer.weight.grad is not None
            assert layer.weight.grad.tolist() == [[1, 0], [1, 1]]
        layer.zero_grad()
        layer(torch.ones(1, 2)).sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.tolist() == [[1, 1], [1, 1]]

    def test_what_is_not_a_number_is_zero_too(self) -> None:
        layer = filled()
        with Ticket(layer, MASK, kind="ticket") as ticket:
            layer.weight.data.fill_(torch.nan)
            ticket.after_step()
        assert layer.weight[0, 1] == 0

    @pytest.mark.parametrize("step", [0, 1, 2])
    def test_the_weights_after_a_step_are_kept(self, step: int) -> None:
        layer = filled()
        with Ticket(layer, {}, kind="dense", record=step) as ticket:
            for _ in ticket.steps(3):
                layer.weight.data.add_(1)
        assert ticket.recorded is not None
        assert ticket.recorded["weight"].tolist() == [[1 + step] * 2] * 2

    def test_steps_go_on_from_the_start(self) -> None:
        with Ticket(filled(), {}, kind="ticket", start=3) as ticket:
            assert list(ticket.steps(6)) == [3, 4, 5]
        assert ticket.step == 6


class TestAgreements:
    def trained(self, *, steps: int = 4, run: object = 0.5, **options: object) -> float:
        with Ticket(filled(), MASK, kind="ticket", **options) as ticket:  # type: ignore[arg-type]
            for _ in range(steps):
                ticket.after_step()
        return ticket.trained(run)

    def test_numbers_and_tensors_are_metrics(self) -> None:
        assert [self.trained(run=run) for run in (1, 0.5, torch.tensor(0.25))] == [1.0, 0.5, 0.25]

    @pytest.mark.parametrize("run", [None, "0.5", True])
    def test_anything_else_is_not(self, run: object) -> None:
        with pytest.raises(OptionError, match=f"to return the metric, a number, found {type(run).__name__}"):
            self.trained(run=run)

    def test_steps_must_be_told(self) -> None:
        with pytest.raises(OptionError, match=r"call ticket.after_step\(\) after each optimizer.step\(\)"):
            self.trained(steps=0)

    def test_the_start_must_be_asked_for(self) -> None:
        with pytest.raises(OptionError, match=r"weights are those of step 2, and it never asked for ticket\.start"):
            self.trained(start=2)

    def test_training_must_reach_the_step_to_rewind_to(self) -> None:
        with pytest.raises(OptionError, match="took 4 steps, and rewind=9 asks for the weights after step 9"):
            self.trained(record=9)

    def test_pruned_weights_must_stay_zero(self) -> None:
        layer = filled()
        with Ticket(layer, MASK, kind="ticket") as ticket:
            ticket.after_step()
            layer.weight.data.fill_(1)
        with pytest.raises(OptionError, match="pruned weights are not zero"):
            ticket.trained(0.5)
