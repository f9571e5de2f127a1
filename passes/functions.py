"""Model-local functions of domain `tersor`: meaning that ONNX has no op for, with a body of standard ops.

    SWISH = Function("Swish (x) => (y) { s = Sigmoid (x)  y = Mul (x, s) }")
    y = SWISH(tape, x)                                  y = tersor.Swish(x)

The call goes onto a rewrite's tape; what the tape calls is declared in the model, once, when the rewrite has acted. Any
runtime runs a call with its body put in place (`inline-functions{own=true}`); a backend with a better kernel matches
the call by its name. Two functions of one name differ in their overload, as ONNX has it since IR version 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx.parser
import onnx_ir as ir

from ..ir.level import DOMAIN, SEMANTIC_OPSET
from .edit import Attribute, Tape

#: The first version of the IR that tells functions of one name apart.
_IR_VERSION = 10


@dataclass(frozen=True)
class Function:
    """A function as ONNX's own text writes it: `Name <alpha: float = 1.0> (x, y) => (z) { ... }`."""

    text: str
    overload: str = ""

    @property
    def name(self) -> str:
        """What it is called by."""
        return self.text.split("(")[0].split("<")[0].strip()

    def __call__(self, tape: Tape, *inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
        """Record a call that gives one value; attributes that are None take their defaults."""
        return self.node(tape, inputs, attributes).outputs[0]

    def node(
        self, tape: Tape, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Attribute], outputs: int = 1
    ) -> ir.Node:
        """Record a call that gives several values."""
        node = tape.node(self.name, inputs, attributes, domain=DOMAIN, outputs=outputs)
        node.overload = self.overload
        tape.functions.append(self)
        return node

    def called_by(self, node: ir.Node | None) -> bool:
        """Whether a node is a call of this function."""
        return node is not None and node.op_identifier() == (DOMAIN, self.name, self.overload)

    def declare(self, model: ir.Model) -> None:
        """Add the function to a model that does not have it yet."""
        if (DOMAIN, self.name, self.overload) in model.functions:
            return
        made = self.body(model.opset_imports.get("", SEMANTIC_OPSET))
        model.functions[made.identifier()] = made
        model.opset_imports.setdefault(DOMAIN, 1)
        model.ir_version = max(model.ir_version, _IR_VERSION)

    def body(self, opset: int = SEMANTIC_OPSET) -> ir.Function:
        """A copy of its own for one model, whose standard ops are of the given opset."""
        overload = f', overload: "{self.overload}"' if self.overload else ""
        head = f'<domain: "{DOMAIN}", opset_import: ["": {opset}]{overload}>'
        return ir.serde.deserialize_function(onnx.parser.parse_function(f"{head}\n{self.text}"))
