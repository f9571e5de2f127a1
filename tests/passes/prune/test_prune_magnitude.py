"""The smallest weights to zero, and what all passes that set single weights to zero share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.load import load
from tersor.ir.runner import runner
from tersor.ir.save import save
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.base import Context, Pass
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.placing import matrix
from tersor.passes.prune.methods.magnitude import magnitude
from tersor.passes.prune.methods.patterns import Pattern
from tersor.passes.prune.prune_magnitude import PruneMagnitude
from tersor.passes.prune.prune_obs import PruneObs
from tersor.passes.prune.prune_wanda import PruneWanda
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.tests.passes.prune.branches import branched
from tersor.tests.passes.quantize.holding import HELD, LEFT, Held, normal
from tersor.tests.support import apply, misses

X = {"x": "float[batch, 32]"}
W = normal(32, 48)
PATTERNS = ("free", "2:4", "4x4", "bank:8")
#: Weights whose six inputs no pattern of four divides.
UNEVEN = ("conv, groups", "conv-transpose, groups")


def pruned(weight: np.ndarray, pattern: str = "free", sparsity: float = 0.5) -> np.ndarray:
    (mask,) = magnitude([weight], sparsity, "uniform", Pattern.of(pattern))
    return np.where(mask, weight, np.zeros((), weight.dtype))


def plain(**weights: np.ndarray) -> ir.Model:
    return graph("y = MatMul(x, w)", inputs=X, **(weights or {"w": W}))


def told(made: Pass, model: ir.Model) -> str:
    (finding,) = made.apply(model, Context()).findings
    assert finding.miss is None
    return finding.chosen


# rewrites


def test_a_weight_becomes_a_mask_and_what_it_keeps() -> None:
    assert apply(PruneMagnitude(), plain()) == [
        "y/UnpackBits = tersor.UnpackBits(w_mask_bits, y/shape)",
        "y/Unmask = tersor.Unmask(w_kept, y/UnpackBits)",
        "y/Reshape = Reshape(y/Unmask, y/shape_1)",
        "y = MatMul(x, y/Reshape)",
    ]


def test_tiles_are_kept_whole() -> None:
    model = plain()
    PruneMagnitude(pattern="4x4").apply(model, Context())
    assert model.graph.initializers["w_kept"].shape == ir.Shape([1 + 32 * 48 // 32, 4, 4])
    assert model.graph.initializers["w_mask_bits"].shape == ir.Shape([1, 12])


def test_groups_are_numbers_of_patterns() -> None:
    model = plain()
    PruneMagnitude(pattern="2:4").apply(model, Context())
    assert model.graph.initializers["w_mask_bits"].shape == ir.Shape([3, 48])
    assert model.graph.initializers["w_patterns"].shape == ir.Shape([6, 4])


def test_groups_with_fewer_weights_than_may_stay() -> None:
    weight = W.copy()
    weight[:7] = 0
    model = plain(w=weight)
    assert PruneMagnitude(pattern="2:4").apply(model, Context()).matches == 1
    unit = {"x": np.eye(32, dtype=np.float32)}
    np.testing.assert_array_equal(runner(model)(unit)["y"], pruned(weight, "2:4"))


def test_dense_storage_is_the_same_graph() -> None:
    model = plain()
    assert apply(PruneMagnitude(storage="dense"), model) == ["y = MatMul(x, w)"]


def test_a_weight_that_a_mask_makes_no_smaller_stays_dense_and_says_so() -> None:
    model = plain()
    said = told(PruneMagnitude(sparsity=0.02), model)
    assert list(model.graph.initializers) == ["w"]
    assert said == (
        "2.0% zeros (free), stored dense: a mask and kept numbers would take 6,216 of 6,144 bytes; run dense"
    )


def test_what_was_chosen_is_told() -> None:
    assert told(PruneMagnitude(pattern="2:4"), plain()) == (
        "50.0% zeros (2:4), stored as kept numbers and patterns of 3 bits: 3,244 of 6,144 bytes; decoded to dense when "
        "it is loaded"
    )
    assert told(PruneMagnitude(sparsity=0.8), plain()).startswith(
        "80.0% zeros (free), stored as kept numbers and a mask"
    )


def test_outputs_are_taken_by_themselves() -> None:
    model = plain()
    PruneMagnitude(scope="output", storage="dense").apply(model, Context())
    (site,) = sites(model)
    np.testing.assert_array_equal((matrix(site) != 0).sum(0), 16)


@pytest.mark.parametrize("scope", ["global", "distribution"])
def test_layers_are_compared_with_each_other(scope: str) -> None:
    model = graph("h = MatMul(x, w)", "y = MatMul(h, v)", inputs=X, w=W, v=normal(48, 64) / 10)
    before = [matrix(site).copy() for site in sites(model)]
    PruneMagnitude(scope=scope, storage="dense").apply(model, Context())  # type: ignore[arg-type]
    masks = magnitude(before, 0.5, scope, Pattern())  # type: ignore[arg-type]
    for site, weight, mask in zip(sites(model), before, masks, strict=True):
        np.testing.assert_array_equal(matrix(site), np.where(mask, weight, 0))
    shares = [float(mask.mean()) for mask in masks]
    assert (shares[0] > 0.6) == (scope == "global")


def test_it_goes_into_subgraphs() -> None:
    model = branched(plain())
    assert PruneMagnitude().apply(model, Context()).matches == 2
    assert all(key.startswith(("w_", "other_")) for key in model.graph.initializers)


# leaves alone


@pytest.mark.parametrize("why", LEFT)
@pytest.mark.parametrize("kind", [PruneMagnitude, PruneWanda, PruneObs])
def test_left_alone(kind: type[PruneMagnitude], why: str) -> None:
    model, options, rule = LEFT[why]
    assert {miss.rule for miss in misses(kind(**options), model)} == {rule}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "shape", "value", "need"),
    [
        ("2:4", (30, 48), "2:4 on [30, 48]", "inputs in multiples of 4"),
        ("bank:64", (32, 48), "bank:64 on [32, 48]", "inputs in multiples of 64"),
        ("8x5", (32, 48), "8x5 on [32, 48]", "inputs in multiples of 8 and outputs in multiples of 5"),
    ],
)
def test_a_pattern_that_does_not_divide(pattern: str, shape: tuple[int, int], value: str, need: str) -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": f"float[batch, {shape[0]}]"}, w=normal(*shape))
    (miss,) = misses(PruneMagnitude(pattern=pattern), model)
    assert (miss.rule, miss.value, miss.need) == ("pattern", value, need)


@pytest.mark.parametrize("storage", ["mask", "dense"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_pruned_already(pattern: str, storage: str) -> None:
    made, model = PruneMagnitude(pattern=pattern, storage=storage), plain()  # type: ignore[arg-type]
    made.apply(model, Context())
    (finding,) = made.apply(model, Context()).misses
    assert finding.miss is not None
    assert finding.miss.rule == ("pruned" if storage == "mask" else "sparsity")


def test_a_layer_of_which_nothing_would_be_left() -> None:
    model = graph("h = MatMul(x, w)", "y = MatMul(h, v)", inputs=X, w=W, v=normal(48, 32) / 1e6)
    before = model.graph.initializers["v"].const_value.numpy().copy()
    outcome = PruneMagnitude(scope="global", sparsity=0.6, storage="dense").apply(model, Context())
    (finding,) = outcome.misses
    assert (finding.miss.rule, finding.miss.value) == ("left", "0 of 1,536 weights")
    np.testing.assert_array_equal(model.graph.initializers["v"].const_value.numpy(), before)


@pytest.mark.parametrize("pass_", [QuantizeWeights(), PruneMagnitude(sparsity=0.9)])
def test_passes_behind_are_told_what_stores_it(pass_: Pass) -> None:
    model = plain()
    PruneMagnitude(sparsity=0.8).apply(model, Context())
    (miss,) = misses(pass_, model)
    assert (miss.rule, miss.value) == ("pruned", "w")
    assert "storage=dense" in miss.need


def test_what_is_stored_dense_is_quantized_with_its_zeros() -> None:
    model = plain()
    PruneMagnitude(storage="dense").apply(model, Context())
    assert QuantizeWeights(bits=8, group=0).apply(model, Context()).matches == 1
    (found,) = (value for name, value in model.graph.initializers.items() if name == "w_quantized")
    assert (found.const_value.numpy() == 0).mean() >= 0.5


@pytest.mark.parametrize("kind", [PruneMagnitude, PruneWanda, PruneObs])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "expected a sparsity of at least 0 and less than 1, found 1; at 1 nothing is left"),
        ({"sparsity": 1.5}, "found 1.5"),
        ({"sparsity": -0.5}, "found -0.5"),
        ({"sparsity": float("nan")}, "found nan"),
        ({"pattern": "4:2"}, "expected a pattern free, N:M such as 2:4"),
        ({"pattern": "1:4", "sparsity": 0.5}, "the pattern 1:4 has a sparsity of 0.75, found sparsity=0.5"),
        ({"pattern": "2:4", "sparsity": 0.0}, "the pattern 2:4 has a sparsity of 0.5, found sparsity=0"),
        ({"pattern": "bank:8", "sparsity": 0.99}, "by which a bank of 8 loses some and keeps some, found 0.99"),
    ],
)
def test_bad_options(kind: type[PruneMagnitude], options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=f"{kind.name}: .*{message}"):
        kind(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", ["global", "distribution"])
@pytest.mark.parametrize("pattern", ["2:4", "bank:8"])
def test_patterns_that_fix_the_share_take_no_scope(pattern: str, scope: str) -> None:
    with pytest.raises(OptionError, match=f"expected scope=uniform, found {scope}"):
        PruneMagnitude(pattern=pattern, scope=scope)  # type: ignore[arg-type]


def test_a_sparsity_that_the_pattern_has_may_be_said() -> None:
    assert PruneMagnitude(pattern="2:4", sparsity=0.5) == PruneMagnitude(sparsity=0.5, pattern="2:4")


# holds numerically


@pytest.mark.parametrize("storage", ["mask", "dense"])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", HELD)
def test_every_kind_of_site_computes_with_the_pruned_weight(name: str, pattern: str, storage: str) -> None:
    held: Held = HELD[name]
    model = held.model
    options = {held.option: True} if held.option else {}
    made = PruneMagnitude(pattern=pattern, storage=storage, smallest=1, **options)  # type: ignore[arg-type]
    outcome = made.apply(model, Context())
    if {finding.miss.rule for finding in outcome.misses if finding.miss} == {"pattern"}:
        assert name in UNEVEN
        return
    assert outcome.misses == ()
    wanted = held.holding({key: pruned(weight, pattern) for key, weight in held.matrices.items()})
    feeds = random_feeds(wanted, seed=1)
    found, expected = runner(model)(feeds), runner(wanted)(feeds)
    for key, answer in expected.items():
        np.testing.assert_array_equal(found[key], answer)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_pattern_outlives_the_file(pattern: str, tmp_path: Path) -> None:
    model = plain()
    PruneMagnitude(pattern=pattern).apply(model, Context())
    save(model, tmp_path / "model.onnx")
    found = load(tmp_path / "model.onnx")
    FoldConstants().apply(found, Context())
    unit = {"x": np.eye(32, dtype=np.float32)}
    np.testing.assert_array_equal(runner(found)(unit)["y"], pruned(W, pattern))
    assert set(found.graph.initializers) >= {"w_kept", "w_mask_bits"}
    assert "w" not in found.graph.initializers


def test_the_file_is_smaller_by_what_is_zero(tmp_path: Path) -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": "float[batch, 256]"}, w=normal(256, 512))
    sizes = {}
    for sparsity in (0.5, 0.8):
        made = model.clone()
        PruneMagnitude(sparsity=sparsity).apply(made, Context())
        save(made, tmp_path / "model.onnx")
        sizes[sparsity] = sum(file.stat().st_size for file in tmp_path.iterdir())
    for sparsity, size in sizes.items():
        stored = 256 * 512 * (4 * (1 - sparsity) + 1 / 8)
        # the functions, names and shapes of one model
        assert stored <= size <= stored + 4096
