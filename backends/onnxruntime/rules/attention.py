"""What the fused attention kernels of ONNX Runtime have in common."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ....passes.base import Miss
from ....passes.edit import Attribute, attribute
from .masks import KeyPadding


@dataclass(frozen=True)
class Heads:
    """The settings of one attention: heads, scale (None for 1 / sqrt(size)), and whether it is causal."""

    count: int
    scale: float | None
    causal: bool

    def attributes(self, padding: KeyPadding | None) -> dict[str, Attribute]:
        """As attributes of the com.microsoft kernels."""
        return {
            "num_heads": self.count,
            "scale": self.scale,
            "unidirectional": int(self.causal) or None,
            "mask_filter_value": None if padding is None else padding.fill,
        }


def heads_of(node: ir.Node) -> Heads | Miss:
    """The heads of a 3-D ai.onnx Attention without cache, grouped queries, soft cap or second output."""
    if node.domain:
        return Miss("op", node.name or "", "an ai.onnx Attention")
    count = attribute(node, "q_num_heads", 0)
    if not count:
        return Miss("form", node.name or "", "the 3-D form: heads that lie side by side")
    if attribute(node, "kv_num_heads", 0) != count:
        return Miss("heads", f"{count} query and {attribute(node, 'kv_num_heads', 0)} key heads", "as many key heads")
    if len(node.outputs) > 1 or any(value is not None for value in node.inputs[4:]):
        return Miss("cache", node.name or "", "no cache and no second output")
    softcap = node.attributes.get("softcap")
    if softcap is not None and softcap.as_float() != 0.0:
        return Miss("softcap", f"{softcap.as_float():g}", "no soft cap")
    if node.inputs[0] is None or node.inputs[0].dtype != ir.DataType.FLOAT:
        return Miss("dtype", str(node.inputs[0].dtype if node.inputs[0] else None), "float32")
    scale = node.attributes.get("scale")
    return Heads(count, None if scale is None else scale.as_float(), bool(attribute(node, "is_causal", 0)))
