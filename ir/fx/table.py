"""Every op that has a lowering, in one visible place: the union of the families' tables."""

from __future__ import annotations

from collections.abc import Mapping

from .flow.control import FORMS as CONTROL
from .flow.control import Form
from .lowering import Key, Table, merged
from .ops.attention import ATTENTION
from .ops.casts import CASTS
from .ops.contrib import CONTRIB
from .ops.detection import DETECTION
from .ops.elementwise import ELEMENTWISE
from .ops.flex import FLEX
from .ops.image import IMAGE
from .ops.index import INDEX
from .ops.linear import LINEAR
from .ops.linear_attention import LINEAR_ATTENTION
from .ops.loss import LOSS
from .ops.ml import ML
from .ops.norm import NORM
from .ops.pool import POOL
from .ops.quant import QUANT
from .ops.random import RANDOM
from .ops.recurrent import RECURRENT
from .ops.reduce import REDUCE
from .ops.resize import RESIZE
from .ops.sequence import SEQUENCE, SEQUENCE_FORMS
from .ops.shape import SHAPE
from .ops.signal import SIGNAL
from .ops.spatial import SPATIAL
from .ops.strings import STRINGS
from .ops.text import text_table
from .ops.training import TRAINING, TRAINING_FORMS
from .ops.unsigned import unsigned_table

FAMILIES: dict[str, Table] = {
    "Elementwise": ELEMENTWISE,
    "Casts": CASTS,
    "Shapes": SHAPE,
    "Selection": INDEX,
    "Reductions": REDUCE,
    "Products": LINEAR,
    "Normalization": NORM,
    "Pooling": POOL,
    "Resampling": RESIZE,
    "Images": merged(SPATIAL, IMAGE),
    "Detection": DETECTION,
    "Attention": merged(ATTENTION, LINEAR_ATTENTION),
    "Recurrence": RECURRENT,
    "Quantization": QUANT,
    "Signals": SIGNAL,
    "Losses": LOSS,
    "Sequences and optionals": SEQUENCE,
    "Strings": STRINGS,
    "Random numbers": RANDOM,
    "Optimizers": TRAINING,
    "Classical models": ML,
    "ONNX Runtime's own": CONTRIB,
}

DEVICE: Table = merged(*FAMILIES.values())
TEXT: Table = text_table(DEVICE)
"""What takes the place of a row where an input is a tensor of strings."""
UNSIGNED: Table = unsigned_table(DEVICE)
"""What takes the place of a row where an input is of an unsigned type that torch has few kernels for."""
FORMS: Mapping[Key, Form] = merged(CONTROL, SEQUENCE_FORMS, TRAINING_FORMS, FLEX)
