"""Weights and biases that make good for what was rounded before and in a layer.

    y = x W + b,   now x' W' + b'       b' = b + E[x] W - E[x'] W'        W' near (X'.T X' + r)^-1 X'.T X W, quantized

What a site read in the original model and what it reads now are gathered side by side, one activation after the other
in graph order, so that each sees all that was rounded before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.site import Kind, Site
from ..accumulators import Joint
from ..base import Context
from ..edit import Array, Tape, constant_of, replace
from ..numerics.least_squares import Means, repair
from ..statistics import Calibration
from .methods.correction import correct_bias
from .scaling import Constant, Fan

Mode = Literal["none", "bias", "least-squares"]


@dataclass(frozen=True)
class Compensation:
    """What corrections know: the original model (None for no correction), the model that is rewritten, and the data."""

    original: ir.Model | None
    model: ir.Model
    calibration: Calibration | None
    mode: Mode

    @classmethod
    def of(cls, model: ir.Model, context: Context, mode: Mode, fans: Sequence[Fan]) -> Compensation:
        """Before anything is rewritten."""
        original = model.clone() if mode != "none" and fans else None
        return cls(original, model, context.calibration, mode)

    def moments(self, fan: Fan, rounded: ir.Value) -> Moments | None:
        """What the linear sites of a fan read, then and now; None where there is nothing to correct."""
        linear = [site for site in fan.sites if site.kind is Kind.LINEAR]
        if self.original is None or self.calibration is None or not linear:
            return None
        seen = Joint(linear[0].in_features)
        self.calibration.beside(self.original, fan.activation.name or "", self.model, rounded, seen, axis=fan.axis)
        return Moments(seen, self.mode == "least-squares")


@dataclass(frozen=True)
class Moments:
    """What the sites of one activation read: now, x', and in the original, x. fits: whether weights are fitted."""

    seen: Joint
    fits: bool

    def fitted(self, site: Site, weight: Array) -> Array:
        """The weight [in, out] that makes the most of what is read now."""
        if not self.fits or not self._applies(site) or self.seen.count < 2:
            return weight
        means = Means(self.seen.mean_before, self.seen.mean_now, self.seen.count)
        found = repair(weight, self.seen.matrix, self.seen.cross, means=means).weight
        return found if np.isfinite(found).all() else weight

    def settle(self, site: Site, weight: Array, stored: Array) -> None:
        """Shift the site's bias so that the mean of each output is what it was with `weight`."""
        if not self._applies(site) or not self.seen.count:
            return
        mean, now = self.seen.mean_before, self.seen.mean_now
        shift = np.asarray(correct_bias(weight, stored, mean, mean_now=now), np.float64) * (site.alpha / site.beta)
        shift_bias(site, shift)

    def _applies(self, site: Site) -> bool:
        return site.kind is Kind.LINEAR and bool(site.beta) and site.in_features == self.seen.features


def give_biases(sites: Iterable[Site]) -> None:
    """Let linear sites without a bias add one of zeros, for a correction to shift."""
    for site in sites:
        if site.kind is not Kind.LINEAR or site.bias is not None or _is_biased(site):
            continue
        node, tape = site.node, Tape()
        inputs, zeros = list(node.inputs), np.zeros(site.out_features, site.view.dtype.numpy())
        name = f"{site.weight.name}_bias"
        if node.op_type == "MatMul":
            product = tape.node("MatMul", inputs).outputs[0]
            bias = zeros.reshape([-1] + [1] * (-site.output_axis - 1))
            replace(tape, node.outputs, [tape("Add", product, tape.weight(bias, name))])
        else:
            made = tape.node(node.op_type, [*inputs[:2], tape.weight(zeros, name)], dict(node.attributes.items()))
            replace(tape, node.outputs, made.outputs)


def shift_bias(site: Site, shift: NDArray[np.float64]) -> None:
    """Add `shift`, [out], to a bias that is stored; one that is computed stays."""
    array, node = constant_of(site.bias), site.bias_node
    if array is None or node is None or site.bias is None:
        return
    axis = -1 if node is site.node else site.output_axis
    axis = axis if axis < 0 else axis - len(site.view.shape)
    wide = array.astype(np.float64) + shift.reshape([-1] + [1] * (-axis - 1))
    Constant(node, site.bias, axis).write(wide.astype(array.dtype))


def _is_biased(site: Site) -> bool:
    """Whether something is added that is no bias known as one."""
    return site.node.op_type != "MatMul" and len(site.node.inputs) > 2 and site.node.inputs[2] is not None
