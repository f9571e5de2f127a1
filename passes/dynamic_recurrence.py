"""LSTM and GRU whose products see their input and their state in 8 bits, which ONNX has no op for.

    DynamicQuantizeLSTM (X, W, R, B, initial_h, initial_c) => (Y, Y_h, Y_c)
    DynamicQuantizeGRU (X, W, R, B, initial_h) => (Y, Y_h)

Tensors and attributes are those of ONNX's LSTM and GRU, time first and sequences of one length, without peepholes; what
the weights are dequantized from is another matter. The input is quantized over all its steps, the state of the batch at
every step, both over their range as DynamicQuantizeLinear does. Gates, cells and the state itself stay floats: only
what is multiplied by a weight is quantized, in a GRU that resets the state before the product the reset state. Source:
He et al., Effective Quantization Methods for Recurrent Neural Networks, 2016, section 4. Each direction is a Scan, so
any runtime can run a call with its body put in place; ONNX Runtime has a kernel for LSTM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import onnx_ir as ir

from ..ir.content import dimensions
from .edit import Attribute, Tape
from .functions import Function

#: Direction -> whether each of its directions goes backward.
DIRECTIONS: Mapping[str, tuple[bool, ...]] = {
    "forward": (False,),
    "reverse": (True,),
    "bidirectional": (False, True),
}
#: What a call of an LSTM takes beside its inputs.
LSTM_ATTRIBUTES = ("activations", "activation_alpha", "activation_beta", "clip", "hidden_size", "input_forget")

_GATES = {"DynamicQuantizeLSTM": 4, "DynamicQuantizeGRU": 3}

_ROUNDED = "q, s, z = DynamicQuantizeLinear (X)  x = DequantizeLinear (q, s, z)\n"
_PASSED = """
    activations: strings = @activations, activation_alpha: floats = @activation_alpha,
    activation_beta: floats = @activation_beta, clip: float = @clip, hidden_size: int = @hidden_size,
    input_forget: int = @input_forget
"""
_CUBE, _PLANE = "float[?, ?, ?]", "float[?, ?]"


def _lstm(direction: str) -> Function:
    """One step of ONNX's own LSTM in each trip of a Scan."""
    ways = DIRECTIONS[direction]
    states = "initial_h", "initial_c"
    steps = "".join(
        f"""
        h{d}, c{d}, y{d} = Scan <{_scan(backward)}, body: graph = step{d}
            ({_CUBE} last{d}, {_CUBE} cell{d}, {_PLANE} xt{d}) => ({_CUBE} new{d}, {_CUBE} kept{d}, {_CUBE} out{d}) {{
            first{d} = Constant <value_ints: ints = [0]> ()
            row{d} = Unsqueeze (xt{d}, first{d})
            hq{d}, hs{d}, hz{d} = DynamicQuantizeLinear (last{d})
            hd{d} = DequantizeLinear (hq{d}, hs{d}, hz{d})
            line{d}, new{d}, kept{d} = LSTM <{_PASSED}> (row{d}, W{d}, R{d}, B{d}, "", hd{d}, cell{d})
            out{d} = Identity (new{d})
        }}> (initial_h{d}, initial_c{d}, x)
        """
        for d, backward in enumerate(ways)
    )
    return Function(
        f"DynamicQuantizeLSTM <{', '.join(LSTM_ATTRIBUTES)}> (X, W, R, B, initial_h, initial_c, P) => (Y, Y_h, Y_c) {{"
        f"{_ROUNDED}{_apart(('W', 'R', 'B', *states), ways)}{steps}"
        f"{_joined('Y', 'y', 1, ways)}{_joined('Y_h', 'h', 0, ways)}{_joined('Y_c', 'c', 0, ways)}}}",
        overload=direction,
    )


def _gru(direction: str, before: bool) -> Function:
    """A GRU's step in full, since the kernel's product and its update would read one and the same state."""
    ways = DIRECTIONS[direction]
    steps = "".join(
        f"""
        w{d} = Squeeze (W{d}, zero)  wt{d} = Transpose <perm: ints = [1, 0]> (w{d})
        r{d} = Squeeze (R{d}, zero)  rt{d} = Transpose <perm: ints = [1, 0]> (r{d})
        b{d} = Squeeze (B{d}, zero)  wb{d}, rb{d} = Split <axis: int = 0, num_outputs: int = 2> (b{d})
        start{d} = Squeeze (initial_h{d}, zero)
        product{d} = MatMul (x, wt{d})  share{d} = Add (product{d}, wb{d})
        {_recurrence(d) if before else _reset(d)}
        end{d}, rows{d} = Scan <{_scan(backward)}, body: graph = step{d}
            ({_PLANE} last{d}, {_PLANE} gates{d}) => ({_PLANE} new{d}, {_PLANE} out{d}) {{
            hq{d}, hs{d}, hz{d} = DynamicQuantizeLinear (last{d})
            hd{d} = DequantizeLinear (hq{d}, hs{d}, hz{d})
            gz{d}, gr{d}, gn{d} = Split <axis: int = -1, num_outputs: int = 3> (gates{d})
            {_step_before(d) if before else _step_after(d)}
            ahead{d} = Sub (last{d}, n{d})  part{d} = Mul (u{d}, ahead{d})
            new{d} = Add (n{d}, part{d})
            out{d} = Identity (new{d})
        }}> (start{d}, share{d})
        y{d} = Unsqueeze (rows{d}, one)  h{d} = Unsqueeze (end{d}, zero)
        """
        for d, backward in enumerate(ways)
    )
    return Function(
        f"DynamicQuantizeGRU (X, W, R, B, initial_h) => (Y, Y_h) {{{_ROUNDED}"
        "zero = Constant <value_ints: ints = [0]> ()  one = Constant <value_ints: ints = [1]> ()\n"
        f"{_apart(('W', 'R', 'B', 'initial_h'), ways)}{steps}"
        f"{_joined('Y', 'y', 1, ways)}{_joined('Y_h', 'h', 0, ways)}}}",
        overload=gru_overload(direction, before),
    )


def gru_overload(direction: str, before: bool) -> str:
    """How a GRU's function is told from others; before: whether the product comes before the reset."""
    return f"{direction}_before_reset" if before else direction


def _scan(backward: bool) -> str:
    way = f"[{int(backward)}]"
    return f"num_scan_inputs: int = 1, scan_input_directions: ints = {way}, scan_output_directions: ints = {way}"


def _apart(names: tuple[str, ...], ways: tuple[bool, ...]) -> str:
    """`W` as `W0` and `W1`, one for each direction."""
    if len(ways) == 1:
        return "".join(f"{name}0 = Identity ({name})\n" for name in names)
    return "".join(f"{name}0, {name}1 = Split <axis: int = 0, num_outputs: int = 2> ({name})\n" for name in names)


def _joined(name: str, part: str, axis: int, ways: tuple[bool, ...]) -> str:
    parts = ", ".join(f"{part}{d}" for d in range(len(ways)))
    return f"{name} = Concat <axis: int = {axis}> ({parts})\n"


def _recurrence(d: int) -> str:
    return f"rw{d} = Identity (rt{d})"


def _reset(d: int) -> str:
    """The weights of update and reset gate, and those of what the reset state is multiplied by."""
    return (
        f"uz{d}, ur{d}, rn{d} = Split <axis: int = 1, num_outputs: int = 3> (rt{d})"
        f"  rw{d} = Concat <axis: int = 1> (uz{d}, ur{d})"
        f"  bz{d}, br{d}, bn{d} = Split <axis: int = 0, num_outputs: int = 3> (rb{d})"
        f"  bw{d} = Concat <axis: int = 0> (bz{d}, br{d})"
    )


def _step_before(d: int) -> str:
    # n = tanh(g + r * (R h + b))
    return f"""
        p{d} = MatMul (hd{d}, rw{d})  a{d} = Add (p{d}, rb{d})
        az{d}, ar{d}, an{d} = Split <axis: int = -1, num_outputs: int = 3> (a{d})
        tz{d} = Add (gz{d}, az{d})  u{d} = Sigmoid (tz{d})
        tr{d} = Add (gr{d}, ar{d})  reset{d} = Sigmoid (tr{d})
        m{d} = Mul (reset{d}, an{d})  tn{d} = Add (gn{d}, m{d})  n{d} = Tanh (tn{d})
    """


def _step_after(d: int) -> str:
    # n = tanh(g + R (r * h) + b)
    return f"""
        p{d} = MatMul (hd{d}, rw{d})  a{d} = Add (p{d}, bw{d})
        az{d}, ar{d} = Split <axis: int = -1, num_outputs: int = 2> (a{d})
        tz{d} = Add (gz{d}, az{d})  u{d} = Sigmoid (tz{d})
        tr{d} = Add (gr{d}, ar{d})  reset{d} = Sigmoid (tr{d})
        rh{d} = Mul (reset{d}, last{d})  rq{d}, rs{d}, rz{d} = DynamicQuantizeLinear (rh{d})
        rd{d} = DequantizeLinear (rq{d}, rs{d}, rz{d})
        m{d} = MatMul (rd{d}, rn{d})  o{d} = Add (m{d}, bn{d})  tn{d} = Add (gn{d}, o{d})  n{d} = Tanh (tn{d})
    """


#: By direction.
LSTM: Mapping[str, Function] = {direction: _lstm(direction) for direction in DIRECTIONS}
#: By direction, and whether the product comes before the reset.
GRU: Mapping[tuple[str, bool], Function] = {key: _gru(*key) for key in product(DIRECTIONS, (False, True))}


def call(
    tape: Tape,
    function: Function,
    hidden: int,
    weights: Sequence[ir.Value],
    *,
    bias: ir.Value | None,
    states: Sequence[ir.Value | None],
    attributes: Mapping[str, Attribute],
) -> ir.Node:
    """Record a call of one of these functions; a bias or an initial state that is left out becomes zeros.

    hidden: the width of the state. weights: X, W and R. states: one for a GRU, two for an LSTM.
    """
    x = weights[0]
    ways = len(DIRECTIONS[function.overload.split("_")[0]])
    if bias is None:
        zeros = np.zeros((ways, 2 * _GATES[function.name] * hidden), np.float32)
        bias = tape.constant(zeros, "bias")
    if None in states:
        start = zero_states(tape, x, ways, hidden)
        states = [start if state is None else state for state in states]
    return function.node(tape, (*weights, bias, *states), attributes, outputs=len(states) + 1)


def zero_states(tape: Tape, x: ir.Value, ways: int, hidden: int) -> ir.Value:
    """A state of zeros, [ways, batch, hidden], for x [time, batch, input]."""
    dims = dimensions(x)
    if dims is not None and isinstance(dims[1], int):
        return tape.constant(np.zeros((ways, dims[1], hidden), np.float32), "state")
    batch = tape("Shape", x, start=1, end=2)
    shape = tape("Concat", tape.constant([ways], "ways"), batch, tape.constant([hidden], "hidden"), axis=0)
    return tape("ConstantOfShape", shape, value=ir.tensor(np.zeros(1, np.float32)))
