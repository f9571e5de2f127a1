"""Random stacks of layers: every free group, alone and all at once, is as good as zero once it is cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.axes import Group, dependencies
from tersor.ir.text import graph, lines
from tersor.passes.cutting import cut
from tersor.tests.ir.axes.support import (
    assert_cut_is_zero,
    assert_free_groups_can_be_cut,
    cuttable,
    random_feeds,
)

BATCH, STEPS, SEEDS = 2, 5, 40


class Stack:
    """Lines of a graph, layer by layer: what stands last is [2, 5, width]."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.text: list[str] = []
        self.weights: dict[str, object] = {}
        self.last, self.width, self.made = "x", 5, 0

    def name(self) -> str:
        self.made += 1
        return f"v{self.made}"

    def node(self, call: str) -> str:
        name = self.name()
        self.text.append(f"{name} = {call}")
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = (self.rng.standard_normal(shape) / max(shape[-1], 1) ** 0.5).astype(np.float32)
        return name

    def pick(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def product(self, x: str, width: int, made: int) -> str:
        if self.pick(0, 1):
            return self.node(f"MatMul({x}, {self.weight(width, made)})")
        turned = self.node(f"Transpose({self.weight(made, width)})")
        return self.node(f"Add({self.node(f'MatMul({x}, {turned})')}, {self.weight(made)})")

    def activation(self, x: str) -> str:
        return self.node(f"{['Relu', 'Tanh', 'Sigmoid', 'Gelu', 'Softplus'][self.pick(*range(5))]}({x})")

    def linear(self) -> None:
        made = self.pick(4, 6, 8)
        self.last, self.width = self.activation(self.product(self.last, self.width, made)), made

    def gated(self) -> None:
        made = self.pick(4, 6)
        both = self.product(self.last, self.width, 2 * made)
        kind = self.pick(0, 1, 2)
        if kind == 0:
            one, other = self.name(), self.name()
            self.text.append(f"{one}, {other} = Split{{axis=-1, num_outputs=2}}({both})")
        elif kind == 1:
            one, other = (self.node(f"Slice({both}, [{a}], [{b}], [-1])") for a, b in ((0, made), (-made, 99)))
        else:
            one, other = (self.node(f"Slice({both}, [{at}], [99], [2], [2])") for at in (0, 1))
        self.last, self.width = self.node(f"Mul({self.activation(one)}, {other})"), made

    def convolution(self) -> None:
        turned = self.node(f"Transpose{{perm=[0, 2, 1]}}({self.last})")
        grouped = self.width % 2 == 0 and self.pick(0, 1)
        group = self.pick(2, self.width) if grouped else 1
        made = self.width * self.pick(1, 2) if grouped else self.pick(4, 6)
        weight, bias = self.weight(made, self.width // group, 3), self.weight(made)
        found = self.node(f"Conv{{group={group}, pads=[1, 1]}}({turned}, {weight}, {bias})")
        self.last, self.width = self.activation(self.node(f"Transpose{{perm=[0, 2, 1]}}({found})")), made

    def recurrence(self) -> None:
        op, gates = (("LSTM", 4), ("GRU", 3), ("RNN", 1))[self.pick(0, 1, 2)]
        ways, units = self.pick(1, 2), self.pick(3, 4)
        sequence = self.node(f"Transpose{{perm=[1, 0, 2]}}({self.last})")
        weights = [self.weight(ways, gates * units, self.width), self.weight(ways, gates * units, units)]
        weights += [self.weight(ways, 2 * gates * units)] if self.pick(0, 1) else []
        weights += ["_", self.weight(ways, BATCH, units)] if len(weights) == 3 and self.pick(0, 1) else []
        direction = "bidirectional" if ways == 2 else "forward"
        first, *rest = (self.name() for _ in range(3 if op == "LSTM" else 2))
        given = ", ".join([sequence, *weights])
        self.text.append(f'{", ".join([first, *rest])} = {op}{{hidden_size={units}, direction="{direction}"}}({given})')
        turned = self.node(f"Transpose{{perm=[2, 0, 1, 3]}}({first})")
        self.last, self.width = self.node(f"Reshape({turned}, [0, 0, {ways * units}])"), ways * units

    def attention(self) -> None:
        heads, size, group = self.pick(2, 3), self.pick(2, 4), self.pick(1, 2)
        x, width = self.last, self.width
        query = self.product(x, width, heads * group * size)
        key, value = (self.product(x, width, heads * size) for _ in range(2))
        if group == 2 or self.pick(0, 1):
            given = f"q_num_heads={heads * group}, kv_num_heads={heads}"
            mixed = self.node(f"Attention{{{given}}}({query}, {key}, {value})")
        else:
            split = [self.node(f"Reshape({each}, [0, 0, {heads}, {size}])") for each in (query, key, value)]
            q, v = (self.node(f"Transpose{{perm=[0, 2, 1, 3]}}({each})") for each in (split[0], split[2]))
            k = self.node(f"Transpose{{perm=[0, 2, 3, 1]}}({split[1]})")
            scores = self.node(f"Softmax{{axis=-1}}({self.node(f'MatMul({q}, {k})')})")
            back = self.node(f"Transpose{{perm=[0, 2, 1, 3]}}({self.node(f'MatMul({scores}, {v})')})")
            mixed = self.node(f"Reshape({back}, [0, 0, {heads * size}])")
        self.last, self.width = mixed, heads * group * size

    def branches(self) -> None:
        one, other = self.pick(3, 4), self.pick(2, 5)
        left, right = (
            self.product(self.last, self.width, one),
            self.activation(self.product(self.last, self.width, other)),
        )
        self.last, self.width = self.node(f"Concat{{axis=-1}}({left}, {right}, {left})"), 2 * one + other

    def pieces(self) -> None:
        at = self.pick(*range(1, self.width))
        first, second = self.name(), self.name()
        self.text.append(f"{first}, {second} = Split{{axis=-1}}({self.last}, [{at}, {self.width - at}])")
        made = self.pick(3, 4)
        parts = [self.product(each, size, made) for each, size in ((first, at), (second, self.width - at))]
        self.last, self.width = self.node(f"Add({parts[0]}, {parts[1]})"), made

    def residual(self) -> None:
        inner = self.activation(self.product(self.last, self.width, 6))
        self.last = self.node(f"Add({self.last}, {self.product(inner, 6, self.width)})")

    def normalized(self) -> None:
        self.last = self.node(f"LayerNormalization{{axis=-1}}({self.last}, {self.weight(self.width)})")

    def scaled(self) -> None:
        mean = self.node(f"ReduceMean{{keepdims=1}}({self.last}, [1])")
        self.last = self.node(f"Mul({self.last}, {self.node(f'Sigmoid({mean})')})")


LAYERS: tuple[Callable[[Stack], None], ...] = (
    Stack.linear,
    Stack.gated,
    Stack.convolution,
    Stack.recurrence,
    Stack.attention,
    Stack.branches,
    Stack.pieces,
    Stack.residual,
    Stack.normalized,
    Stack.scaled,
)


def stack(seed: int) -> ir.Model:
    """Three to five layers, then a product or a sum."""
    made = Stack(seed)
    for index in made.rng.integers(0, len(LAYERS), made.pick(3, 4, 5)):
        LAYERS[index](made)
    end = (
        f"MatMul({made.last}, {made.weight(made.width, 3)})"
        if made.pick(0, 0, 1) == 0
        else f"ReduceSum({made.last}, [-1])"
    )
    made.text.append(f"y = {end}")
    return graph(*made.text, inputs={"x": f"float[{BATCH}, {STEPS}, 5]"}, outputs=["y"], **made.weights)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_free_group_of_a_random_stack(seed: int) -> None:
    assert_free_groups_can_be_cut(lambda: stack(seed), seed)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_all_free_groups_of_a_random_stack_at_once(seed: int) -> None:
    model = stack(seed)
    found = dependencies(model)
    free: list[Group] = [group for group in found.groups if cuttable(group)]
    rng = np.random.default_rng(seed)
    masks = {group.axis: rng.permutation(group.size) < max(group.size // 2, 1) for group in free}
    assert_cut_is_zero(model, masks, found, random_feeds(model, seed))
    again = [group.size for group in dependencies(model).groups if cuttable(group)]
    assert all(size > 1 for size in again)


def test_the_stacks_have_all_sorts_of_free_groups() -> None:
    roles = {
        role
        for seed in range(SEEDS)
        for group in dependencies(stack(seed)).groups
        if group.free
        for role in group.roles
    }
    sizes = [sum(cuttable(group) for group in dependencies(stack(seed)).groups) for seed in range(SEEDS)]
    assert len(roles) >= 3
    assert sum(sizes) > 3 * SEEDS


@pytest.mark.parametrize("seed", range(5))
def test_cutting_nothing_is_the_identity(seed: int) -> None:
    model = stack(seed)
    before = lines(model)
    found = dependencies(model)
    cut(found, {group.axis: np.ones(group.size, bool) for group in found.groups})
    cut(found, {})
    assert lines(model) == before
