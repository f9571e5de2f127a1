"""Store integers that are unpacked from planes in a wider type where OpenVINO's files are smaller for it.

    before   codes = UnpackBits(planes of 3 bits)          after    codes = Cast{to=uint8}(uint4)

Exact. These are indices into codebooks, signs, and the zero points of weights that stay in planes. Left alone: planes
that are smaller with all nodes that unpack them, such as are computed, and outputs of the
model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.constants import integers_of, tensor_of
from ...ir.level import DOMAIN, Level
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Tape, replace
from ...passes.weights import packing
from .packed_size import planes_pay, width


@dataclass(frozen=True, kw_only=True)
class Codes(Match):
    """Planes [bits, bytes], and the shape of the integers in them."""

    planes: ir.TensorProtocol
    shape: tuple[int, ...]
    bits: int


@dataclass(frozen=True, kw_only=True)
class WidenCodes(Rewrite):
    """UnpackBits -> integers of 4 or 8 bits"""

    name: ClassVar[str] = "widen-codes"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = (f"{DOMAIN}.UnpackBits",)

    def match(self, node: ir.Node) -> Match | Miss:
        bits = next((bits for bits, function in packing.UNPACK.items() if function.called_by(node)), None)
        planes, shape = tensor_of(node.inputs[0]), integers_of(node.inputs[1])
        if bits is None or planes is None or shape is None:
            return Miss("planes", node.outputs[0].name or "", "constants, and a function that is known")
        if node.outputs[0].is_graph_output():
            return Miss("output", node.outputs[0].name or "", "integers that only nodes read")
        if planes_pay(tuple(shape), bits, node.outputs[0].name or ""):
            return Miss("bytes", f"{bits} bits", "a type that takes fewer bytes than planes and what unpacks them")
        return Codes(node=node, planes=planes, shape=tuple(shape), bits=bits)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Codes)
        tape, name = Tape(), found.node.outputs[0].name or "codes"
        codes = packing.unpack(found.planes.numpy().astype(np.uint8), found.shape)
        replace(tape, found.node.outputs, [packing.emit(tape, codes, width(found.bits), f"{name}_wide")])
