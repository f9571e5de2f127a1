"""Take neurons out: hidden units of feed-forward layers, gated pairs, recurrent layers, channels of convolutions.

    before   y = Gelu(x @ W + b) @ V + c             W [384, 1536], V [1536, 384]
    after    y = Gelu(x @ W' + b') @ V' + c'         W' [384, 768], V' [768, 384]

Lossy. Which axes of which weights a neuron is follows from the graph (`ir.axes`): gate and up projections, the gates of
an LSTM, norms by channel and depthwise kernels go along. With data the neurons go by the optimal brain surgeon, and
what reads the rest is fitted to the original's stream (`passes.fitting`); without, by their magnitudes. Left alone:
axes that an input, an output, a norm over them, a subgraph or an op without a rule holds, units that no linear layer,
convolution or recurrence reads, heads and values of attention that was not raised, and tables that are tied to the
projection behind them.

Sources: scores, `prune.methods.scores`; He et al., Reshaping Deep Neural Network for Fast Decoding by Node-Pruning,
2014; Kwon et al., A Fast Post-Training Pruning Framework for Transformers, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.axes import Role
from ...ir.constants import is_constant
from ...ir.text import place
from ..base import Contract, Lossy, Miss
from ..edit import is_op
from .ranking import Score
from .unit_pass import UnitPass, movable
from .units import Units

_PASSING = ("Identity", "Cast", "Dropout", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True, kw_only=True)
class PruneNeurons(UnitPass):
    """hidden units out of layers, and what reads the rest fitted

    ratio: the share of the units that a layer had at first that go, at least 0 and less than 1.
    score: which go. `obs`: those that the rest makes up for best; `magnitude`, `inorm`, `onorm`: of least weights, of
        both sides, of what makes them, of what reads them; `activation`: of the least part in what is given on;
        `entropy`: whose state tells least; `taylor`, `fisher`: of the least derivative of the answers, or its square.
        `auto` is obs with data and magnitude without.
    scope: `layer` takes that share of each layer; `global` takes it of all together, those that matter least.
    multiple: what stays of a layer is a multiple of so many units, and at least that.
    drop: what taylor and fisher are derivatives of: 1 - `cosine` of the rows of outputs, or the `kl` divergence of
        their softmax.
    repair: fit the weights that read the rest to the original's stream, by least squares, where there are data.
    recurrent, convolutions: take in units of LSTM, GRU and RNN, and channels.
    only, ignore: glob patterns over the names of the sites that read units.
    """

    name: ClassVar[str] = "prune-neurons"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    score: Literal["auto", "obs", "magnitude", "inorm", "onorm", "activation", "entropy", "taylor", "fisher"] = "auto"
    multiple: int = 8
    recurrent: bool = True
    convolutions: bool = True

    def _scored(self) -> Score:
        return self.score

    def verdict(self, each: Units) -> Miss | None:
        roles = each.group.roles
        if roles & {Role.HEADS, Role.HEAD_FEATURES}:
            return Miss("kind", "heads", "neurons", far=True)
        if Role.UNITS in roles and not self.recurrent:
            return Miss("kind", "recurrent units", "recurrent=true")
        if Role.CHANNELS in roles and not self.convolutions:
            return Miss("kind", "channels", "convolutions=true")
        made, read = ({site.weight for site in ends} for ends in (each.makers, each.readers))
        if made & read:
            return Miss("tied", next(iter(made & read)).name or "", "weights that do not both make and read the units")
        return movable(each) or _attending(each)


def _attending(each: Units) -> Miss | None:
    """Heads and widths of values are no neurons: where they go through a product with what a softmax gave."""
    bearing = {value for value, _ in each.group.uses}
    for value in bearing:
        node = value.producer()
        if is_op(node, "MatMul", "Einsum") and len(node.inputs) == 2 and not any(map(is_constant, node.inputs)):
            softmax = next(filter(None, map(_softmax, node.inputs)), None)
            if softmax is not None:
                need = "attention as one op, whose heads prune-heads cuts; explain raise-attention tells why not"
                return Miss("attention", place(softmax), need, near=True)
    return None


def _softmax(value: ir.Value | None) -> ir.Node | None:
    """The Softmax that a value comes from, through what changes no number of it but to leave some out."""
    node = None if value is None else value.producer()
    while is_op(node, *_PASSING) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if is_op(node, "Softmax") else None
