"""The scale and bias that a normalisation op takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ...edit import Tape


def along(tape: Tape, value: ir.Value | None, sizes: Sequence[int], dtype: ir.DataType | None) -> ir.Value:
    """`value` with exactly the axes of a row; ones for None."""
    if value is None:
        return tape.constant(np.ones(sizes, (dtype or ir.DataType.FLOAT).numpy()), "ones")
    return value if dimensions(value) == [*sizes] else tape("Reshape", value, tape.constant([*sizes], "row"))
