"""How much each unit of a group matters, by the option `score`: the methods (`methods.scores`) on what they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from ...ir.constants import constant_of
from ...ir.errors import OptionError
from ...ir.site import Site
from ..base import Context
from ..drop import Drop, Form
from ..gradients import probes, reached
from ..numerics.arrays import Floats
from .methods import scores
from .methods.eliminate import Elimination, eliminate
from .moments import Fitted, Moments, key_of
from .units import Units

Score = Literal["auto", "obs", "magnitude", "onorm", "inorm", "activation", "entropy", "confidence", "taylor", "fisher"]

#: Scores that need calibration data.
BY_DATA = frozenset(("obs", "activation", "entropy", "confidence", "taylor", "fisher"))
#: Those that need gradients of the outputs.
BY_GRADIENT = frozenset(("taylor", "fisher"))


def chosen(score: Score, context: Context) -> Score:
    """The score behind `auto`: the surgeon's with data, magnitudes without. Raises OptionError where data miss."""
    if score == "auto":
        return "magnitude" if context.calibration is None else "obs"
    if score in BY_DATA and context.calibration is None:
        raise OptionError(
            f"score={score} is read off calibration data: give --data, or choose magnitude, onorm or inorm"
        )
    return score


def magnitudes(each: Units, score: Score) -> Floats:
    """Norms of the weights that make units, that read them, or of both."""
    made, read = np.zeros(each.size), np.zeros(each.size)
    for site in each.makers:
        owners = each.made_by(site)
        if owners is not None:
            made += scores.norms(site.dense().T, owners, each.size) ** 2
    for site in each.readers:
        owners = each.read_by(site)
        if owners is not None:
            read += scores.norms(site.dense(), owners, each.size) ** 2
    total: Floats = {"inorm": made, "onorm": read}.get(score, made + read)
    return np.sqrt(total)


def activities(each: Units, seen: Mapping[Fitted, Moments]) -> Floats:
    """The part that each unit has in what the readers give."""
    found = np.zeros(each.size)
    for site, known, owners in _read(each, seen):
        found += scores.activity(site.dense(), known.gram / max(known.count, 1), owners, each.size) ** 2
    return np.sqrt(found)


def elimination(each: Units, seen: Mapping[Fitted, Moments]) -> Elimination:
    """In which order units are best removed, and the error of the readers' outputs then, as a share of their energy.

    With several readers their outputs count side by side, each as a share of its own energy. Where none was seen, the
    squares of the units' weights stand for the error.
    """
    known = _read(each, seen)
    if not known:
        values = magnitudes(each, "magnitude") ** 2
        order = np.argsort(values, kind="stable")
        return Elimination(order, np.concatenate([[0.0], np.cumsum(values[order])]))
    first, moments, owners = known[0]
    weights = []
    for site, found, _ in known:
        energy = found.energy - found.count * found.outputs**2
        weights.append(site.dense().astype(np.float64) / np.sqrt(max(float(energy.sum()), 1e-30)))
    assert first.in_features == len(moments.gram)
    # a bias makes up for means
    gram = moments.gram - moments.count * np.outer(moments.inputs, moments.inputs)
    step = 1 if each.heads else 8
    return eliminate(np.concatenate(weights, axis=1), gram, owners, step=step)


def _read(each: Units, seen: Mapping[Fitted, Moments]) -> list[tuple[Site, Moments, np.ndarray]]:
    """The readers that were seen, with the inputs of the first: each weight once."""
    found: dict[Fitted, tuple[Site, Moments, np.ndarray]] = {}
    for site in each.readers:
        owners, key = each.read_by(site), key_of(site)
        if key in seen and owners is not None and len(owners) == len(seen[key].gram):
            found.setdefault(key, (site, seen[key], owners))
    return list(found.values())


@dataclass(frozen=True)
class Masks:
    """Derivatives of the drop by masks on units, [draws, units] for each group by the weight of its first reader."""

    products: Mapping[ir.Value, Floats]

    @classmethod
    def of(cls, model: ir.Model, groups: Sequence[Units], context: Context, form: Form = "cosine") -> Masks:
        """dL / dm_u = sum of W * dL / dW over the weights that read unit u: m_u scales them all."""
        assert context.calibration is not None
        sites = [site for each in groups for site in each.readers]
        weights = list(reached(model, [site.weight for site in sites]))
        found: dict[ir.Value, list[Floats]] = {}
        for probe in probes(model, weights, context.calibration.batches, Drop.of(model, form), seed=context.seed):
            for each in groups:
                total = np.zeros(each.size)
                for site in each.readers:
                    owners, gradient = each.read_by(site), probe.gradients.get(site.weight)
                    stored = constant_of(site.weight)
                    if owners is None or gradient is None or stored is None:
                        continue
                    product = np.asarray(gradient, np.float64) * stored.astype(np.float64)
                    rows = (
                        product.reshape(-1, site.in_features)
                        if site.transposed
                        else product.reshape(site.in_features, -1).T
                    )
                    total += scores.summed(rows.sum(0), owners, each.size)
                found.setdefault(each.readers[0].weight, []).append(total / np.sqrt(max(probe.rows, 1)))
        return cls({weight: np.stack(draws) for weight, draws in found.items()})

    def score(self, each: Units, score: Score) -> Floats:
        """taylor or fisher."""
        products = self.products[each.readers[0].weight]
        return scores.taylor(products) if score == "taylor" else scores.fisher(products)
