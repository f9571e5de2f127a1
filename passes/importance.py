"""What an error of a weight costs, by its inputs and by its outputs, from calibration data.

    drop of an error E of a site's weight  ~=  |L E R|^2 / 2

fisher      L = diag(sum_j F_ij)^(1/2), R = 1        F_ij: the mean square of the drop's derivative by W_ij
kronecker   L.T L = X.T X, R R.T = mean of (L^-T M).T (L^-T M) / in         M: the derivative by W, [in, out]

The derivatives are draws of `passes.gradients`, without labels. The second is the Kronecker product nearest to the
curvature whose factor of the inputs is their Gram matrix: Martens and Grosse, Optimizing Neural Networks with
Kronecker-factored Approximate Curvature, 2015, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..ir.site import Site
from .base import Context
from .drop import Drop
from .gradients import Probe, probes, spaced
from .numerics.arrays import Floats, matmul
from .numerics.low_rank import Side
from .placing import matrix

#: Of Gram matrices, as a share of the mean of their diagonal.
DAMPING = 1e-3


def rows(model: ir.Model, chosen: Sequence[Site], context: Context, drop: Drop, count: int) -> dict[ir.Value, Floats]:
    """L of `fisher`, [in], by weight."""
    found = {site.weight: np.zeros(site.in_features) for site in chosen}
    total = 0
    for probe in _draws(model, chosen, context, drop, count):
        total += probe.rows
        for site in chosen:
            squares = np.square(np.divide(matrix(site, probe.gradients[site.weight]), site.alpha), dtype=np.float64)
            found[site.weight] += squares.sum(1)
    return {weight: np.sqrt(each / max(total, 1)) for weight, each in found.items()}


def columns(
    model: ir.Model,
    groups: Sequence[Sequence[Site]],
    inputs: Mapping[ir.Value, Floats],
    context: Context,
    drop: Drop,
    count: int,
) -> list[Floats]:
    """R R.T of `kronecker`, [out, out], of the sites of each group side by side. inputs: the Gram matrix by weight."""
    grams = [inputs[group[0].weight] for group in groups]
    sides = [Side.of(gram, len(gram), DAMPING).single() for gram in grams]
    found = [np.zeros((sum(site.out_features for site in group),) * 2) for group in groups]
    total = 0
    for probe in _draws(model, [site for group in groups for site in group], context, drop, count):
        total += probe.rows
        for group, side, each in zip(groups, sides, found, strict=True):
            drawn = [np.divide(matrix(site, probe.gradients[site.weight]), np.float32(site.alpha)) for site in group]
            white = side.solve(np.concatenate(drawn, axis=1, dtype=np.float32), turned=True)
            each += matmul(white.T, white)
    return [each / (max(total, 1) * group[0].in_features) for group, each in zip(groups, found, strict=True)]


def _draws(model: ir.Model, chosen: Sequence[Site], context: Context, drop: Drop, count: int) -> Iterator[Probe]:
    assert context.calibration is not None
    batches = spaced(context.calibration.batches, count)
    weights = list(dict.fromkeys(site.weight for site in chosen))
    return probes(model, weights, batches, drop, count=-(-count // len(batches)), seed=context.seed)
