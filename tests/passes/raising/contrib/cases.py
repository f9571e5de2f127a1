"""One op of ONNX Runtime, raised and held to ONNX Runtime itself running the op."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.raising.contrib.raise_contrib import RaiseContrib
from tersor.tests.support import apply, distance, on_onnxruntime

MS = "com.microsoft."
Arrays = Mapping[str, np.ndarray]
KINDS = {np.dtype(kind): name for kind, name in ((np.float32, "float"), (np.int32, "int32"), (np.int64, "int64"))} | {
    np.dtype(kind): kind for kind in ("uint8", "int8", "bool", "float16")
}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def bytes_(*shape: int, kind: str = "uint8", seed: int = 0) -> np.ndarray:
    limits = np.iinfo(kind)
    return np.random.default_rng((seed, *shape)).integers(limits.min, limits.max + 1, shape).astype(kind)


def model(line: str, feeds: Arrays, constants: Arrays | None = None) -> ir.Model:
    """One op of com.microsoft over inputs of the sizes of `feeds`."""
    outputs, _, call = line.partition(" = ")
    types = {name: f"{KINDS[array.dtype]}[{', '.join(map(str, array.shape))}]" for name, array in feeds.items()}
    text = [f"{outputs} = {MS}{call}"]
    made = graph(*text, inputs=types, **(constants or {}))
    made.graph.outputs[:] = [value for value in made.graph.node(0).outputs if value.name]
    return made


def run(model: ir.Model, feeds: Arrays) -> list[np.ndarray]:
    """The outputs of the FX interpreter."""
    return list(runner(model)(feeds).values())


def agrees(
    line: str, feeds: Arrays, constants: Arrays | None = None, *, ops: str | None = None, kernel: bool = True
) -> ir.Model:
    """Raise, and hold what was raised to ONNX Runtime's own op, or to our lowering where it has no CPU kernel."""
    before = model(line, feeds, constants)
    after = before.clone()
    apply(RaiseContrib(), after)
    assert not any(node.domain for node in after.graph), lines(after)
    if ops is not None:
        assert " ".join(node.op_type for node in after.graph) == ops
    expected, found = (on_onnxruntime if kernel else run)(before, feeds), run(after, feeds)
    for index, (a, b) in enumerate(zip(expected, found, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape, before.graph.outputs[index].name
    if expected[0].dtype.kind in "iu":
        # a product of floats may fall on the other side of a half
        assert np.abs(np.int64(expected[0]) - np.int64(found[0])).max() <= 1
        assert np.mean(expected[0] != found[0]) < 0.05
    else:
        assert distance(found, expected) <= RaiseContrib.contract.tolerance
    return after


X = {"x": normal(2, 3, 8)}
PADDED = np.array([[1, 1, 1], [1, 0, 0]], np.int32)
PROJECTED = {"w": normal(8, 24) / 3, "b": normal(24)}
QKV = {"q": normal(2, 3, 8), "k": normal(2, 5, 8, seed=1), "v": normal(2, 5, 8, seed=2)}
CACHE = {"pk": normal(2, 2, 4, 4), "pv": normal(2, 2, 4, 4, seed=1)}
ANGLES = np.outer(np.arange(12), 10000.0 ** (-np.arange(0, 16, 2) / 16))
CIRCLE = {"c": np.cos(ANGLES).astype(np.float32), "s": np.sin(ANGLES).astype(np.float32)}


def grouped(new: int, past: int | None, lengths: list[int], *, packed: bool = False) -> dict[str, np.ndarray]:
    """`new` tokens after `past` cached ones, four heads in two groups; lengths count both."""
    batch = len(lengths)
    widths = {"p": 128} if packed else {"q": 64, "k": 32, "v": 32}
    made = {name: normal(batch, new, width, seed=index) for index, (name, width) in enumerate(widths.items())}
    if past is not None:
        made |= {name: normal(batch, 2, past, 16, seed=index) for index, name in enumerate(("pk", "pv"))}
    return made | {"n": np.array(lengths, np.int32) - 1, "t": np.array(max(lengths), np.int32)}
