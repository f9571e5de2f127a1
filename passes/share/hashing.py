"""A weight whose numbers lie in a short vector, each at a place that row and column hash to: nothing else is stored.

    W[i, j] = s_i * (v, -v)[h(i, j)]        h(i, j) in 0 .. 2 K - 1, so that the upper half of the places has the sign

Chen et al., Compressing Neural Networks with the Hashing Trick, 2015, equations 4 and 8. The hash is computed from row
and column by standard ops on int32, below 2^31 throughout, so that every runtime finds the same places. With p prime,

    s, t = (a i + b j) mod p, (c i + d j) mod p         one to one in (i, j) below p: a d - b c is no multiple of p
    s = (s + t^3 + f t) mod p                           one to one in (s, t): Luby and Rackoff, 1988; so is the next
    t = (t + s^3 + g s) mod p
    h = (p s + t) mod 2 K
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..edit import Array, Tape
from ..functions import Function

#: The largest prime of which the square is below 2^31.
PRIME = 46337

#: Places that are hashed to at most, both signs of each number.
MOST = PRIME * PRIME // 2

_CUBE = """
  {to}square = Mul ({of}, {of})
  {to}first = Mod ({to}square, p)
  {to}moved = Add ({to}first, {key})
  {to}second = Mod ({to}moved, p)
  {to}cube = Mul ({to}second, {of})
  {to}last = Mod ({to}cube, p)
  {to}sum = Add ({into}, {to}last)
  {to} = Mod ({to}sum, p)
"""

_LINE = """
  {to}low = Mul (low, {row})
  {to}below = Mod ({to}low, p)
  {to}high = Mul (high, {over})
  {to}above = Mod ({to}high, p)
  {to}across = Mul (across, {column})
  {to}beside = Mod ({to}across, p)
  {to}rows = Add ({to}below, {to}above)
  {to}all = Add ({to}rows, {to}beside)
  {to} = Mod ({to}all, p)
"""

#: A row beyond p counts by its two digits to the base of p.
HASHED = Function(
    "HashedWeight (values, rows, columns, keys) => (weight) {\n"
    "  zero = Constant <value: tensor = int32 {0}> ()\n"
    "  one = Constant <value: tensor = int32 {1}> ()\n"
    "  two = Constant <value: tensor = int32 {2}> ()\n"
    f"  p = Constant <value: tensor = int32 {{{PRIME}}}> ()\n"
    "  second = Constant <value_ints: ints = [1]> ()\n"
    "  a, b, c, d, e, o, f, g = Split <axis: int = 0, num_outputs: int = 8> (keys)\n"
    "  line = Range (zero, rows, one)\n"
    "  down = Unsqueeze (line, second)\n"
    "  across = Range (zero, columns, one)\n"
    "  low = Mod (down, p)\n"
    "  high = Div (down, p)\n"
    + _LINE.format(to="s0", row="a", column="b", over="e")
    + _LINE.format(to="t0", row="c", column="d", over="o")
    + _CUBE.format(to="s1", of="t0", into="s0", key="f")
    + _CUBE.format(to="t1", of="s1", into="t0", key="g")
    + "  wide = Mul (s1, p)\n"
    "  place = Add (wide, t1)\n"
    "  size = Size (values)\n"
    "  count = Cast <to: int = 6> (size)\n"
    "  both = Mul (count, two)\n"
    "  at = Mod (place, both)\n"
    "  less = Neg (values)\n"
    "  table = Concat <axis: int = 0> (values, less)\n"
    "  weight = Gather <axis: int = 0> (table, at)\n"
    "}"
)

Places = NDArray[np.int32]


def keys(seed: int, number: int) -> Places:
    """The numbers that decide a hash, [8]: another one for each weight, by its number."""
    random = np.random.default_rng((seed, number))
    while True:
        drawn = random.integers(1, PRIME, 8)
        if (drawn[0] * drawn[3] - drawn[1] * drawn[2]) % PRIME:
            return drawn.astype(np.int32)


def places(rows: int, columns: int, count: int, chosen: Places) -> Places:
    """h of every row and column, [rows, columns], below 2 * count."""
    a, b, c, d, e, o, f, g = (int(key) for key in chosen)
    down, across = np.arange(rows, dtype=np.int32)[:, None], np.arange(columns, dtype=np.int32)
    low, high = down % PRIME, down // PRIME

    def line(row: int, over: int, column: int) -> Places:
        return np.asarray((low * row % PRIME + high * over % PRIME + across * column % PRIME) % PRIME, np.int32)

    def cube(of: Places, key: int) -> Places:
        return np.asarray((of * of % PRIME + key) % PRIME * of % PRIME, np.int32)

    s, t = line(a, e, b), line(c, o, d)
    s = (s + cube(t, f)) % PRIME
    t = (t + cube(s, g)) % PRIME
    return np.asarray((s * np.int32(PRIME) + t) % np.int32(2 * count), np.int32)


@dataclass(frozen=True)
class Hashed:
    """weight[i, j] = scale[i] * (values, -values)[places[i, j]].

    values: v, [K]. shape: the weight's, a matrix. keys: what decides its places, [8]. scale: [rows, 1], or None.
    """

    values: Array
    shape: tuple[int, int]
    keys: Places
    scale: Array | None = None

    def dense(self) -> Array:
        """The weight it stands for, in the dtype of the values."""
        table: Array = np.concatenate([self.values, np.negative(self.values)])
        found: Array = table[places(*self.shape, len(self.values), self.keys)]
        return found if self.scale is None else np.multiply(found, self.scale)

    @property
    def bytes(self) -> int:
        """Bytes of values, keys and scales as stored."""
        return int(self.values.nbytes + self.keys.nbytes + 8 + (0 if self.scale is None else self.scale.nbytes))

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """The places hashed anew, and the values looked up there."""
        rows, columns = (tape.constant(np.array(size, np.int32), "size") for size in self.shape)
        value = HASHED(
            tape, tape.weight(self.values, f"{name}_values"), rows, columns, tape.constant(self.keys, "keys")
        )
        value.shape, value.type = ir.Shape(self.shape), ir.TensorType(ir.DataType.from_numpy(self.values.dtype))
        if self.scale is None:
            return value
        scaled = tape("Mul", value, tape.weight(self.scale, f"{name}_scale"))
        scaled.shape, scaled.type = value.shape, value.type
        return scaled
