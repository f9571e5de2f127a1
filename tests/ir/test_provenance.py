"""Which source nodes a node stands for, through any number of rewrites."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.provenance import KEY, inherit, scope, shared, sources, stand_for


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


def exported(name: str, *modules: str) -> ir.Node:
    """A node as torch's exporter writes it, with the modules around it."""
    (node,) = named(name)
    node.metadata_props["pkg.torch.onnx.name_scopes"] = str(["", *modules, name])
    return node


@pytest.mark.parametrize(
    ("node", "module"),
    [
        (exported("node_softmax_2", "model", "model.layers.7", "model.layers.7.attn"), "model.layers.7.attn"),
        (exported("node_add"), ""),
        (exported("sym_size", "_empty_nn_module_stack_from_metadata_hook"), ""),
        (named("/model/layers.7/attn/Softmax_1")[0], "model.layers.7.attn"),
        (named("/Softmax")[0], ""),
        (named("model/layers.7/Softmax")[0], ""),
        (named(None)[0], ""),
    ],
)
def test_the_module_that_a_node_was_exported_from(node: ir.Node, module: str) -> None:
    assert scope(node) == module


def test_what_a_rewrite_made_is_in_the_module_that_the_old_nodes_share() -> None:
    query, key = (exported(name, "layers.7", "layers.7.attn", f"layers.7.attn.{name}") for name in ("q", "k"))
    first, second, far = *named("first", "second"), exported("far", "head")
    inherit([first], [query, key])
    inherit([second], [first, far], at=[first])
    assert [scope(node) for node in (first, second)] == ["layers.7.attn", "layers.7.attn"]
    assert sources(second) == ("q", "k", "far")


def test_a_node_keeps_its_own_module() -> None:
    inner = exported("inner", "layers.3")
    inherit([inner], [exported("outer", "layers.7")])
    assert scope(inner) == "layers.3"


def test_names_alone_tell_the_module_of_what_was_merged() -> None:
    (new,) = named(None)
    stand_for([new], ["/layers.7/attn/q/MatMul", "/layers.7/attn/k/MatMul"])
    assert scope(new) == "layers.7.attn"


@pytest.mark.parametrize(
    ("scopes", "common"),
    [
        ([], ""),
        (["", ""], ""),
        (["a.b"], "a.b"),
        (["a.b", "a"], "a"),
        (["a.b", "a.bc"], "a"),
        (["a", "b", "a"], ""),
    ],
)
def test_the_module_around_several(scopes: list[str], common: str) -> None:
    assert shared(scopes) == common
