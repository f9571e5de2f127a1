"""ONNX Runtime's own ops and what each stands for, by theme.

`TABLE[domain, op]` expands, `KEPT[domain, op]` says what lacks.
"""

from __future__ import annotations

from collections.abc import Mapping

from .activations import ACTIVATIONS
from .attention import ATTENTION
from .bits import BITS
from .call import Expansion
from .grouped import GROUPED
from .integer import INTEGER
from .kept import KEPT
from .norms import NORMS
from .products import PRODUCTS
from .qlinear import QLINEAR

__all__ = ["KEPT", "TABLE"]

TABLE: Mapping[tuple[str, str], Expansion] = {
    **ACTIVATIONS,
    **PRODUCTS,
    **NORMS,
    **ATTENTION,
    **GROUPED,
    **BITS,
    **INTEGER,
    **QLINEAR,
}
