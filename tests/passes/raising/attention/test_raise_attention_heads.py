"""The heads of an Attention, split and joined by the op itself."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.attention.raise_attention_heads import RaiseAttentionHeads
from tersor.tests.support import apply, holds, inside_if, misses

X = {
    "q": "float[batch, queries, 32]",
    "k": "float[batch, keys, 32]",
    "v": "float[batch, keys, 32]",
}
MASK = {"m": "float[batch, 1, queries, keys]"}


def split(name: str, heads: int = 4, size: int = 8, perm: str = "[0, 2, 1, 3]") -> tuple[str, str]:
    return f"{name}4 = Reshape({name}, [0, 0, {heads}, {size}])", f"{name}h = Transpose{{perm={perm}}}({name}4)"


def joined(width: str = "32", perm: str = "[0, 2, 1, 3]") -> tuple[str, str]:
    return f"yt = Transpose{{perm={perm}}}(yh)", f"y = Reshape(yt, [0, 0, {width}])"


def model(*text: str, inputs: dict[str, str] | None = None, outputs: list[str] | None = None) -> ir.Model:
    return graph(*text, inputs=X if inputs is None else inputs, outputs=outputs)


SPLITS = (*split("q"), *split("k"), *split("v"))
ATTEND = "yh = Attention{scale=0.5}(qh, kh, vh)"


class TestRewrites:
    def test_all_heads_alike(self) -> None:
        assert apply(RaiseAttentionHeads(), model(*SPLITS, ATTEND, *joined())) == [
            "y = Attention{kv_num_heads=4, q_num_heads=4, scale=0.5}(q, k, v)"
        ]

    def test_a_mask_and_the_other_attributes_stay(self) -> None:
        attend = "yh = Attention{is_causal=1, softcap=30.0}(qh, kh, vh, m)"
        assert apply(RaiseAttentionHeads(), model(*SPLITS, attend, *joined(), inputs=X | MASK)) == [
            "y = Attention{is_causal=1, kv_num_heads=4, q_num_heads=4, softcap=30.0}(q, k, v, m)"
        ]

    def test_grouped_queries(self) -> None:
        inputs = X | {"k": "float[batch, keys, 16]", "v": "float[batch, keys, 16]"}
        made = model(*split("q"), *split("k", 2), *split("v", 2), ATTEND, *joined(), inputs=inputs)
        assert apply(RaiseAttentionHeads(), made) == [
            "y = Attention{kv_num_heads=2, q_num_heads=4, scale=0.5}(q, k, v)"
        ]

    def test_values_of_another_width(self) -> None:
        made = model(
            *split("q"), *split("k"), *split("v", 4, 2), ATTEND, *joined("8"), inputs=X | {"v": "float[batch, keys, 8]"}
        )
        assert apply(RaiseAttentionHeads(), made) == [
            "y = Attention{kv_num_heads=4, q_num_heads=4, scale=0.5}(q, k, v)"
        ]

    def test_keys_and_values_that_two_attentions_read(self) -> None:
        second = ("zh = Attention(qh, kh, vh)", "zt = Transpose{perm=[0, 2, 1, 3]}(zh)", "z = Reshape(zt, [0, 0, 32])")
        found = apply(RaiseAttentionHeads(), model(*SPLITS, ATTEND, *joined(), *second))
        assert [line.split(" = ")[0] for line in found] == ["y", "z"]

    def test_heads_that_never_lay_side_by_side_do_after_a_reshape(self) -> None:
        text = ("r = Relu(q4)", "qh = Transpose{perm=[0, 2, 1, 3]}(r)")
        made = model(*text, *SPLITS[2:], ATTEND, *joined(), inputs={**X, "q4": "float[batch, queries, 4, 8]"})
        assert apply(RaiseAttentionHeads(), made) == [
            "r = Relu(q4)",
            "y/Reshape = Reshape(r, y/shape)",
            "y = Attention{kv_num_heads=4, q_num_heads=4, scale=0.5}(y/Reshape, k, v)",
        ]

    def test_a_cache_keeps_its_heads_apart(self) -> None:
        past = X | dict.fromkeys(("ck", "cv"), "float[batch, 4, past, 8]")
        attend = "(yh, pk, pv) = Attention(qh, kh, vh, _, ck, cv)"
        assert apply(
            RaiseAttentionHeads(), model(*SPLITS, attend, *joined(), inputs=past, outputs=["y", "pk", "pv"])
        ) == ["(y, pk, pv) = Attention{kv_num_heads=4, q_num_heads=4}(q, k, v, _, ck, cv)"]

    def test_in_branches(self) -> None:
        found = apply(RaiseAttentionHeads(), inside_if(model(*SPLITS, ATTEND, *joined())))
        assert sum("q_num_heads=4" in line for line in found) == 2
        assert not any("Reshape" in line for line in found)


REFUSED = [
    ("form", model("y = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v)")),
    (
        "split",
        model(*SPLITS[2:], "yh = Attention(q, kh, vh)", *joined(), inputs=X | {"q": "float[batch, 4, queries, 8]"}),
    ),
    (
        "split",
        model(
            *split("q", perm="[0, 2, 3, 1]"), *SPLITS[2:], ATTEND, *joined(), inputs={**X, "q": "float[batch, 8, 32]"}
        ),
    ),
    ("split", model("qh = Reshape(q, [0, 4, -1, 8])", *SPLITS[2:], ATTEND, *joined())),
    ("split", model(SPLITS[0], "qh = my.Transpose{perm=[0, 2, 1, 3]}(q4)", *SPLITS[2:], ATTEND, *joined())),
    ("heads", model(*split("q"), *split("k"), *split("v", 2, 16), ATTEND, *joined())),
    (
        "heads",
        model(
            *split("q", 3, 8),
            *split("k", 2, 8),
            *split("v", 2, 8),
            ATTEND,
            *joined("24"),
            inputs={"q": "float[batch, queries, 24]", "k": "float[batch, keys, 16]", "v": "float[batch, keys, 16]"},
        ),
    ),
    ("join", model(*SPLITS, ATTEND)),
    ("join", model(*SPLITS, ATTEND, *joined(), "z = Neg(yh)")),
    ("join", model(*SPLITS, ATTEND, *joined(), "z = Neg(yt)")),
    ("join", model(*SPLITS, ATTEND, *joined(), outputs=["y", "yh"])),
    ("join", model(*SPLITS, ATTEND, *joined(perm="[0, 1, 2, 3]"))),
    ("join", model(*SPLITS, ATTEND, joined()[0], "y = Reshape(yt, [0, -1])")),
    ("join", model(*SPLITS, ATTEND, joined()[0], "y = Reshape(yt, [1, -1, 32])")),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    for value in [value for value in made.graph.inputs if not value.uses()]:
        made.graph.inputs.remove(value)
    (miss,) = misses(RaiseAttentionHeads(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseAttentionHeads(), made) == before


def test_leaves_a_contrib_attention_alone() -> None:
    assert misses(RaiseAttentionHeads(), graph("y = com.microsoft.Attention{num_heads=4}(x, w, b)")) == []


def test_leaves_values_of_unknown_rank_alone() -> None:
    made = model(*SPLITS, ATTEND, *joined())
    for node in made.graph:
        if node.op_type == "Attention":
            node.outputs[0].shape = None
    (miss,) = misses(RaiseAttentionHeads(), made)
    assert miss.rule == "join"


@pytest.mark.parametrize("sizes", [{"batch": 1, "queries": 1, "keys": 1}, {"batch": 3, "queries": 5, "keys": 7}])
@pytest.mark.parametrize(
    "made",
    [
        model(*SPLITS, ATTEND, *joined()),
        model(*SPLITS, "yh = Attention{softcap=3.0}(qh, kh, vh, m)", *joined(), inputs=X | MASK),
        model(
            *split("q"),
            *split("k", 2),
            *split("v", 2),
            ATTEND,
            *joined(),
            inputs=X | {"k": "float[batch, keys, 16]", "v": "float[batch, keys, 16]"},
        ),
        model(
            *split("q"), *split("k"), *split("v", 4, 2), ATTEND, *joined("8"), inputs=X | {"v": "float[batch, keys, 8]"}
        ),
        model(
            *SPLITS,
            "yh = Attention{is_causal=1}(qh, kh, vh)",
            *joined(),
            inputs=dict.fromkeys(X, "float[batch, keys, 32]"),
        ),
        inside_if(model(*SPLITS, ATTEND, *joined())),
    ],
)
def test_holds(made: ir.Model, sizes: dict[str, int]) -> None:
    present = {str(dim) for value in made.graph.inputs for dim in value.shape or ()}
    holds(RaiseAttentionHeads(), made, {name: size for name, size in sizes.items() if name in present})
