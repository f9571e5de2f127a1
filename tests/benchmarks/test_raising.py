"""The raising benchmark: what it counts is what the models do, a cell is measured from export to explanation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tersor.benchmarks._raising_architecture import AttentionMissingError
from tersor.benchmarks._raising_architectures import architectures
from tersor.benchmarks._raising_calls import TRACED, UNSEEN
from tersor.benchmarks._raising_cell import DEMAND, KINDS, Measured, general
from tersor.benchmarks._raising_export import Cell, cells
from tersor.benchmarks._raising_truth import executed
from tersor.benchmarks.raising import explained, measured, peers_measured, summary

ARCHITECTURES = architectures()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in ARCHITECTURES.items() if one.standard])
def test_an_architecture_has_as_many_attention_blocks_as_its_row_says(name: str) -> None:
    assert executed(ARCHITECTURES[name].build("eager")).softmaxes == ARCHITECTURES[name].attention


@pytest.mark.slow
def test_counts_what_a_module_executes() -> None:
    found = executed(ARCHITECTURES["gpt2"].build("sdpa"))
    assert (found.softmaxes, found.norms, found.gelus, found.silus) == (2, 5, 2, 0)
    found = executed(ARCHITECTURES["llama"].build("eager"))
    assert (found.softmaxes, found.norms, found.gelus, found.silus) == (2, 5, 0, 2)


@pytest.mark.slow
def test_an_attention_that_transformers_has_not_is_said_to_be_missing() -> None:
    with pytest.raises(AttentionMissingError, match="BloomForCausalLM has no sdpa"):
        ARCHITECTURES["bloom"].build("sdpa")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_feeds_have_padding_and_sizes_that_the_exporter_did_not_see(name: str) -> None:
    call = ARCHITECTURES[name].call
    seen = {key: array.shape for key, array in call.feeds(TRACED).items()}
    for sizes in UNSEEN:
        feeds = call.feeds(sizes)
        assert {key: array.shape for key, array in feeds.items()} != seen
        assert all((array == 0).any() for key, array in feeds.items() if key.endswith("mask"))
        again = call.feeds(sizes)
        assert all(np.array_equal(array, again[key]) for key, array in feeds.items())


def test_a_fixed_dimension_is_no_dynamic_axis() -> None:
    call = ARCHITECTURES["bigbird"].call
    assert call.axes()["input_ids"] == {0: "batch"}
    assert call.feeds(UNSEEN[0])["input_ids"].shape == (3, 48)


def test_cells_are_chosen_by_name_exporter_and_attention() -> None:
    chosen = cells("^bert$", ("script17", "dynamo18"), ("sdpa",))
    assert [str(cell) for cell in chosen] == ["bert--script17--sdpa", "bert--dynamo18--sdpa"]
    assert (Cell("bert", "script17", "sdpa").dynamo, Cell("bert", "dynamo18", "sdpa").opset) == (False, 18)


def test_what_is_not_raised_is_explained_once_for_all_cells_that_share_the_reason() -> None:
    ones = [
        Measured(
            Cell("bert", exporter, "eager"),
            truth=dict.fromkeys(KINDS, 2),
            found={**dict.fromkeys(KINDS, 2), "attention": 0},
            loss=0.0,
            misses={"attention": [f"raise-attention: mask: Add at node_{number}; needed one mask"]},
        )
        for number, exporter in enumerate(("dynamo18", "dynamo23"))
    ]
    assert list(explained(ones)) == [
        "bert; attention (dynamo18 eager, dynamo23 eager): raise-attention: mask: Add at node_0; needed one mask"
    ]
    assert general("Add at /model/Add_3_output_0; needed 2") == "Add at *; needed *"


def test_a_share_counts_neither_failures_nor_other_answers() -> None:
    def one(exporter: str, loss: float, found: int) -> Measured:
        counts = dict.fromkeys(KINDS, found)
        return Measured(
            Cell("bert", exporter, "eager"), truth=dict.fromkeys(KINDS, 2), found=counts, loss=loss, loss_export=0.0
        )

    failed = Measured(Cell("bert", "script14", "eager"), truth=dict.fromkeys(KINDS, 2), error="raise: crash")
    rows = list(summary([one("dynamo18", 0.0, 2), one("dynamo23", 1.0, 2), one("script17", 0.0, 3), failed], []))
    assert rows[0]["standard attention"] == "4/8 (50.0%)"
    assert (rows[0]["files"], rows[0]["failed"], rows[0]["other answers"]) == (4, 1, 1)


@pytest.mark.slow
def test_measures_cells_from_export_to_explanation(tmp_path: Path) -> None:
    chosen = [
        Cell("bert", "dynamo18", "sdpa"),
        Cell("gpt2-cache", "script17", "eager"),
        Cell("bloom", "dynamo18", "sdpa"),
    ]
    found = measured(chosen, tmp_path)
    assert [one.cell for one in found] == chosen
    assert found[2].absent
    for one in found[:2]:
        assert not one.error
        assert one.after < one.before
        assert max(one.loss, one.loss_export) <= DEMAND
        assert not one.seen
        assert {kind for kind in KINDS if one.found[kind] < one.truth[kind]} == set(one.misses)
        assert all(one.misses.values())
    assert found[0].complete
    assert found[0].truth == {"attention": 2, "norms": 5, "gelus": 2, "silus": 0, "rotary": 0}
    for peer in peers_measured(chosen[:1], tmp_path):
        assert not peer.error
        assert peer.found["norms"] == 5


@pytest.mark.slow
def test_an_export_that_fails_is_a_row_that_says_why(tmp_path: Path) -> None:
    cell = Cell("bert", "dynamo18", "eager")
    cell.failure(tmp_path).write_text("RuntimeError: no")
    (found,) = measured([cell], tmp_path)
    assert found.error == "export: RuntimeError: no"
    assert list(explained([found])) == ["bert; error (dynamo18 eager): export: RuntimeError: no"]
