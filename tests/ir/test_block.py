"""Blocks of the architectures that a compiler meets, built by hand; no names help, only structure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from types import FrameType

import numpy as np
import onnx_ir
import pytest
from tersor.ir.block import Block, block_of, blocks, residual_streams
from tersor.ir.cost import cost
from tersor.ir.feeds import random_feeds
from tersor.ir.site import sites
from tersor.ir.text import graph

WIDTH, HEADS, HIDDEN = 8, 2, 16


class Weights(dict[str, object]):
    """Constants by name, made on demand."""

    def __call__(self, name: str, *shape: int) -> str:
        self[name] = np.full(shape, 0.1, np.float32)
        return name


def linear(weights: Weights, name: str, source: str, inner: int, outer: int) -> list[str]:
    return [
        f"{name}_m = MatMul({source}, {weights(f'{name}_w', inner, outer)})",
        f"{name} = Add({name}_m, {weights(f'{name}_b', outer)})",
    ]


def norm(weights: Weights, name: str, source: str) -> str:
    return f"{name} = LayerNormalization({source}, {weights(f'{name}_g', WIDTH)}, {weights(f'{name}_s', WIDTH)})"


def attention(weights: Weights, name: str, source: str, mask: str) -> list[str]:
    lines: list[str] = []
    for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        lines += linear(weights, f"{name}{part}", source, WIDTH, WIDTH)
        lines += [
            f"{name}{part}_s = Shape({name}{part})",
            f"{name}{part}_n = Slice({name}{part}_s, [0], [2])",
            f"{name}{part}_t = Concat{{axis=0}}({name}{part}_n, [{HEADS}, {WIDTH // HEADS}])",
            f"{name}{part}_r = Reshape({name}{part}, {name}{part}_t)",
            f"{name}{part}_h = Transpose{{perm={order}}}({name}{part}_r)",
        ]
    return [
        *lines,
        f"{name}_a = MatMul({name}q_h, {name}k_h)",
        f"{name}_b = Add({name}_a, {mask})",
        f"{name}_p = Softmax({name}_b)",
        f"{name}_i = IsNaN({name}_p)",
        f"{name}_w = Where({name}_i, 0.0, {name}_p)",
        f"{name}_c = MatMul({name}_w, {name}v_h)",
        f"{name}_d = Transpose{{perm=[0, 2, 1, 3]}}({name}_c)",
        f"{name}_e = Reshape({name}_d, [0, 0, {WIDTH}])",
        *linear(weights, f"{name}o", f"{name}_e", WIDTH, WIDTH),
    ]


def mlp(weights: Weights, name: str, source: str) -> list[str]:
    up = linear(weights, f"{name}u", source, WIDTH, HIDDEN)
    return [*up, f"{name}g = Gelu({name}u)", *linear(weights, f"{name}d", f"{name}g", HIDDEN, WIDTH)]


def encoder(layers: int, *, pre_norm: bool) -> onnx_ir.Model:
    """BERT (norms after the sums) or GPT (before), with ids, a mask from a second input and a position table."""
    weights = Weights()
    lines = [
        "cut = Shape{start=1, end=2}(mask)",
        f"pos = Slice({weights('positions', 32, WIDTH)}, [0], cut, [0])",
        f"tok = Gather({weights('table', 50, WIDTH)}, ids)",
        "sum = Add(tok, pos)",
        norm(weights, "x0", "sum"),
        "wide = Cast{to=FLOAT}(mask)",
        "inverse = Sub(1.0, wide)",
        "far = Mul(inverse, -10000.0)",
        "side = Unsqueeze(far, [1, 2])",
    ]
    for at in range(layers):
        x, a, m = f"x{at}", f"a{at}", f"m{at}"
        if pre_norm:
            lines += [norm(weights, f"{a}n", x), *attention(weights, a, f"{a}n", "side"), f"{a}r = Add({x}, {a}o)"]
            lines += [norm(weights, f"{m}n", f"{a}r"), *mlp(weights, m, f"{m}n"), f"x{at + 1} = Add({a}r, {m}d)"]
        else:
            lines += [*attention(weights, a, x, "side"), f"{a}r = Add({a}o, {x})", norm(weights, f"{a}n", f"{a}r")]
            lines += [*mlp(weights, m, f"{a}n"), f"{m}r = Add({m}d, {a}n)", norm(weights, f"x{at + 1}", f"{m}r")]
    lines += linear(weights, "head", f"x{layers}", WIDTH, 50)
    shapes = {"ids": "int64[batch, sequence]", "mask": "int64[batch, sequence]"}
    return graph(*lines, inputs=shapes, **weights)


def decoder(layers: int) -> onnx_ir.Model:
    """Llama: RMSNorm, rotary positions shared by all layers, gated MLP, caches in and out of each layer, tied head."""
    weights = Weights(table=np.ones((50, WIDTH), np.float32))
    types = {"ids": "int64[batch, sequence]", "positions": "int64[batch, sequence]"}
    lines = ["x0 = Gather(table, ids)"]
    weights("cosines", 32, 2), weights("sines", 32, 2)
    outputs = ["logits"]
    for at in range(layers):
        x, n = f"x{at}", f"l{at}"
        types |= {f"past_{part}{at}": "float[batch, past, 8]" for part in "kv"}
        lines.append(f"{n}n = RMSNormalization({x}, {weights(f'{n}g', WIDTH)})")
        for part in "qkv":
            lines.append(f"{n}{part} = MatMul({n}n, {weights(f'{n}{part}w', WIDTH, WIDTH)})")
        for part in "qk":
            lines.append(f"{n}{part}r = RotaryEmbedding{{num_heads=2}}({n}{part}, cosines, sines, positions)")
        lines += [
            f"{n}kc = Concat{{axis=1}}(past_k{at}, {n}kr)",
            f"{n}vc = Concat{{axis=1}}(past_v{at}, {n}v)",
            f"{n}a = Attention{{q_num_heads=2, kv_num_heads=2, is_causal=1}}({n}qr, {n}kc, {n}vc)",
            f"{n}o = MatMul({n}a, {weights(f'{n}ow', WIDTH, WIDTH)})",
            f"{n}s = Add({x}, {n}o)",
            f"{n}m = RMSNormalization({n}s, {weights(f'{n}h', WIDTH)})",
            f"{n}gate = MatMul({n}m, {weights(f'{n}gw', WIDTH, HIDDEN)})",
            f"{n}up = MatMul({n}m, {weights(f'{n}uw', WIDTH, HIDDEN)})",
            f"{n}sig = Sigmoid({n}gate)",
            f"{n}silu = Mul({n}gate, {n}sig)",
            f"{n}glu = Mul({n}silu, {n}up)",
            f"{n}down = MatMul({n}glu, {weights(f'{n}dw', HIDDEN, WIDTH)})",
            f"x{at + 1} = Add({n}s, {n}down)",
        ]
        outputs += [f"{n}kc", f"{n}vc"]
    lines += [f"last = RMSNormalization(x{layers}, {weights('g', WIDTH)})", "head = Transpose{perm=[1, 0]}(table)"]
    lines.append("logits = MatMul(last, head)")
    return graph(*lines, inputs=types, outputs=outputs, **weights)


def stream(model: onnx_ir.Model) -> list[str | None]:
    (values,) = residual_streams(model)
    return [value.name for value in values]


@pytest.mark.parametrize("layers", [2, 3, 6])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_finds_the_layers_of_an_encoder(layers: int, pre_norm: bool) -> None:
    model = encoder(layers, pre_norm=pre_norm)
    assert stream(model) == [f"x{at}" for at in range(layers + 1)]


def test_finds_the_layers_of_a_decoder_with_caches() -> None:
    model = decoder(5)
    assert stream(model) == [f"x{at}" for at in range(6)]
    found = blocks(model)
    assert all("Gather" not in {node.op_type for node in block.nodes} for block in found)
    assert [len(block.nodes) for block in found] == [19] * 5


def test_a_block_holds_its_own_shape_arithmetic_and_nothing_shared() -> None:
    model = encoder(3, pre_norm=False)
    found = blocks(model)
    owner = block_of(model)
    inside = {node.name for node in found[1].nodes}
    assert {"a1q_s", "a1q_n", "a1q_t", "a1_i"} <= inside
    assert all(name is not None and name[:2] in ("a1", "m1", "x2") for name in inside)
    outside = [node.name for node in model.graph if node not in owner]
    assert outside == [
        "cut", "pos", "tok", "sum", "x0", "wide", "inverse", "far", "side", "head_m", "head",
    ]  # fmt: skip


def test_blocks_of_a_stack_are_linked_and_alike() -> None:
    found = blocks(encoder(4, pre_norm=True))
    assert [block.index for block in found] == [0, 1, 2, 3]
    assert all(one.output is two.input for one, two in pairwise(found))
    assert len({block.signature for block in found}) == 1
    assert found[0].signature == blocks(encoder(2, pre_norm=True))[0].signature


def test_a_layer_of_another_width_ends_the_run() -> None:
    weights = Weights()
    lines = []
    for at, hidden in enumerate([16, 16, 24, 16]):
        lines += linear(weights, f"u{at}", f"x{at}", WIDTH, hidden)
        lines += [f"g{at} = Relu(u{at})", *linear(weights, f"d{at}", f"g{at}", hidden, WIDTH)]
        lines.append(f"x{at + 1} = Add(x{at}, d{at})")
    assert stream(graph(*lines, inputs={"x0": "float[n, 8]"}, **weights)) == ["x0", "x1", "x2"]


def test_two_stacks_of_an_encoder_decoder() -> None:
    weights = Weights()
    lines = ["e0 = Relu(source)", "d0 = Relu(target)"]
    for at in range(3):
        lines += [*mlp(weights, f"em{at}", f"e{at}"), f"e{at + 1} = Add(e{at}, em{at}d)"]
    for at in range(2):
        lines += linear(weights, f"c{at}", "e3", WIDTH, WIDTH)
        lines += [f"s{at} = Mul(d{at}, c{at})", *linear(weights, f"o{at}", f"s{at}", WIDTH, WIDTH)]
        lines.append(f"d{at + 1} = Add(d{at}, o{at})")
    shapes = {"source": "float[n, 8]", "target": "float[n, 8]"}
    found = residual_streams(graph(*lines, inputs=shapes, **weights))
    assert [[value.name for value in values] for values in found] == [["e0", "e1", "e2", "e3"], ["d0", "d1", "d2"]]


def test_values_are_told_apart_by_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that torch's exporter makes overload ==, as tracing wants it."""

    def refuse(self: onnx_ir.Value, other: object) -> bool:
        raise TypeError("values are no numbers to compare")

    model = decoder(2)
    for name in ("__eq__", "__ne__"):
        monkeypatch.setattr(onnx_ir.Value, name, refuse, raising=False)
    assert stream(model) == ["x0", "x1", "x2"]
    assert [site.block for site in sites(model)] == [None, *[0] * 7, *[1] * 7, None]
    assert cost(model).unknown == ()
    assert set(random_feeds(model)) == {value.name for value in model.graph.inputs}


def chain(weights: Weights) -> list[str]:
    lines = []
    for at in range(4):
        lines += [*linear(weights, f"u{at}", f"x{at}", WIDTH, WIDTH), f"x{at + 1} = Relu(u{at})"]
    return lines


def recurrent(weights: Weights) -> list[str]:
    lines = []
    for at in range(2):
        w, r = weights(f"w{at}", 1, 32, WIDTH), weights(f"r{at}", 1, 32, WIDTH)
        lines += [f"y{at} = LSTM{{hidden_size=8}}(x{at}, {w}, {r})", f"x{at + 1} = Squeeze(y{at}, [1])"]
    return lines


def swishes(_: Weights) -> list[str]:
    return [line for at in range(3) for line in (f"s{at} = Sigmoid(x{at})", f"x{at + 1} = Mul(x{at}, s{at})")]


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (chain, "a chain of equal layers has no residual stream"),
        (recurrent, "stacked recurrent layers fork nowhere"),
        (swishes, "forks without a weight are no blocks"),
        (lambda _: ["y = Relu(x0)"], "nothing repeats"),
    ],
)
def test_finds_none(build: object, why: str) -> None:
    weights = Weights()
    assert callable(build)
    assert blocks(graph(*build(weights), inputs={"x0": "float[s, 2, 8]"}, **weights)) == [], why


def test_a_graph_without_inputs_or_nodes_has_none() -> None:
    assert blocks(graph("y = Relu(c)", c=1.0)) == []


def test_finds_none_in_the_voice_detectors(data_dir: object) -> None:
    folder = data_dir / "models" / "silero_vad"  # type: ignore[operator]
    for path in sorted(folder.glob("*.onnx")):
        assert blocks(onnx_ir.load(path)) == [], path.name


def calls(model: onnx_ir.Model) -> tuple[int, list[Block]]:
    """How many Python functions finding the blocks calls."""
    count = 0

    def tally(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(tally)
    try:
        found = blocks(model)
    finally:
        sys.setprofile(None)
    return count, found


def test_the_work_grows_with_the_nodes() -> None:
    def residual(layers: int) -> Iterator[str]:
        for at in range(layers):
            yield f"m{at} = MatMul(x{at}, w)"
            yield f"x{at + 1} = Add(x{at}, m{at})"

    few, many = (graph(*residual(layers), w=np.eye(8, dtype=np.float32)) for layers in (1250, 5000))
    small, found_small = calls(few)
    large, found_large = calls(many)
    assert (len(found_small), len(found_large)) == (1250, 5000)
    assert large < 5 * small  # four times the nodes
