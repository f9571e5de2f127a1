"""Lines of a random graph as they are written, with the inputs and constants that they read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph

_CODES = {"float": 1, "double": 11}


class Writer:
    """Writes a graph line by line."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.kind = "double" if rng.random() < 0.3 else "float"
        self.dtype = np.dtype(np.float64 if self.kind == "double" else np.float32)
        self.code = _CODES[self.kind]
        self.lines: list[str] = []
        self.inputs: dict[str, str] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.outputs: list[str] = []

    def chance(self, likely: float) -> bool:
        return bool(self.rng.random() < likely)

    def let(self, op: str, *inputs: str, **attributes: object) -> str:
        """A node; the name of its output."""
        name = f"n{len(self.lines)}_"
        text = ", ".join(f"{key}={value!r}" for key, value in attributes.items())
        self.lines.append(f"{name} = {op}{f'{{{text}}}' if text else ''}({', '.join(inputs)})")
        return name

    def either(self, op: str, left: str, right: str) -> str:
        """A node that does not mind the order of its inputs."""
        return self.let(op, left, right) if self.chance(0.5) else self.let(op, right, left)

    def input(self, name: str, sizes: Sequence[int], kind: str | None = None) -> str:
        name = f"{name}{len(self.inputs)}"
        self.inputs[name] = f"{kind or self.kind}[{', '.join(map(str, sizes))}]"
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"const{len(self.constants)}"
        self.constants[name] = array
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def number(self, number: float) -> str:
        shape = [(), (1,)][int(self.rng.integers(2))]
        return self.constant(np.full(shape, number, self.dtype))

    def swapped(self, x: str, rank: int) -> str:
        """The last two axes in each other's place."""
        return self.let("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])

    def mangled(self, x: str, sizes: Sequence[int], likely: float = 0.04) -> str:
        """`x`, seldom with its elements somewhere else."""
        if not self.chance(likely):
            return x
        perm = [int(i) for i in self.rng.permutation(len(sizes))]
        x = self.let("Transpose", x, perm=perm)
        return self.let("Reshape", x, self.ints(*sizes))

    def model(self) -> ir.Model:
        return graph(*self.lines, inputs=self.inputs, outputs=list(dict.fromkeys(self.outputs)), **self.constants)


def off(w: Writer, number: float, likely: float = 0.06) -> float:
    """A number, seldom another one."""
    return number * float(w.rng.choice([1.001, 0.5, -1.0, 2.0])) if w.chance(likely) else number
