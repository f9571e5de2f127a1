"""Closed-form repair: what reads changed features is fitted so that the stream is again what it was in the original.

    s = r + X W + b       in the original: s*       minimises |s* - r - X' W' - b'|^2 + ridge |W' - W|^2

X', r: the activation and the residual of the model as it is now (`moments`), so that what was lost before is made good
here as far as it can be. The ridge is the one that does best on data which a fit has not seen. Sources: ridge
regression, layer after layer; He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, 2017, with
the target of the whole stream; Stone, Cross-Validatory Choice and Assessment of Statistical Predictions, 1974.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..ir.constants import constant_of
from ..ir.site import Kind, Site
from .edit import Array, attribute, rewrite_constant
from .moments import SAME, Moments, Origins, biased, key_of, moments
from .numerics.arrays import Floats, matmul
from .numerics.least_squares import Means, fitted
from .statistics import Calibration
from .trail import Trail

#: Tokens for each input below which a fit is more noise than answer.
ENOUGH = 8
#: The ridge, as a share of the mean of the Gram matrix' diagonal, where there are enough tokens and no way to try.
RIDGE = 1e-3
#: Those that are tried.
RIDGES = (RIDGE, 10 * RIDGE, 30 * RIDGE, 100 * RIDGE, 300 * RIDGE, 1000 * RIDGE)


class Fit(NamedTuple):
    """A weight, [in, out], a bias, [out], None where there is none to write, and the ridge that they were found with.

    ridge: None where the weight stays as it was.
    """

    weight: Floats
    bias: Floats | None
    ridge: float | None


def fit(seen: Moments, rows: NDArray[np.intp], weight: Array, *, bias: Array | None) -> Fit:
    """The best weight and bias of the inputs `rows`, drawn to the weights that these have.

    weight: W, [in, out]. bias: [out]; None where none may be written. The ridge is the one with which either half of
    the data, fitted alone, does best on the other; what was there is tried beside them. Where there are no halves it
    follows from how many tokens there are.
    """
    start = Fit(np.asarray(weight, np.float64)[rows], None if bias is None else np.asarray(bias, np.float64), None)
    whole = seen.of(rows)
    if not whole.halves:
        return _solved(whole, start, RIDGE * max(1.0, (ENOUGH * len(rows) / max(seen.count, 1)) ** 2))
    one, other = whole.halves
    least, best = error(one, start) + error(other, start), None
    for ridge in RIDGES:
        lost = error(other, _solved(one, start, ridge)) + error(one, _solved(other, start, ridge))
        if lost < least:
            least, best = lost, ridge
    return start if best is None else _solved(whole, start, best)


def _solved(seen: Moments, start: Fit, ridge: float) -> Fit:
    means = None if start.bias is None else Means(seen.outputs, seen.inputs, max(seen.count, 1))
    return Fit(*fitted(seen.gram, seen.joint, start.weight, means=means, ridge=ridge), ridge)


def error(seen: Moments, found: Fit) -> float:
    """|T - X W - b|^2 over the tokens behind sums."""
    weight = found.weight
    lost = seen.energy.sum() - 2 * np.sum(weight * seen.joint) + np.sum(weight * matmul(seen.gram, weight))
    if found.bias is not None:
        lost += seen.count * found.bias @ (found.bias + 2 * (seen.inputs @ weight - seen.outputs))
    return float(lost)


def scarce(seen: Moments, inputs: int | None = None) -> str:
    """What to say where there are too few tokens for each input, empty where there are enough.

    inputs: how many are fitted, all unless told.
    """
    fitting = len(seen.gram) if inputs is None else inputs
    return f"{seen.count:,} tokens for {fitting:,} inputs" if seen.count < ENOUGH * fitting else ""


def repairable(site: Site) -> str | None:
    """Why a site's weight cannot be fitted, None where it can: its rows are written as they are stored."""
    if site.kind not in (Kind.LINEAR, Kind.CONV, Kind.RECURRENT_INPUT) or site.node.op_type == "ConvTranspose":
        return f"a site of kind {site.kind.value}"
    if site.kind is Kind.CONV and attribute(site.node, "group", 1) != 1:
        return "a convolution in groups"
    if not site.weight.is_initializer():
        return "a weight that is no initializer; run fold-constants first"
    # kernels and directions lie as they are stored
    if site.view.path and (site.kind is not Kind.LINEAR or site.node.op_type == "Conv"):
        return "a weight that is computed"
    if any(node.op_type not in ("Identity", "Transpose", "Squeeze", "Unsqueeze") for node in site.view.path):
        return "a weight that is computed"
    return None


def write(site: Site, found: Fit) -> None:
    """Let the site compute x W' + b', in the types that it stores. The shapes are those of the site as it is cut."""
    weight = found.weight
    stored = constant_of(site.weight)
    assert stored is not None
    if site.kind is Kind.RECURRENT_INPUT:
        new = stored.copy()
        new[site.direction] = weight.T
    else:
        matrix = weight / site.alpha
        new = (matrix.T if site.transposed else matrix).reshape(stored.shape).astype(stored.dtype)
    site.weight.const_value = ir.Tensor(new, name=site.weight.name)
    if found.bias is not None:
        write_bias(site, found.bias)


def write_bias(site: Site, bias: Floats) -> None:
    """Let the site add another bias, [out], where it has one that is stored."""
    held = constant_of(site.bias)
    if held is None or site.bias is None or site.bias_node is None:
        return
    # one number for all outputs becomes one for each
    shape = held.shape if held.size == len(bias) else (*[1] * max(held.ndim - 1, 0), len(bias))
    rewrite_constant(site.bias_node, site.bias, (bias / site.beta).reshape(shape).astype(held.dtype))


def refit(
    model: ir.Model,
    original: ir.Model,
    calibration: Calibration,
    site: Site,
    origins: Origins = SAME,
    trail: Trail | None = None,
) -> bool:
    """Fit a site as it stands to the original's stream; False where it cannot be fitted, or others have its weight.

    origins, trail: as of `moments`.
    """
    if repairable(site) is not None or site.tied:
        return False
    seen = moments(original, model, calibration, [site], origins, trail)[key_of(site)]
    write(site, again(site, seen))
    return True


def again(site: Site, seen: Moments) -> Fit:
    """The fit of a site whose inputs all stay, drawn to what it is."""
    return fit(seen, np.arange(site.in_features), site.dense(), bias=site.bias_array() if biased(site) else None)
