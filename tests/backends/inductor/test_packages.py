"""Packages of larger models and with other options. Each takes ten seconds and more to compile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import tersor
import torch
from tersor.backends.inductor import aoti
from tersor.backends.inductor.backend import Inductor
from tersor.ir.dimensions import set_ranges
from tersor.ir.errors import ContractError
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph
from tersor.tests.backends.inductor.models import (
    RNG,
    assert_close,
    linear,
    needs_compiler,
    normal,
    reference,
)

pytestmark = [pytest.mark.slow, needs_compiler]


def sized() -> ir.Model:
    """The same batch in two inputs, a sequence that a table of positions limits to 24."""
    model = graph(
        "s = Shape{start=1, end=2}(x)",
        "p = Slice(table, [0], s, [0])",
        "a = Add(x, p)",
        "y = Add(a, z)",
        inputs={"x": "float[batch, sequence, 4]", "z": "float[batch, 1, 4]"},
        table=normal(24, 4),
    )
    set_ranges(model, {"sequence": (1, 24)})
    return model


GRAPHS = {
    "sized": sized(),
    "attention": graph(
        "y = Attention(q, k, v, m)",
        inputs={**dict.fromkeys("qkv", "float[batch, 4, s, 8]"), "m": "bool[batch, 1, s, s]"},
    ),
    "quantized": graph(
        "(q, s, z) = DynamicQuantizeLinear(x)",
        "d = DequantizeLinear(q, s, z)",
        "w = DequantizeLinear{axis=1}(stored, scale)",
        "y = MatMul(d, w)",
        inputs={"x": "float[n, 16]"},
        outputs=["y", "q"],
        stored=RNG.integers(-63, 64, (16, 8)).astype(np.int8),
        scale=np.full(8, 0.01, np.float32),
    ),
    "half": graph("a = Mul(x, x)", "y = Relu(a)", inputs={"x": "float16[n]"}),
    "gru": graph(
        "(y, h) = GRU{hidden_size=4}(x, w, r, b)",
        inputs={"x": "float[s, batch, 3]"},
        outputs=["y", "h"],
        w=normal(1, 12, 3),
        r=normal(1, 12, 4),
        b=normal(1, 24),
    ),
    "unread input": graph("y = Relu(x)", inputs={"x": "float[n]", "z": "int64[n]"}),
    "convolution": graph(
        "c = Conv{kernel_shape=[3, 3], pads=[1, 1, 1, 1]}(x, w, b)",
        "y = Relu(c)",
        inputs={"x": "float[n, 3, h, v]"},
        w=normal(8, 3, 3, 3),
        b=normal(8),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_agrees_with_onnxruntime_at_every_size(name: str) -> None:
    model = GRAPHS[name]
    session = Inductor(threads=1).compile(model)
    dimensions = [str(dim) for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)]
    for size in (1, 2, 7, 24):
        feeds = random_feeds(model, dict.fromkeys(dimensions, size))
        assert_close(session.run(feeds), reference(model, feeds))


def quantized_layers() -> ir.Model:
    """A convolution and a product with a bias between Q/DQ with constant scales, weights within -64..64.

    The convolution has no bias, as ONNX Runtime quantizes it, and a scale by which no sum lies between two steps."""

    def weight(*shape: int) -> np.ndarray:
        return RNG.integers(-64, 65, shape).astype(np.int8)

    return graph(
        "a = QuantizeLinear(x, s, u)",
        "b = DequantizeLinear(a, s, u)",
        "k = DequantizeLinear{axis=0}(kernel, by_kernel)",
        "c = Conv{pads=[1, 1, 1, 1]}(b, k)",
        "d = Relu(c)",
        "e = QuantizeLinear(d, s, u)",
        "f = DequantizeLinear(e, s, u)",
        "w = DequantizeLinear{axis=1}(columns, by_column)",
        "g = MatMul(f, w)",
        "y = Add(g, bias)",
        inputs={"x": "float[batch, 4, height, 8]"},
        outputs=["y", "d"],
        s=np.float32(0.05),
        u=np.uint8(100),
        kernel=weight(6, 4, 3, 3),
        by_kernel=np.full(6, 0.012347, np.float32),
        columns=weight(8, 16),
        by_column=np.full(16, 0.01, np.float32),
        bias=normal(16),
    )


def test_quantized_layers_become_integer_products(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized_layers()
    compiled: list[str] = []
    package = aoti.package

    def kept(program: torch.export.ExportedProgram, path: Path, settings: aoti.Settings) -> None:
        compiled.extend(str(node.target) for node in program.graph.nodes if node.op == "call_function")
        package(program, path, settings)

    monkeypatch.setattr(aoti, "package", kept)
    session = Inductor(threads=1).compile(model)
    assert compiled.count("quantized_decomposed.dequantize_per_channel.default") == 2
    for batch, height in ((1, 2), (3, 5), (8, 17)):
        feeds = random_feeds(model, {"batch": batch, "height": height})
        assert_close(session.run(feeds), reference(model, feeds))


@pytest.mark.parametrize(
    "backend",
    [
        Inductor(freeze=False),
        Inductor(isa="avx2") if "AVX" in torch.backends.cpu.get_cpu_capability() else Inductor(),
        Inductor(sizes=("batch=32",)),
        Inductor(threads=1, max_autotune=False),
    ],
    ids=lambda backend: ", ".join(f"{name}={value}" for name, value in vars(backend).items() if value),
)
def test_options_leave_answers_alone(backend: Inductor) -> None:
    model = linear()
    session = backend.compile(model)
    for batch in (1, 3, 40):
        feeds = random_feeds(model, {"batch": batch})
        assert_close(session.run(feeds), reference(model, feeds))


def halve(module: torch.fx.GraphModule) -> None:
    """A pass that changes what the model computes."""
    relu = next(iter(module.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)))
    with module.graph.inserting_after(relu):
        half = module.graph.call_function(torch.ops.aten.div.Scalar, (relu, 2))
    relu.replace_all_uses_with(half, delete_user_cb=lambda user: user is not half)


def test_a_pass_of_the_user_is_held_to_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_passes.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContractError):
        tersor.compile(linear(), target='inductor{passes=["user_passes:halve"]}')


def test_the_group_times_it_beside_the_others(tmp_path: Path) -> None:
    artifact = tersor.compile(linear(), target="cpu-all{threads=1}", output=tmp_path / "artifact")
    entries = {entry["target"].partition("{")[0]: entry for entry in artifact.manifest["candidates"]}
    assert entries["inductor"]["status"] in ("kept", "slower")


def test_the_group_goes_on_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    artifact = tersor.compile(linear(), target="cpu-all{threads=1}", output=tmp_path / "artifact")
    entry = next(one for one in artifact.manifest["candidates"] if one["target"].startswith("inductor"))
    assert entry["status"] == "unsupported"
    assert "no C++ compiler" in (entry["reason"] or "")


FRESH = """
import shutil, sys
import numpy, tersor
assert shutil.which("g++") is None
session = tersor.open("artifact")
for name in sys.argv[1:]:
    feeds = dict(numpy.load(name + ".npz"))
    numpy.savez("found-" + name, **session.run(feeds))
"""


def test_minilm_in_a_fresh_process_without_a_compiler(minilm_onnx, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = minilm_onnx(23)
    artifact = tersor.compile(path, target="inductor{threads=1}", output=tmp_path / "artifact")
    assert artifact.manifest["target"]["needs"] == json.loads((artifact.path / "runtime.json").read_text())["needs"]
    plain, wanted = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), {}
    model = ir.load(path)
    for batch, sequence in ((1, 2), (1, 256), (2, 17), (64, 2), (64, 40)):
        name = f"{batch}-{sequence}"
        feeds = random_feeds(model, {"batch": batch, "sequence": sequence})
        np.savez(tmp_path / f"{name}.npz", **feeds)
        wanted[name] = plain.run(None, feeds)[0]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *wanted], cwd=tmp_path, env={"PATH": ""}, capture_output=True, timeout=500
    )
    assert done.returncode == 0, done.stderr.decode()
    for name, array in wanted.items():
        with np.load(tmp_path / f"found-{name}.npz") as found:
            got = found["last_hidden_state"]
        assert np.linalg.norm(got - array) <= 3e-6 * np.linalg.norm(array), name


def test_plain_torch_runs_the_file(tmp_path: Path) -> None:
    model = linear()
    Inductor(threads=1).write(model, tmp_path)
    feeds = random_feeds(model, {"batch": 5})
    run = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2"))
    results = run(*(torch.from_numpy(array) for array in feeds.values()))
    found = dict(zip(("y", "same", "turned"), (tensor.numpy() for tensor in results), strict=True))
    assert_close(found, reference(model, feeds))
