from __future__ import annotations

import numpy as np
import onnx_ir
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.training import adagrad, adam, momentum

DOMAIN = "ai.onnx.preview.training"
HEADER = f'<ir_version: 10, opset_import: ["" : 21, "{DOMAIN}" : 1]>'
RATE = torch.tensor(0.1, dtype=torch.float64)
X = torch.tensor([1.0, -2.0], dtype=torch.float64)
G = torch.tensor([0.5, 3.0], dtype=torch.float64)


def count(value: int) -> torch.Tensor:
    return torch.tensor(value)


def test_adam_steps_as_torch_does() -> None:
    weight = torch.nn.Parameter(X.clone())
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-12)
    x, v, h = X, torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for step in range(1, 4):
        weight.grad = G * step
        optimizer.step()
        x, v, h = adam(RATE, count(step), x, G * step, v, h, alpha=0.9, beta=0.99, epsilon=1e-12, outputs=3)  # type: ignore[misc]
    torch.testing.assert_close(x, weight.detach())


def test_adagrad_steps_as_torch_does() -> None:
    weight = torch.nn.Parameter(X.clone())
    optimizer = torch.optim.Adagrad([weight], lr=0.1, lr_decay=0.5, eps=1e-12, weight_decay=0.2)
    x, h = X, torch.zeros(2, dtype=torch.float64)
    for step in range(3):
        weight.grad = G
        optimizer.step()
        settings = {"decay_factor": 0.5, "epsilon": 1e-12, "norm_coefficient": 0.2}
        x, h = adagrad(RATE, count(step), x, G, h, outputs=2, **settings)  # type: ignore[misc, arg-type]
    torch.testing.assert_close(x, weight.detach())


@pytest.mark.parametrize("mode", ["standard", "nesterov"])
def test_momentum_steps_as_torch_does(mode: str) -> None:
    weight = torch.nn.Parameter(X.clone())
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.2, nesterov=mode == "nesterov")
    x, v = X, torch.zeros(2, dtype=torch.float64)
    for step in range(3):
        weight.grad = G
        optimizer.step()
        x, v = momentum(  # type: ignore[misc]
            RATE, count(step), x, G, v, alpha=0.9, beta=1.0, mode=mode, norm_coefficient=0.2, outputs=2
        )
    torch.testing.assert_close(x, weight.detach())


def test_the_first_step_of_momentum_takes_the_whole_gradient() -> None:
    settings = {"alpha": 0.9, "beta": 0.5, "mode": "standard", "norm_coefficient": 0.0, "outputs": 2}
    first = momentum(RATE, count(0), X, G, torch.zeros(2, dtype=torch.float64), **settings)  # type: ignore[arg-type]
    later = momentum(RATE, count(1), X, G, torch.zeros(2, dtype=torch.float64), **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(first[1], G)  # type: ignore[index]
    torch.testing.assert_close(later[1], G / 2)  # type: ignore[index]


def test_what_optimizers_refuse() -> None:
    with pytest.raises(ValueError, match="there are 4 tensors after R and T; expected 3 for each"):
        adagrad(RATE, count(0), X, X, X, X, outputs=2)
    with pytest.raises(ValueError, match="mode is 'heavy'; ONNX has standard and nesterov"):
        momentum(RATE, count(0), X, X, X, alpha=0.9, beta=1.0, mode="heavy", norm_coefficient=0.0, outputs=2)


def interpreter(text: str) -> Interpreter:
    return Interpreter(to_fx(onnx_ir.from_onnx_text(f"{HEADER}\n{text}")))


def test_gradient_by_inputs_and_by_what_lies_between() -> None:
    run = interpreter(f"""
    g (float[2] w, float[2] x) => (float[2] dw, float[2] dx, float[2] dh) {{
        k = Constant <value_floats = [3.0, 4.0]> ()
        h = Mul (w, x)
        p = Mul (h, k)
        y = Mul (p, h)
        dw, dx = {DOMAIN}.Gradient <xs = ["w", "x"], y = "y"> (w, x)
        dh = {DOMAIN}.Gradient <xs = ["h"], y = "y"> (x)
    }}
    """).run
    w, x, k = np.array([1.0, 2.0], np.float32), np.array([5.0, 6.0], np.float32), np.array([3.0, 4.0])
    found = run({"w": w, "x": x})
    np.testing.assert_allclose(found["dw"], 2 * k * w * x * x)
    np.testing.assert_allclose(found["dx"], 2 * k * w * w * x)
    # at the value that is given: h = x
    np.testing.assert_allclose(found["dh"], 2 * k * x)


def test_second_derivatives_and_fixed_inputs() -> None:
    run = interpreter(f"""
    g (float[2] x, float[2] z) => (float[2] d, float[2] dd, float[2] none) {{
        s = Mul (x, x)
        c = Mul (s, x)
        y = Mul (c, z)
        d = {DOMAIN}.Gradient <xs = ["x"], zs = ["z"], y = "y"> (x, z)
        dd = {DOMAIN}.Gradient <xs = ["x"], zs = ["z"], y = "d"> (x, z)
        none = {DOMAIN}.Gradient <xs = ["z"], y = "s"> (z)
    }}
    """).run
    x, z = np.array([1.0, 2.0], np.float32), np.array([5.0, 7.0], np.float32)
    found = run({"x": x, "z": z})
    np.testing.assert_allclose(found["d"], 3 * x * x * z)
    np.testing.assert_allclose(found["dd"], 6 * x * z)
    assert found["none"].tolist() == [0, 0]


def test_a_gradient_of_a_name_that_is_not_there() -> None:
    text = f'g (float[2] x) => (float[2] d) {{ d = {DOMAIN}.Gradient <xs = ["x"], y = "q"> (x) }}'
    with pytest.raises(ModelError, match="there is no value 'q' to differentiate"):
        interpreter(text)
