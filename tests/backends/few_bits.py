"""One lookup and one product, in every form that the quantizing passes store weights in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from tersor.driver.recipe import pipeline_of
from tersor.ir.text import graph
from tersor.passes.run import Verify, run_pipeline

#: Passes, and how many bits a weight takes at most, scales, books and what fills up the last group included.
PASSES = {
    "quantize-weights{bits=8, group=0, embeddings=true}": 9.0,
    "quantize-weights{bits=8, group=0, symmetric=false, embeddings=true}": 9.0,
    "quantize-weights{bits=8, group=32, embeddings=true}": 9.5,
    "quantize-weights{embeddings=true}": 5.5,
    "quantize-weights{group=64, symmetric=false, embeddings=true}": 5.5,
    "quantize-weights{group=64, algorithm=hqq, embeddings=true}": 10.0,
    "quantize-weights{group=0, embeddings=true}": 5.0,
    "quantize-weights{bits=3, group=64, embeddings=true}": 4.0,
    "quantize-weights{bits=7, group=64, rank=2, embeddings=true}": 9.5,
    "quantize-weights{bits=2, group=32, embeddings=true}": 3.5,
    "quantize-codebook{embeddings=true}": 5.0,
    "quantize-codebook{codebook=gobo, embeddings=true}": 6.0,
    "quantize-codebook{codebook=residual, embeddings=true}": 32.0,
    "quantize-binary{algorithm=greedy, embeddings=true}": 5.0,
    "quantize-binary{algorithm=ternary, embeddings=true}": 4.0,
    "cast": 16.0,
    "cast{dtype=bfloat16}": 16.0,
    "cast{dtype=float8_e4m3fn}": 9.0,
    "quantize-dynamic{embeddings=true}": 9.0,
    "quantize-dynamic{rows=true, embeddings=true}": 9.0,
}
ROWS, WIDTH, OUTPUTS = 200, 70, 128
WEIGHTS = WIDTH * (ROWS + OUTPUTS)


def dequantized(
    axis: int, reader: str, *, inputs: Mapping[str, str], shape: tuple[int, int], dtype: type = np.int8
) -> ir.Model:
    """A node that reads `d`, integers of 8 bits with a scale for each index along an axis."""
    text = f"d = DequantizeLinear{{axis={axis}}}(q, s)"
    return graph(text, reader, inputs=inputs, q=np.ones(shape, dtype), s=np.ones(shape[axis], np.float32))


def quantized(passes: str, *, width: int = WIDTH) -> ir.Model:
    """200 words, [batch, sequence], to [batch, sequence, 128] by way of 70 columns, which no group divides."""
    rng = np.random.default_rng(0)
    model = graph(
        "e = Gather(table, ids)",
        "d = MatMul(e, w)",
        "y = Add(d, b)",
        inputs={"ids": "int64[batch, sequence]"},
        table=rng.standard_normal((ROWS, width)).astype(np.float32),
        w=rng.standard_normal((width, OUTPUTS)).astype(np.float32),
        b=rng.standard_normal(OUTPUTS).astype(np.float32),
    )
    run_pipeline(pipeline_of(passes), model, verify=Verify.OFF)
    return model
