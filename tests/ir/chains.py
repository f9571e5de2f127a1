"""Random chains of reshapes, transposes and repeats, with what numpy computes at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

import numpy as np
import onnx_ir as ir
from tersor.ir.atoms import Axis
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes

#: What the named dimensions are.
SIZES = {"batch": 2, "sequence": 5}
#: What else they may be.
ALL_SIZES = [{"batch": batch, "sequence": sequence} for batch, sequence in product((0, 1, 3), (0, 1, 4))]
Dim = int | str
#: What numpy does for a node, at given sizes.
Compute = Callable[[np.ndarray, Mapping[str, int]], np.ndarray]


def number(dim: Dim, sizes: Mapping[str, int] = SIZES) -> int:
    return dim if isinstance(dim, int) else prod(sizes[part] if part in sizes else int(part) for part in dim.split("*"))


def elements(
    axes: Sequence[Axis], root: Sequence[int], sizes: Mapping[str, int] = SIZES
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Where each element of a view lies in its flattened root, and the view's shape."""
    steps = [prod(root[index + 1 :]) for index in range(len(root))]
    places, shape = np.zeros(1, np.int64), []
    for axis in axes:
        size = 1
        for atom in axis:
            count, stride = int(atom.size.at(sizes)), int(atom.stride.at(sizes))
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
    """A chain of up to six nodes from `x`: the model, shapes inferred, and what numpy does for each node.

    repeats: with Expand and Tile. named: of both names, and few numbers, as masks are.
    """

    seed: int
    repeats: bool = True
    named: bool = False
    lines: list[str] = field(default_factory=list)
    constants: dict[str, object] = field(default_factory=dict)
    computes: dict[str, Compute] = field(default_factory=dict)
    model: ir.Model = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        choices: list[Dim] = ["batch", "sequence", 1, 2, 3, 4, 6, 12]
        self.dims = [choices[index] for index in self.rng.permutation(len(choices))[: self.rng.integers(2, 5)]]
        if self.named:
            self.dims = ["batch", "sequence", *([6] if self.rng.integers(2) else [])]
        self.first = list(self.dims)
        inputs = {"x": f"float[{', '.join(map(str, self.dims))}]"}
        ops = [self.transpose, self.split, self.merge, self.unsqueeze, self.squeeze, self.flatten, self.scale]
        ops += [self.expand, self.tile] if self.repeats else []
        if self.named:
            ops = [self.unsqueeze, self.unsqueeze, self.squeeze, self.transpose, self.split]
        self.name = "x"
        for _ in range(self.rng.integers(2, 7)):
            ops[self.rng.integers(len(ops))]()
        if self.name == "x":
            self.transpose()
        self.model = graph(*self.lines, inputs=inputs, outputs=[self.name], **self.constants)
        annotate(self.model)
        self.values = self.at(SIZES) or {}

    def __str__(self) -> str:
        return f"{self.seed}{'' if self.repeats else '-named' if self.named else '-plain'}"

    def at(self, sizes: Mapping[str, int]) -> dict[str, np.ndarray] | None:
        """Every value at these sizes; None where the chain does not run: -1 in the target of an empty value."""
        shape = [number(dim, sizes) for dim in self.first]
        value = np.arange(prod(shape), dtype=np.float32).reshape(shape) + 1
        values = {"x": value}
        try:
            for name, compute in self.computes.items():
                values[name] = value = compute(value, sizes)
        except ValueError:
            return None
        return values

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {"x": self.values["x"]}

    @property
    def now(self) -> np.ndarray:
        return self.values[self.name]

    def add(self, op: str, compute: Compute, dims: Sequence[Dim], argument: object = None) -> None:
        made = f"v{len(self.lines)}"
        self.lines.append(f"{made} = {op}({self.name}{'' if argument is None else f', c{made}'})")
        if argument is not None:
            self.constants[f"c{made}"] = argument
        self.computes[made], self.name, self.dims = compute, made, list(dims)

    def reshape(self, dims: Sequence[Dim]) -> None:
        """To a target of numbers, 0 where a name stays at its place and -1 for the one that is left."""
        target = [
            dim if isinstance(dim, int) else 0 if self.dims[at : at + 1] == [dim] else -1 for at, dim in enumerate(dims)
        ]
        if target.count(-1) > 1:
            return

        def compute(x: np.ndarray, _: Mapping[str, int]) -> np.ndarray:
            return x.reshape([x.shape[at] if size == 0 else size for at, size in enumerate(target)])

        self.add("Reshape", compute, dims, np.array(target, np.int64))

    def transpose(self) -> None:
        perm = [int(index) for index in self.rng.permutation(len(self.dims))]
        self.add(f"Transpose{{perm={perm}}}", lambda x, _: x.transpose(perm), [self.dims[index] for index in perm])

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
            dims = [*self.dims[:at], 1, *self.dims[at:]]
            self.add("Unsqueeze", lambda x, _: np.expand_dims(x, at), dims, np.array([at]))

    def squeeze(self) -> None:
        ones = [index for index, dim in enumerate(self.dims) if dim == 1]
        if ones and len(self.dims) > 1:
            at = ones[0]
            self.add("Squeeze", lambda x, _: x.squeeze(at), [*self.dims[:at], *self.dims[at + 1 :]], np.array([at]))

    def flatten(self) -> None:
        if self.rng.integers(3) == 0 and len(self.dims) == 2:
            self.add("Flatten", lambda x, _: x.reshape(x.shape[0], prod(x.shape[1:])), self.dims)

    def scale(self) -> None:
        op, factor = (("Mul", 2.0), ("Div", 4.0))[self.rng.integers(2)]
        by = np.float32(factor if op == "Mul" else 1 / factor)
        self.add(op, lambda x, _: x * by, self.dims, np.float32(factor))

    def expand(self) -> None:
        ones = [index for index, dim in enumerate(self.dims) if dim == 1]
        if ones:
            at = int(self.rng.choice(ones))
            target = [2 if index == at else 1 for index in range(len(self.dims))]
            dims = [2 if index == at else dim for index, dim in enumerate(self.dims)]

            def compute(x: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
                return np.broadcast_to(x, [number(dim, sizes) for dim in dims])

            self.add("Expand", compute, dims, np.array(target))

    def tile(self) -> None:
        able = [index for index, dim in enumerate(self.dims) if isinstance(dim, int) and dim <= 3]
        if able:
            at = int(self.rng.choice(able))
            counts = [2 if index == at else 1 for index in range(len(self.dims))]
            dims = [dim * count if isinstance(dim, int) else dim for dim, count in zip(self.dims, counts, strict=True)]
            self.add("Tile", lambda x, _: np.tile(x, counts), dims, np.array(counts))


CHAINS = [
    *(Chain(seed) for seed in range(60)),
    *(Chain(seed, repeats=False) for seed in range(100, 140)),
    *(Chain(seed, repeats=False, named=True) for seed in range(200, 240)),
]
