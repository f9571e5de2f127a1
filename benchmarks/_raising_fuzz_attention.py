"""Attention in random spellings, most of them right and some of them not attention at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from tersor.benchmarks._raising_fuzz_write import Writer

_LOWS = (-np.inf, -np.inf, -1e4, -1e9, -1e30, -3.4028234663852886e38)


class _Attention:
    """What one graph has chosen: sizes, and how the leading axes lie."""

    def __init__(self, w: Writer) -> None:
        self.w = w
        pool = [2, 3, 4, 5, 6, 7]
        same = w.chance(0.25)
        take = (lambda: 4) if same else (lambda: int(w.rng.choice(pool)))
        self.batch, self.queries, self.keys, self.size, self.width = take(), take(), take(), take(), take()
        self.groups = int(w.rng.choice([1, 2, 4]))
        self.repeats = int(w.rng.choice([1, 1, 2, 3])) if w.chance(0.5) else 1
        if w.chance(0.1):
            self.batch = 1
        if w.chance(0.1):
            self.queries = 1
        self.heads = self.groups * self.repeats
        self.form = str(w.rng.choice(["bh", "bh", "bh", "hb", "flat", "five", "one"]))

    def lead(self, heads: int) -> tuple[int, ...]:
        return {
            "bh": (self.batch, heads),
            "hb": (heads, self.batch),
            "flat": (self.batch * heads,),
            "five": (self.batch, self.groups, heads // self.groups),
            "one": (1, self.batch, heads),
        }[self.form]

    def operand(self, name: str, heads: int, sequence: int, size: int) -> str:
        """An input as [*lead, sequence, size]."""
        w, b, lead = self.w, self.batch, self.lead(heads)
        way = int(w.rng.integers(6))
        if way == 0:
            return w.mangled(w.input(name, (*lead, sequence, size)), (*lead, sequence, size))
        if way == 1:
            x = w.let("Reshape", w.input(name, (b, sequence, heads * size)), w.ints(b, sequence, heads, size))
            order: tuple[int, ...] = (0, 2, 1, 3)
        elif way == 2:
            x = w.let("Reshape", w.input(name, (sequence, b, heads * size)), w.ints(sequence, b, heads, size))
            order = (1, 2, 0, 3)
        elif way == 3:
            x, order = w.input(name, (b, sequence, heads, size)), (0, 2, 1, 3)
        elif way == 4:
            x, order = w.input(name, (sequence, b * heads, size)), (1, 0, 2)
        else:
            x, order = w.input(name, (b, heads, sequence, size)), (0, 1, 2, 3)
        if w.chance(0.04):
            order = tuple(int(i) for i in w.rng.permutation(len(order)))
        x = w.let("Transpose", x, perm=list(order))
        if self.form == "hb" and way != 4:
            x = w.let("Transpose", x, perm=[1, 0, 2, 3])
        return w.mangled(w.let("Reshape", x, w.ints(*lead, sequence, size)), (*lead, sequence, size))

    def repeated(self, x: str, sequence: int, size: int) -> str:
        """Heads of keys for every head of queries, side by side or, wrongly, one after the other."""
        w, lead = self.w, self.lead(self.groups)
        if self.repeats == 1:
            return x
        if self.form == "five":
            return x  # broadcasts
        at = lead.index(self.groups) if self.form != "flat" else 0
        if self.form == "flat":
            inner = w.chance(0.85)
            wide = (self.batch * self.groups, self.repeats) if inner else (self.repeats, self.batch * self.groups)
            x = w.let("Unsqueeze", x, w.ints(1 if inner else 0))
            x = w.let("Expand", x, w.ints(*wide, sequence, size))
            return w.let("Reshape", x, w.ints(*self.lead(self.heads), sequence, size))
        if self.form in ("hb",):
            at = 0
        elif self.form == "bh":
            at = 1
        else:
            at = 2
        inner = w.chance(0.85)
        way = int(w.rng.integers(3))
        rank = len(lead) + 2
        if way == 0:
            x = w.let("Unsqueeze", x, w.ints(at + 1 if inner else at))
            target = [*lead, sequence, size]
            target.insert(at + 1 if inner else at, self.repeats)
            x = w.let("Expand", x, w.ints(*target))
        elif way == 1:
            x = w.let("Unsqueeze", x, w.ints(at + 1 if inner else at))
            ones = [1] * (rank + 1)
            ones[at + 1 if inner else at] = self.repeats
            x = w.let("Tile", x, w.ints(*ones))
        else:
            index = np.arange(self.groups)
            index = np.repeat(index, self.repeats) if inner else np.tile(index, self.repeats)
            return w.let("Gather", x, w.constant(index), axis=at)
        return w.let("Reshape", x, w.ints(*self.lead(self.heads), sequence, size))

    def factor(self, sizes: Sequence[int]) -> tuple[str, str]:
        """An op and a factor: mostly a number."""
        w = self.w
        number = float(
            w.rng.choice([0.5, 0.25, self.size**-0.5, 2.0, 1.0, -0.5, 0.0], p=[0.25, 0.2, 0.25, 0.15, 0.05, 0.08, 0.02])
        )
        op = "Mul"
        if number and w.chance(0.3):
            op, number = "Div", 1 / number
        if w.chance(0.08):
            return op, w.constant(w.rng.uniform(0.5, 2, sizes[-1]).astype(w.dtype))
        if w.chance(0.05):
            return "Mul", w.input("t", (1,))
        shape = [(), (1,), (1, 1), (1,) * len(sizes)][int(w.rng.integers(4))]
        return op, w.constant(np.full(shape, number, w.dtype))

    def scaled(self, x: str, sizes: Sequence[int], likely: float) -> str:
        while self.w.chance(likely):
            op, factor = self.factor(sizes)
            x = self.w.let(op, x, factor) if op == "Div" else self.w.either("Mul", x, factor)
            likely *= 0.3
        return x

    def shape(self, full: Sequence[int]) -> tuple[int, ...]:
        """A shape that broadcasts to `full`, mostly in the ways that masks do."""
        w = self.w
        if w.chance(0.6):
            dims = [1] * len(full)
            dims[-1] = full[-1]
            if w.chance(0.6):
                dims[-2] = full[-2]
            if w.chance(0.5):
                dims[0] = full[0]
        else:
            dims = [size if w.chance(0.6) else 1 for size in full]
        cut = 0
        while cut < len(dims) - 1 and dims[cut] == 1 and w.chance(0.6):
            cut += 1
        if w.chance(0.03):
            return (1, 1, *dims)
        return tuple(dims[cut:])

    def masked(self, x: str, full: Sequence[int]) -> str:
        w = self.w
        for _ in range(int(w.rng.choice([0, 1, 2, 3], p=[0.2, 0.45, 0.25, 0.1]))):
            shape = self.shape(full)
            low = w.number(float(w.rng.choice(_LOWS)))
            kind = int(w.rng.integers(7))
            if kind == 0:
                added = w.input("bias", shape)
                x = w.let("Sub", x, added) if w.chance(0.2) else w.either("Add", x, added)
            elif kind == 1:
                m = w.input("keep", shape, "bool")
                x = w.either("Add", x, w.let("Where", m, w.number(0.0), low))
            elif kind in (2, 3, 4):
                m = w.input("hide", shape, "bool")
                if w.chance(0.4):
                    m = w.let("Not", m)
                x = w.let("Where", m, low, x) if w.chance(0.5) else w.let("Where", m, x, low)
            elif kind == 5:
                m = w.let("Cast", w.input("pad", shape, "bool"), to=w.code)
                x = w.either("Add", x, w.let("Mul", w.let("Sub", w.number(1.0), m), w.number(-1e4)))
            else:
                triangle = np.tril(np.ones((full[-2], full[-1]), bool))
                x = w.let("Where", w.constant(triangle), x, low)
            x = self.scaled(x, full, 0.06)
        return x

    def capped(self, x: str, full: Sequence[int]) -> str:
        w = self.w
        cap = float(w.rng.choice([2.0, 5.0, -2.0], p=[0.45, 0.45, 0.1]))
        behind = cap if w.chance(0.85) else 3.0
        return w.either("Mul", w.let("Tanh", w.let("Div", x, w.number(cap))), w.number(behind))


def attention(rng: np.random.Generator) -> ir.Model:
    """One graph."""
    w = Writer(rng)
    a = _Attention(w)
    lead, full = a.lead(a.heads), (*a.lead(a.heads), a.queries, a.keys)
    q = a.operand("q", a.heads, a.queries, a.size)
    own = a.groups if w.chance(0.9) or a.form == "five" else a.heads
    k = a.operand("k", own, a.keys, a.size)
    v = a.operand("v", own, a.keys, a.width)
    past = a.form == "bh" and w.chance(0.2)
    if past:
        rows = 3
        k = _joined(w, k, (a.batch, own, rows, a.size))
        v = _joined(w, v, (a.batch, own, rows, a.width))
        a.keys += rows
        full = (*lead, a.queries, a.keys)
    if own == a.groups:
        k, v = a.repeated(k, a.keys, a.size), a.repeated(v, a.keys, a.width)
    q = a.scaled(q, (*lead, a.queries, a.size), 0.3)
    k = a.scaled(k, (*lead, a.keys, a.size), 0.15)
    v = a.scaled(v, (*lead, a.keys, a.width), 0.05)
    order = [*range(len(lead)), len(lead) + 1, len(lead)]
    k = w.let("Transpose", k, perm=order) if w.chance(0.95) or a.keys != a.size else k
    k = a.scaled(k, (*lead, a.size, a.keys), 0.1)
    s = w.let("MatMul", q, k)
    s = w.mangled(s, full, 0.05)
    s = a.scaled(s, full, 0.4)
    if w.chance(0.2):
        s = a.capped(s, full)
    shape: tuple[int, ...] = full
    if w.chance(0.25):
        # another layout for the masks
        shapes = [(a.batch, a.heads), (a.batch * a.heads,), (a.heads, a.batch), (a.batch, a.groups, a.repeats)]
        shape = (*shapes[int(rng.integers(4))], a.queries, a.keys)
        s = w.let("Reshape", s, w.ints(*shape))
    s = a.masked(s, shape)
    if w.chance(0.1):
        s = a.capped(s, shape)
    axis = -1 if w.chance(0.9) else int(rng.integers(-len(shape), len(shape)))
    p = w.let("Softmax", s, axis=axis)
    if w.chance(0.2):
        p = w.let("Where", w.let("IsNaN", p), w.number(0.0 if w.chance(0.8) else 1.0), p)
    if shape != full:
        p = w.let("Reshape", p, w.ints(*full))
    p = w.mangled(p, full, 0.05)
    if w.chance(0.05):
        p = a.scaled(p, full, 0.9)
    if w.chance(0.05):
        w.outputs.append(p)
    y = w.let("MatMul", p, v) if w.chance(0.97) or a.queries != a.keys else w.let("MatMul", w.swapped(p, len(full)), v)
    wide = (*lead, a.queries, a.width)
    y = w.mangled(y, wide, 0.1)
    if w.chance(0.6):
        y = (
            w.let("Reshape", y, w.ints(a.batch, a.heads, a.queries, a.width))
            if a.form != "hb"
            else w.let("Transpose", y, perm=[1, 0, 2, 3])
        )
        perm = [0, 2, 1, 3] if w.chance(0.9) else [int(i) for i in rng.permutation(4)]
        y = w.let("Reshape", w.let("Transpose", y, perm=perm), w.ints(a.batch, a.queries, a.heads * a.width))
    w.outputs.append(w.let("Identity", y))
    return w.model()


def _joined(w: Writer, x: str, sizes: tuple[int, ...]) -> str:
    past = w.input("past", sizes)
    joined = w.let("Concat", *((past, x) if w.chance(0.85) else (x, past)), axis=2 if w.chance(0.5) else -2)
    if w.chance(0.6):
        w.outputs.append(joined)
    return joined
