"""Weights to zero that the others make up for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.errors import OptionError
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.base import Context, Pass
from tersor.passes.placing import matrix
from tersor.passes.prune.methods.patterns import Pattern
from tersor.passes.prune.methods.surgeon import refitted, surgeon
from tersor.passes.prune.prune_magnitude import PruneMagnitude
from tersor.passes.prune.prune_obs import PruneObs
from tersor.passes.prune.prune_wanda import PruneWanda
from tersor.passes.statistics import Calibration
from tersor.tests.passes.quantize.holding import HELD, normal

RNG = np.random.default_rng(4)
MIX = RNG.standard_normal((32, 32)) / 3 + np.diag(np.exp(RNG.standard_normal(32)))
DATA = [{"x": (RNG.standard_normal((40, 32)) @ MIX).astype(np.float32)} for _ in range(4)]
ROWS = np.concatenate([feeds["x"] for feeds in DATA]).astype(np.float64)
CONTEXT = Context(calibration=Calibration(DATA))
W = normal(32, 48)
#: Gram matrices are summed in float32, and weights stored in it.
EPS = 1e3 * float(np.finfo(np.float32).eps)


def plain() -> ir.Model:
    return graph("y = MatMul(x, w)", inputs={"x": "float[batch, 32]"}, w=W)


def weights(model: ir.Model) -> list[np.ndarray]:
    return [matrix(site).copy() for site in sites(model)]


def stack() -> ir.Model:
    """Two blocks of a residual stream, each with a layer that reads it and one that adds to it."""
    rng = np.random.default_rng(6)
    shapes = {"w0": (32, 64), "v0": (64, 32), "w1": (32, 64), "v1": (64, 32)}
    given = {name: (rng.standard_normal(shape) / 4).astype(np.float32) for name, shape in shapes.items()}
    lines = []
    for n, stream in enumerate(("x", "s0")):
        lines += [
            f"n{n} = LayerNormalization{{axis=-1}}({stream}, g)",
            f"h{n} = MatMul(n{n}, w{n})",
            f"a{n} = Relu(h{n})",
        ]
        lines += [f"o{n} = MatMul(a{n}, v{n})", f"s{n} = Add({stream}, o{n})"]
    lines.append("y = Identity(s1)")
    return graph(*lines, inputs={"x": "float[batch, 32]"}, g=np.ones(32, np.float32), **given)


# rewrites


def test_a_weight_becomes_a_mask_and_what_it_keeps() -> None:
    model = plain()
    PruneObs().apply(model, CONTEXT)
    assert [node.op_type for node in model.graph] == ["UnpackBits", "Unmask", "Reshape", "MatMul"]


def test_the_method_gets_the_options() -> None:
    model = plain()
    PruneObs(sparsity=0.3, block=16, damping=0.1, storage="dense").apply(model, CONTEXT)
    wanted = surgeon(W, ROWS.T @ ROWS, 0.3, Pattern(), block=16, damping=0.1)
    (found,) = weights(model)
    np.testing.assert_array_equal(found != 0, wanted.mask)
    np.testing.assert_allclose(found, wanted.weight, atol=EPS * np.abs(wanted.weight).max())


@pytest.mark.parametrize("pattern", ["free", "2:4", "4x4", "bank:8"])
def test_refit_solves_for_what_is_kept(pattern: str) -> None:
    model = plain()
    PruneObs(pattern=pattern, refit=True, storage="dense").apply(model, CONTEXT)
    gram = ROWS.T @ ROWS
    wanted = refitted(W, gram, surgeon(W, gram, 0.5, Pattern.of(pattern)).mask)
    np.testing.assert_allclose(weights(model)[0], wanted, atol=EPS * np.abs(wanted).max())


def test_sequential_sees_the_blocks_before_as_they_are_pruned() -> None:
    together, apart, at_once = stack(), stack(), stack()
    assert [site.block for site in sites(together)] == [0, 0, 1, 1]
    fresh = lambda: Context(calibration=Calibration(DATA))  # noqa: E731
    PruneObs(storage="dense").apply(together, fresh())
    for block in ("block:0", "block:1"):
        PruneObs(only=(block,), sequential=False, storage="dense").apply(apart, fresh())
    PruneObs(sequential=False, storage="dense").apply(at_once, fresh())
    for found, wanted in zip(weights(together), weights(apart), strict=True):
        np.testing.assert_array_equal(found, wanted)
    # the first block is seen as it is either way
    same = [bool((one == other).all()) for one, other in zip(weights(together), weights(at_once), strict=True)]
    assert same == [True, True, False, False]


# leaves alone


def test_without_data_it_says_what_to_give() -> None:
    with pytest.raises(OptionError, match="calibration data are needed"):
        PruneObs().apply(plain(), Context())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, "expected a block of at least one input, found 0"),
        ({"damping": -0.1}, "expected a damping of at least 0, found -0.1"),
        ({"damping": float("nan")}, "expected a damping of at least 0, found nan"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=f"prune-obs: {message}"):
        PruneObs(**options)  # type: ignore[arg-type]


# holds numerically


def missed(made: Pass) -> float:
    """How far the answers are from the original's, on rows that it did not calibrate on."""
    model, feeds = plain(), {"x": (RNG.standard_normal((200, 32)) @ MIX).astype(np.float32)}
    made.apply(model, CONTEXT)
    found, wanted = runner(model)(feeds)["y"], runner(plain())(feeds)["y"]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("pattern", ["free", "2:4", "4x4", "bank:8"])
def test_it_loses_less_than_what_changes_no_weight(pattern: str) -> None:
    magnitude, wanda = missed(PruneMagnitude(pattern=pattern)), missed(PruneWanda(pattern=pattern))
    obs, refit = missed(PruneObs(pattern=pattern)), missed(PruneObs(pattern=pattern, refit=True))
    assert refit < obs < wanda < magnitude


@pytest.mark.parametrize("name", [name for name in HELD if "groups" not in name])
def test_every_kind_of_site(name: str) -> None:
    held = HELD[name]
    model, feeds = held.model, random_feeds(held.model, seed=2)
    made = PruneObs(pattern="2:4", smallest=1, **({held.option: True} if held.option else {}))  # type: ignore[arg-type]
    outcome = made.apply(model, Context(calibration=Calibration([feeds])))
    assert (outcome.matches > 0, outcome.misses) == (True, ())
    dense = held.model
    replaced = type(made)(**(dict(made.options()) | {"storage": "dense"}))  # type: ignore[arg-type]
    replaced.apply(dense, Context(calibration=Calibration([feeds])))
    for site in sites(dense):
        weight = matrix(site)
        assert weight.shape == held.matrices[site.weight.name or ""].shape
        assert ((weight != 0).reshape(-1, 4, weight.shape[1]).sum(1) <= 2).all()
    found, wanted = runner(model)(feeds), runner(dense)(feeds)
    for key, answer in wanted.items():
        np.testing.assert_array_equal(found[key], answer)
