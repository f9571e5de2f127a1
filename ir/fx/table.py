"""Every op that has a lowering, in one visible place: the union of the families' tables."""

from __future__ import annotations

from .attention import ATTENTION
from .contrib import CONTRIB
from .elementwise import ELEMENTWISE
from .index import INDEX
from .linear import LINEAR
from .lowering import Table, merged
from .norm import NORM
from .quant import QUANT
from .recurrent import RECURRENT
from .reduce import REDUCE
from .shape import SHAPE

DEVICE: Table = merged(ELEMENTWISE, SHAPE, INDEX, REDUCE, LINEAR, NORM, ATTENTION, RECURRENT, QUANT, CONTRIB)
