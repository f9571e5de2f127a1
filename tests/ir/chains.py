"""Random chains of reshapes, transposes and repeats, with what numpy computes at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx_ir as ir
from tersor.ir.layout import Axis
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes

#: What the named dimensions are.
SIZES = {"batch": 2, "sequence": 5}
Dim = int | str


def number(dim: Dim) -> int:
    return dim if isinstance(dim, int) else prod(SIZES.get(part, 0) or int(part) for part in dim.split("*"))


def elements(axes: Sequence[Axis], root: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Where each element of a view lies in its flattened root, and the view's shape."""
    steps = [prod(root[index + 1 :]) for index in range(len(root))]
    places, shape = np.zeros(1, np.int64), []
    for axis in axes:
        size = 1
        for atom in axis:
            count, stride = int(atom.size.at(SIZES)), int(atom.stride.at(SIZES))
            step = 0 if atom.axis is None else stride * steps[atom.axis]
            places = (places[:, None] + np.arange(count) * step).reshape(-1)
            size *= count
        shape.append(size)
    return places, tuple(shape)


def annotate(model: ir.Model) -> None:
    """Shapes as tersor infers them: `graph` names what ONNX's own inference leaves unknown."""
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    InferShapes().apply(model, Context())


@dataclass
class Chain:
    """A chain of up to six nodes from `x`: the model, shapes inferred, and every value as numpy has it."""

    seed: int
    repeats: bool = True
    lines: list[str] = field(default_factory=list)
    constants: dict[str, object] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    model: ir.Model = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        choices: list[Dim] = ["batch", "sequence", 1, 2, 3, 4, 6, 12]
        self.dims = [choices[index] for index in self.rng.permutation(len(choices))[: self.rng.integers(2, 5)]]
        shape = [number(dim) for dim in self.dims]
        self.values["x"] = np.arange(prod(shape), dtype=np.float32).reshape(shape) + 1
        inputs = {"x": f"float[{', '.join(map(str, self.dims))}]"}
        ops = [self.transpose, self.split, self.merge, self.unsqueeze, self.squeeze, self.flatten, self.scale]
        ops += [self.expand, self.tile] if self.repeats else []
        self.name = "x"
        for _ in range(self.rng.integers(2, 7)):
            ops[self.rng.integers(len(ops))]()
        if self.name == "x":
            self.transpose()
        self.model = graph(*self.lines, inputs=inputs, outputs=[self.name], **self.constants)
        annotate(self.model)

    def __str__(self) -> str:
        return f"{self.seed}{'' if self.repeats else '-plain'}"

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {"x": self.values["x"]}

    @property
    def now(self) -> np.ndarray:
        return self.values[self.name]

    def add(self, op: str, value: np.ndarray, dims: Sequence[Dim], argument: object = None, more: str = "") -> None:
        made = f"v{len(self.lines)}"
        self.lines.append(f"{made} = {op}({self.name}{'' if argument is None else f', c{made}'}{more})")
        if argument is not None:
            self.constants[f"c{made}"] = argument
        self.values[made], self.name, self.dims = value, made, list(dims)

    def reshape(self, dims: Sequence[Dim]) -> None:
        """To a target of numbers, 0 where a name stays at its place and -1 for the one that is left."""
        target = [
            dim if isinstance(dim, int) else 0 if self.dims[at : at + 1] == [dim] else -1 for at, dim in enumerate(dims)
        ]
        if target.count(-1) > 1:
            return
        self.add("Reshape", self.now.reshape([number(dim) for dim in dims]), dims, np.array(target, np.int64))

    def transpose(self) -> None:
        perm = [int(index) for index in self.rng.permutation(len(self.dims))]
        self.add(f"Transpose{{perm={perm}}}", self.now.transpose(perm), [self.dims[index] for index in perm])

    def split(self) -> None:
        able = [index for index, dim in enumerate(self.dims) if isinstance(dim, int) and dim in (4, 6, 12)]
        if able and len(self.dims) < 6:
            at = int(self.rng.choice(able))
            outer = int(self.rng.choice([2, self.dims[at] // 2]))  # type: ignore[operator]
            self.reshape([*self.dims[:at], outer, self.dims[at] // outer, *self.dims[at + 1 :]])  # type: ignore[operator]

    def merge(self) -> None:
        if len(self.dims) > 2:
            at = int(self.rng.integers(len(self.dims) - 1))
            pair = self.dims[at : at + 2]
            known = [dim for dim in pair if isinstance(dim, int)]
            merged: Dim = prod(known) if len(known) == 2 else "*".join(str(dim) for dim in pair if dim != 1)
            self.reshape([*self.dims[:at], merged, *self.dims[at + 2 :]])

    def unsqueeze(self) -> None:
        if len(self.dims) < 6:
            at = int(self.rng.integers(len(self.dims) + 1))
            self.add("Unsqueeze", np.expand_dims(self.now, at), [*self.dims[:at], 1, *self.dims[at:]], np.array([at]))

    def squeeze(self) -> None:
        ones = [index for index, dim in enumerate(self.dims) if dim == 1]
        if ones and len(self.dims) > 1:
            at = ones[0]
            self.add("Squeeze", self.now.squeeze(at), [*self.dims[:at], *self.dims[at + 1 :]], np.array([at]))

    def flatten(self) -> None:
        if self.rng.integers(3) == 0 and len(self.dims) == 2:
            rows = number(self.dims[0])
            self.add("Flatten", self.now.reshape(rows, -1), self.dims)

    def scale(self) -> None:
        op, factor = (("Mul", 2.0), ("Div", 4.0))[self.rng.integers(2)]
        value = self.now * np.float32(factor) if op == "Mul" else self.now / np.float32(factor)
        self.add(op, value, self.dims, np.float32(factor))

    def expand(self) -> None:
        ones = [index for index, dim in enumerate(self.dims) if dim == 1]
        if ones:
            at = int(self.rng.choice(ones))
            target = [2 if index == at else 1 for index in range(len(self.dims))]
            dims = [2 if index == at else dim for index, dim in enumerate(self.dims)]
            self.add("Expand", np.broadcast_to(self.now, [number(dim) for dim in dims]), dims, np.array(target))

    def tile(self) -> None:
        able = [index for index, dim in enumerate(self.dims) if isinstance(dim, int) and dim <= 3]
        if able:
            at = int(self.rng.choice(able))
            counts = [2 if index == at else 1 for index in range(len(self.dims))]
            dims = [dim * count if isinstance(dim, int) else dim for dim, count in zip(self.dims, counts, strict=True)]
            self.add("Tile", np.tile(self.now, counts), dims, np.array(counts))


CHAINS = [*(Chain(seed) for seed in range(60)), *(Chain(seed, repeats=False) for seed in range(100, 140))]
