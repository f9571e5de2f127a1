"""Which of torch's CPU kernels is fastest for a product with a weight of few bits: what its lowering was chosen by.

Every form computes x @ W + b of MiniLM's sizes, x [rows, 384] in float32 and W [384, 1536], from what it stores; they
are timed in turns on the same activations. Bytes are those of the stored weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tersor.benchmarks._common import SEED, options, publish
from tersor.driver.timing import paired
from tersor.examples.data import Feeds, Run
from tersor.ir.fx.kernels.bits import pack, unpack, widen
from tersor.ir.fx.kernels.packed import decoded
from torch import Tensor
from torch.nn import functional

INPUTS, OUTPUTS, GROUP = 384, 1536, 32
ROWS = (16, 608)
NOTE = "x first: times as fast as the float product, median of pairs with a 95 % interval; error: relative to its own W"


@dataclass(frozen=True)
class Form:
    """A product in one form: what it is a form of, what it stores, how it computes, and the weight it stands for."""

    weight: str
    name: str
    stored: tuple[Tensor, ...]
    run: Callable[[Tensor], Tensor]
    dense: Tensor


def main() -> None:
    parser = options(__doc__ or "", seconds=5.0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    forms = _forms()
    generator = torch.Generator().manual_seed(SEED)
    activations = {rows: torch.randn(rows, INPUTS, generator=generator) for rows in ROWS}
    runs = {f"{form.weight}, {form.name}": _fed(form) for form in forms}
    with torch.inference_mode():
        timed = {
            rows: paired(runs, [{"x": x.numpy()}], rounds=100_000, warmup=3, budget_seconds=given.seconds * len(forms))
            for rows, x in activations.items()
        }
        table: list[dict[str, object]] = []
        for form in forms:
            x = activations[ROWS[0]]
            wanted = x.double() @ form.dense.double() + BIAS.double()
            row: dict[str, object] = {"weight": form.weight, "form": form.name}
            row["bytes"] = sum(tensor.nbytes for tensor in form.stored)
            row["error"] = float((form.run(x).double() - wanted).norm() / wanted.norm())
            for rows, timings in timed.items():
                row[f"us [{rows}]"] = round(timings.latency(f"{form.weight}, {form.name}").p50 * 1e6)
                row[f"x first [{rows}]"] = str(timings.ratio(next(iter(runs)), f"{form.weight}, {form.name}"))
            table.append(row)
    publish("torch_kernels", "torch's CPU kernels, forms of one product", table, given, NOTE)


BIAS = torch.randn(OUTPUTS, generator=torch.Generator().manual_seed(SEED + 1))


def _fed(form: Form) -> Run:
    def run(feeds: Feeds) -> Feeds:
        return {"y": form.run(torch.from_numpy(feeds["x"])).numpy()}

    return run


def _forms() -> list[Form]:
    dense = torch.randn(INPUTS, OUTPUTS, generator=torch.Generator().manual_seed(SEED)) * 0.05
    rows = dense.T.contiguous()
    forms = [
        Form("float32", "linear", (rows,), lambda x: functional.linear(x, rows, BIAS), dense),
        Form("float32", "addmm, [in, out]", (dense,), lambda x: torch.addmm(BIAS, x, dense), dense),
    ]
    return [*forms, *_int8(dense), *_int4(dense), *_narrow_floats(dense)]


def _int8(dense: Tensor) -> list[Form]:
    """One scale for each output; weights within -63..63, so that no sum of two products leaves 16 bits."""
    scale = dense.abs().amax(0) / 63
    codes = torch.round(dense / scale).to(torch.int8)
    rows, stands = codes.T.contiguous(), codes * scale
    half, stored = scale.bfloat16(), (codes, scale)
    onednn, quantized = torch.ops.onednn, torch.ops.quantized
    packed, zeros = onednn.qlinear_prepack(rows, None), torch.zeros(OUTPUTS, dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = torch._make_per_channel_quantized_tensor(rows, scale.double(), zeros.long(), 0)
        fbgemm = quantized.linear_prepack(held, BIAS)

    def integers(x: Tensor) -> Tensor:
        low, high = x.aminmax()
        step = (high - low) / 255
        zero = torch.round(-low / step)
        x8 = torch.clamp(torch.round(x / step) + zero, 0, 255).to(torch.uint8)
        last = (BIAS, 1.0, 0, torch.float32, "none", [], "")
        y: Tensor = onednn.qlinear_pointwise.tensor(x8, step, zero.to(torch.int32), packed, scale, zeros, *last)
        return y

    def bfloat16(x: Tensor) -> Tensor:
        return torch.ops.aten._weight_int8pack_mm(x.bfloat16(), rows, half).float() + BIAS

    return [
        Form("int8", "decode, then product", stored, lambda x: torch.addmm(BIAS, x, codes * scale), stands),
        Form("int8", "scale after product", stored, lambda x: torch.addcmul(BIAS, x @ codes.float(), scale), stands),
        Form("int8", "int8pack in bfloat16", stored, bfloat16, stands),
        Form("int8", "oneDNN, x quantized by its range", stored, integers, stands),
        Form("int8", "FBGEMM, x quantized by its range", stored, lambda x: quantized.linear_dynamic(x, fbgemm), stands),
    ]


def _int4(dense: Tensor) -> list[Form]:
    """Groups of inputs share a scale."""
    apart = dense.reshape(-1, GROUP, OUTPUTS)
    scale = (apart.abs().amax(1) / 7).clamp(min=1e-8)
    codes = torch.round(apart / scale.unsqueeze(1)).clamp(-8, 7).to(torch.int8).reshape(INPUTS, OUTPUTS)
    bytes_, eight = pack(codes, 4), torch.tensor(8)
    stands = decoded(codes, scale, None, axis=0, block_size=GROUP, dtype=torch.float32)
    aten = torch.ops.aten
    weight = aten._convert_weight_to_int4pack_for_cpu((codes.T + eight).to(torch.int32).contiguous(), 1)
    pairs = torch.stack([scale, torch.zeros_like(scale)], -1).bfloat16()

    def unpacked(x: Tensor) -> Tensor:
        values = unpack(bytes_, bits=4, size=OUTPUTS, signed=True)
        return torch.addmm(BIAS, x, decoded(values, scale, None, axis=0, block_size=GROUP, dtype=torch.float32))

    def bfloat16(x: Tensor) -> Tensor:
        return aten._weight_int4pack_mm_for_cpu(x.bfloat16(), weight, GROUP, pairs).float() + BIAS

    return [
        Form("int4", "decode, then product", (bytes_, scale), unpacked, stands),
        Form("int4", "int4pack in bfloat16", (bytes_, scale), bfloat16, stands),
    ]


def _narrow_floats(dense: Tensor) -> list[Form]:
    half, eight = dense.half(), dense.to(torch.float8_e4m3fn)
    return [
        Form("float16", "convert, then product", (half,), lambda x: torch.addmm(BIAS, x, half.float()), half.float()),
        Form(
            "float8",
            "convert, then product",
            (eight,),
            lambda x: torch.addmm(BIAS, x, widen(eight, None, x.dtype)),
            eight.float(),
        ),
    ]


if __name__ == "__main__":
    main()
