"""What an error of a weight costs by its inputs, mode by mode.

    |X E|^2 = tr(E.T G E),  G = X.T X        G ~= G1 (x) G2 (x) ..        |(L1 (x) L2 ..) E|^2,  Lk.T Lk = Gk

A decomposition minimises the plain error of a tensor. Multiplied by Lk along each mode of the inputs it minimises the
weighed one, and what stands for a mode is multiplied by Lk^-1 in the end: exact where the inputs are one mode, which is
SVD-LLM's whitening (Wang et al., 2024, section 3.1), and where G is a Kronecker product; else with the Kronecker
product of the partial traces of G, which are what it would be made of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..edit import Array
from ..numerics.arrays import Floats
from ..numerics.gram import check_gram, damped
from .methods.network import Factor, Network, along, summed

#: Of Gram matrices, as a share of the mean of their diagonal.
DAMPING = 1e-3


@dataclass(frozen=True)
class Weighing:
    """Lk and its inverse for each mode that has one, by the number of the mode."""

    roots: Mapping[int, tuple[Floats, Floats]]

    @classmethod
    def of(cls, gram: Array | None, modes: Sequence[int]) -> Weighing:
        """Of the Gram matrix [in, in] or its diagonal [in], padded with zeros to the product of the modes.

        Raises ValueError for what is no Gram matrix.
        """
        if gram is None:
            return cls({})
        whole, free = math.prod(modes), [at for at, size in enumerate(modes) if size > 1]
        if gram.ndim == 1:
            marginals = _diagonals(gram, modes, whole)
        else:
            marginals = _traces(check_gram(gram, len(gram)), modes, whole)
        return cls({at: _root(marginals[at]) for at in free})

    def on(self, tensor: Floats, axes: Mapping[int, int] | None = None) -> Floats:
        """A tensor with its modes weighed. axes: where the modes lie, at their own numbers unless told."""
        for at, (root, _) in self.roots.items():
            tensor = along(tensor, root, at if axes is None else axes[at])
        return tensor

    def off(self, network: Network) -> Network:
        """A network of weighed modes, whose digits of rows are labelled by mode, as what stands for the weight."""
        for at, (_, inverse) in self.roots.items():
            network = network.times(f"i{at}", inverse)
        return network


def lost(error: Floats, gram: Array | None) -> float:
    """|X E|^2 for E [in, out]; |E|^2 without inputs. gram: [in, in], or its diagonal."""
    if gram is None:
        return float(np.sum(error**2))
    wide = np.asarray(gram, np.float64)
    return float(np.sum(error * (wide[:, None] * error if wide.ndim == 1 else wide @ error)))


def _root(gram: Floats) -> tuple[Floats, Floats]:
    root = np.ascontiguousarray(damped(gram, DAMPING)[1].T)
    return root, np.asarray(np.linalg.inv(root), np.float64)


def _traces(gram: Floats, modes: Sequence[int], whole: int) -> list[Floats]:
    """The partial trace over all other modes, for each."""
    padded = np.zeros((whole, whole))
    padded[: len(gram), : len(gram)] = gram
    tensor = padded.reshape(*modes, *modes)
    rows = [str(at) for at in range(len(modes))]
    return [
        summed([Factor(tensor, (*rows, *("'" if other == each else other for other in rows)))], (each, "'"))
        for each in rows
    ]


def _diagonals(gram: Array, modes: Sequence[int], whole: int) -> list[Floats]:
    padded = np.zeros(whole)
    padded[: len(gram)] = gram
    tensor = padded.reshape(tuple(modes))
    return [np.diag(tensor.sum(tuple(other for other in range(len(modes)) if other != at))) for at in range(len(modes))]
