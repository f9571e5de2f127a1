"""Rotary positions and the tails of sentence encoders in random spellings, right and wrong ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.benchmarks._raising_fuzz_write import Writer, off


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
    shape = [
        [1] * (rank - 2) + [rows],
        [batch, *[1] * (rank - 3), rows],
        [rows],
        [1] * (rank - 1),
        [batch] + [1] * (rank - 2),
        sizes[:-1],
    ][int(rng.choice(6, p=[0.35, 0.3, 0.15, 0.05, 0.05, 0.1]))]
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
        factor = w.number(off(w, 1.5))
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
            count = (
                w.let("Max", count, low) if w.chance(0.5) else w.let("Clip", count, w.constant(np.array(1e-9, w.dtype)))
            )
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
            length = (
                w.let("Clip", length, low)
                if w.chance(0.5)
                else w.either("Max" if w.chance(0.8) else "Add", length, low)
            )
        x = w.let("Div", x, length)
    w.outputs.append(w.let("Identity", x))
    return w.model()
