"""Small graphs for every op of the tables, each with inputs at which its derivative is defined.

A sample is written `sample("y = Add(x, b)", x="double[2, 3]", b="double[3] 0.5..1.5")`: what is text is an input, with
the range of its values, what is an array a constant. Floats are all different, lie apart, and by default are of
magnitude 0.2 to 0.9 and either sign, so that no sort, maximum or kink is near; integers go round through their range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir
from tersor.ir.text import graph, parse_type

Array = np.ndarray

_RANGE = re.compile(r"(?P<type>.*\])\s*((?P<low>-?[\d.]+)\.\.(?P<high>-?[\d.]+))?\s*")


@dataclass(frozen=True)
class Sample:
    """A graph in text form; `inputs` name -> type and range of values."""

    lines: tuple[str, ...]
    inputs: Mapping[str, str]
    constants: Mapping[str, object]
    opset: int

    @property
    def ops(self) -> frozenset[tuple[str, str]]:
        """(domain, op) of every node."""
        return frozenset((node.domain, node.op_type) for node in self.model().graph)

    def model(self, frozen: Sequence[str] = ()) -> onnx_ir.Model:
        """The graph; inputs that are `frozen` are initializers with the same values."""
        types = {name: _parts(text)[0] for name, text in self.inputs.items() if name not in frozen}
        values = self.values()
        fixed = {name: values[name] for name in frozen}
        return graph(*self.lines, inputs=types, opset=self.opset, **self.constants, **fixed)

    def values(self) -> dict[str, Array]:
        """Each input's value, the same every time."""
        rng = np.random.default_rng(0)
        return {name: _values(*_parts(text), rng) for name, text in self.inputs.items()}

    def __str__(self) -> str:
        return "; ".join(self.lines)


def sample(*lines: str, opset: int = 23, **given: object) -> Sample:
    inputs = {name: value for name, value in given.items() if isinstance(value, str)}
    constants = {name: value for name, value in given.items() if not isinstance(value, str)}
    return Sample(lines, inputs, constants, opset)


def _parts(text: str) -> tuple[str, float | None, float | None]:
    found = _RANGE.fullmatch(text)
    assert found is not None, text
    low, high = (None if bound is None else float(bound) for bound in (found["low"], found["high"]))
    return found["type"], low, high


def _values(kind: str, low: float | None, high: float | None, rng: np.random.Generator) -> Array:
    tensor, shape = parse_type(kind)
    assert shape is not None
    dims = shape.numpy()
    count = math.prod(dims)
    dtype = tensor.dtype.numpy()
    if not np.issubdtype(dtype, np.floating):
        start, stop = int(low or 0), int(2 if high is None else high)
        return (np.arange(count) % (stop - start) + start).astype(dtype).reshape(dims)
    if low is not None and high is not None:
        spread = np.linspace(low, high, count)
    else:
        spread = np.linspace(0.2, 0.9, count) * np.where(np.arange(count) % 2, -1, 1)
    return rng.permutation(spread).astype(dtype).reshape(dims)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


X = "double[2, 3]"
IMAGE = "double[1, 2, 4, 4]"
