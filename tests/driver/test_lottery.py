"""Lottery tickets: what each run starts from, what comes of it, and going on where a search was killed."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tersor
import torch
from tersor.driver.tickets.folder import Folder
from tersor.driver.tickets.outcome import judged
from tersor.ir.errors import OptionError
from torch import Tensor, nn

FEATURES, TOLD, STEPS = 8, 2, 40
INPUTS = torch.randn(64, FEATURES, generator=torch.Generator().manual_seed(1))
#: Two features tell everything: tickets of a quarter of the weights match.
WANTED = INPUTS[:, :TOLD] @ torch.tensor([[2.0], [-3.0]])


def line() -> nn.Linear:
    return nn.Linear(FEATURES, 1)


def train(model: nn.Linear, ticket: tersor.Ticket, *, noise: float = 0.01) -> float:
    """The squared error left after some steps of momentum on noisy batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for step in ticket.steps(STEPS):
        source = torch.Generator().manual_seed(1000 * ticket.seed + step)
        wanted = WANTED + noise * torch.randn(WANTED.shape, generator=source)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(INPUTS), wanted).backward()
        optimizer.step()
    return float(nn.functional.mse_loss(model(INPUTS), WANTED).detach())


def killed(model: nn.Linear, ticket: tersor.Ticket) -> float:
    if ticket.round == 2 and ticket.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(model, ticket)


def search(
    trained: Callable[[nn.Linear, tersor.Ticket], float] = train,
    model: nn.Linear | Callable[[], nn.Linear] = line,
    rounds: int = 3,
    **options: object,
) -> tersor.Lottery:
    return tersor.lottery(trained, model, rounds, **{"rate": 0.4, "better": "lower", **options})  # type: ignore[arg-type]


class Watch:
    """A training function that notes what it was given, and what it made of it."""

    def __init__(self) -> None:
        self.before: dict[tuple[int, int, str], dict[str, Tensor]] = {}
        self.after: dict[tuple[int, int, str], dict[str, Tensor]] = {}
        self.at: dict[tuple[int, int, str], dict[int, Tensor]] = {}
        self.starts: dict[tuple[int, int, str], int] = {}
        self.drawn: dict[tuple[int, int, str], tuple[float, ...]] = {}

    def __call__(self, model: nn.Linear, ticket: tersor.Ticket) -> float:
        run = ticket.seed, ticket.round, ticket.kind
        assert model.training
        self.drawn[run] = (float(torch.rand(())), float(np.random.random()), random.random())
        self.starts[run] = ticket.start
        self.before[run] = {name: value.clone() for name, value in model.state_dict().items()}
        self.at[run] = {}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in ticket.steps(STEPS):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(INPUTS), WANTED + 0.01 * ticket.seed).backward()
            optimizer.step()
            self.at[run][step + 1] = model.weight.detach().clone()
        self.after[run] = {name: value.clone() for name, value in model.state_dict().items()}
        return float(nn.functional.mse_loss(model(INPUTS), WANTED).detach())


def kept(weights: dict[str, Tensor]) -> int:
    return int(torch.count_nonzero(weights["weight"]))


class TestRewinding:
    def test_to_the_initial_weights(self) -> None:
        watch = Watch()
        found = search(watch)
        for (seed, round, kind), before in watch.before.items():
            torch.manual_seed(seed)
            initial = line().weight
            assert watch.starts[seed, round, kind] == 0
            assert (kind == "reinit") == (not torch.isin(before["weight"][before["weight"] != 0], initial).all())
            if kind == "ticket":
                mask = torch.from_numpy(found.masks(round, seed)["weight"])
                assert torch.equal(before["weight"], initial * mask)

    def test_to_a_step(self) -> None:
        watch = Watch()
        found = search(watch, rewind=5)
        for (seed, round, kind), before in watch.before.items():
            late = kind in ("ticket", "random-mask")
            assert watch.starts[seed, round, kind] == (5 if late else 0)
            if late:
                dense = watch.at[seed, 0, "dense"][5]
                stays = before["weight"] != 0
                assert torch.equal(before["weight"], dense * stays)
                assert len(watch.at[seed, round, kind]) == STEPS - 5
            if kind == "ticket":
                assert torch.equal(stays, torch.from_numpy(found.masks(round, seed)["weight"]))
                assert not torch.equal(before["bias"], watch.after[seed, 0, "dense"]["bias"])

    def test_of_the_learning_rate_alone(self) -> None:
        watch = Watch()
        found = search(watch, rewind="learning-rate")
        for seed in found.seeds:
            for round in (1, 2, 3):
                earlier = watch.after[seed, round - 1, "ticket" if round > 1 else "dense"]
                mask = torch.from_numpy(found.masks(round, seed)["weight"])
                assert torch.equal(watch.before[seed, round, "ticket"]["weight"], earlier["weight"] * mask)
                assert torch.equal(watch.before[seed, round, "ticket"]["bias"], earlier["bias"])
                # a random mask keeps what the ticket has lost: it starts from the dense model's weights
                control = watch.before[seed, round, "random-mask"]
                assert kept(control) == int(mask.sum())
                dense = watch.after[seed, 0, "dense"]["weight"]
                assert torch.equal(control["weight"], dense * (control["weight"] != 0))

    def test_buffers_are_rewound_with_the_weights(self) -> None:
        def counted(model: nn.Module, ticket: tersor.Ticket) -> float:
            assert int(model.get_buffer("1.num_batches_tracked")) == 0
            for _ in ticket.steps(2):
                model(INPUTS)
            return 0.0

        tersor.lottery(counted, lambda: nn.Sequential(line(), nn.BatchNorm1d(1)), 2, tolerance=0.0)


class TestControls:
    def test_they_are_as_sparse_as_the_ticket(self) -> None:
        watch = Watch()
        search(watch)
        counts = {
            kind: [kept(watch.before[0, round, kind]) for round in (1, 2, 3)]
            for kind in ("ticket", "random-mask", "reinit")
        }
        assert list(counts.values()) == [[5, 3, 2]] * 3
        assert any(
            not torch.equal(watch.before[seed, 1, "random-mask"]["weight"], watch.before[seed, 1, "ticket"]["weight"])
            for seed in (0, 1, 2)
        )

    def test_reinit_has_the_tickets_mask_and_other_weights(self) -> None:
        watch = Watch()
        found = search(watch)
        for seed in found.seeds:
            ticket, control = watch.before[seed, 2, "ticket"]["weight"], watch.before[seed, 2, "reinit"]["weight"]
            assert torch.equal(ticket != 0, control != 0)
            assert not torch.equal(ticket, control)

    def test_every_run_of_a_seed_draws_the_same(self) -> None:
        watch = Watch()
        search(watch)
        drawn = {seed: {draws for (own, *_), draws in watch.drawn.items() if own == seed} for seed in (0, 1, 2)}
        assert [len(draws) for draws in drawn.values()] == [1, 1, 1]
        assert len(set().union(*drawn.values())) == 3


class TestModels:
    def test_a_module_is_copied_and_where_every_seed_starts(self) -> None:
        model, watch = line(), Watch()
        before = model.weight.detach().clone()
        search(watch, model, seeds=(3, 4))
        assert torch.equal(model.weight, before)
        assert all(torch.equal(watch.before[seed, 0, "dense"]["weight"], before) for seed in (3, 4))
        controls = [watch.before[3, round, "reinit"]["weight"] for round in (1, 2)]
        assert not any(torch.isin(control[control != 0], before).any() for control in controls)

    def test_one_without_other_initial_weights_has_no_reinit(self) -> None:
        class Raw(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(2, 2))

        with pytest.raises(OptionError, match="the model, a Raw, has no reset_parameters, so that the control reinit"):
            tersor.lottery(lambda *_: 0.0, Raw(), 1)

    def test_what_makes_no_module_is_refused(self) -> None:
        with pytest.raises(OptionError, match="found one that returns int"):
            tersor.lottery(lambda *_: 0.0, lambda: 3, 1)  # type: ignore[type-var, return-value]


class TestVerdicts:
    def test_a_ticket_of_what_matters_matches_and_beats_random_masks(self) -> None:
        found = search(rounds=4, controls=("random-mask",), seeds=range(5), tolerance=1e-3)
        assert [round(point.sparsity, 3) for point in found.curve] == [0, 0.375, 0.625, 0.75, 0.75]
        assert [point.matching for point in found.curve] == [True] * 5
        assert found.curve[3].winning is True
        assert found.sparsest is found.curve[-1]
        for seed in found.seeds:
            assert found.masks(3, seed)["weight"].tolist() == [[True] * TOLD + [False] * (FEATURES - TOLD)]

    def test_what_lacks_a_feature_that_matters_does_not_match(self) -> None:
        found = search(rounds=3, rate=0.7, tolerance=1e-3)
        assert [int(found.masks(round, 0)["weight"].sum()) for round in range(4)] == [8, 3, 1, 1]
        assert [point.matching for point in found.curve] == [True, True, False, False]
        assert found.sparsest is found.curve[1]

    @pytest.mark.parametrize(("better", "sign"), [("higher", 1), ("lower", -1)])
    def test_a_gain_counts_the_better_way_round(self, better: str, sign: int) -> None:
        ticket, control = (0.90, 0.91, 0.92), (0.80, 0.82, 0.81)
        point = judged(1, 0.5, {"ticket": ticket, "reinit": control}, ticket, better, 0.0)  # type: ignore[arg-type]
        assert point.gains["reinit"].mean == pytest.approx(sign * 0.1)
        assert point.winning is (sign > 0)

    def test_seeds_are_paired(self) -> None:
        """Each ticket a little better than its own control, which spread far more from seed to seed."""
        ticket = {"ticket": (0.51, 0.71, 0.91), "reinit": (0.50, 0.70, 0.90)}
        assert judged(1, 0.5, ticket, (0.5,), "higher", 0.0).winning is True  # type: ignore[arg-type]

    def test_a_gain_whose_interval_holds_zero_wins_nothing(self) -> None:
        runs = {"ticket": (0.6, 0.6, 0.6), "reinit": (0.3, 0.5, 0.59)}
        point = judged(1, 0.5, runs, (0.5,), "higher", 0.0)  # type: ignore[arg-type]
        assert point.gains["reinit"].mean > 0 > point.gains["reinit"].low
        assert point.winning is False

    def test_winning_is_over_every_control(self) -> None:
        runs = {"ticket": (0.5, 0.6), "random-mask": (0.1, 0.2), "reinit": (0.5, 0.6)}
        assert judged(1, 0.5, runs, (0.5,), "higher", 0.0).winning is False  # type: ignore[arg-type]

    def test_nobody_can_tell_from_one_seed_or_without_controls(self) -> None:
        for runs in ({"ticket": (0.5,), "reinit": (0.1,)}, {"ticket": (0.5, 0.6)}):
            assert judged(1, 0.5, runs, (0.5,), "higher", 0.0).winning is None  # type: ignore[arg-type]

    @pytest.mark.parametrize(("better", "value", "expected"), [
        ("higher", 0.88, True), ("higher", 0.86, False), ("lower", 0.92, True), ("lower", 0.94, False),
    ])  # fmt: skip
    def test_matching_is_within_the_tolerance(self, better: str, value: float, expected: bool) -> None:
        point = judged(1, 0.5, {"ticket": (value, value)}, (0.89, 0.91), better, 0.03)  # type: ignore[arg-type]
        assert point.matching is expected

    def test_the_tolerance_is_a_standard_deviation_of_the_dense_runs(self) -> None:
        found = search()
        assert found.tolerance == pytest.approx(float(np.std(found.curve[0].metrics["dense"], ddof=1)))

    def test_what_diverges_neither_matches_nor_wins(self) -> None:
        runs = {"ticket": (math.nan, 0.5), "reinit": (0.1, 0.1)}
        point = judged(1, 0.5, runs, (0.5, 0.5), "higher", 0.1)  # type: ignore[arg-type]
        assert (point.matching, point.winning) == (False, False)


class TestGoingOn:
    def test_a_killed_search_comes_to_the_same(self, tmp_path: Path) -> None:
        code = (
            "from pathlib import Path; from tersor.tests.driver import test_lottery as own\n"
            f"own.search(own.killed, folder=Path({str(tmp_path / 'killed')!r}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        left = {path.name for path in (tmp_path / "killed").iterdir()}
        assert {"2-1-reinit.pt", "0-2-ticket.pt"} <= left and "1-2-ticket.pt" not in left

        ran: list[tuple[int, int, str]] = []

        def noted(model: nn.Linear, ticket: tersor.Ticket) -> float:
            ran.append((ticket.round, ticket.seed, ticket.kind))
            return train(model, ticket)

        resumed, whole = search(noted, folder=tmp_path / "killed"), search(folder=tmp_path / "whole")
        assert ran[0] == (2, 1, "ticket") and len(ran) == 9 + 6
        assert resumed.curve == whole.curve
        for round in range(4):
            for seed in whole.seeds:
                first, second = (found.weights(round, seed) for found in (resumed, whole))
                assert all(torch.equal(first[name], second[name]) for name in second)
                masks = [found.masks(round, seed)["weight"].tobytes() for found in (resumed, whole)]
                assert masks[0] == masks[1]

    def test_more_rounds_seeds_and_controls_are_added(self, tmp_path: Path) -> None:
        search(folder=tmp_path, rounds=1, seeds=(0, 1), controls=())
        ran: list[str] = []

        def noted(model: nn.Linear, ticket: tersor.Ticket) -> float:
            ran.append(f"{ticket.seed} {ticket.round} {ticket.kind}")
            return train(model, ticket)

        found = search(noted, folder=tmp_path, rounds=2, seeds=(0, 1, 5), controls=("reinit",))
        assert not {"0 0 dense", "1 0 dense", "0 1 ticket", "1 1 ticket"} & set(ran)
        assert {"5 0 dense", "0 1 reinit", "5 2 ticket"} <= set(ran)
        assert found.curve == search(rounds=2, seeds=(0, 1, 5), controls=("reinit",)).curve

    @pytest.mark.parametrize(("options", "told"), [
        ({"rate": 0.5}, "rate was 0.4 and is 0.5"), ({"rewind": 3}, "rewind was init and is 3"),
        ({"scope": "layer"}, "scope was global and is layer"), ({"structured": True}, "structured was False and is"),
        ({"only": ("bias", "weight")}, "groups was"),
        ({"model": lambda: nn.Linear(FEATURES, 2)}, "the model of seed 0 was"),
    ])  # fmt: skip
    def test_another_search_is_not_mixed_in(self, tmp_path: Path, options: dict[str, object], told: str) -> None:
        search(folder=tmp_path, rounds=1, controls=())
        with pytest.raises(OptionError, match=told):
            search(folder=tmp_path, **options)  # type: ignore[arg-type]

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        search(folder=tmp_path, rounds=1, controls=())
        (tmp_path / "1-1-ticket.pt").write_bytes(b"PK")
        with pytest.raises(OptionError, match=r"1-1-ticket.pt is damaged .* remove it to have it made again"):
            search(folder=tmp_path, rounds=1, controls=())

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OptionError, match="lottery: cannot write"):
            Folder(tmp_path / "file" / "below").open({})


class TestOptions:
    @pytest.mark.parametrize(("options", "told"), [
        ({"rounds": 0}, "rounds to be at least 1, found 0"), ({"rate": 0.0}, "rate to be a part between 0 and 1"),
        ({"rate": 1.0}, "found 1.0"), ({"rewind": -1}, "rewind to be init"), ({"rewind": "start"}, "found 'start'"),
        ({"rewind": True}, "found True"), ({"controls": ("random",)}, "controls to be some of random-mask, reinit"),
        ({"seeds": ()}, "seeds to be one seed at least"), ({"seeds": (1, 1)}, "each once"),
        ({"tolerance": -0.1}, "tolerance"), ({"seeds": (0,)}, "or a tolerance beside one"),
        ({"scope": "block"}, "scope to be global or layer"), ({"better": "more"}, "better to be higher or lower"),
    ])  # fmt: skip
    def test_what_makes_no_sense_is_refused(self, options: dict[str, object], told: str) -> None:
        with pytest.raises(OptionError, match=told):
            search(**options)  # type: ignore[arg-type]


class TestTable:
    def test_it_says_what_was_found(self) -> None:
        found = search(seeds=(0, 1), tolerance=0.5)
        text = str(found).splitlines()
        heads = "pruned ticket random-mask reinit gain over random-mask gain over reinit matching winning"
        assert " ".join(text[0].split()) == heads
        assert [row.split()[0] for row in text[1:5]] == ["0.0%", "37.5%", "62.5%", "75.0%"]
        assert text[-1] == (
            "2 seeds, lower is better, matching within 0.5 of dense; sparsest matching ticket: 75.0% pruned"
        )

    def test_one_seed_has_no_intervals(self) -> None:
        text = str(search(seeds=(0,), tolerance=0.0, controls=()))
        assert "±" not in text and "unknown" in text

    def test_masks_and_weights_of_what_was_not_run_are_refused(self) -> None:
        found = search(rounds=1)
        for round, seed in ((2, 0), (-1, 0), (0, 9)):
            with pytest.raises(
                OptionError, match=f"there is no round {round} of seed {seed}; rounds are 0 to 1, seeds 0"
            ):
                found.masks(round, seed)

    def test_trained_weights_can_be_loaded(self) -> None:
        found, model = search(), line()
        model.load_state_dict(found.weights(3, 1))
        assert kept(dict(model.state_dict())) == 2
        assert float(nn.functional.mse_loss(model(INPUTS), WANTED).detach()) == found.curve[3].metrics["ticket"][1]
