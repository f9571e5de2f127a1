"""What tests of passes share: apply one, read its misses, and hold it to its contract."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Signature, violations
from tersor.ir.text import lines
from tersor.passes.base import Context, Miss, Pass
from tersor.passes.verify import allowed, worst_loss


def apply(made: Pass, model: ir.Model) -> list[str]:
    """The lines of `model` after one application, the invariants of every level checked."""
    signature = None if made.changes_signature else Signature.of(model)
    made.apply(model, Context())
    assert violations(model, made.level, signature=signature) == []
    return lines(model)


def misses(made: Pass, model: ir.Model) -> list[Miss]:
    """Why the pass does not fire, place by place; the model is left as it is."""
    before = lines(model)
    found = [finding.miss for finding in made.explain(model, Context()).findings if finding.miss is not None]
    assert lines(model) == before
    return found


def holds(made: Pass, model: ir.Model, dimensions: Mapping[str, int] | None = None, *, seed: int = 0) -> float:
    """Apply to a clone, and assert that the outputs on seeded random feeds stay within the pass's own contract."""
    feeds = random_feeds(model, dimensions, seed=seed)
    after = model.clone()
    outcome = made.apply(after, Context(feeds=[feeds]))
    assert outcome.matches, "the pass did not fire"
    loss = worst_loss(made.contract, compare(model, after, feeds))
    assert np.isfinite(loss)
    assert loss <= allowed(made.contract)
    return loss
