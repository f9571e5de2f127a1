"""What of a block is attention and what is feed-forward."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.ir.block import blocks
from tersor.ir.text import graph
from tersor.passes.share.sublayers import Part, parts
from tersor.tests.passes.corpus_share import layer, layers

EYE = np.eye(8, dtype=np.float32)
ONES = np.ones(8, np.float32)


def stack(*block: str, **arrays: np.ndarray) -> dict[str, str]:
    """The parts of the second of three blocks of these lines; `#` is the number of one, IN and OUT its ends."""
    lines, held = list[str](), dict[str, np.ndarray]()
    for at in range(3):
        lines += [line.replace("IN", f"s{at}").replace("OUT", f"s{at + 1}").replace("#", str(at)) for line in block]
        held |= {f"{name}{at}": array for name, array in arrays.items()}
    inputs = {"s0": "float[batch, sequence, 8]"}
    found = blocks(graph(*lines, "y = Neg(s3)", inputs=inputs, **held))
    assert len(found) == 3
    return {node.outputs[0].name or "": part.value for node, part in parts(found[1]).items()}


def test_norms_before_both() -> None:
    found = parts(blocks(layers(layer(), layer(), layer()))[1])
    named = {node.outputs[0].name: part for node, part in found.items()}
    assert {named[f"{name}1"] for name in ("n", "q", "k", "v", "a", "o")} == {Part.ATTENTION}
    assert {named[f"{name}1"] for name in ("m", "p", "h", "r", "d", "e")} == {Part.FFN}


def test_norms_behind_both() -> None:
    found = stack(
        *(f"{name}# = MatMul(IN, w{name}#)" for name in "qkv"),
        "a# = Attention{q_num_heads=2, kv_num_heads=2}(q#, k#, v#)", "o# = MatMul(a#, wo#)", "t# = Add(IN, o#)",
        "n# = LayerNormalization{axis=-1}(t#, g#)", "h# = MatMul(n#, up#)", "r# = Relu(h#)", "d# = MatMul(r#, down#)",
        "u# = Add(n#, d#)", "OUT = LayerNormalization{axis=-1}(u#, e#)",
        wq=EYE, wk=EYE, wv=EYE, wo=EYE, up=EYE, down=EYE, g=ONES, e=ONES,
    )  # fmt: skip
    assert {found[f"{name}1"] for name in ("q", "a", "o", "n")} == {"attention"}
    assert {found[name] for name in ("h1", "r1", "d1", "s2")} == {"ffn"}


def test_branches_in_parallel() -> None:
    found = stack(
        "n# = LayerNormalization{axis=-1}(IN, g#)", *(f"{name}# = MatMul(n#, w{name}#)" for name in "qkv"),
        "a# = Attention{q_num_heads=2, kv_num_heads=2}(q#, k#, v#)", "o# = MatMul(a#, wo#)",
        "h# = MatMul(n#, up#)", "r# = Relu(h#)", "d# = MatMul(r#, down#)", "t# = Add(IN, o#)", "OUT = Add(t#, d#)",
        wq=EYE, wk=EYE, wv=EYE, wo=EYE, up=EYE, down=EYE, g=ONES,
    )  # fmt: skip
    assert {found[f"{name}1"] for name in ("n", "q", "a", "o")} == {"attention"}
    assert {found[f"{name}1"] for name in ("h", "r", "d")} == {"ffn"}


@pytest.mark.parametrize("turned", [False, True])
def test_attention_that_was_not_raised(turned: bool) -> None:
    read = "wt# = Transpose{perm=[1, 0]}(wq#)", "q# = MatMul(IN, wt#)"
    found = stack(
        *(read if turned else ("q# = MatMul(IN, wq#)",)), "k# = MatMul(IN, wk#)",
        "c# = Transpose{perm=[0, 2, 1]}(k#)", "p# = MatMul(q#, c#)", "f# = Softmax{axis=-1}(p#)", "a# = MatMul(f#, IN)",
        "t# = Add(IN, a#)", "h# = MatMul(t#, up#)", "r# = Relu(h#)", "OUT = Add(t#, r#)", wq=EYE, wk=EYE, up=EYE,
    )  # fmt: skip
    assert {found[name] for name in ("q1", "k1", "f1", "a1", *(("wt1",) if turned else ()))} == {"attention"}
    assert {found["h1"], found["r1"]} == {"ffn"}


def test_blocks_without_attention_are_feed_forward() -> None:
    found = stack("h# = MatMul(IN, w#)", "r# = Relu(h#)", "OUT = Add(IN, r#)", w=EYE)
    assert set(found.values()) == {"ffn"}
