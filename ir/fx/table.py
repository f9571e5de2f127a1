"""Every op that has a lowering, in one visible place: the union of the families' tables."""

from __future__ import annotations

from collections.abc import Mapping

from .attention import ATTENTION
from .contrib import CONTRIB
from .control import FORMS as CONTROL
from .control import Form
from .elementwise import ELEMENTWISE
from .index import INDEX
from .linear import LINEAR
from .loss import LOSS
from .lowering import Key, Table, merged
from .norm import NORM
from .pool import POOL
from .quant import QUANT
from .recurrent import RECURRENT
from .reduce import REDUCE
from .resize import RESIZE
from .sequence import SEQUENCE, SEQUENCE_FORMS
from .shape import SHAPE
from .signal import SIGNAL

FAMILIES: dict[str, Table] = {
    "Elementwise": ELEMENTWISE,
    "Shapes": SHAPE,
    "Selection": INDEX,
    "Reductions": REDUCE,
    "Products": LINEAR,
    "Normalization": NORM,
    "Pooling": POOL,
    "Resampling": RESIZE,
    "Attention": ATTENTION,
    "Recurrence": RECURRENT,
    "Quantization": QUANT,
    "ONNX Runtime's own": CONTRIB,
}

DEVICE: Table = merged(*FAMILIES.values())
FORMS: Mapping[Key, Form] = merged(CONTROL, SEQUENCE_FORMS)
