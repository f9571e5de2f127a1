"""ONNX Runtime's own ops (domain com.microsoft) that appear in exported and optimized models, by family."""

from __future__ import annotations

from ...lowering import Table, merged
from .arithmetic import ARITHMETIC
from .attention import ATTENTION
from .blocks import BLOCKS
from .experts import EXPERTS
from .grouped import GROUPED
from .integer import INTEGER
from .longformer import LONGFORMER
from .lstm import LSTM
from .nbits import NBITS
from .norm import NORM
from .packed import PACKED
from .qlinear import QLINEAR
from .recurrence import RECURRENCE
from .rotary import ROTARY
from .streams import STREAMS
from .tensors import TENSORS
from .warping import WARPING

CONTRIB: Table = merged(
    ATTENTION,
    GROUPED,
    PACKED,
    ROTARY,
    NORM,
    ARITHMETIC,
    INTEGER,
    LSTM,
    NBITS,
    QLINEAR,
    EXPERTS,
    RECURRENCE,
    STREAMS,
    BLOCKS,
    LONGFORMER,
    TENSORS,
    WARPING,
)
