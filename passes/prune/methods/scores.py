"""How much units matter, read off weights, activations or gradients: the least goes first."""

from __future__ import annotations

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats


def summed(values: Array, units: Array, count: int) -> Floats:
    """Values of features added up by unit, [count]; features that are of none (-1) are left out.

    values, units: [features].
    """
    owners = np.asarray(units, np.intp)
    inside = owners >= 0
    return np.asarray(np.bincount(owners[inside], np.asarray(values, np.float64)[inside], count), np.float64)


def norms(weight: Array, units: Array, count: int) -> Floats:
    """The L2 norm of the rows of each unit, [count]; weight: [features, others], units: [features].

    onorm where the rows are the weights of the connections that leave a unit, inorm where of those that reach it.
    Source: He et al., Reshaping Deep Neural Network for Fast Decoding by Node-Pruning, 2014, equations 3 and 4, with
    the norm L2 in the place of the mean magnitude.
    """
    wide = np.asarray(weight, np.float64)
    return np.sqrt(summed((wide * wide).sum(1), units, count))


def activity(weight: Array, gram: Array, units: Array, count: int) -> Floats:
    """How large the part of each unit in the outputs is, [count]: root mean square of x_u W_u added up over outputs.

    weight: [features, out]. gram: means of x x.T, [features, features].
    """
    wide, moments = np.asarray(weight, np.float64), np.asarray(gram, np.float64)
    owners = np.asarray(units, np.intp)
    found = np.zeros(count)
    for unit in range(count):
        rows = np.flatnonzero(owners == unit)
        part = wide[rows]
        found[unit] = np.sqrt(max(float((part * (moments[np.ix_(rows, rows)] @ part)).sum()), 0.0))
    return found


def entropy(positive: Array) -> Floats:
    """Bits that a unit's state tells, on being above zero and off otherwise; positive: how often it is on, in 0..1.

    Units that nearly always or nearly never fire tell nothing. Source: He et al., 2014, equation 2.

    >>> entropy(np.array([0.0, 0.5, 1.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    on = np.clip(np.asarray(positive, np.float64), 0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -(on * np.log2(on) + (1 - on) * np.log2(1 - on))
    found: Floats = np.nan_to_num(bits, nan=0.0) + 0.0
    return found


def taylor(products: Array) -> Floats:
    """|dL / dm_u| for a mask m on units, averaged over draws. products: dL / dm, [draws, units].

    As Michel et al., Are Sixteen Heads Really Better than One?, 2019, equation 2, who average over examples and take
    the loss of a task. Here a draw is a batch: the sum over its rows of derivatives of the drop, each with random signs
    (`passes.gradients`), so that it is a mean magnitude of sums where theirs is one of single examples.
    """
    found: Floats = np.abs(np.asarray(products, np.float64)).mean(0)
    return found


def fisher(products: Array) -> Floats:
    """(dL / dm_u)^2, averaged over draws: the diagonal of the Fisher information of the mask, as Kwon et al., A Fast
    Post-Training Pruning Framework for Transformers, 2022, equation 7. products: [draws, units].
    """
    wide = np.asarray(products, np.float64)
    found: Floats = (wide * wide).mean(0)
    return found
