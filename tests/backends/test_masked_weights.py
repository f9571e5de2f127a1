"""Weights with zeros on every target: small in the file, put together once, when it is opened, and right."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tersor.backends.base import Interface
from tersor.backends.catalogue import create
from tersor.backends.torch.backend import Torch
from tersor.ir.feeds import random_feeds
from tersor.ir.fx import to_fx
from tersor.ir.fx.kernels.constants import fold_masks
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.tests.backends.inductor.models import needs_compiler
from tersor.tests.passes.quantize.holding import HELD

PASSES = {
    "free": "prune-magnitude{embeddings=true}",
    "80 %": "prune-magnitude{embeddings=true, sparsity=0.8}",
    "2:4": 'prune-magnitude{embeddings=true, pattern="2:4"}',
    "bank": 'prune-magnitude{embeddings=true, pattern="bank:16"}',
    "tiles": "prune-magnitude{embeddings=true, pattern=4x4}",
    "few tiles": "prune-magnitude{embeddings=true, pattern=4x4, sparsity=0.98}",
}
ROWS, WIDTH, OUTPUTS = 512, 128, 256
WEIGHTS = WIDTH * (ROWS + OUTPUTS)
#: Bytes of a weight, values and mask; and of what files hold beside weights, by target.
SHARE = {"free": 0.5 + 1 / 32, "80 %": 0.2 + 1 / 32, "2:4": 0.5 + 0.75 / 32, "bank": 0.5 + 1 / 32}
SHARE |= {"tiles": 0.5 + 1 / 512, "few tiles": 0.02 + 1 / 512}
BESIDE = {"onnxruntime": 12_000, "openvino": 80_000, "torch": 80_000}
#: What the runtimes are left with: a lookup, a product, and what reads and converts.
PLAIN = {"Gather", "MatMul", "Const", "Convert", "FullyConnected", "Input", "Output", "Transpose", "Reorder"}
EPS = float(np.finfo(np.float32).eps)


@cache
def plain() -> ir.Model:
    rng = np.random.default_rng(0)
    return graph(
        "e = Gather(t, ids)", "y = MatMul(e, w)", inputs={"ids": "int64[batch, sequence]"},
        t=rng.standard_normal((ROWS, WIDTH)).astype(np.float32),
        w=rng.standard_normal((WIDTH, OUTPUTS)).astype(np.float32),
    )  # fmt: skip


def pruned(name: str) -> ir.Model:
    model = plain().clone()
    assert Pipeline.of(PASSES[name]).apply(model, Context()).matches == 2
    return model


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("name", PASSES)
def test_files_are_small_and_answers_right(name: str, target: str, tmp_path: Path) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    model, made = pruned(name), create(f"{target}{{threads=1}}")
    feeds = random_feeds(model, seed=1)
    wanted = runner(model)(feeds)["y"]
    lowered = model.clone()
    made.pipeline().apply(lowered, Context())
    made.write(lowered, tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert size <= 4 * WEIGHTS * SHARE[name] + BESIDE[target]
    found = made.open(tmp_path, Interface.of(lowered)).run(feeds)["y"]
    assert np.abs(found - wanted).max() <= EPS * WIDTH * np.abs(wanted).max()


@pytest.mark.parametrize("name", PASSES)
def test_onnxruntime_puts_them_together_when_it_loads(name: str, tmp_path: Path) -> None:
    import onnxruntime

    lowered, made = pruned(name), create("onnxruntime")
    made.pipeline().apply(lowered, Context())
    made.write(lowered, tmp_path)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.optimized_model_filepath = 4, str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    assert {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node} <= PLAIN


@pytest.mark.parametrize("name", PASSES)
def test_openvino_puts_them_together_when_it_loads(name: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    lowered, made = pruned(name), create("openvino")
    made.pipeline().apply(lowered, Context())
    made.write(lowered, tmp_path)
    compiled = openvino.Core().compile_model(tmp_path / "openvino.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    assert {info["layerType"].astype(str) for info in told} <= PLAIN


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("name", PASSES)
def test_torch_puts_them_together_when_it_opens(name: str, written: bool, tmp_path: Path) -> None:
    model, made = pruned(name), Torch()
    if written:
        made.write(model, tmp_path)
        session = made.open(tmp_path, Interface.of(model))
    else:
        session = made.compile(model)
    module = session._call  # type: ignore[attr-defined]
    called = " ".join(str(node.target) for node in module.graph.nodes if node.op == "call_function")
    assert "matmul" in called
    assert not any(word in called for word in ("cumsum", "cum_sum", "shift", "unpack", "assert_scalar"))
    assert sum(tensor.nbytes for tensor in module.state_dict().values()) <= 4 * WEIGHTS + 4096


@pytest.mark.parametrize("name", PASSES)
def test_masks_alone_are_folded_where_the_rest_is_to_stay_small(name: str) -> None:
    model = pruned(name)
    Pipeline.of("quantize-weights{bits=8, group=0, smallest=1}").apply(model, Context())
    module, feeds = to_fx(model), random_feeds(model, seed=1)
    assert fold_masks(module) == 2
    assert fold_masks(module) == 0
    wanted = runner(model)(feeds)["y"]
    import torch

    np.testing.assert_array_equal(module(torch.from_numpy(feeds["ids"])).numpy(), wanted)


@pytest.mark.parametrize("kind", ["matmul", "gemm, transB", "pointwise", "conv", "table", "lstm", "gru"])
@pytest.mark.parametrize("pattern", ["free", "2:4", "4x4"])
def test_openvino_takes_every_kind_of_site(kind: str, pattern: str) -> None:
    pytest.importorskip("openvino")
    held = HELD[kind]
    model, made = held.model, create("openvino{threads=1}")
    option = f", {held.option}=true" if held.option else ""
    Pipeline.of(f'prune-magnitude{{pattern="{pattern}", smallest=1{option}}}').apply(model, Context())
    feeds, lowered = random_feeds(model, seed=1), model.clone()
    made.pipeline().apply(lowered, Context())
    found, wanted = made.compile(lowered).run(feeds), runner(model)(feeds)
    for name, answer in wanted.items():
        assert np.abs(found[name] - answer).max() <= 64 * EPS * np.abs(answer).max()


@needs_compiler
def test_inductor_packs_what_they_stand_for(tmp_path: Path) -> None:
    """Its packages are compiled for weights as they are multiplied: the file is that of a dense one."""
    made = create("inductor{threads=1, max_autotune=false}")
    model = pruned("2:4")
    feeds = random_feeds(model, seed=1)
    lowered = model.clone()
    made.pipeline().apply(lowered, Context())
    made.write(lowered, tmp_path)
    found, wanted = made.open(tmp_path, Interface.of(lowered)).run(feeds)["y"], runner(model)(feeds)["y"]
    assert np.abs(found - wanted).max() <= EPS * WIDTH * np.abs(wanted).max()
