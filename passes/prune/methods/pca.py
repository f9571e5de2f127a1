"""Directions that a stream of features keeps: a basis B, [features, kept], of orthonormal columns.

x --> B.T x --> B B.T x        what is lost of rows X is |X - X B B.T|^2 = tr(G) - tr(B.T G B)        G = X.T X
"""

from __future__ import annotations

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.gram import check_gram


def principal(gram: Array, kept: int, *, centred: bool = False) -> Floats:
    """The basis that loses least of the rows behind a Gram matrix: its first eigenvectors, the largest first.

    centred: the rows have no mean over features, and neither has any direction, also where the matrix says nothing.
    Raises ValueError for a matrix that is none, and where there are not so many directions. Source: Ashkboos et al.,
    SliceGPT: Compress Large Language Models by Deleting Rows and Columns, 2024, section 3.3.

    >>> principal(np.diag([1.0, 4.0, 2.0]), 2).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    wide = _checked(gram, kept, centred)
    if centred:
        # the mean comes after all that is seen and all that is not
        wide = wide - (np.trace(wide) + 1.0) / len(wide)
    values, vectors = np.linalg.eigh(wide)
    found: Floats = vectors[:, np.argsort(-values, kind="stable")[:kept]]
    largest = found[np.abs(found).argmax(0), np.arange(kept)]
    return found * np.where(largest < 0, -1.0, 1.0) + 0.0


def features(gram: Array, kept: int, *, centred: bool = False) -> Floats:
    """The features of most energy, each a direction of its own, in the order in which they lie.

    With `centred` an orthonormal basis of what is left of them without their mean over all features. Raises ValueError
    as `principal` does. Source: Khetan and Karnin, schuBERT: Optimizing Elements of BERT, 2020, by energy.

    >>> features(np.diag([1.0, 4.0, 2.0]), 2).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    wide = _checked(gram, kept, centred)
    chosen = np.sort(np.argsort(-np.diagonal(wide), kind="stable")[:kept])
    found = np.eye(len(wide))[:, chosen]
    return np.linalg.qr(found - found.mean(0))[0] if centred else found


def _checked(gram: Array, kept: int, centred: bool) -> Floats:
    wide = check_gram(gram, len(gram))
    most = len(wide) - centred
    if not 0 < kept <= most:
        raise ValueError(f"expected 1 to {most} directions of {len(wide)} features, found {kept}")
    return wide - wide.mean(0) - wide.mean(1)[:, None] + wide.mean() if centred else wide
