"""Closed-form repair: what reads pruned units is fitted so that the stream is again what it was in the original.

    s = r + X W + b       in the original: s*       minimises |s* - r - X' W' - b'|^2 + ridge |W' - W|^2

X', r: the activation and the residual of the model as it is now, so that what was lost before is made good here as far
as it can be. Without a residual the target is the output itself. Source: ridge regression, layer after layer; He, Zhang
and Sun, Channel Pruning for Accelerating Very Deep Neural Networks, 2017, with the target of the whole stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.constants import constant_of
from ...ir.content import dimensions
from ...ir.site import Kind, Site, sites
from ..accumulators import Gram
from ..edit import Array, attribute, is_op, only_reader, rewrite_constant
from ..numerics.arrays import Floats
from ..numerics.least_squares import Means, fitted
from ..statistics import Calibration, Part
from ..views import Windows

#: Tokens for each feature below which a fit is more noise than answer; below it, the ridge grows.
ENOUGH = 8
#: The ridge, as a share of the mean of the Gram matrix' diagonal, where there are enough tokens.
RIDGE = 1e-3


@dataclass(frozen=True)
class Target:
    """What a site is to give: the value that it was part of in the original, less what it is added to now.

    stream: by name, in either model. residual: what the site's output is added to, None where nothing is.
    """

    stream: str
    residual: str | None


def target_of(site: Site) -> Target:
    """The sum that a site's output goes into, or the output itself."""
    reader = only_reader(site.output)
    if is_op(reader, "Add"):
        others = [value for value in reader.inputs if value is not site.output]
        shape, added = site.output.shape, others[0].shape if others and others[0] is not None else None
        if len(others) == 1 and others[0] is not None and shape is not None and shape == added:
            return Target(reader.outputs[0].name or "", others[0].name or "")
    return Target(site.output.name or "", None)


@dataclass(frozen=True)
class Moments:
    """Sums over tokens for a site of [in, out]: X'.T X', X'.T T, |T|^2 by output, and the means of both."""

    gram: Floats
    joint: Floats
    energy: Floats
    inputs: Floats
    outputs: Floats
    count: int

    @property
    def ridge(self) -> float:
        """What keeps the fit from following noise: more of it, the fewer tokens there are for each input."""
        short = ENOUGH * len(self.gram) / max(self.count, 1)
        return RIDGE * max(1.0, short**2)

    @property
    def short(self) -> bool:
        """Whether there are too few tokens, so that the ridge was raised."""
        return self.ridge > RIDGE


#: A weight, and which direction of a recurrence it is: what is fitted as one.
Fitted = tuple[ir.Value, int]


def key_of(site: Site) -> Fitted:
    """What a site's weight is fitted as."""
    return site.weight, site.direction


def moments(
    original: ir.Model, model: ir.Model, calibration: Calibration, readers: Sequence[Site]
) -> dict[Fitted, Moments]:
    """What sites that read pruned units get and should give; the sites of one weight are added up."""
    grams: dict[Fitted, Gram] = {}
    twins = {(each.node.name, each.kind, each.direction): each for each in sites(original)}
    reading = [
        _streams(original, model, site) if _streamed(site) else _products(original, model, site) for site in readers
    ]
    before = [None if _streamed(site) else twins[site.node.name, site.kind, site.direction].dense() for site in readers]
    for rows in calibration.together([part for parts in reading for part in parts]):
        left = iter(rows)
        for site, parts, weight in zip(readers, reading, before, strict=True):
            now, then, *rest = (next(left) for _ in parts)
            wanted = np.subtract(then, rest[0]) if rest else then
            if weight is not None:
                wanted = np.matmul(np.asarray(then, np.float64), np.asarray(weight, np.float64))
            seen = grams.setdefault(key_of(site), Gram(site.in_features + site.out_features))
            seen.add(np.concatenate([now, wanted], axis=1))
    inputs = {key_of(site): site.in_features for site in readers}
    return {key: _moments(gram, inputs[key]) for key, gram in grams.items()}


def _streamed(site: Site) -> bool:
    """Whether what a site gives is a value of its own, that the original has too."""
    return site.kind is Kind.LINEAR


def _streams(original: ir.Model, model: ir.Model, site: Site) -> list[Part]:
    """What a linear site reads, the sum that it ends in in the original, and what it is added to."""
    target, read = target_of(site), site.activation
    return [
        Part(model, read.name or "", read, site.axis),
        Part(original, target.stream, read, site.output_axis),
        *([] if target.residual is None else [Part(model, target.residual, read, site.output_axis)]),
    ]


def _products(original: ir.Model, model: ir.Model, site: Site) -> list[Part]:
    """What a recurrence or convolution multiplies its weight by, now and in the original: there is no value of the
    product alone.
    """
    view, axis, read = None, site.axis, site.activation
    if site.kind is Kind.CONV:
        dims = dimensions(site.node.outputs[0])
        places = None if dims is None else tuple(dims[2:])
        view, axis = Windows.of(site.node, 0, 1, site.view.shape[2:], places), -1
    name = read.name or ""
    return [Part(model, name, read, axis, view), Part(original, name, read, axis, view)]


def _moments(gram: Gram, split: int) -> Moments:
    matrix, mean = gram.matrix, gram.mean
    return Moments(
        matrix[:split, :split],
        matrix[:split, split:],
        np.diagonal(matrix)[split:].copy(),
        mean[:split],
        mean[split:],
        gram.count,
    )


def fit(seen: Moments, rows: NDArray[np.intp], weight: Array, *, biased: bool) -> tuple[Floats, Floats | None]:
    """W', [rows, out], and b' where there may be one: the best of these inputs.

    weight: W, [in, out]; rows: the inputs that stay, which W' is drawn to the weights of. biased: whether to give b'.
    """
    kept = np.ix_(rows, rows)
    means = Means(seen.outputs, seen.inputs[rows], seen.count) if biased else None
    toward = np.asarray(weight, np.float64)[rows]
    found = fitted(seen.gram[kept], seen.joint[rows], toward, means=means, ridge=seen.ridge)
    return found.weight, found.bias


def repairable(site: Site) -> str | None:
    """Why a site's weight cannot be fitted, None where it can: its rows are written as they are stored."""
    if site.kind not in (Kind.LINEAR, Kind.CONV, Kind.RECURRENT_INPUT) or site.node.op_type == "ConvTranspose":
        return f"a site of kind {site.kind.value}"
    if site.kind is Kind.CONV and attribute(site.node, "group", 1) != 1:
        return "a convolution in groups"
    if any(node.op_type not in ("Identity", "Transpose", "Squeeze", "Unsqueeze") for node in site.view.path):
        return "a weight that is computed"
    return None


def biased(site: Site) -> bool:
    """Whether a site has a bias of its own to write, so that means are made up for there."""
    return site.bias is not None and site.kind is not Kind.RECURRENT_INPUT


def write(site: Site, weight: Floats, bias: Floats | None) -> None:
    """Let the site compute x W' + b', in the types that it stores. The shapes are those of the site as it is cut."""
    stored = constant_of(site.weight)
    assert stored is not None
    if site.kind is Kind.RECURRENT_INPUT:
        new = stored.copy()
        new[site.direction] = weight.T
    else:
        matrix = weight / site.alpha
        new = (matrix.T if site.transposed else matrix).reshape(stored.shape).astype(stored.dtype)
    site.weight.const_value = ir.Tensor(new, name=site.weight.name)
    held = constant_of(site.bias)
    if bias is None or held is None or site.bias is None or site.bias_node is None:
        return
    # one number for all outputs becomes one for each
    shape = held.shape if held.size == len(bias) else (*[1] * max(held.ndim - 1, 0), len(bias))
    rewrite_constant(site.bias_node, site.bias, (bias / site.beta).reshape(shape).astype(held.dtype))


def refit(model: ir.Model, original: ir.Model, calibration: Calibration, site: Site) -> bool:
    """Fit a site as it stands to the original's stream; False where it cannot be fitted, or others have its weight."""
    if repairable(site) is not None or site.tied:
        return False
    seen = moments(original, model, calibration, [site])[key_of(site)]
    write(site, *fit(seen, np.arange(site.in_features), site.dense(), biased=biased(site)))
    return True
