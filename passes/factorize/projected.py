"""LSTM, GRU and RNN that multiply their state by two thin weights, which ONNX has no op for.

    ProjectedLSTM (X, W, Z, P, B, initial_h, initial_c) => (Y, Y_h, Y_c)         gates = x W.T + (h P) Z.T + b
    ProjectedGRU, ProjectedRNN (X, W, Z, P, B, initial_h) => (Y, Y_h)

X, W, B, states and outputs are those of ONNX's ops, time first and sequences of one length; Z is [directions, gates *
hidden, rank], P [hidden, rank], or [2, hidden, rank] for both directions. In an LSTM this is the recurrent projection
layer of Sak, Senior and Beaufays, Long Short-Term Memory Recurrent Neural Network Architectures for Large Scale
Acoustic Modeling, 2014, section 2.1: p = h P is what the next step reads, and the next layer where it shares P. Each
direction is a Loop over steps of standard ops, so any runtime can run a call with its body put in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..base import Miss
from ..dynamic_recurrence import DIRECTIONS, zero_states
from ..edit import Tape, attribute
from ..functions import Function

#: Gates of each op, and its outputs.
GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}
_OUTPUTS: Mapping[str, int] = {"LSTM": 3, "GRU": 2, "RNN": 2}
_USUAL: Mapping[str, Sequence[str]] = {
    "LSTM": ("sigmoid", "tanh", "tanh"),
    "GRU": ("sigmoid", "tanh"),
    "RNN": ("tanh",),
}
_PLANE = "float[?, ?]"


def unprojected(node: ir.Node) -> Miss | None:
    """Why the steps of a recurrent node cannot be written out."""
    others = "; recurrent=weight takes others"
    for index, rule, need in ((4, "lengths", "sequences of one length"), (7, "peepholes", "gates that see no cell")):
        given = node.inputs[index] if index < len(node.inputs) else None
        if given is not None:
            return Miss(rule, given.name or "", need + others)
    if attribute(node, "layout", 0):
        return Miss("layout", "batch first", f"time first{others}")
    weight = node.inputs[1]
    if weight is None or weight.dtype != ir.DataType.FLOAT:
        return Miss("dtype", str(None if weight is None else weight.dtype).lower(), f"weights of float{others}")
    names = node.attributes["activations"].as_strings() if "activations" in node.attributes else ()
    usual = _USUAL[node.op_type]
    if names and [name.lower() for name in names] != [*usual] * (len(names) // len(usual)):
        return Miss("activations", ", ".join(names), f"{', '.join(usual)}{others}")
    if "clip" in node.attributes and node.attributes["clip"].as_float():
        return Miss("clip", f"{node.attributes['clip'].as_float():g}", f"gates that are not clipped{others}")
    if attribute(node, "input_forget", 0):
        return Miss("input_forget", "1", f"a forget gate of its own{others}")
    return None


def projected(tape: Tape, node: ir.Node, values: Mapping[str, ir.Value]) -> Sequence[ir.Value]:
    """Record a call for a recurrent node of which nothing is `unprojected`: its outputs.

    values: x, w, z and p, those that it reads in the place of its own.
    """
    direction = node.attributes["direction"].as_string() if "direction" in node.attributes else "forward"
    before = bool(attribute(node, "linear_before_reset", 0))
    gates, ways = GATES[node.op_type], len(DIRECTIONS[direction])
    hidden = _width(values["z"]) // gates
    given = {at: node.inputs[at] if at < len(node.inputs) else None for at in (3, 5, 6)}
    bias = given[3] or tape.constant(np.zeros((ways, 2 * gates * hidden), np.float32), "bias")
    states = [given[at] for at in ((5, 6) if node.op_type == "LSTM" else (5,))]
    if None in states:
        start = zero_states(tape, values["x"], ways, hidden)
        states = [state or start for state in states]
    function = FUNCTIONS[node.op_type, direction, before]
    read = (*(values[name] for name in ("x", "w", "z", "p")), bias, *states)
    return function.node(tape, read, {}, outputs=_OUTPUTS[node.op_type]).outputs


def _width(value: ir.Value) -> int:
    assert value.shape is not None
    size = value.shape[1]
    assert isinstance(size, int)
    return size


def _function(op: str, direction: str, before: bool) -> Function:
    ways = DIRECTIONS[direction]
    states = ("initial_h", "initial_c") if op == "LSTM" else ("initial_h",)
    body = "".join(_direction(op, d, backward, before, len(ways) > 1) for d, backward in enumerate(ways))
    outputs = {"Y": ("y", 1), "Y_h": ("h", 0), "Y_c": ("c", 0)}
    names = list(outputs)[: _OUTPUTS[op]]
    joined = "".join(
        f"{name} = Concat <axis: int = {outputs[name][1]}> "
        f"({', '.join(f'{outputs[name][0]}{d}' for d in range(len(ways)))})\n"
        for name in names
    )
    parts = ["W", "Z", "B", *states, *(["P"] if len(ways) > 1 else [])]
    return Function(
        f"Projected{op} (X, W, Z, P, B, {', '.join(states)}) => ({', '.join(names)}) {{\n"
        "zero = Constant <value_ints: ints = [0]> ()  one = Constant <value_ints: ints = [1]> ()\n"
        "unit = Constant <value_int: int = 1> ()  going = Constant <value: tensor = bool {1}> ()\n"
        "back = Constant <value_ints: ints = [-1]> ()  low = Constant <value_ints: ints = [-2147483647]> ()\n"
        + "".join(_apart(name, len(ways)) for name in parts)
        + ("P0 = Identity (P)\n" if len(ways) == 1 else "")
        + body
        + joined
        + "}",
        overload=f"{direction}_before_reset" if before else direction,
    )


def _apart(name: str, ways: int) -> str:
    """`W` as `W0` and `W1`, one for each direction, without its axis."""
    split = ", ".join(f"{name}of{d}" for d in range(ways))
    found = (
        f"{split} = Split <axis: int = 0, num_outputs: int = {ways}> ({name})\n"
        if ways > 1
        else f"{split} = Identity ({name})\n"
    )
    return found + "".join(f"{name}{d} = Squeeze ({name}of{d}, zero)\n" for d in range(ways))


def _direction(op: str, d: int, backward: bool, before: bool, several: bool) -> str:
    carried = ("h", "c") if op == "LSTM" else ("h",)
    entering = ", ".join([f"int64 trip{d}", f"bool on{d}", *(f"{_PLANE} {name}old{d}" for name in carried)])
    leaving = ", ".join([f"bool still{d}", *(f"{_PLANE} {name}new{d}" for name in carried), f"{_PLANE} out{d}"])
    first = ", ".join(f"initial_{name}{d}" for name in carried)
    ends = ", ".join(f"{name}end{d}" for name in carried)
    unsqueezed = "".join(f"{name}{d} = Unsqueeze ({name}end{d}, zero)\n" for name in carried)
    rows = "turned" if backward else "rows"
    # a GRU adds the recurrent bias of its last gate behind the reset
    outside = f"gates{d} = Identity (share{d})\n" if op == "GRU" else f"gates{d} = Add (share{d}, rb{d})\n"
    return (
        f"wt{d} = Transpose <perm: ints = [1, 0]> (W{d})  zt{d} = Transpose <perm: ints = [1, 0]> (Z{d})\n"
        f"wb{d}, rb{d} = Split <axis: int = 0, num_outputs: int = 2> (B{d})\n"
        f"product{d} = MatMul (X, wt{d})  share{d} = Add (product{d}, wb{d})\n{outside}"
        + (_halves(d) if op == "GRU" and not before else "")
        + f"trips{d} = Shape <end: int = 1> (gates{d})  count{d} = Squeeze (trips{d}, zero)\n"
        + f"final{d} = Sub (count{d}, unit)\n"
        + f"{ends}, {rows}{d} = Loop <body: graph = step{d} ({entering}) => ({leaving}) {{\n"
        + f"still{d} = Identity (on{d})\n"
        + (f"at{d} = Sub (final{d}, trip{d})\n" if backward else f"at{d} = Identity (trip{d})\n")
        + f"given{d} = Gather <axis: int = 0> (gates{d}, at{d})  thin{d} = MatMul (hold{d}, P{d})\n"
        + (_lstm(d) if op == "LSTM" else _rnn(d) if op == "RNN" else _gru(d) if before else _reset(d))
        + f"out{d} = Identity (hnew{d})\n}}> (count{d}, going, {first})\n"
        + (f"rows{d} = Slice (turned{d}, back, low, zero, back)\n" if backward else "")
        + f"y{d} = Unsqueeze (rows{d}, one)\n{unsqueezed}"
    )


def _lstm(d: int) -> str:
    return f"""
        wide{d} = MatMul (thin{d}, zt{d})  a{d} = Add (given{d}, wide{d})
        ai{d}, ao{d}, af{d}, ag{d} = Split <axis: int = -1, num_outputs: int = 4> (a{d})
        i{d} = Sigmoid (ai{d})  o{d} = Sigmoid (ao{d})  f{d} = Sigmoid (af{d})  g{d} = Tanh (ag{d})
        kept{d} = Mul (f{d}, cold{d})  put{d} = Mul (i{d}, g{d})  cnew{d} = Add (kept{d}, put{d})
        t{d} = Tanh (cnew{d})  hnew{d} = Mul (o{d}, t{d})
    """


def _rnn(d: int) -> str:
    return f"wide{d} = MatMul (thin{d}, zt{d})  a{d} = Add (given{d}, wide{d})  hnew{d} = Tanh (a{d})\n"


def _gru(d: int) -> str:
    # n = tanh(g + r * (Z P h + b))
    return f"""
        wide{d} = MatMul (thin{d}, zt{d})  a{d} = Add (wide{d}, rb{d})
        gz{d}, gr{d}, gn{d} = Split <axis: int = -1, num_outputs: int = 3> (given{d})
        az{d}, ar{d}, an{d} = Split <axis: int = -1, num_outputs: int = 3> (a{d})
        tz{d} = Add (gz{d}, az{d})  u{d} = Sigmoid (tz{d})  tr{d} = Add (gr{d}, ar{d})  k{d} = Sigmoid (tr{d})
        m{d} = Mul (k{d}, an{d})  tn{d} = Add (gn{d}, m{d})  n{d} = Tanh (tn{d})
        {_update(d)}
    """


def _halves(d: int) -> str:
    """The weights of update and reset gate, and those of what the reset state is multiplied by."""
    return (
        f"zz{d}, zr{d}, zn{d} = Split <axis: int = 1, num_outputs: int = 3> (zt{d})\n"
        f"zw{d} = Concat <axis: int = 1> (zz{d}, zr{d})\n"
        f"bz{d}, br{d}, bn{d} = Split <axis: int = 0, num_outputs: int = 3> (rb{d})\n"
        f"bw{d} = Concat <axis: int = 0> (bz{d}, br{d})\n"
    )


def _reset(d: int) -> str:
    # n = tanh(g + Z P (r * h) + b)
    return f"""
        wide{d} = MatMul (thin{d}, zw{d})  a{d} = Add (wide{d}, bw{d})
        gz{d}, gr{d}, gn{d} = Split <axis: int = -1, num_outputs: int = 3> (given{d})
        az{d}, ar{d} = Split <axis: int = -1, num_outputs: int = 2> (a{d})
        tz{d} = Add (gz{d}, az{d})  u{d} = Sigmoid (tz{d})  tr{d} = Add (gr{d}, ar{d})  k{d} = Sigmoid (tr{d})
        s{d} = Mul (k{d}, hold{d})  sp{d} = MatMul (s{d}, P{d})  sz{d} = MatMul (sp{d}, zn{d})
        m{d} = Add (sz{d}, bn{d})  tn{d} = Add (gn{d}, m{d})  n{d} = Tanh (tn{d})
        {_update(d)}
    """


def _update(d: int) -> str:
    # (1 - u) n + u h == n + u (h - n)
    return f"ahead{d} = Sub (hold{d}, n{d})  part{d} = Mul (u{d}, ahead{d})  hnew{d} = Add (n{d}, part{d})"


#: By op, direction, and whether a GRU's product comes before the reset.
FUNCTIONS: Mapping[tuple[str, str, bool], Function] = {
    (op, direction, before): _function(op, direction, before)
    for op in GATES
    for direction in DIRECTIONS
    for before in ((False, True) if op == "GRU" else (False,))
}
