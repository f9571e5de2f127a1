"""Weights of few bits in packages: nothing larger is computed from them beforehand, and the answers are the graph's."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tersor.backends.base import Interface
from tersor.backends.inductor.backend import Inductor
from tersor.backends.inductor.hold import hold_packed
from tersor.ir.feeds import random_feeds
from tersor.ir.fx import to_fx
from tersor.ir.fx.kernels.constants import Constants
from tersor.ir.fx.kernels.packed import pack_weights
from tersor.tests.backends.few_bits import OUTPUTS, PASSES, ROWS, WIDTH, quantized
from tersor.tests.backends.inductor.models import needs_compiler

#: Sums of so many products, in another order.
TOLERANCE = float(np.finfo(np.float32).eps) * WIDTH
#: A step of activations of 8 bits, which are rounded the other way where sums differ.
STEP = 1 / 255

#: One of each form; the others differ in numbers alone.
COMPILED = (
    "quantize-weights{bits=8, group=0, embeddings=true}",
    "quantize-weights{bits=3, group=64, embeddings=true}",
    "quantize-weights{group=64, algorithm=hqq, embeddings=true}",
    "quantize-codebook{embeddings=true}",
    "quantize-codebook{codebook=gobo, embeddings=true}",
    "quantize-binary{algorithm=greedy, embeddings=true}",
    "cast",
    "cast{dtype=float8_e4m3fn}",
    "quantize-dynamic{rows=true, embeddings=true}",
)


def exported(passes: str) -> tuple[torch.fx.GraphModule, torch.Tensor]:
    module, ids = to_fx(quantized(passes)), torch.tensor([[0, 5, 3], [199, 7, 7]])
    pack_weights(module)
    made = torch.export.export(module, (ids,), strict=False).module(check_guards=False)
    assert isinstance(made, torch.fx.GraphModule)
    return made, ids


@pytest.mark.parametrize("passes", PASSES)
def test_nothing_larger_is_known_before_the_package_runs(passes: str) -> None:
    module, ids = exported(passes)
    wanted = module(ids)
    hold_packed(module)
    module.graph.lint()
    module.recompile()
    assert torch.equal(module(ids), wanted), "a product with one is exact"
    # what Inductor leaves alone stands for what it does not know
    for node in module.graph.nodes:
        if "dequantize_per" in str(node.target):
            node.op, node.target = "call_module", "unknown"
    constants = Constants(module)
    for node in module.graph.nodes:
        made = constants.meta(node) if node.op == "call_function" and node in constants else None
        assert made is None or made.nbytes < 4 * min(ROWS, OUTPUTS) * WIDTH, f"{node} is computed beforehand"


def test_weights_in_floats_are_left_to_be_frozen() -> None:
    module, _ = exported("cast{only=[nothing]}")
    before = module.graph.python_code("self").src
    hold_packed(module)
    assert module.graph.python_code("self").src == before


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("passes", COMPILED)
def test_packages(passes: str, tmp_path: Path) -> None:
    model = quantized(passes)
    feeds = random_feeds(model, {"batch": 3, "sequence": 5})
    wanted = to_fx(model)(torch.from_numpy(feeds["ids"])).detach().numpy()
    backend = Inductor(threads=1, max_autotune=False)
    backend.write(model, tmp_path)
    found = backend.open(tmp_path, Interface.of(model)).run(feeds)["y"]
    bound = STEP if "dynamic" in passes else TOLERANCE
    np.testing.assert_allclose(found, wanted, atol=bound * np.abs(wanted).max())
    if "dynamic" in passes:
        with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
            code = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".so"))
        assert b"qlinear_pointwise_tensor" in code
