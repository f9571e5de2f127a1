"""Weights of few bits on the target torch: small in the file, small or quick in memory, and the graph's answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tersor
import torch
from tersor.backends.base import Interface
from tersor.backends.torch.backend import Torch
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.fx import to_fx
from tersor.ir.fx.kernels.constants import Constants, fold
from tersor.ir.fx.kernels.packed import as_indexed, pack_weights
from tersor.ir.fx.kernels.weights import drop_unread
from tersor.ir.fx.ops.index import gather
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.tests.backends.few_bits import OUTPUTS, PASSES, ROWS, WEIGHTS, WIDTH, quantized

EPS = float(np.finfo(np.float32).eps)
#: Sums of so many products, in another order.
TOLERANCE = EPS * WIDTH

#: What decodes the whole table at once: outliers are at places of the flat weight.
WHOLE = ("quantize-codebook{codebook=gobo, embeddings=true}", "quantize-codebook{codebook=residual, embeddings=true}")


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


def held(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


@pytest.mark.parametrize("passes", PASSES)
def test_packed_and_folded_modules_have_the_answers_of_the_graph(passes: str) -> None:
    module, ids = to_fx(quantized(passes)), torch.tensor([[0, 5, -1], [199, 7, 7]])
    wanted = module(ids)
    assert pack_weights(module) > 0
    assert held(module) * 8 <= PASSES[passes] * WEIGHTS + 32 * (OUTPUTS + 256)
    assert error(module(ids), wanted) <= TOLERANCE
    fold(module)
    assert error(module(ids), wanted) <= TOLERANCE
    # float tables are larger by what a table takes
    table = 4 * ROWS * WIDTH
    assert (
        held(module) <= 4 * WEIGHTS + table * (passes in WHOLE) + 4 * OUTPUTS * 2 + (passes not in WHOLE) * table // 2
    )


@pytest.mark.parametrize("passes", [passes for passes in PASSES if passes not in WHOLE])
def test_rows_are_gathered_before_they_are_decoded(passes: str) -> None:
    module = to_fx(quantized(passes))
    pack_weights(module)
    constants = Constants(module)
    tables = [constants.meta(node.args[0]) for node in module.graph.nodes if node.target is gather]
    assert any(node.target is as_indexed for node in module.graph.nodes)
    assert not any(each is not None and each.shape == (ROWS, WIDTH) and each.dtype is torch.float32 for each in tables)


def test_one_scale_for_each_output_comes_after_the_product() -> None:
    module = to_fx(quantized("quantize-weights{bits=8, group=0}"))
    pack_weights(module)
    called = [node.target for node in module.graph.nodes if node.op == "call_function"]
    assert called[-2:] == [torch.matmul, torch.addcmul]
    assert fold(module) == 0, "a stored tensor that is only converted stays as small as it is"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("y = MatMul(x, w)",), "the weight is float"),
        (("q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(q, s, z)"), "the integers are computed"),
        (("d = Mul(w, t)", "y = Gather{axis=1}(d, i)"), "columns are looked up"),
        (("d = Transpose{perm=[1, 0]}(w)", "y = Gather(d, i)"), "rows are columns of what is stored"),
    ],
)
def test_left_alone(lines: tuple[str, ...], why: str) -> None:
    text = " ".join(lines)
    constants: dict[str, object] = {
        "w": np.ones((32, 40), np.float32),
        "t": np.ones(40, np.float32),
        "s": np.float32(0.1),
        "z": np.uint8(3),
    }
    inputs = {"i": "int64[n]"} if "Gather" in text else {"x": "float[n, 32]"}
    words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    used = {name: value for name, value in constants.items() if name in words}
    assert pack_weights(to_fx(graph(*lines, inputs=inputs, **used))) == 0, why


@pytest.mark.parametrize("turned", [False, True])
def test_gemm_and_its_bias(turned: bool) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (48, 40) if turned else (40, 48)).astype(np.uint8)
    scales = rng.random(48).astype(np.float32)
    model = graph(
        f"d = DequantizeLinear{{axis={0 if turned else 1}}}(w, s, z)",
        f"y = Gemm{{transB={int(turned)}}}(x, d, b)",
        inputs={"x": "float[n, 40]"},
        w=codes,
        s=scales,
        z=rng.integers(0, 256, 48).astype(np.uint8),
        b=rng.standard_normal(48).astype(np.float32),
    )
    module, x = to_fx(model), torch.randn(3, 40)
    wanted = module(x)
    assert pack_weights(module) == 1
    assert error(module(x), wanted) <= 256 * TOLERANCE


@pytest.mark.parametrize("unpack", [True, False])
@pytest.mark.parametrize(
    "passes", ["quantize-weights{bits=3, group=64, embeddings=true}", "quantize-codebook{embeddings=true}"]
)
def test_the_program_stays_small_and_runs_without_tersor(passes: str, unpack: bool, tmp_path: Path) -> None:
    model = quantized(passes)
    feeds = random_feeds(model, {"batch": 2, "sequence": 3})
    wanted = to_fx(model)(torch.from_numpy(feeds["ids"])).detach().numpy()
    backend = Torch(threads=1, unpack=unpack)
    backend.write(model, tmp_path)
    program = torch.export.load(tmp_path / "model.pt2")
    assert sum(each.nbytes for each in program.state_dict.values()) * 8 <= PASSES[passes] * WEIGHTS + 32 * (
        OUTPUTS + 256
    )
    found = program.module()(torch.from_numpy(feeds["ids"])).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE * np.abs(wanted).max())
    for session in (backend.open(tmp_path, Interface.of(model)), backend.compile(model)):
        np.testing.assert_allclose(session.run(feeds)["y"], wanted, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize("passes", PASSES)
def test_an_artifact_loads_as_the_model_that_was_saved(passes: str, tmp_path: Path) -> None:
    model = quantized(passes)
    Torch(threads=1).write(model, tmp_path)
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    loaded = tersor.load(tmp_path)
    for name, value in model.graph.initializers.items():
        found, wanted = loaded.graph.initializers[name].const_value, value.const_value
        assert found is not None and wanted is not None
        assert (found.dtype, found.tobytes()) == (wanted.dtype, wanted.tobytes()), name
    assert lines(loaded) == lines(tersor.load(to_fx(model))), "functions inlined, as they are in the graph"
    assert compare(runner(model), runner(loaded), [random_feeds(model, {"batch": 2, "sequence": 3})]).within(0.0)


def test_weights_of_a_program_that_were_changed_are_loaded_as_they_are(tmp_path: Path) -> None:
    model = quantized("quantize-weights{bits=3, group=64}")
    Torch(threads=1).write(model, tmp_path)
    program = torch.export.load(tmp_path / "model.pt2")
    program.state_dict["w_quantized_bits_packed"].zero_()
    bits = tersor.load(program).graph.initializers["w_quantized_bits"].const_value
    assert bits is not None
    assert not bits.numpy().any()


def test_chance_and_inputs_are_no_constants() -> None:
    model = graph(
        "r = RandomUniformLike(w)",
        "s = Add(w, r)",
        "t = Shape(x)",
        "y = Add(x, s)",
        inputs={"x": "float[4]"},
        w=np.ones(4, np.float32),
    )
    module = to_fx(model)
    constants = Constants(module)
    names = {str(node.meta.get("onnx_name")) for node in module.graph.nodes if node in constants}
    assert names == {"w"}


def test_weights_that_only_a_branch_reads_stay() -> None:
    branch = torch.fx.symbolic_trace(torch.nn.Linear(3, 3))
    made = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.ReLU()))
    made.add_module("then_0", branch)
    made.register_buffer("unread", torch.ones(3))
    before = dict(branch.named_parameters())
    assert before
    inner = torch.fx.Graph()
    x = inner.placeholder("x")
    inner.output(inner.call_function(torch.add, (x, inner.get_attr("weight"))))
    branch.register_parameter("weight", torch.nn.Parameter(torch.ones(3)))
    branch.graph = inner
    drop_unread(made)
    assert [name for name, _ in made.named_parameters()] == ["then_0.weight"]
    assert not list(made.named_buffers())
