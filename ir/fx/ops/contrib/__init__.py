"""ONNX Runtime's own ops (domain com.microsoft) that appear in exported and optimized models, by family."""

from __future__ import annotations

from ...lowering import Table, merged
from .arithmetic import ARITHMETIC
from .attention import ATTENTION
from .experts import EXPERTS
from .grouped import GROUPED
from .integer import INTEGER
from .lstm import LSTM
from .nbits import NBITS
from .norm import NORM
from .packed import PACKED
from .qlinear import QLINEAR
from .rotary import ROTARY
from .tensors import TENSORS

CONTRIB: Table = merged(
    ATTENTION, GROUPED, PACKED, ROTARY, NORM, ARITHMETIC, INTEGER, LSTM, NBITS, QLINEAR, EXPERTS, TENSORS
)
