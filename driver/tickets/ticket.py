"""What a training function is handed beside the model: the run that this is, where to begin, what to call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...ir.errors import OptionError

Kind = Literal["dense", "ticket", "random-mask", "reinit"]

Weights = Mapping[str, Tensor]
"""A state_dict; nobody writes into it."""


class Ticket:
    """One training run.

    seed: of initial weights and of the order of data; torch, numpy and random are seeded with it before the run.
    round: how often was pruned before. kind: whole, under the mask found, or as a control. sparsity: the part of the
    prunable weights that is zero.

    The model that comes with it has its weights in place, pruned ones zero and without gradient. Where training begins
    at `start`, optimizer, schedule and data are to be as they are at that step.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        *,
        kind: Kind,
        seed: int = 0,
        round: int = 0,
        start: int = 0,
        record: int | None = None,
    ) -> None:
        """masks: by parameter, True where a weight stays. record: the step whose weights are to be kept."""
        self.kind, self.seed, self.round = kind, seed, round
        self.step = start
        self.recorded: dict[str, Tensor] | None = None
        self._model, self._start, self._record = model, start, record
        self._asked = start == 0
        parameters = dict(model.named_parameters())
        self._pruned = [(parameters[name], ~mask) for name, mask in masks.items()]
        total = sum(mask.numel() for mask in masks.values())
        self.sparsity = sum(int(pruned.sum()) for _, pruned in self._pruned) / max(total, 1)

    def __repr__(self) -> str:
        return f"Ticket(seed={self.seed}, round={self.round}, kind={self.kind!r}, sparsity={self.sparsity:.4f})"

    @property
    def start(self) -> int:
        """The optimizer step that this run begins at: 0, or the one that weights were rewound to."""
        self._asked = True
        return self._start

    def after_step(self) -> None:
        """To be called after each step of the optimizer: what is pruned is zero again."""
        self.step += 1
        self._clear()
        if self.step == self._record:
            self.recorded = copied(self._model)

    def steps(self, total: int) -> Iterator[int]:
        """The numbers of the steps from `start` to before `total`, for a loop whose body takes one optimizer step each:
        `after_step` is called behind the body.
        """
        for step in range(self.start, total):
            yield step
            self.after_step()

    def trained(self, run: object) -> float:
        """What `run`, the result of the training function, says; the training held to what was agreed.

        Raises OptionError where it never called `after_step`, did not ask for `start` though weights were rewound to a
        later step than 0, took fewer steps than are needed, changed pruned weights behind the last step, or gave no
        number.
        """
        where = f"the training function, {self!r}"
        if self.step == self._start:
            raise OptionError(f"{where}: call ticket.after_step() after each optimizer.step(); it never was called")
        if not self._asked:
            raise OptionError(
                f"{where}: weights are those of step {self._start}, and it never asked for ticket.start: begin there, "
                "with the data and the learning rate of that step"
            )
        if self._record is not None and self.recorded is None:
            raise OptionError(
                f"{where}: it took {self.step} steps, and rewind={self._record} asks for the weights after step "
                f"{self._record}: rewind to an earlier one"
            )
        if any(bool(parameter.detach()[pruned.to(parameter.device)].any()) for parameter, pruned in self._pruned):
            raise OptionError(f"{where}: pruned weights are not zero; call ticket.after_step() after the last step too")
        if isinstance(run, bool) or not isinstance(run, int | float | Tensor):
            raise OptionError(f"{where}: expected it to return the metric, a number, found {type(run).__name__}")
        return float(run.detach() if isinstance(run, Tensor) else run)

    def __enter__(self) -> Ticket:
        self._hooks = [_without(parameter, pruned) for parameter, pruned in self._pruned if parameter.requires_grad]
        self._clear()
        if self._record == self.step:
            self.recorded = copied(self._model)
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _clear(self) -> None:
        for parameter, pruned in self._pruned:
            parameter.masked_fill_(pruned.to(parameter.device), 0)


def copied(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state_dict, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _without(parameter: nn.Parameter, pruned: Tensor) -> RemovableHandle:
    """Gradients of pruned weights are zero, so that a clipped norm is that of the weights that are there."""
    hook: RemovableHandle = parameter.register_hook(  # type: ignore[no-untyped-call]  # torch has no types for it
        lambda gradient: gradient.masked_fill(pruned.to(gradient.device), 0)
    )
    return hook
