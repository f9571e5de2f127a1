"""How much a model amplifies rounding: the yardstick for "the same up to floating-point reassociation".

An answer is as right as float32 allows when it is the exact answer to inputs that differ in their last bits: backward
stability, Wilkinson, Rounding Errors in Algebraic Processes, 1963. A sigmoid far out in its tail, or a small
difference of large sums, turns such bits into a relative error that no rewrite is to blame for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from .compare import Comparison, Runnable, compare
from .feeds import Feeds, Run

#: Relative size of the perturbation: about eight units in the last place of float32.
LAST_BITS = 1e-6


def amplification(run: Run | Runnable, feeds: Feeds | Iterable[Feeds], *, seed: int = 0) -> Comparison:
    """The change of each output when float inputs change by up to one part in a million, seeded.

    Zero for a model whose inputs are all integers: what it amplifies inside is not seen.
    """
    call = run if callable(run) else run.run
    rng = np.random.default_rng(seed)
    given = [feeds] if isinstance(feeds, Mapping) else list(feeds)
    nearby = iter([call(_perturbed(feed, rng)) for feed in given])
    return compare(call, lambda _: next(nearby), given)


def _perturbed(feeds: Feeds, rng: np.random.Generator) -> Feeds:
    return {
        name: array * (1.0 + LAST_BITS * rng.uniform(-1.0, 1.0, array.shape)).astype(array.dtype)
        if array.dtype in (np.float32, np.float64)
        else array
        for name, array in feeds.items()
    }
