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
from ..moments import Fitted, Moments, Multiplied, key_of, multiplied
from ..numerics.arrays import Floats
from ..numerics.gram import level
from ..placing import matrix
from .methods import scores
from .methods.eliminate import Elimination, eliminate
from .units import Key, Places, Units

Score = Literal["auto", "obs", "magnitude", "onorm", "inorm", "activation", "entropy", "confidence", "taylor", "fisher"]

#: Draws of a gradient over all data, at least.
_PROBES = 64
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

    With several readers the errors add up, each as a share of its reader's own energy. Where none was seen, the squares
    of the units' weights stand for the error.

        W = [W1  0 ]    H = [H1  0 ]        readers of the same inputs stand side by side in one block
            [0   W2]        [0   H2]
    """
    known = _read(each, seen)
    if not known:
        values = magnitudes(each, "magnitude") ** 2
        order = np.argsort(values, kind="stable")
        return Elimination(order, np.concatenate([[0.0], np.cumsum(values[order])]))
    blocks: dict[frozenset[Multiplied], list[_Read]] = {}
    for one in known:
        # the moments of a weight are those of all sites that have it
        inputs = frozenset(multiplied(site) for site in each.readers if key_of(site) == key_of(one[0]))
        blocks.setdefault(inputs, []).append(one)
    weights, grams = zip(*map(_block, blocks.values()), strict=True)
    owners = np.concatenate([block[0][2] for block in blocks.values()])
    return eliminate(_diagonal(weights), _diagonal(grams), owners, step=1 if each.heads else 8)


def _block(readers: Sequence[_Read]) -> tuple[Floats, Floats]:
    """The weights of readers of the same inputs, each over the root of its own energy, and the Gram matrix of these."""
    weights = []
    for site, found, _ in readers:
        energy = found.energy - found.count * found.outputs**2
        weights.append(site.dense().astype(np.float64) / np.sqrt(max(float(energy.sum()), 1e-30)))
    _, moments, _ = readers[0]
    # a bias makes up for means
    gram = moments.gram - moments.count * np.outer(moments.inputs, moments.inputs)
    # W.T H W is the same for W sqrt(c) and H / c: damping is a share of each block's own diagonal
    unit = level(gram)
    return np.sqrt(unit) * np.concatenate(weights, axis=1), gram / unit


def _diagonal(blocks: Sequence[Floats]) -> Floats:
    """The matrix with these as its blocks, and zeros elsewhere."""
    if len(blocks) == 1:
        return blocks[0]
    rows, columns = (np.cumsum([0, *(block.shape[at] for block in blocks)]) for at in (0, 1))
    whole = np.zeros((rows[-1], columns[-1]))
    for at, block in enumerate(blocks):
        whole[rows[at] : rows[at + 1], columns[at] : columns[at + 1]] = block
    return whole


#: A reader, what was seen of it, and of which unit each of its inputs is.
_Read = tuple[Site, Moments, Places]


def _read(each: Units, seen: Mapping[Fitted, Moments]) -> list[_Read]:
    """The readers that were seen: each weight once."""
    found: dict[Fitted, _Read] = {}
    for site in each.readers:
        owners, key = each.read_by(site), key_of(site)
        if key in seen and owners is not None and len(owners) == len(seen[key].gram):
            found.setdefault(key, (site, seen[key], owners))
    return list(found.values())


@dataclass(frozen=True)
class Masks:
    """Derivatives of the drop by masks on units, [draws, units] for each group that gradients reach."""

    products: Mapping[Key, Floats]

    @classmethod
    def of(cls, model: ir.Model, groups: Sequence[Units], context: Context, form: Form = "cosine") -> Masks:
        """dL / dm_u = sum of W * dL / dW over the weights that read unit u: m_u scales them all."""
        assert context.calibration is not None
        batches = context.calibration.batches
        reading = {each.key: _reading(each) for each in groups}
        asked = dict.fromkeys(site.weight for sites in reading.values() for site, _ in sites)
        able = reached(model, asked)
        weights = [weight for weight in asked if weight in able]
        told = [each for each in groups if all(site.weight in able for site, _ in reading[each.key])]
        if not told:
            return cls({})
        found: dict[Key, list[Floats]] = {each.key: [] for each in told}
        count = max(1, _PROBES // len(batches))
        for probe in probes(model, weights, batches, Drop.of(model, form), count=count, seed=context.seed):
            for each in told:
                total = np.zeros(each.size)
                for site, owners in reading[each.key]:
                    stored = constant_of(site.weight)
                    assert stored is not None
                    product = np.asarray(probe.gradients[site.weight], np.float64) * stored.astype(np.float64)
                    total += scores.summed(matrix(site, product).sum(1), owners, each.size)
                found[each.key].append(total / np.sqrt(max(probe.rows, 1)))
        return cls({key: np.stack(draws) for key, draws in found.items() if draws})

    def score(self, each: Units, score: Score) -> Floats | None:
        """taylor or fisher; None of a group that no gradient reaches."""
        products = self.products.get(each.key)
        if products is None:
            return None
        return scores.taylor(products) if score == "taylor" else scores.fisher(products)


def _reading(each: Units) -> list[tuple[Site, Places]]:
    """The readers of which it is known what they read, each weight once: its gradient is that of all its uses."""
    found = {site.weight: (site, owners) for site in each.readers if (owners := each.read_by(site)) is not None}
    return list(found.values())
