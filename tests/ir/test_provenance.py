"""Which source nodes a node stands for, through any number of rewrites."""

from __future__ import annotations

import onnx_ir as ir
from tersor.ir.provenance import KEY, inherit, sources


def named(*names: str | None) -> list[ir.Node]:
    return [ir.node("Relu", [ir.Value(name="x")], name=name) for name in names]


def test_an_untouched_node_stands_for_itself() -> None:
    assert [sources(node) for node in named("a", None, "")] == [("a",), (), ()]


def test_a_new_node_stands_for_all_that_it_replaced() -> None:
    new, old = named("new"), named("a", "b")
    inherit(new, old)
    assert sources(new[0]) == ("a", "b")


def test_rewrites_add_up_in_order_and_once() -> None:
    a, b, c = named("a", "b", "c")
    first, second = named("first", "second")
    inherit([first], [b, a])
    inherit([second], [first, c, b])
    assert sources(second) == ("b", "a", "c")


def test_a_node_that_replaces_nothing_stands_for_nothing() -> None:
    (new,) = named("new")
    inherit([new], named(None))
    assert sources(new) == ()
    inherit([new], [])
    assert sources(new) == ()


def test_provenance_survives_a_file() -> None:
    (new,) = named("new")
    inherit([new], named("layer.0/attn", "layer.0/mask"))
    again = ir.from_proto(ir.to_proto(new))
    assert sources(again) == ("layer.0/attn", "layer.0/mask")
    assert KEY in again.metadata_props
