"""ONNX Runtime's own ops and what each stands for, by theme.

`TABLE[domain, op]` expands, `why_kept` says of every other op outside of ONNX why it stays.
"""

from __future__ import annotations

from collections.abc import Mapping

from .activations import ACTIVATIONS
from .attention import ATTENTION
from .bits import BITS
from .call import Expansion
from .grouped import GROUPED
from .integer import INTEGER
from .kept import KEPT, why_kept
from .lstm import QUANTIZED_LSTM
from .norms import NORMS
from .older import OLDER
from .positions import POSITIONS
from .products import PRODUCTS
from .qlinear import QLINEAR

__all__ = ["KEPT", "TABLE", "why_kept"]

TABLE: Mapping[tuple[str, str], Expansion] = {
    **ACTIVATIONS,
    **PRODUCTS,
    **OLDER,
    **NORMS,
    **POSITIONS,
    **ATTENTION,
    **GROUPED,
    **BITS,
    **INTEGER,
    **QLINEAR,
    **QUANTIZED_LSTM,
}
