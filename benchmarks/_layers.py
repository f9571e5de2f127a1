"""Graphs of any size, as exporters write them: what passes must be linear in.

Each layer is a transformer's, decomposed: normalization from its arithmetic, projections, heads split by shape
arithmetic, attention, a GELU from Erf. Beside it, what exporters leave behind: constants that depend on constants, the
mask computed again, an identity, a branch that nobody reads. Layers share one set of small weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

HIDDEN, HEADS = 8, 2


class _Builder:
    """Nodes in order, and the constants that they read."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}

    def __call__(self, op: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
        node = ir.node(op, inputs, attributes)
        node.name = node.outputs[0].name = f"{op}_{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, numbers: object, kind: type[np.generic] = np.float32) -> ir.Value:
        """An initializer of this name, the same each time."""
        if name not in self.constants:
            tensor = ir.tensor(np.asarray(numbers, dtype=kind), name=name)
            kept = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
            self.constants[name] = kept
        return self.constants[name]

    def integers(self, *numbers: int) -> ir.Value:
        """A vector that a Constant node holds."""
        node = ir.node("Constant", [], {"value_ints": list(numbers)})
        node.name = node.outputs[0].name = f"Constant_{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]


def layered(nodes: int) -> ir.Model:
    """A model of about `nodes` nodes: input `x` [batch, sequence, 8] and `mask` [batch, sequence], one output."""
    build = _Builder()
    x = _input("x", ir.DataType.FLOAT, ["batch", "sequence", HIDDEN])
    mask = _input("mask", ir.DataType.INT64, ["batch", "sequence"])
    hidden = x
    while len(build.nodes) < nodes:
        hidden = _layer(build, hidden, mask)
    hidden.name, hidden.type = "y", ir.TensorType(ir.DataType.FLOAT)
    hidden.shape = ir.Shape(["batch", "sequence", HIDDEN])
    graph = ir.Graph(
        [x, mask],
        [hidden],
        nodes=build.nodes,
        initializers=list(build.constants.values()),
        opset_imports={"": 18},
        name="layered",
    )
    return ir.Model(graph, ir_version=10, producer_name="tersor")


def _input(name: str, dtype: ir.DataType, dims: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))


def _weight(build: _Builder, name: str, rows: int, columns: int) -> ir.Value:
    random = np.random.default_rng(len(name))
    return build.constant(name, random.normal(0, 0.3, (rows, columns)))


def _layer(build: _Builder, hidden: ir.Value, mask: ir.Value) -> ir.Value:
    attended = _attention(build, _norm(build, hidden), mask)
    build("Relu", build("Neg", attended))
    middle = build("Add", build("Identity", hidden), attended)
    wide = build("MatMul", _norm(build, middle), _weight(build, "up", HIDDEN, 2 * HIDDEN))
    erf = build("Erf", build("Div", wide, build.constant("root", 2**0.5)))
    gelu = build("Mul", build("Mul", wide, build("Add", erf, build.constant("one", 1.0))), build.constant("half", 0.5))
    return build("Add", middle, build("MatMul", gelu, _weight(build, "down", 2 * HIDDEN, HIDDEN)))


def _norm(build: _Builder, x: ir.Value) -> ir.Value:
    last = build.integers(-1)
    centred = build("Sub", x, build("ReduceMean", x, last))
    variance = build("ReduceMean", build("Pow", centred, build.constant("two", 2.0)), last)
    scale = build("Sqrt", build("Add", variance, build.constant("epsilon", 1e-5)))
    scaled = build("Mul", build("Div", centred, scale), build.constant("gain", np.full(HIDDEN, 0.5)))
    return build("Add", scaled, build.constant("shift", np.full(HIDDEN, 0.1)))


def _attention(build: _Builder, x: ir.Value, mask: ir.Value) -> ir.Value:
    query, key, value = (_heads(build, x, name) for name in ("query", "key", "value"))
    size = build("Cast", build("Gather", build("Shape", query), build.constant("last", -1, np.int64)), to=1)
    scores = build("Div", build("MatMul", query, build("Transpose", key, perm=[0, 1, 3, 2])), build("Sqrt", size))
    seen = build("Cast", build("Unsqueeze", mask, build.integers(1, 2)), to=1)
    hidden = build("Mul", build("Sub", build.constant("one", 1.0), seen), build.constant("floor", -1e9))
    weights = build("Softmax", build("Add", scores, hidden), axis=-1)
    back = build("Transpose", build("MatMul", weights, value), perm=[0, 2, 1, 3])
    joined = build("Reshape", back, _target(build, back, build.integers(HIDDEN)))
    return build("MatMul", joined, _weight(build, "out", HIDDEN, HIDDEN))


def _heads(build: _Builder, x: ir.Value, name: str) -> ir.Value:
    projected = build("Add", build("MatMul", x, _weight(build, name, HIDDEN, HIDDEN)), build.constant("bias", 0.01))
    size = build("Div", build.integers(HIDDEN), build.integers(HEADS))
    target = _target(build, projected, build("Concat", build.integers(HEADS), size, axis=0))
    return build("Transpose", build("Reshape", projected, target), perm=[0, 2, 1, 3])


def _target(build: _Builder, x: ir.Value, rest: ir.Value) -> ir.Value:
    """[batch, sequence, *rest], as an exporter computes it."""
    parts = [
        build("Unsqueeze", build("Gather", build("Shape", x), build.constant(name, at, np.int64)), build.integers(0))
        for name, at in (("first", 0), ("second", 1))
    ]
    return build("Concat", *parts, rest, axis=0)
