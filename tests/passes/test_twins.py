"""Which constants of two blocks belong together, and in what blocks differ."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.block import Block, blocks
from tersor.ir.text import graph
from tersor.passes.twins import twins, unlike
from tersor.tests.passes.corpus_share import layer, layers


def loose(model: ir.Model) -> list[Block]:
    return blocks(model, attributes=False)


def test_constants_of_equal_paths_are_twins() -> None:
    first, second = blocks(layers(layer(), layer()))
    pairs = twins(first, second)
    assert pairs is not None
    names = {(node.inputs[at].name, twin.inputs[there].name) for (node, at), (twin, there) in pairs.items()}  # type: ignore[union-attr]
    assert names == {(f"{name}0", f"{name}1") for name in layer()}
    assert unlike(first, second) is None


def test_an_attribute_that_differs_is_named() -> None:
    first, second = loose(layers(layer(), layer(), epsilons=[1e-5, 1e-6]))
    assert twins(first, second) is None
    why = unlike(second, first)
    assert why is not None
    assert why.startswith("epsilon=")
    assert "LayerNormalization" in why


def test_an_attribute_that_one_alone_has() -> None:
    lines = ["a = MatMul(x, w)", "b = LeakyRelu{alpha=0.2}(a)", "c = Add(x, b)"]
    lines += ["d = MatMul(c, v)", "e = LeakyRelu(d)", "f = Add(c, e)"]
    eye = np.eye(4, dtype=np.float32)
    found = loose(graph(*lines, "y = Neg(f)", inputs={"x": "float[n, 4]"}, w=eye, v=eye))
    why = unlike(*found)
    assert why is not None
    assert why.startswith("alpha=0.2")
    assert why.endswith("alpha=None there")


@pytest.mark.parametrize("attributes", [True, False])
def test_blocks_with_other_attributes_are_others_unless_told(attributes: bool) -> None:
    model = layers(layer(), layer(), epsilons=[1e-5, 1e-6])
    assert len(blocks(model, attributes=attributes)) == (0 if attributes else 2)
