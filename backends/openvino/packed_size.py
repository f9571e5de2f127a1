"""What integers of few bits take in OpenVINO's files: the planes and the nodes that unpack them, or a wider type.

The nodes are written out for every weight, some hundred bytes each, so that planes only pay where there are many
integers. What they take is read from files that OpenVINO wrote: it changes from version to version.
"""

from __future__ import annotations

import math
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...ir.text import graph
from ...passes.base import Context
from ...passes.edit import Tape, replace
from ...passes.weights import Quantized, packing
from .frontend import write_ir
from .unpack_by_remainders import UnpackByRemainders


def width(bits: int) -> int:
    """The bits of the smallest type that holds integers of so many. The frontend reads none of 2, 3 or 6 bits."""
    return 4 if bits <= 4 else 8


def planes_pay(shape: tuple[int, ...], bits: int, name: str, *, centred: bool = False) -> bool:
    """Whether integers take fewer bytes in planes, with the nodes that unpack them as `name`, than in a wider type.

    centred: they are dequantized around their middle, which in planes takes zero points that a wider type needs not.
    """
    count = math.prod(shape)
    saved = packing.stored(count, width(bits)) - packing.stored(count, bits)
    return saved > 0 and saved > nodes(bits, len(shape), len(name), centred)


@cache
def nodes(bits: int, rank: int, letters: int, centred: bool) -> int:
    """Bytes of the nodes that unpack planes of integers of so many axes, each under a name of so many letters."""
    shape = (1,) * (rank - 1) + (8,)
    planes, wide = (
        _written(shape, stored, letters, centred) - packing.stored(math.prod(shape), stored)
        for stored in (bits, width(bits))
    )
    return planes - wide


def _written(shape: tuple[int, ...], bits: int, letters: int, centred: bool) -> int:
    """Bytes of the files of a model that reads one such weight."""
    model, tape = graph("f = Identity(w)", "y = Add(x, f)", outputs=["y"], w=np.zeros(shape, np.float32)), Tape()
    if centred:
        value = Quantized(np.zeros(shape, np.int8), np.ones(8, np.float32), axis=-1, bits=bits).emit(tape, "c")
    else:
        value = tape("Cast", packing.emit(tape, np.zeros(shape, np.uint8), bits, "c"), to=ir.DataType.FLOAT)
    replace(tape, model.graph.node(0).outputs, [value])
    for node in model.graph:
        if node.op_type == "UnpackBits":
            node.outputs[0].name = "c" * letters
    UnpackByRemainders().apply(model, Context())
    with tempfile.TemporaryDirectory(prefix="tersor-") as folder:
        write_ir(model, Path(folder) / "model.xml", {})
        return sum(file.stat().st_size for file in Path(folder).iterdir())
