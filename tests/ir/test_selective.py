"""The selective scan of Mamba as one Scan: the formula, step by step in float64, and the layers it stands in for."""

from __future__ import annotations

import sys

import pytest
import torch
from tersor.ir.load import load
from tersor.ir.selective import selective_scan, whole_scans
from torch import Tensor, nn
from torch.nn import functional

BATCH, INNER, STATE, LENGTH = 2, 3, 4, 5


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def formula(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h[t] = exp(a dt[t]) h[t-1] + dt[t] b[t] x[t], y[t] = c[t] h[t], one channel of one entry at a time."""
    y, last = torch.zeros_like(x), torch.zeros(BATCH, INNER, STATE, dtype=x.dtype)
    for n in range(BATCH):
        for d in range(INNER):
            h = torch.zeros(STATE, dtype=x.dtype)
            for t in range(x.shape[-1]):
                h = torch.exp(a[d] * dt[n, d, t]) * h + dt[n, d, t] * b[n, :, t] * x[n, d, t]
                y[n, d, t] = c[n, :, t] @ h
            last[n, d] = h
    return y, last


@pytest.mark.parametrize("full", [False, True])
def test_it_is_the_formula(full: bool) -> None:
    torch.manual_seed(0)
    x, dt, a = draw(BATCH, INNER, LENGTH), draw(BATCH, INNER, LENGTH).abs(), -draw(INNER, STATE).abs()
    b, c = draw(BATCH, STATE, LENGTH), draw(BATCH, STATE, LENGTH)
    skip, gate, bias = draw(INNER), draw(BATCH, INNER, LENGTH), draw(INNER)
    if full:
        found, state = selective_scan(x, dt, a, b, c, skip, gate, bias, delta_softplus=True, return_last_state=True)
        wanted, last = formula(x, functional.softplus(dt + bias[:, None]), a, b, c)
        wanted = (wanted + x * skip[:, None]) * functional.silu(gate)
        torch.testing.assert_close(state, last, rtol=1e-6, atol=1e-6)
    else:
        only = selective_scan(x, dt, a, b, c)
        assert isinstance(only, Tensor)
        found, (wanted, _) = only, formula(x, dt, a, b, c)
    # x and b pass through float32, as they do in the layers
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_the_state_is_wide_and_the_result_of_the_inputs_type() -> None:
    x, dt, a, b, c = (
        torch.ones(shape, dtype=torch.bfloat16)
        for shape in ((1, INNER, 2), (1, INNER, 2), (INNER, STATE), (1, STATE, 2), (1, STATE, 2))
    )
    found, state = selective_scan(x, dt, a, b, c, return_last_state=True)
    assert (found.dtype, state.dtype) == (torch.bfloat16, torch.float32)


def test_other_modules_are_left_alone() -> None:
    before = dict(vars(sys.modules[nn.Linear.__module__]))
    with whole_scans(nn.Linear(2, 2)):
        assert vars(sys.modules[nn.Linear.__module__]) == before


@pytest.mark.slow
def test_mamba_keeps_one_scan_of_any_length_and_its_own_function_after() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(hidden_size=8, state_size=4, num_hidden_layers=1, vocab_size=11)
    module = transformers.MambaForCausalLM(config).eval()
    home = sys.modules[type(module).__module__]
    before = vars(home)["mamba_selective_scan"]
    model = load(
        module,
        kwargs={"input_ids": torch.zeros(2, 3, dtype=torch.int64), "use_cache": False},
        dynamic={"input_ids": {0: "batch", 1: "sequence"}},
    )
    assert vars(home)["mamba_selective_scan"] is before
    assert [node.op_type for node in model.graph].count("Scan") == 1
    with pytest.raises(ZeroDivisionError), whole_scans(module):
        assert vars(home)["mamba_selective_scan"] is selective_scan
        raise ZeroDivisionError
    assert vars(home)["mamba_selective_scan"] is before
