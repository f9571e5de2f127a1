"""LSTM and GRU as functions that quantize their input and their state at run time.

before   (y, h, c) = LSTM(x, W, R, b, _, h0, c0)
after    (y, h, c) = tersor.DynamicQuantizeLSTM(x, W, R, b, h0, c0)
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...ir.site import Kind, Site
from ..base import Miss
from ..dynamic_recurrence import GRU, LSTM, LSTM_ATTRIBUTES, call
from ..edit import Tape, attribute, replace

#: The two weights of a recurrence.
RECURRENT = (Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN)

_USUAL = ["sigmoid", "tanh"]


def unrounded(node: ir.Node) -> Miss | None:
    """Why the state of a recurrent node cannot be quantized at each step."""
    stored = "; recurrent=stored takes others"
    if node.op_type not in ("LSTM", "GRU"):
        return Miss("op", node.op_type, f"LSTM or GRU{stored}")
    for index, rule, need in ((4, "lengths", "sequences of one length"), (7, "peepholes", "gates that see no cell")):
        given = _input(node, index)
        if given is not None:
            return Miss(rule, given.name or "", need + stored)
    if attribute(node, "layout", 0):
        return Miss("layout", "batch first", f"time first{stored}")
    weight = node.inputs[1]
    if weight is None or weight.dtype != ir.DataType.FLOAT:
        return Miss("dtype", str(None if weight is None else weight.dtype).lower(), f"weights of float{stored}")
    if node.op_type == "GRU" and not _is_plain(node):
        return Miss("activations", ", ".join(_activations(node)) or "clip", f"Sigmoid and Tanh, no clip{stored}")
    return None


def round_states(site: Site) -> None:
    """Put the call in the place of the node of a hidden site, of which nothing is `unrounded`."""
    tape, node = Tape(), site.node
    weights = [value for value in node.inputs[:3] if value is not None]
    direction = node.attributes["direction"].as_string() if "direction" in node.attributes else "forward"
    before = bool(attribute(node, "linear_before_reset", 0))
    is_lstm = node.op_type == "LSTM"
    kept = {name: node.attributes[name] for name in LSTM_ATTRIBUTES if is_lstm and name in node.attributes}
    made = call(
        tape,
        LSTM[direction] if is_lstm else GRU[direction, before],
        site.in_features,
        weights,
        bias=_input(node, 3),
        states=[_input(node, index) for index in ((5, 6) if is_lstm else (5,))],
        attributes={"hidden_size": site.in_features, **kept} if is_lstm else {},
    )
    read = [index for index, value in enumerate(node.outputs) if value.name]
    replace(tape, [node.outputs[index] for index in read], [made.outputs[index] for index in read], matched=[node])


def _is_plain(node: ir.Node) -> bool:
    """Whether a GRU has the usual activations and does not clip."""
    names = [name.lower() for name in _activations(node)]
    return names == _USUAL * (len(names) // 2) and not (
        "clip" in node.attributes and node.attributes["clip"].as_float()
    )


def _activations(node: ir.Node) -> Sequence[str]:
    return node.attributes["activations"].as_strings() if "activations" in node.attributes else ()


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
