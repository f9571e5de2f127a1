"""Layers to quantize on inputs that are correlated, for methods that read a Gram matrix."""

from __future__ import annotations

import itertools

import numpy as np
from tersor.passes.numerics.grid import Scheme

SCHEMES = [
    Scheme(bits=bits, group=group, symmetric=symmetric)
    for bits, group, symmetric in itertools.product((2, 4), (0, 4, 5), (True, False))
]
DAMPING = 0.01


def problem(seed: int, rows: int = 16, columns: int = 5, tokens: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A weight [rows, columns] and the Gram matrix of correlated inputs."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((tokens, 3)) @ rng.standard_normal((3, rows)) + rng.standard_normal((tokens, rows))
    return rng.standard_normal((rows, columns)).astype(np.float32), inputs.T @ inputs
