"""Every op that has a lowering, in one visible place: the union of the families' tables."""

from __future__ import annotations

from collections.abc import Mapping

from .attention import ATTENTION
from .casts import CASTS
from .contrib import CONTRIB
from .control import FORMS as CONTROL
from .control import Form
from .detection import DETECTION
from .elementwise import ELEMENTWISE
from .flex import FLEX
from .index import INDEX
from .linear import LINEAR
from .linear_attention import LINEAR_ATTENTION
from .loss import LOSS
from .lowering import Key, Table, merged
from .ml import ML
from .norm import NORM
from .pool import POOL
from .quant import QUANT
from .random import RANDOM
from .recurrent import RECURRENT
from .reduce import REDUCE
from .resize import RESIZE
from .sequence import SEQUENCE, SEQUENCE_FORMS
from .shape import SHAPE
from .signal import SIGNAL
from .spatial import SPATIAL
from .strings import STRINGS
from .text import text_table
from .training import TRAINING, TRAINING_FORMS
from .unsigned import unsigned_table

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
    "Images": SPATIAL,
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
