"""Norms, activations, rotary positions, pooling and linear layers in random spellings, right and wrong ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.benchmarks._raising_fuzz_write import Writer


def _sizes(w: Writer, rank: int) -> list[int]:
    return [4] * rank if w.chance(0.25) else [int(w.rng.choice([1, 2, 3, 4, 6, 8])) for _ in range(rank)]


def _off(w: Writer, number: float, likely: float = 0.06) -> float:
    """A number, seldom another one."""
    return number * float(w.rng.choice([1.001, 0.5, -1.0, 2.0])) if w.chance(likely) else number


def norm(rng: np.random.Generator) -> ir.Model:
    """Layer and root mean square norms."""
    w = Writer(rng)
    rank = int(rng.integers(2, 5))
    sizes = _sizes(w, rank)
    x = w.input("x", sizes)
    axes = [-1] if w.chance(0.6) else [rank - 1] if w.chance(0.5) else [rank - 2, rank - 1] if w.chance(0.5) else [-1, -2]
    if w.chance(0.1):
        axes = [int(rng.integers(rank))]
    count = int(np.prod([sizes[axis] for axis in axes]))

    def mean(value: str, op: str = "ReduceMean") -> str:
        over = axes if w.chance(0.95) else [int(rng.integers(rank))]
        way = int(rng.integers(4))
        if way == 0 and op == "ReduceMean":
            total = w.let("ReduceSum", value, w.ints(*over))
            if w.chance(0.5):
                return w.let("Div", total, w.number(_off(w, count)))
            return w.either("Mul", total, w.number(_off(w, 1 / count)))
        return w.let(op if w.chance(0.97) else "ReduceSum", value, w.ints(*over))

    kind = w.chance(0.6)
    d = x
    if kind:
        m = mean(x)
        d = w.let("Sub", x, m) if w.chance(0.8) else w.either("Add", x, w.let("Neg", m)) if w.chance(0.8) else w.let("Sub", m, x)
    base = d if w.chance(0.93) else x
    way = int(rng.integers(5))
    if way == 0:
        v = mean(w.let("Mul", base, base))
    elif way == 1:
        v = mean(w.let("Pow", base, w.number(_off(w, 2.0, 0.05))))
    elif way == 2:
        total = w.let("ReduceSumSquare", base, w.ints(*axes))
        v = w.let("Div", total, w.number(_off(w, count)))
    elif way == 3:
        length = w.let("ReduceL2", base, w.ints(*axes))
        v = w.let("Div", w.let("Mul", length, length), w.number(_off(w, count)))
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
        y = w.either("Mul", top, w.let("Pow", v, w.number(_off(w, -0.5))))
    elif way == 3:
        y = w.either("Mul", top, w.let("Div", w.number(_off(w, 1.0)), w.let("Sqrt", v)))
    elif way == 4:
        y = w.let("Div", top, w.let("Pow", v, w.number(_off(w, 0.5))))
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
        shape = [sizes[-1:], [1, sizes[-1]], [], [1], sizes[-2:], [sizes[-2], 1], sizes][int(w.rng.choice(7, p=[0.5, 0.1, 0.08, 0.08, 0.08, 0.08, 0.08]))]
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
        root = w.let("Div", read(), w.number(_off(w, 2**0.5))) if w.chance(0.5) else w.either("Mul", read(), w.number(_off(w, 0.5**0.5)))
        inner = w.either("Add", w.let("Erf", root), w.number(_off(w, 1.0)))
    elif kind == 1:
        cube = w.let("Pow", read(), w.number(_off(w, 3.0))) if w.chance(0.5) else w.either("Mul", w.let("Mul", x, read()), read())
        total = w.either("Add", read(), w.either("Mul", cube, w.number(_off(w, 0.044715))))
        inner = w.either("Add", w.let("Tanh", w.either("Mul", total, w.number(_off(w, (2 / np.pi) ** 0.5)))), w.number(_off(w, 1.0)))
    else:
        factor = float(rng.choice([1.0, 1.702, 1.0, -1.0, 0.5]))
        scaled = read() if factor == 1.0 else w.either("Mul", read(), w.number(factor))
        way = int(rng.integers(3))
        if way == 0:
            inner = w.let("Sigmoid", scaled)
        else:
            below = w.either("Add", w.let("Exp", w.let("Neg", scaled) if w.chance(0.95) else scaled), w.number(_off(w, 1.0)))
            inner = w.let("Reciprocal", below) if way == 1 else w.let("Div", w.number(_off(w, 1.0)), below)
    y = inner
    if w.chance(0.9):
        if kind < 2 and w.chance(0.5):
            half = w.either("Mul", read(), w.number(_off(w, 0.5)))
            y = w.either("Mul", half, inner)
        else:
            y = w.either("Mul", read(), inner)
            if kind < 2:
                y = w.either("Mul", y, w.number(_off(w, 0.5))) if w.chance(0.6) else w.let("Div", y, w.number(_off(w, 2.0)))
    if gated:
        y = w.either("Mul", y, gate if w.chance(0.95) else x)
    w.outputs.append(y)
    if w.chance(0.05):
        w.outputs.append(inner)
    return w.model()


def rotary(rng: np.random.Generator) -> ir.Model:
    """Rotary positions by halves or by neighbours, their tables computed or given."""
    w = Writer(rng)
    batch, heads, rows = (4, 4, 4) if w.chance(0.25) else (int(i) for i in rng.choice([1, 2, 3, 5], 3))
    size = int(rng.choice([4, 8]))
    turned = w.chance(0.25)
    sizes = [batch, rows, heads, size] if turned else [batch, heads, rows, size]
    if w.chance(0.15):
        sizes = [batch, rows, size]
    rank, rotated = len(sizes), size if w.chance(0.75) else size // 2
    whole = w.input("x", sizes)
    x = whole if rotated == size else w.let("Slice", whole, w.ints(0), w.ints(rotated), w.ints(-1))
    half = rotated // 2
    step = w.chance(0.3)

    def part(first: bool) -> str:
        if step:
            return w.let("Slice", x, w.ints(0 if first else 1), w.ints(rotated), w.ints(rank - 1), w.ints(2))
        start, end = (0, half) if first else (half, rotated if w.chance(0.5) else 2**63 - 1)
        return w.let("Slice", x, w.ints(start), w.ints(end), w.ints(-1 if w.chance(0.5) else rank - 1))

    first = w.chance(0.95)
    a, b = part(first), part(not first)
    shape = [[1] * (rank - 2) + [rows], [batch, *[1] * (rank - 3), rows], [rows], [1] * (rank - 1), [batch] + [1] * (rank - 2), sizes[:-1]][
        int(rng.choice(6, p=[0.35, 0.3, 0.15, 0.05, 0.05, 0.1]))
    ]
    if turned and len(shape) == rank - 1 and w.chance(0.8):
        shape = [*shape[:-2], shape[-1], 1]
    kind = int(rng.integers(3))
    if kind == 0:
        f = w.input("f", [*shape, half])
        c, s = f, f
        sin, cos = ("Sin", "Cos") if w.chance(0.95) else ("Cos", "Sin")
        if not step and w.chance(0.5):
            wide = w.let("Concat", f, f, axis=-1)
            c, s, double = w.let(cos, wide), w.let(sin, wide), True
        else:
            c, s, double = w.let(cos, f), w.let(sin, f), False
    elif kind == 1 or step:
        c, s, double = w.input("c", [*shape, half]), w.input("s", [*shape, half]), False
    else:
        c, s, double = w.input("c", [*shape, rotated]), w.input("s", [*shape, rotated]), True
        if w.chance(0.6):
            narrow_c, narrow_s = w.input("c", [*shape, half]), w.input("s", [*shape, half])
            c, s = w.let("Concat", narrow_c, narrow_c, axis=-1), w.let("Concat", narrow_s, narrow_s, axis=-1)
    if w.chance(0.15):
        factor = w.number(_off(w, 1.5))
        c, s = w.either("Mul", c, factor), w.either("Mul", s, factor if w.chance(0.8) else w.number(2.0))
    if double:
        n = w.let("Neg", b) if w.chance(0.95) else b
        joined = (n, a) if w.chance(0.95) else (a, n)
        r = w.let("Concat", *joined, axis=-1)
        p, q = w.either("Mul", x, c), w.either("Mul", r, s)
        y = w.either("Add", p, q) if w.chance(0.9) else w.let("Sub", p, q)
    else:
        u = w.let("Sub" if w.chance(0.93) else "Add", w.either("Mul", a, c), w.either("Mul", b, s))
        v = w.let("Add" if w.chance(0.93) else "Sub", w.either("Mul", b, c), w.either("Mul", a, s))
        if w.chance(0.05):
            u, v = v, u
        if step and w.chance(0.85):
            u, v = w.let("Unsqueeze", u, w.ints(-1)), w.let("Unsqueeze", v, w.ints(-1))
            uv = w.let("Concat", u, v, axis=-1)
            y = w.let("Reshape", uv, w.ints(*sizes[:-1], rotated))
        else:
            y = w.let("Concat", u, v, axis=-1)
    if rotated != size:
        rest = w.let("Slice", whole, w.ints(rotated), w.ints(size), w.ints(-1))
        y = w.let("Concat", *((y, rest) if w.chance(0.9) else (rest, y)), axis=-1)
    w.outputs.append(y)
    return w.model()


def tail(rng: np.random.Generator) -> ir.Model:
    """Mean pooling and normalisation of a sentence."""
    w = Writer(rng)
    batch, rows, size = (4, 4, 4) if w.chance(0.25) else (int(i) for i in rng.choice([1, 2, 3, 5], 3))
    x = w.input("x", [batch, rows, size])
    if w.chance(0.8):
        m = w.let("Cast", w.input("m", [batch, rows], "bool" if w.chance(0.6) else "int64"), to=w.code)
        m = w.let("Unsqueeze", m, w.ints(-1))
        if w.chance(0.5):
            m = w.let("Expand", m, w.ints(batch, rows, size))
        axis = 1 if w.chance(0.9) else 2
        keep = int(w.chance(0.3))
        total = w.let("ReduceSum", w.either("Mul", x, m), w.ints(axis), keepdims=keep)
        count = w.let("ReduceSum", m, w.ints(1), keepdims=keep)
        if w.chance(0.8):
            low = w.number(float(rng.choice([1e-9, 1.0, 1e-9, 0.5])))
            count = w.let("Max", count, low) if w.chance(0.5) else w.let("Clip", count, w.constant(np.array(1e-9, w.dtype)))
        x = w.let("Div", total, count)
        if keep:
            x = w.let("Squeeze", x, w.ints(1)) if axis == 1 else x
        rank = 2 if axis == 1 or not keep else 3
    else:
        rank = 3
    if w.chance(0.7):
        axis = -1 if w.chance(0.85) else int(rng.integers(rank))
        way = int(rng.integers(3))
        op = "ReduceL2" if w.chance(0.9) else "ReduceL1"
        if way == 0:
            length = w.let(op, x, w.ints(axis))
        elif way == 1:
            length = w.let("Sqrt", w.let("ReduceSum", w.let("Mul", x, x), w.ints(axis)))
        else:
            length = w.let("Sqrt", w.let("ReduceSumSquare", x, w.ints(axis)))
        if w.chance(0.8):
            low = w.constant(np.array(float(rng.choice([1e-12, 1e-6, 0.5])), w.dtype))
            length = w.let("Clip", length, low) if w.chance(0.5) else w.either("Max" if w.chance(0.8) else "Add", length, low)
        x = w.let("Div", x, length)
    w.outputs.append(w.let("Identity", x))
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
            shape = [[], [1], [width], [1, width], [sizes[-2], 1], [sizes[-2], width]][int(rng.choice(6, p=[0.25, 0.1, 0.4, 0.1, 0.1, 0.05]))]
            number = (rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)).astype(w.dtype)
            other = w.constant(number)
            value = w.let(op, value, other) if w.chance(0.75) else w.let(op, other, value)
        return value

    def layer(value: str, width: int, out: int) -> str:
        matrix = rng.standard_normal((width, out)).astype(w.dtype)
        way = int(rng.integers(4))
        if way == 0 and rank == 2:
            bias = [w.constant(rng.standard_normal([[out], [1, out], [1], []][int(rng.integers(4))]).astype(w.dtype))] if w.chance(0.7) else []
            flip = int(w.chance(0.5))
            alpha = float(rng.choice([1.0, 0.5])), float(rng.choice([1.0, 2.0]))
            return w.let("Gemm", value, w.constant(matrix.T.copy() if flip else matrix), *bias, transB=flip, alpha=alpha[0], beta=alpha[1])
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
