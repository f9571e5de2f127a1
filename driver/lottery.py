"""Lottery tickets: whether a sparse part of a model trains as well as the whole, by iterative magnitude pruning.

    dense -> train -> prune the smallest -> rewind what is left -> train -> prune -> ...

Frankle and Carbin, The Lottery Ticket Hypothesis, 2019 (rewinding to initial weights; the control of new initial
weights); Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, 2020 (rewinding to step k,
matching); Renda et al., Comparing Rewinding and Fine-tuning, 2020 (rewinding of the learning rate alone); Yu et al.,
2020, and Chen et al., 2020, for language; Damadi et al., 2021, for amenable sparsity.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..ir.errors import OptionError
from .tickets import masks as selection
from .tickets.folder import Done, Folder
from .tickets.masks import Group, Scope
from .tickets.outcome import Better, Control, Lottery, Point, judged, tolerance_of
from .tickets.ticket import Kind, Ticket, Weights, copied

M = TypeVar("M", bound=nn.Module)

Train = Callable[[M, Ticket], float]
Rewind = int | Literal["init", "learning-rate"]

_CONTROLS: tuple[Control, ...] = ("random-mask", "reinit")


def lottery(
    train: Train[M],
    model: M | Callable[[], M],
    rounds: int,
    *,
    rewind: Rewind = "init",
    rate: float = 0.2,
    scope: Scope = "global",
    structured: bool = False,
    only: Sequence[str] = (),
    ignore: Sequence[str] = (),
    controls: Sequence[Control] = _CONTROLS,
    seeds: Sequence[int] = (0, 1, 2),
    better: Better = "higher",
    tolerance: float | None = None,
    folder: str | Path | None = None,
) -> Lottery:
    """Search for lottery tickets: train, prune, rewind, `rounds` times for each seed, with controls.

    train: called as `train(model, ticket)`; trains the module in place and returns its metric. It begins at
    `ticket.start`, calls `ticket.after_step()` after each optimizer step, and takes from `ticket.seed` what is random
    of its data. torch, numpy and random are seeded before each call, and the module is in training mode.
    model: a function that makes a module, with initial weights by the seed; or a module, whose own weights are where
    every seed starts (pretrained ones, for example). It is copied and stays as it is.
    rewind: what is left after pruning starts again from its initial weights (`"init"`), from those after step k (an
    integer), or from those just trained, with the learning rate and data from the start (`"learning-rate"`).
    rate: what part of the weights that are left each round prunes. scope: the smallest of all, or of each layer.
    structured: prunes whole units (outputs of Linear and convolutions, hidden units of LSTM, GRU and RNN, heads of
    MultiheadAttention). Leave layers out whose outputs are the model's.
    only, ignore: glob patterns over names of parameters, and with `structured` of modules too. Embeddings,
    normalizations and biases by themselves are not pruned unless `only` names them.
    controls: what tickets are compared to: `"random-mask"`, as many weights of each layer chosen at random, started as
    the ticket is; `"reinit"`, the ticket's mask on other initial weights, trained from step 0.
    better: whether a higher or a lower metric is better. tolerance: by how much a matching ticket may be worse than the
    dense model, both means over seeds; one standard deviation of the dense runs unless given.
    folder: keeps each training run once it is done. The same call goes on where one was killed, to the same numbers,
    and with more rounds, seeds or controls makes only those.

    Raises OptionError for options that make no sense, a model with nothing to prune, a folder of another search, and a
    training function that does not keep to the above.
    """
    _check(rounds, rewind, rate, scope, better, controls, seeds, tolerance)
    with_folder = Path(folder).expanduser() if folder is not None else None
    temporary = TemporaryDirectory(prefix="tersor-lottery-") if with_folder is None else None
    place = Folder(with_folder if with_folder is not None else Path(temporary.name if temporary else ""))
    source = _Source(model)
    first = source.initial(seeds[0])
    groups = selection.groups(first, structured=structured, only=only, ignore=ignore)
    if "reinit" in controls:
        source.initial(seeds[0], again="reinit")
    settings = {
        "rewind": rewind,
        "rate": rate,
        "scope": scope,
        "structured": structured,
        "groups": {group.name: group.units for group in groups},
    }
    place.open(settings, {str(seed): _digest(copied(source.initial(seed))) for seed in seeds})
    search = _Search(train, source, groups, rewind, rate, scope, place)
    points: list[Point] = []
    dense: tuple[float, ...] = ()
    for round in range(rounds + 1):
        kinds: tuple[Kind, ...] = ("ticket", *controls) if round else ("dense",)
        found: dict[Kind, list[float]] = {kind: [] for kind in kinds}
        for seed in seeds:
            for kind in kinds:
                found[kind].append(search.run(seed, round, kind))
        metrics = {kind: tuple(values) for kind, values in found.items()}
        if not round:
            dense, tolerance = metrics["dense"], tolerance_of(metrics["dense"], tolerance)
        assert tolerance is not None  # set in round 0
        points.append(judged(round, search.sparsity(seeds[0], round), metrics, dense, better, tolerance))
    assert tolerance is not None
    return Lottery(tuple(points), better, tolerance, tuple(seeds), place, groups, selection.rows_of(first), temporary)


@dataclass(frozen=True)
class _Source(Generic[M]):
    """Where modules come from."""

    model: M | Callable[[], M]

    def initial(self, seed: int, *, again: str = "") -> M:
        """A module as it is before training; `again` tells other initial weights of the same seed apart."""
        _seed(_mixed(seed, again) if again else seed)
        if not isinstance(self.model, nn.Module):
            made = self.model()
            if not isinstance(made, nn.Module):
                raise OptionError(
                    f"lottery: expected model to be a torch.nn.Module or a function that makes one, found one that "
                    f"returns {type(made).__name__}"
                )
            return made
        whole = copy.deepcopy(self.model)
        for path, module in whole.named_modules() if again else ():
            _reset(path, module)
        return cast(M, whole)


@dataclass(frozen=True)
class _Search(Generic[M]):
    """One search; each training run is decided by its seed, round and kind, and by the rounds before."""

    train: Train[M]
    source: _Source[M]
    groups: tuple[Group, ...]
    rewind: Rewind
    rate: float
    scope: Scope
    folder: Folder

    def run(self, seed: int, round: int, kind: Kind) -> float:
        """The metric of a run, from the folder where it is done."""
        done = self.folder.read(seed, round, kind)
        if done is None:
            done = self._made(seed, round, kind)
            self.folder.write(seed, round, kind, done)
        return done.metric

    def sparsity(self, seed: int, round: int) -> float:
        """The part of the prunable weights that is zero in a round."""
        masks = selection.spread(self.groups, self._kept(seed, round)).values()
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    def _made(self, seed: int, round: int, kind: Kind) -> Done:
        kept = self._kept(seed, round)
        if kind == "random-mask":
            kept = selection.shuffled(kept, _mixed(seed, f"{kind} {round}"))
        model = self._started(seed, round, kind)
        late = isinstance(self.rewind, int) and kind in ("ticket", "random-mask")
        masks = selection.spread(self.groups, kept)
        with Ticket(
            model.train(),
            masks,
            kind=kind,
            seed=seed,
            round=round,
            start=self.rewind if late and isinstance(self.rewind, int) else 0,
            record=self.rewind if kind == "dense" and isinstance(self.rewind, int) else None,
        ) as ticket:
            initial = copied(model) if kind == "dense" and self.rewind == "init" else None
            _seed(seed)
            metric = ticket.trained(self.train(model, ticket))
        if kind in ("random-mask", "reinit"):
            return Done(metric, {}, {}, {}, {})
        weights = copied(model)
        following = selection.pruned(self.groups, kept, weights, self.rate, self.scope)
        origin = initial if initial is not None else ticket.recorded
        return Done(metric, kept, following, weights, origin or {})

    def _kept(self, seed: int, round: int) -> Mapping[str, Tensor]:
        return self._ticket(seed, round - 1).following if round else selection.everything(self.groups)

    def _started(self, seed: int, round: int, kind: Kind) -> M:
        """The module with the weights that a run starts from."""
        if kind == "reinit":
            return self.source.initial(seed, again=f"{kind} {round}")
        model = self.source.initial(seed)
        if round:
            # what a random mask keeps may be pruned in the round before: it starts from weights that are all there
            before = self._ticket(seed, 0 if kind == "random-mask" or self.rewind != "learning-rate" else round - 1)
            model.load_state_dict(before.weights if self.rewind == "learning-rate" else before.origin)
        return model

    def _ticket(self, seed: int, round: int) -> Done:
        done = self.folder.read(seed, round, "ticket" if round else "dense")
        assert done is not None  # rounds are made in order
        return done


def _check(
    rounds: int,
    rewind: object,
    rate: float,
    scope: str,
    better: str,
    controls: Sequence[str],
    seeds: Sequence[int],
    tolerance: float | None,
) -> None:
    step = isinstance(rewind, int) and not isinstance(rewind, bool) and rewind >= 0
    for right, name, wanted, value in (
        (rounds >= 1, "rounds", "at least 1", rounds),
        (0 < rate < 1, "rate", "a part between 0 and 1", rate),
        (step or rewind in ("init", "learning-rate"), "rewind", "init, learning-rate or the number of a step", rewind),
        (set(controls) <= set(_CONTROLS), "controls", f"some of {', '.join(_CONTROLS)}", controls),
        (len(set(seeds)) == len(seeds) > 0, "seeds", "one seed at least, each once", seeds),
        (scope in ("global", "layer"), "scope", "global or layer", scope),
        (better in ("higher", "lower"), "better", "higher or lower", better),
        (tolerance is None or tolerance >= 0, "tolerance", "a number from 0 up", tolerance),
        (tolerance is not None or len(seeds) > 1, "seeds", "two at least, or a tolerance beside one", seeds),
    ):
        if not right:
            raise OptionError(f"lottery: expected {name} to be {wanted}, found {value!r}")


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))
    random.seed(seed)


def _mixed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:6], "big")


def _digest(weights: Weights) -> str:
    found = hashlib.sha256()
    for name, value in weights.items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()[:16]


def _reset(path: str, module: nn.Module) -> None:
    """Draw the initial weights of one module anew."""
    if not any(True for _ in module.parameters(recurse=False)):
        return
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if reset is None:
        raise OptionError(
            f"lottery: {path or 'the model'}, a {type(module).__name__}, has no reset_parameters, so that the control "
            "reinit has no other initial weights: give a function that makes the model, or leave reinit out of controls"
        )
    reset()
