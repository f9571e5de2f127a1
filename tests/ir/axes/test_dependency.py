"""Which axes are tied through which ops, what holds them, and that what is cut as one computes what it did with zeros.

Each graph is cut in every group that nothing holds: half of the units are set to zero in all weights of the group, and
then cut. The answers are those of the zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from tersor.ir.axes import Dependencies, Group, Role, Why, dependencies, kept
from tersor.ir.constants import tensor_of
from tersor.ir.text import graph
from tersor.passes.cutting import cut
from tersor.tests.ir.axes.support import RNG, weight


@dataclass(frozen=True)
class Case:
    """groups: sizes of the groups of weights that may be cut, and how many weights each has."""

    name: str
    lines: tuple[str, ...]
    inputs: dict[str, str]
    weights: dict[str, object]
    groups: dict[int, int]
    roles: dict[int, Role] = field(default_factory=dict)

    def model(self) -> ir.Model:
        return graph(*self.lines, inputs=self.inputs, outputs=["y"], **self.weights)


CASES = [
    Case(
        "two linear layers",
        ("a = MatMul(x, w)", "b = Add(a, c)", "d = Relu(b)", "y = MatMul(d, v)"),
        {"x": "float[n, 5]"},
        {"w": weight(5, 8), "c": weight(8), "v": weight(8, 3)},
        {8: 3},
    ),
    Case(
        "Gemm, transposed",
        ("a = Gemm{transB=1}(x, w, c)", "d = Relu(a)", "y = Gemm{transB=1}(d, v)"),
        {"x": "float[n, 5]"},
        {"w": weight(8, 5), "c": weight(8), "v": weight(3, 8)},
        {8: 3},
    ),
    Case(
        "a gated pair from one product",
        (
            "a = MatMul(x, w)", "b, c = Split{axis=-1, num_outputs=2}(a)", "d = Relu(b)", "e = Mul(c, d)",
            "y = MatMul(e, v)",
        ),
        {"x": "float[n, 5]"},
        {"w": weight(5, 16), "v": weight(8, 3)},
        {8: 2},
    ),
    Case(
        "a gated pair by slices",
        (
            "a = MatMul(x, w)", "b = Slice(a, start, half, last)", "c = Slice(a, half, far, last)",
            "d = Mul(b, c)", "y = MatMul(d, v)",
        ),
        {"x": "float[n, 5]"},
        {
            "w": weight(5, 16), "v": weight(8, 3), "start": np.array([0]), "half": np.array([8]),
            "far": np.array([2**62]), "last": np.array([-1]),
        },
        {8: 2},
    ),
    Case(
        "a gated pair, interleaved",
        (
            "a = MatMul(x, w)", "b = Slice(a, zero, far, last, two)", "c = Slice(a, one, far, last, two)",
            "d = Mul(b, c)", "y = MatMul(d, v)",
        ),
        {"x": "float[n, 5]"},
        {
            "w": weight(5, 16), "v": weight(8, 3), "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]),
            "far": np.array([2**62]), "last": np.array([-1]),
        },
        {8: 2},
    ),
    Case(
        "heads by Reshape and Transpose",
        (
            "q = MatMul(x, w)", "k = MatMul(x, u)", "v = MatMul(x, t)",
            "qr = Reshape(q, s)", "kr = Reshape(k, s)", "vr = Reshape(v, s)",
            "qt = Transpose{perm=[0, 2, 1, 3]}(qr)", "kt = Transpose{perm=[0, 2, 3, 1]}(kr)",
            "vt = Transpose{perm=[0, 2, 1, 3]}(vr)", "p = MatMul(qt, kt)", "e = Mul(p, p)", "o = MatMul(e, vt)",
            "ot = Transpose{perm=[0, 2, 1, 3]}(o)", "f = Reshape(ot, back)", "y = MatMul(f, z)",
        ),
        {"x": "float[2, n, 5]"},
        {
            "w": weight(5, 24), "u": weight(5, 24), "t": weight(5, 24), "z": weight(24, 3),
            "s": np.array([0, 0, 4, 6]), "back": np.array([0, 0, 24]),
        },
        # heads; sizes of queries and keys; sizes of values
        {4: 4, 6: 2},
    ),
    Case(
        "Attention of three axes, shared keys",
        (
            "q = MatMul(x, w)", "k = MatMul(x, u)", "v = MatMul(x, t)",
            "o = Attention{q_num_heads=6, kv_num_heads=3}(q, k, v)", "y = MatMul(o, z)",
        ),
        {"x": "float[2, n, 5]"},
        {"w": weight(5, 24), "u": weight(5, 12), "t": weight(5, 12), "z": weight(24, 3)},
        {3: 4, 4: 2},
        {3: Role.HEADS},
    ),
    Case(
        "Attention of packed heads",
        (
            "a = MatMul(x, w)", "b = Reshape(a, s)", "c = Transpose{perm=[0, 2, 1, 3]}(b)",
            "q, k, v = Split{axis=1}(c, parts)", "o = Attention(q, k, v)",
            "d = Transpose{perm=[0, 2, 1, 3]}(o)", "e = Reshape(d, back)", "y = MatMul(e, z)",
        ),
        {"x": "float[2, n, 5]"},
        {
            "w": weight(5, 40), "z": weight(24, 3), "s": np.array([0, 0, 10, 4]), "parts": np.array([6, 2, 2]),
            "back": np.array([0, 0, -1]),
        },
        {2: 2, 4: 2},
        {2: Role.HEADS},
    ),
    Case(
        "three stacked projections, picked",
        (
            "a = MatMul(x, w)", "b = Reshape(a, s)", "c = Transpose{perm=[2, 0, 3, 1, 4]}(b)",
            "q = Gather(c, zero)", "k = Gather(c, one)", "v = Gather(c, two)", "o = Attention(q, k, v)",
            "d = Transpose{perm=[0, 2, 1, 3]}(o)", "e = Reshape(d, back)", "y = MatMul(e, z)",
        ),
        {"x": "float[2, n, 5]"},
        {
            "w": weight(5, 72), "z": weight(24, 3), "s": np.array([0, 0, 3, 4, 6]), "back": np.array([0, 0, 24]),
            "zero": np.array(0), "one": np.array(1), "two": np.array(2),
        },
        {4: 2, 6: 2},
        {4: Role.HEADS},
    ),
    Case(
        "LSTM",
        ("a, h, c = LSTM{hidden_size=6}(x, w, r, b)", "d = Squeeze(a, one)", "y = MatMul(d, v)"),
        {"x": "float[n, 2, 5]"},
        {"w": weight(1, 24, 5), "r": weight(1, 24, 6), "b": weight(1, 48), "v": weight(6, 3), "one": np.array([1])},
        {6: 4},
        {6: Role.UNITS},
    ),
    Case(
        "GRU both ways",
        (
            "a, h = GRU{hidden_size=6, direction=\"bidirectional\", linear_before_reset=1}(x, w, r, b)",
            "d = Transpose{perm=[0, 2, 1, 3]}(a)", "e = Reshape(d, s)", "y = MatMul(e, v)",
        ),
        {"x": "float[n, 2, 5]"},
        {
            "w": weight(2, 18, 5), "r": weight(2, 18, 6), "b": weight(2, 36), "v": weight(12, 3),
            "s": np.array([0, 0, -1]),
        },
        {6: 4},
        {6: Role.UNITS},
    ),
    Case(
        "convolutions and a batch normalization",
        (
            "a = Conv(x, w, c)", "b = BatchNormalization(a, g, h, m, s)", "d = Relu(b)", "y = Conv(d, v)",
        ),
        {"x": "float[n, 3, 9, 9]"},
        {
            "w": weight(8, 3, 3, 3), "c": weight(8), "v": weight(2, 8, 1, 1), "g": weight(8), "h": weight(8),
            "m": weight(8), "s": np.abs(weight(8)) + 1,
        },
        {8: 7},
        {8: Role.CHANNELS},
    ),
    Case(
        "a depthwise convolution between two",
        ("a = Conv(x, w)", "b = Conv{group=8}(a, u)", "y = Conv(b, v)"),
        {"x": "float[n, 3, 9, 9]"},
        {"w": weight(8, 3, 1, 1), "u": weight(8, 1, 3, 3), "v": weight(2, 8, 1, 1)},
        {8: 3},
    ),
    Case(
        "channels joined, then mixed",
        ("a = Conv(x, w)", "b = Conv(x, u)", "c = Concat{axis=1}(a, b)", "y = Conv(c, v)"),
        {"x": "float[n, 3, 9, 9]"},
        {"w": weight(8, 3, 1, 1), "u": weight(4, 3, 1, 1), "v": weight(2, 12, 1, 1)},
        {8: 2, 4: 2},
    ),
    Case(
        "a stream that layers add to",
        (
            "a = MatMul(x, w)", "b = MatMul(a, u)", "c = Relu(b)", "d = MatMul(c, t)", "e = Add(a, d)",
            "y = MatMul(e, v)",
        ),
        {"x": "float[n, 5]"},
        {"w": weight(5, 8), "u": weight(8, 6), "t": weight(6, 8), "v": weight(8, 3)},
        {8: 4, 6: 2},
    ),
    Case(
        "a shape whose pieces are computed",
        (
            "a = MatMul(x, w)", "f = Shape(x)", "g = Gather(f, zero)", "h = Unsqueeze(g, at)",
            "s = Concat{axis=0}(h, four, two)", "b = Reshape(a, s)", "c = ReduceSum{keepdims=0}(b, last)",
            "y = MatMul(c, v)",
        ),
        {"x": "float[n, 5]"},
        {
            "w": weight(5, 8), "v": weight(4, 3), "zero": np.array(0), "at": np.array([0]), "four": np.array([4]),
            "two": np.array([2]), "last": np.array([-1]),
        },
        {4: 2, 2: 1},
    ),
    Case(
        "scales by channel",
        (
            "d = DequantizeLinear{axis=1}(w, s)", "a = MatMul(x, d)", "b = Relu(a)",
            "y = MatMul(b, v)",
        ),
        {"x": "float[n, 5]"},
        {"w": RNG.integers(-9, 9, (5, 8)).astype(np.int8), "s": np.abs(weight(8)), "v": weight(8, 3)},
        {8: 3},
    ),
]  # fmt: skip


def free(found: Dependencies) -> dict[int, int]:
    groups = [group for group in found.groups if cuttable(group)]
    return {group.size: len({id(value) for value, _ in group.weights}) for group in groups}


def cuttable(group: Group) -> bool:
    return all(hold.why is Why.HEAD_SIZE for hold in group.holds)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_groups(case: Case) -> None:
    found = dependencies(case.model())
    assert free(found) == case.groups, [(group, group.holds) for group in found.groups]
    for size, role in case.roles.items():
        assert any(role in group.roles for group in found.groups if group.size == size)


@pytest.mark.parametrize(
    ("case", "size"),
    [(case, size) for case in CASES for size in case.groups],
    ids=lambda part: getattr(part, "name", part),
)
def test_zeros_cut_change_nothing(case: Case, size: int) -> None:
    plain = case.model()
    found = dependencies(plain)
    group = next(group for group in found.groups if group.size == size and cuttable(group))
    mask = np.arange(size) % 2 == 1
    for value in dict.fromkeys(value for value, _ in group.weights):
        tensor = tensor_of(value)
        assert tensor is not None
        array = tensor.numpy().copy()
        for at, axis in enumerate(found.axes[value]):
            keep = kept(axis, {group.axis: mask})
            array[(slice(None),) * at + (~keep,)] = 0
        value.const_value = ir.tensor(array, name=value.name)
    rng = np.random.default_rng(1)
    feeds = {
        value.name: rng.standard_normal([dim if isinstance(dim, int) else 3 for dim in value.shape or ()]).astype("f")
        for value in plain.graph.inputs
    }
    (before,) = ReferenceEvaluator(ir.to_proto(plain)).run(None, feeds)
    cut(found, {group.axis: mask})
    (after,) = ReferenceEvaluator(ir.to_proto(plain)).run(None, feeds)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    again = dependencies(plain)
    left = [other.size for other in again.groups]
    assert int(mask.sum()) in left or mask.sum() == 1
