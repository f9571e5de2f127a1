"""Norms, activations and linear layers in random spellings, right and wrong ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.benchmarks._raising_fuzz_write import Writer, off


def _sizes(w: Writer, rank: int) -> list[int]:
    return [4] * rank if w.chance(0.25) else [int(w.rng.choice([1, 2, 3, 4, 6, 8])) for _ in range(rank)]


def norm(rng: np.random.Generator) -> ir.Model:
    """Layer and root mean square norms."""
    w = Writer(rng)
    rank = int(rng.integers(2, 5))
    sizes = _sizes(w, rank)
    x = w.input("x", sizes)
    axes = (
        [-1] if w.chance(0.6) else [rank - 1] if w.chance(0.5) else [rank - 2, rank - 1] if w.chance(0.5) else [-1, -2]
    )
    if w.chance(0.1):
        axes = [int(rng.integers(rank))]
    count = int(np.prod([sizes[axis] for axis in axes]))

    def mean(value: str, op: str = "ReduceMean") -> str:
        over = axes if w.chance(0.95) else [int(rng.integers(rank))]
        way = int(rng.integers(4))
        if way == 0 and op == "ReduceMean":
            total = w.let("ReduceSum", value, w.ints(*over))
            if w.chance(0.5):
                return w.let("Div", total, w.number(off(w, count)))
            return w.either("Mul", total, w.number(off(w, 1 / count)))
        return w.let(op if w.chance(0.97) else "ReduceSum", value, w.ints(*over))

    kind = w.chance(0.6)
    d = x
    if kind:
        m = mean(x)
        d = (
            w.let("Sub", x, m)
            if w.chance(0.8)
            else w.either("Add", x, w.let("Neg", m))
            if w.chance(0.8)
            else w.let("Sub", m, x)
        )
    base = d if w.chance(0.93) else x
    way = int(rng.integers(5))
    if way == 0:
        v = mean(w.let("Mul", base, base))
    elif way == 1:
        v = mean(w.let("Pow", base, w.number(off(w, 2.0, 0.05))))
    elif way == 2:
        total = w.let("ReduceSumSquare", base, w.ints(*axes))
        v = w.let("Div", total, w.number(off(w, count)))
    elif way == 3:
        length = w.let("ReduceL2", base, w.ints(*axes))
        v = w.let("Div", w.let("Mul", length, length), w.number(off(w, count)))
    else:
        inner = w.let("Abs", base)
        v = mean(w.let("Mul", inner, inner if w.chance(0.8) else base))
    if w.chance(0.1):
        # the variance as the mean of squares less the square of the mean
        m = mean(x)
        v = w.let("Sub", v, w.let("Mul", m, m))
    eps = float(rng.choice([1e-5, 1e-6, 1e-12, 1e-3, 0.0, 0.5]))
    if w.chance(0.9):
        v = w.either("Add", v, w.number(eps))
    elif w.chance(0.3):
        v = w.let("Max", v, w.number(eps))
    top = d if w.chance(0.95) else x
    way = int(rng.integers(6))
    if way == 0:
        y = w.let("Div", top, w.let("Sqrt", v))
    elif way == 1:
        y = w.either("Mul", top, w.let("Reciprocal", w.let("Sqrt", v)))
    elif way == 2:
        y = w.either("Mul", top, w.let("Pow", v, w.number(off(w, -0.5))))
    elif way == 3:
        y = w.either("Mul", top, w.let("Div", w.number(off(w, 1.0)), w.let("Sqrt", v)))
    elif way == 4:
        y = w.let("Div", top, w.let("Pow", v, w.number(off(w, 0.5))))
    else:
        y = w.let("Div", top, w.either("Add", w.let("Sqrt", v), w.number(eps)))
    y = _affine(w, y, sizes)
    w.outputs.append(y)
    if w.chance(0.05):
        w.outputs.append(v)
    return w.model()


def _affine(w: Writer, y: str, sizes: list[int]) -> str:
    for op, likely in (("Mul", 0.8), ("Add", 0.6), ("Mul", 0.15)):
        if not w.chance(likely):
            continue
        shape = [sizes[-1:], [1, sizes[-1]], [], [1], sizes[-2:], [sizes[-2], 1], sizes][
            int(w.rng.choice(7, p=[0.5, 0.1, 0.08, 0.08, 0.08, 0.08, 0.08]))
        ]
        value = w.rng.uniform(0.5, 2, shape).astype(w.dtype)
        other = w.constant(value) if w.chance(0.85) else w.input("g", shape)
        y = w.either(op, y, other)
    return y


def activation(rng: np.random.Generator) -> ir.Model:
    """GELU, its approximations, Swish and gated units."""
    w = Writer(rng)
    sizes = _sizes(w, int(rng.integers(2, 4)))
    gated = w.chance(0.4)
    if gated:
        whole = w.input("x", [*sizes[:-1], 2 * sizes[-1]])
        names = f"(h{len(w.lines)}_, g{len(w.lines)}_)"
        left, right = names.strip("()").split(", ")
        w.lines.append(f"{names} = Split{{axis={int(rng.choice([-1, len(sizes) - 1]))}, num_outputs=2}}({whole})")
        x, gate = (left, right) if w.chance(0.5) else (right, left)
    else:
        x = w.input("x", sizes)
        gate = ""
    read = lambda: x if w.chance(0.97) or not gate else gate  # noqa: E731
    kind = int(rng.integers(5))
    if kind == 0:
        root = (
            w.let("Div", read(), w.number(off(w, 2**0.5)))
            if w.chance(0.5)
            else w.either("Mul", read(), w.number(off(w, 0.5**0.5)))
        )
        inner = w.either("Add", w.let("Erf", root), w.number(off(w, 1.0)))
    elif kind == 1:
        cube = (
            w.let("Pow", read(), w.number(off(w, 3.0)))
            if w.chance(0.5)
            else w.either("Mul", w.let("Mul", x, read()), read())
        )
        total = w.either("Add", read(), w.either("Mul", cube, w.number(off(w, 0.044715))))
        inner = w.either(
            "Add", w.let("Tanh", w.either("Mul", total, w.number(off(w, (2 / np.pi) ** 0.5)))), w.number(off(w, 1.0))
        )
    else:
        factor = float(rng.choice([1.0, 1.702, 1.0, -1.0, 0.5]))
        scaled = read() if factor == 1.0 else w.either("Mul", read(), w.number(factor))
        way = int(rng.integers(3))
        if way == 0:
            inner = w.let("Sigmoid", scaled)
        else:
            below = w.either(
                "Add", w.let("Exp", w.let("Neg", scaled) if w.chance(0.95) else scaled), w.number(off(w, 1.0))
            )
            inner = w.let("Reciprocal", below) if way == 1 else w.let("Div", w.number(off(w, 1.0)), below)
    y = inner
    if w.chance(0.9):
        if kind < 2 and w.chance(0.5):
            half = w.either("Mul", read(), w.number(off(w, 0.5)))
            y = w.either("Mul", half, inner)
        else:
            y = w.either("Mul", read(), inner)
            if kind < 2:
                y = (
                    w.either("Mul", y, w.number(off(w, 0.5)))
                    if w.chance(0.6)
                    else w.let("Div", y, w.number(off(w, 2.0)))
                )
    if gated:
        y = w.either("Mul", y, gate if w.chance(0.95) else x)
    w.outputs.append(y)
    if w.chance(0.05):
        w.outputs.append(inner)
    return w.model()


def dense(rng: np.random.Generator) -> ir.Model:
    """Linear layers side by side and in a row, with scales and shifts beside them."""
    w = Writer(rng)
    rank = int(rng.integers(2, 4))
    sizes = _sizes(w, rank)
    x = w.input("x", sizes)

    def beside(value: str, width: int) -> str:
        while w.chance(0.35):
            op = str(rng.choice(["Mul", "Add", "Div", "Sub"]))
            shape = [[], [1], [width], [1, width], [sizes[-2], 1], [sizes[-2], width]][
                int(rng.choice(6, p=[0.25, 0.1, 0.4, 0.1, 0.1, 0.05]))
            ]
            number = (rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)).astype(w.dtype)
            other = w.constant(number)
            value = w.let(op, value, other) if w.chance(0.75) else w.let(op, other, value)
        return value

    def layer(value: str, width: int, out: int) -> str:
        matrix = rng.standard_normal((width, out)).astype(w.dtype)
        way = int(rng.integers(4))
        if way == 0 and rank == 2:
            bias = (
                [w.constant(rng.standard_normal([[out], [1, out], [1], []][int(rng.integers(4))]).astype(w.dtype))]
                if w.chance(0.7)
                else []
            )
            flip = int(w.chance(0.5))
            alpha = float(rng.choice([1.0, 0.5])), float(rng.choice([1.0, 2.0]))
            return w.let(
                "Gemm",
                value,
                w.constant(matrix.T.copy() if flip else matrix),
                *bias,
                transB=flip,
                alpha=alpha[0],
                beta=alpha[1],
            )
        if way == 1:
            weight = w.let("Transpose", w.constant(matrix.T.copy()), perm=[1, 0])
        elif way == 2 and rank == 3:
            flat = w.let("Reshape", value, w.ints(-1, width))
            product = w.let("MatMul", flat, w.constant(matrix))
            product = w.either("Add", product, w.constant(rng.standard_normal(out).astype(w.dtype)))
            return w.let("Reshape", product, w.ints(*sizes[:-1], out))
        else:
            weight = w.constant(matrix)
        product = w.let("MatMul", value, weight)
        if w.chance(0.7):
            shape = [[out], [1, out], [], [sizes[-2], 1]][int(rng.choice(4, p=[0.7, 0.1, 0.1, 0.1]))]
            product = w.either("Add", product, w.constant(rng.standard_normal(shape).astype(w.dtype)))
        return product

    width = sizes[-1]
    x = beside(x, width)
    for _ in range(int(rng.integers(1, 4))):
        out = int(rng.choice([width, 3, 5]))
        y = beside(layer(x, width, out), out)
        w.outputs.append(y)
        if w.chance(0.15):
            w.outputs.append(x)
        if w.chance(0.4):
            x, width = w.let("Relu", y), out
    if w.outputs[-1] == "":
        w.outputs.pop()
    return w.model()
