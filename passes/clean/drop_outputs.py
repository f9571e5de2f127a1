"""Drop outputs that the deployment does not read, and everything that only they needed.

    before   x --> encoder --> hidden, pooled          after   x --> encoder --> hidden

The one clean-up that changes the signature, which is why it names what it keeps and never runs by default. Exact on
what is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.errors import OptionError, nearest
from ...ir.level import Level
from ..base import Context, Finding, Outcome, Pass
from ..edit import drop, sweep


@dataclass(frozen=True, kw_only=True)
class DropOutputs(Pass):
    """Keep only the outputs named by `keep`, in their order.

    keep: names of the outputs that stay; without any, the pass does nothing.
    """

    name: ClassVar[str] = "drop-outputs"
    level: ClassVar[Level] = Level.IMPORTED
    changes_signature: ClassVar[bool] = True
    keep: tuple[str, ...] = ()

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        outputs = model.graph.outputs
        names = [value.name or "" for value in outputs]
        for name in self.keep:
            if name not in names:
                raise OptionError(f"drop-outputs: the model has no output {name!r}; {nearest(name, names)}")
        dropped = [value for value in outputs if self.keep and value.name not in self.keep]
        for value in dropped:
            outputs.remove(value)
        sweep([node for node in (value.producer() for value in dropped) if node is not None])
        for value in dropped:
            drop(value)
        return Outcome(tuple(Finding(f"output {value.name}") for value in dropped))
