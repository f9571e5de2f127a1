"""What passes quantize, as OpenVINO computes it: the numbers, the kernels and the bytes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.backend import OpenVino
from tersor.ir.errors import UnsupportedError
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context, Pass
from tersor.passes.quantize.cast import Cast
from tersor.passes.quantize.quantize_binary import QuantizeBinary
from tersor.passes.quantize.quantize_codebook import QuantizeCodebook
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.statistics import Calibration
from tersor.tests.passes.quantize.holding import HELD
from tersor.tests.support import misses

openvino = pytest.importorskip("openvino")

RNG = np.random.default_rng(0)
GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
BACKEND = OpenVino(threads=1)
#: Relative L2 error of sums of some hundred products, in another order; of half precision, whose sums are rounded too.
TOLERANCE, HALF = 2e-6, 2e-2
ALL = {"embeddings": True, "convolutions": True, "smallest": 1}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def lowered(model: ir.Model) -> ir.Model:
    made = model.clone()
    BACKEND.pipeline().apply(made, Context())
    return made


def distance(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """The largest relative L2 error of an output."""
    pairs = [(np.float64(found[name]), np.float64(wanted[name])) for name in wanted]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def error(model: ir.Model) -> float:
    """How far OpenVINO is from what the quantized model means."""
    feeds = random_feeds(model, seed=1)
    return distance(BACKEND.compile(lowered(model)).run(feeds), runner(model)(feeds))


def kernels(model: ir.Model, folder: Path) -> list[tuple[str, str]]:
    """What the CPU plugin runs when the files are opened: layers and the precision that they run in."""
    BACKEND.write(lowered(model), folder)
    compiled = openvino.Core().compile_model(folder / "openvino.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return [(info["layerType"].astype(str), info["primitiveType"].astype(str).rpartition("_")[2]) for info in told]


def model_of(*text: str, inputs: Mapping[str, str] | None = None) -> ir.Model:
    known = {"w": normal(64, 128), "b": normal(128), "v": normal(128, 64), "t": normal(200, 64)}
    used = {
        name: array for name, array in known.items() if any(f" {name})" in line or f"({name}," in line for line in text)
    }
    return graph(*text, inputs=inputs or {"x": "float[n, 64]"}, **used)


LAYERS = ("p = MatMul(x, w)", "h = Add(p, b)", "g = Gelu(h)", "y = MatMul(g, v)")
WEIGHTS = {
    f"{bits} bits by {group}, {'symmetric' if symmetric else 'not symmetric'}": QuantizeWeights(
        bits=bits, group=group, symmetric=symmetric, embeddings=True
    )
    for bits in range(2, 9)
    for group in (0, 32, 48)
    for symmetric in (True, False)
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_few_bits_are_read_right(name: str) -> None:
    model = model_of("e = Gather(t, ids)", "p = MatMul(e, w)", "y = MatMul(p, v)", inputs={"ids": "int64[n]"})
    assert WEIGHTS[name].apply(model, Context()).matches == 3
    assert error(model) <= TOLERANCE


OTHERS: dict[str, Pass] = {
    "3 bits, a shorter block": QuantizeWeights(bits=3, group=12, symmetric=False, **ALL),
    "4 bits, one block": QuantizeWeights(bits=4, group=64, **ALL),
    "hqq": QuantizeWeights(algorithm="hqq", group=12, **ALL),
    "low rank": QuantizeWeights(bits=2, rank=2, group=0, **ALL),
    "binary": QuantizeBinary(**ALL),
    "nf4": QuantizeCodebook(**ALL),
    "k-means": QuantizeCodebook(codebook="kmeans", bits=3, **ALL),
    "gobo": QuantizeCodebook(codebook="gobo", **ALL),
    "product": QuantizeCodebook(codebook="product", **ALL),
    "float16": Cast(smallest=1),
    "bfloat16": Cast(dtype="bfloat16", smallest=1),
    "float8": Cast(dtype="float8_e4m3fn", smallest=1),
}

KINDS = "matmul", "matmul, half", "gemm, transB", "pointwise", "conv", "table", "lstm", "gru"
#: What passes leave at those sites, and the rule by which they do.
LEFT = {
    ("matmul, half", "float16"): "dtype",
    ("matmul, half", "bfloat16"): "dtype",
    ("pointwise", "product"): "bytes",
    ("conv", "product"): "bytes",
}


@pytest.mark.parametrize(("kind", "name"), [case for case in itertools.product(KINDS, OTHERS) if case not in LEFT])
def test_every_form_at_every_kind_of_site(kind: str, name: str) -> None:
    model = HELD[kind].model
    assert OTHERS[name].apply(model, Context()).matches
    assert error(model) <= (HALF if "half" in kind else TOLERANCE)


@pytest.mark.parametrize(("kind", "name"), LEFT)
def test_forms_that_a_site_does_not_take(kind: str, name: str) -> None:
    assert {miss.rule for miss in misses(OTHERS[name], HELD[kind].model)} == {LEFT[kind, name]}


def static(model: ir.Model, made: Pass) -> ir.Model:
    """The model after a pass that calibrates on random feeds."""
    made.apply(model, Context(calibration=Calibration([random_feeds(model, seed=seed) for seed in range(4)])))
    return model


@pytest.mark.parametrize(
    "made", [QuantizeStatic(range="min-max"), QuantizeStatic(range="min-max", type="int8", symmetric=True)]
)
def test_static_layers_run_on_integers(made: Pass, tmp_path: Path) -> None:
    model = static(model_of(*LAYERS), made)
    found = kernels(model, tmp_path)
    products = [precision for layer, precision in found if layer == "FullyConnected"]
    assert [precision.lower() for precision in products] == ["i8", "i8"]
    # the second rounding is part of the first product
    assert [layer for layer, _ in found].count("FakeQuantize") == 1
    assert GROUP not in (tmp_path / "runtime.json").read_text(encoding="utf-8")
    assert (tmp_path / "openvino.bin").stat().st_size < 2 * 64 * 128 * 1.3


@pytest.mark.parametrize("made", [QuantizeStatic(range="min-max"), QuantizeStatic(type="int8", symmetric=True)])
def test_static_layers_agree_but_for_what_rounds_to_the_other_side(made: Pass) -> None:
    # a first layer whose sums no CPU saturates is exact; where the second rounds, a sum on the edge falls either way
    assert error(static(model_of("y = MatMul(x, w)"), made)) <= TOLERANCE
    assert error(static(model_of(*LAYERS), made)) <= 1 / 255


@pytest.mark.parametrize(
    "made",
    [
        QuantizeStatic(range="min-max", type="uint16"),
        QuantizeStatic(range="min-max", type="int16", symmetric=True),
        QuantizeStatic(range="min-max", groups=4),
        QuantizeStatic(range="min-max", bits=4, group=32),
        QuantizeStatic(range="min-max", granularity="tensor"),
    ],
)
def test_activations_of_other_grids_keep_their_numbers(made: Pass) -> None:
    assert error(static(model_of("y = MatMul(x, w)"), made)) <= TOLERANCE


@pytest.mark.parametrize("shape", ["n, 64", "b, n, 64", "b, 3, n, 64"])
@pytest.mark.parametrize("options", [{}, {"type": "int8", "symmetric": True}, {"type": "uint16"}])
def test_a_grid_for_each_group_of_features(shape: str, options: Mapping[str, str | bool]) -> None:
    made = QuantizeStatic(range="min-max", groups=4, **options)
    found = error(static(model_of("y = MatMul(x, w)", inputs={"x": f"float[{shape}]"}), made))
    # OpenVINO multiplies by 1 / scale: on grids of 16 bits some number stands on an edge, and falls either way
    assert found <= (1 / 65535 if options.get("type") == "uint16" else TOLERANCE)


def test_attention_on_rounded_numbers_is_one_kernel_and_exact(tmp_path: Path) -> None:
    trip = [
        line
        for at in ("q", "k", "v")
        for line in (f"{at}8 = QuantizeLinear({at}, s, z)", f"{at}d = DequantizeLinear({at}8, s, z)")
    ]
    heads = ("qt = Transpose{perm=[0, 2, 1, 3]}(qd)", "kt = Transpose{perm=[0, 2, 3, 1]}(kd)")
    model = graph(
        *trip, *heads, "vt = Transpose{perm=[0, 2, 1, 3]}(vd)", "c = MatMul(qt, kt)", "n = Softmax{axis=-1}(c)",
        "n8 = QuantizeLinear(n, sn, zn)", "nd = DequantizeLinear(n8, sn, zn)", "y = MatMul(nd, vt)",
        inputs=dict.fromkeys("qkv", "float[b, s, 4, 32]"), s=np.float32(0.025), z=np.array(0, np.int8),
        sn=np.float32(1 / 255), zn=np.array(0, np.uint8),
    )  # fmt: skip
    assert error(model) <= 1 / 255  # a probability on the edge falls either way
    assert [layer for layer, _ in kernels(model, tmp_path)].count("Subgraph") == 1
    assert all(layer != "MatMul" for layer, _ in kernels(model, tmp_path))


CELLS = {
    "lstm": ("(y, h, c) = LSTM{hidden_size=16}(x, w, r)", 64),
    "gru": ("(y, h) = GRU{hidden_size=16}(x, w, r)", 48),
    "gru, reset behind": ("(y, h) = GRU{hidden_size=16, linear_before_reset=1}(x, w, r)", 48),
    "rnn": ("(y, h) = RNN{hidden_size=16}(x, w, r)", 16),
}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("name", CELLS)
def test_recurrent_layers_that_are_fed_rounded_numbers(name: str, groups: int) -> None:
    text, rows = CELLS[name]
    weights = {"w": normal(1, rows, 32) / 4, "r": normal(1, rows, 16) / 4}
    model = graph(text, inputs={"x": "float[time, 2, 32]"}, **weights)
    assert error(static(model, QuantizeStatic(range="min-max", smallest=1, groups=groups))) <= TOLERANCE


def test_recurrent_layers_that_round_their_states_name_the_option() -> None:
    weights = {"w": normal(1, 64, 32), "r": normal(1, 64, 16)}
    model = graph("(y, h, c) = LSTM{hidden_size=16}(x, w, r)", inputs={"x": "float[time, 2, 32]"}, **weights)
    assert QuantizeDynamic(recurrent="computed", smallest=1).apply(model, Context()).matches == 2
    with pytest.raises(UnsupportedError, match=r"Scan of quantize-dynamic\{recurrent=computed\}"):
        BACKEND.compile(lowered(model))


@pytest.mark.parametrize("kind", ["matmul, weight left", "gemm, transA", "pointwise", "conv", "conv, groups", "table"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_static_sites_of_every_kind(kind: str, symmetric: bool) -> None:
    made = QuantizeStatic(range="min-max", type="int8" if symmetric else "uint8", symmetric=symmetric, **ALL)
    assert error(static(HELD[kind].model, made)) <= TOLERANCE


def test_layers_of_every_sort_stand_beside_each_other(tmp_path: Path) -> None:
    model = static(model_of(*LAYERS), QuantizeStatic(only=("w",), range="min-max"))
    assert QuantizeDynamic().apply(model, Context()).matches == 1
    found = kernels(model, tmp_path)
    assert {precision.lower() for layer, precision in found if layer == "FullyConnected"} == {"i8", "f32"}
    assert f'"{GROUP}": "32"' in (tmp_path / "runtime.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("bits", [3, 4])
def test_stored_weights_never_round_activations(bits: int, tmp_path: Path) -> None:
    model = model_of(*LAYERS)
    QuantizeWeights(bits=bits, group=32).apply(model, Context())
    BACKEND.write(lowered(model), tmp_path)
    assert f'"{GROUP}": "0"' in (tmp_path / "runtime.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("bits", "layers"), [(3, {"FullyConnected"}), (4, {"Gather", "FullyConnected"}),
                                              (8, {"Gather", "FullyConnected"})])  # fmt: skip
def test_tables_and_weights_stay_small_in_memory(bits: int, layers: set[str], tmp_path: Path) -> None:
    model = model_of("e = Gather(t, ids)", "y = MatMul(e, w)", inputs={"ids": "int64[n]"})
    QuantizeWeights(bits=bits, group=0, embeddings=True).apply(model, Context())
    BACKEND.write(lowered(model), tmp_path)
    compiled = openvino.Core().compile_model(tmp_path / "openvino.xml", "CPU")
    read = {
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) in layers
    }
    assert len(read) == 1
    assert read <= {"u8", "i8", "i4", "u4"}
    stored = 4 if bits == 3 else bits
    assert (tmp_path / "openvino.bin").stat().st_size < (200 + 128) * 64 * stored / 8 * 1.1 + (200 + 128) * 4 + 500
