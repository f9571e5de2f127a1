"""The selective scan of Mamba kept whole while tracing: one Scan of any length.

    h[t] = exp(A dt[t]) h[t-1] + dt[t] B[t] x[t]        y[t] = C[t] h[t]

transformers writes it as a Python loop over the sequence, which torch.export would unroll, fixing the length. Source:
Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, algorithm 2. Tried with
transformers 5.23: Mamba, FalconMamba, Jamba and Zamba have this function under one name.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

_NAME = "mamba_selective_scan"


@contextlib.contextmanager
def whole_scans(module: torch.nn.Module) -> Iterator[None]:
    """Within this context, the layers of `module` that come from transformers scan with torch's own operator."""
    homes = {type(part).__module__ for part in module.modules()}
    found = [sys.modules[home] for home in sorted(homes) if home.startswith("transformers.") and home in sys.modules]
    with contextlib.ExitStack() as stack:
        for home in found:
            before = vars(home).get(_NAME)
            if before is not None:
                stack.callback(setattr, home, _NAME, before)
                setattr(home, _NAME, selective_scan)
        yield


def selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    use_mambapy: bool = False,
    use_associative_scan: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y [batch, inner, sequence], and the last state [batch, inner, state] where asked for.

    hidden_states, dt and z: [batch, inner, sequence]; A: [inner, state]; B, C: [batch, state, sequence];
    D, delta_bias: [inner]. The two options name other ways to compute the same.
    """
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype)[..., None]
    if delta_softplus:
        dt = functional.softplus(dt)
    wide = torch.promote_types(torch.promote_types(A.dtype, dt.dtype), torch.float32)
    state = hidden_states.new_zeros((*hidden_states.shape[:2], A.shape[-1]), dtype=wide)
    steps = [value.movedim(-1, 0) for value in (dt, dt * hidden_states.float(), B.float(), C)]
    state, scanned = torch.ops.higher_order.scan(_step, [state], steps, [A])
    made = scanned.movedim(0, -1)
    if D is not None:
        made = made + hidden_states * D[None, :, None]
    if z is not None:
        made = made * functional.silu(z)
    return (made, state) if return_last_state else made


def _step(state: Tensor, dt: Tensor, driven: Tensor, b: Tensor, c: Tensor, a: Tensor) -> list[Tensor]:
    """state [batch, inner, n], dt and driven [batch, inner], b and c [batch, n], a [inner, n]."""
    state = torch.exp(a * dt[:, :, None]) * state + driven[:, :, None] * b[:, None, :]
    return [state, torch.matmul(state.to(c.dtype), c[:, :, None])[:, :, 0]]
