"""What torch's exporter is known to write wrongly is mended, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx_ir
import onnxruntime
from tersor.ir.repair import mend, part_names
from tersor.ir.text import graph, lines

INPUTS = {"x": "float[batch, 2, sequence, 4]", "a": "float[1, sequence, 2]"}


def test_gives_rotary_caches_the_batch_of_x() -> None:
    model = graph("c = Cos(a)", "s = Sin(a)", "y = RotaryEmbedding(x, c, s)", inputs=INPUTS)
    mend(model)
    x = np.random.default_rng(0).standard_normal((3, 2, 5, 4)).astype(np.float32)
    angle = np.random.default_rng(1).standard_normal((1, 5, 2)).astype(np.float32)
    session = onnxruntime.InferenceSession(onnx_ir.to_proto(model).SerializeToString())
    (found,) = session.run(None, {"x": x, "a": angle})
    # each pair (x[i], x[i + 2]) is turned by the angle of its place; https://arxiv.org/abs/2104.09864 eq. 34
    cos, sin, left, right = np.cos(angle)[:, None], np.sin(angle)[:, None], x[..., :2], x[..., 2:]
    wanted = np.concatenate([left * cos - right * sin, right * cos + left * sin], -1, dtype=np.float64)
    assert np.abs(found - wanted).max() <= 8 * 2.0**-24 * np.abs(wanted).max()


def test_leaves_caches_of_the_right_batch_and_positions_alone() -> None:
    wide = graph(
        "y = RotaryEmbedding(x, c, s)", inputs={"x": INPUTS["x"], **dict.fromkeys("cs", "float[batch, sequence, 2]")}
    )
    placed = graph("y = RotaryEmbedding(x, c, s, p)", inputs={"x": INPUTS["x"], "p": "int64[batch, sequence]"})
    for model in (wide, placed):
        before = lines(model)
        mend(model)
        assert lines(model) == before


def test_parts_the_names_of_weights_and_values() -> None:
    model = graph("h = Add(x, val_1)", "y = Mul(h, val_1)", val_1=np.ones(2, np.float32))
    (first, _) = model.graph
    first.outputs[0].name = "val_1"
    part_names(model)
    assert lines(model) == ["val_1_1 = Add(x, val_1)", "y = Mul(val_1_1, val_1)"]
