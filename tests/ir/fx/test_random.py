from __future__ import annotations

import numpy as np
import onnx.reference
import onnx_ir
import pytest
import torch
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.random import bernoulli, dropout, multinomial
from tersor.ir.text import graph


@pytest.mark.parametrize(
    "line",
    [
        "y = RandomNormal{shape=[3, 4], seed=7.0, mean=2.0, scale=0.5}()",
        "y = RandomUniform{shape=[3, 4], seed=7.0, low=-1.0, high=5.0, dtype=11}()",
        "y = RandomNormalLike{seed=3.0}(x)",
        "y = RandomUniformLike{seed=3.0, dtype=10}(x)",
        "y = Bernoulli{seed=5.0}(x)",
        "y = Bernoulli{seed=5.0, dtype=6}(x)",
    ],
)
def test_a_seed_gives_the_reference_evaluators_numbers(line: str) -> None:
    model = graph(line, "z = Identity(x)", inputs={"x": "float[5, 6]"}, opset=22)
    x = np.random.default_rng(0).random((5, 6)).astype(np.float32)
    found = Interpreter(to_fx(model)).run({"x": x})["y"]
    wanted = onnx.reference.ReferenceEvaluator(onnx_ir.serde.serialize_model(model)).run(["y"], {"x": x})[0]
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-3 if found.dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniform"])
def test_without_a_seed_torchs_generator_decides(op: str) -> None:
    run = Interpreter(to_fx(graph(f"y = {op}{{shape=[64]}}()", "z = Identity(x)", inputs={"x": "float[1]"}))).run
    feeds = {"x": np.zeros(1, np.float32)}
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(run(feeds)["y"])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def test_frequencies() -> None:
    p = torch.tensor([0.0, 0.2, 0.7, 1.0]).expand(20000, 4)
    torch.testing.assert_close(bernoulli(p, seed=1.0).mean(0), p[0], atol=0.01, rtol=0)
    logits = torch.tensor([[0.1, 0.6, 0.3], [1.0, 0.0, 1.0]]).log() + 3
    drawn = multinomial(logits, sample_size=20000, seed=2.0, dtype=7)
    assert drawn.dtype == torch.int64
    shares = torch.stack([(drawn == i).float().mean(1) for i in range(3)], 1)
    torch.testing.assert_close(shares, logits.softmax(1), atol=0.01, rtol=0)


def test_dropout_scales_what_it_keeps_and_has_gradients() -> None:
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    y, mask = dropout(x, 0.25, True, seed=3, outputs=2)  # type: ignore[misc]
    kept = np.random.RandomState(3).random_sample(1000) >= 0.25
    np.testing.assert_array_equal(mask.numpy(), kept)
    np.testing.assert_allclose(y.detach().numpy(), kept / 0.75)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), kept / 0.75)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("training", [False, True])
def test_dropout_with_everything_fed(ratio: float, training: bool) -> None:
    line = "(y, m) = Dropout{seed=1}(x, r, t)"
    module = to_fx(graph(line, inputs={"x": "float[100]", "r": "float[]", "t": "bool[]"}))
    x = np.ones(100, np.float32)
    found = Interpreter(module).run({"x": x, "r": np.float32(ratio), "t": np.array(training)})
    kept = np.random.RandomState(1).random_sample(100) >= ratio if training else np.ones(100, bool)
    np.testing.assert_array_equal(found["m"], kept)
    np.testing.assert_allclose(found["y"], kept * (1 / (1 - ratio) if training and ratio < 1 else 1))


@pytest.mark.parametrize(("opset", "kind"), [(7, np.float32), (10, np.bool_)])
def test_masks_before_opset_12(opset: int, kind: type) -> None:
    module = to_fx(graph("(y, m) = Dropout{ratio=0.9}(x)", inputs={"x": "float[3]"}, opset=opset))
    found = Interpreter(module).run({"x": np.ones(3, np.float32)})
    assert found["y"].tolist() == [1, 1, 1]
    assert found["m"].dtype == kind
    assert found["m"].tolist() == [1, 1, 1]


def test_export_keeps_seeded_numbers_and_the_batch_open() -> None:
    lines = ("y = RandomNormalLike{seed=3.0}(x)", "z = Dropout{seed=1}(x, 0.5, t)")
    model = graph(*lines, inputs={"x": "float[b, 4]"}, t=True)
    batch = {0: torch.export.Dim("b", min=1)}
    module = to_fx(model)
    program = torch.export.export(module, (torch.ones(3, 4),), dynamic_shapes=(batch,))
    x = torch.ones(6, 4)
    for found, wanted in zip(program.module()(x), module(x), strict=True):
        assert torch.equal(found, wanted)


def test_a_ratio_left_out_before_the_training_mode() -> None:
    model = graph("(y, m) = Dropout(x, _, t)", inputs={"x": "float[1000]", "t": "bool[]"})
    x = np.ones(1000, np.float32)
    assert Interpreter(to_fx(model)).run({"x": x, "t": np.array(False)})["y"].tolist() == x.tolist()
    trained = Interpreter(to_fx(model)).run({"x": x, "t": np.array(True)})["y"]
    assert set(trained.tolist()) == {0.0, 2.0}
