from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.backend import OpenVino
from tersor.backends.openvino.packed_size import nodes, planes_pay, width
from tersor.backends.openvino.widen_codes import WidenCodes
from tersor.backends.openvino.widen_weights import WidenWeights
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.weights import packing

pytest.importorskip("openvino")

BACKEND = OpenVino(threads=1)


def written(model: ir.Model, folder: Path, *, widened: bool) -> int:
    """Bytes of the files, with the rules that widen or without them."""
    made, steps = model.clone(), BACKEND.pipeline().steps
    kept = steps if widened else tuple(step for step in steps if not isinstance(step, WidenWeights | WidenCodes))
    Pipeline(steps=kept).apply(made, Context())
    folder.mkdir()
    BACKEND.write(made, folder)
    return sum((folder / name).stat().st_size for name in ("openvino.xml", "openvino.bin"))


@pytest.mark.parametrize("bits", [2, 3, 5, 7])
def test_the_nodes_take_what_they_are_said_to(bits: int, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    model = graph("y = MatMul(x, w)", inputs={"x": "float[n, 64]"}, w=weight)
    QuantizeWeights(bits=bits, group=32, smallest=1).apply(model, Context())
    name = next(node for node in model.graph if node.op_type == "UnpackBits").outputs[0].name or ""
    saved = packing.stored(weight.size, width(bits)) - packing.stored(weight.size, bits)
    packed, wide = (written(model, tmp_path / str(widened), widened=widened) for widened in (False, True))
    assert packed - wide + saved == pytest.approx(nodes(bits, 2, len(name), True), rel=0.05)


@pytest.mark.parametrize("centred", [True, False])
def test_planes_pay_from_where_they_save_more_than_their_nodes(centred: bool) -> None:
    # 3 bits save an eighth of a byte of each integer
    count = 8 * nodes(3, 1, 1, centred)
    assert not planes_pay((count - 64,), 3, "w", centred=centred)
    assert planes_pay((count + 64,), 3, "w", centred=centred)


def test_types_that_there_are_need_no_planes() -> None:
    assert not planes_pay((1 << 30,), 4, "w")
    assert not planes_pay((1 << 30,), 8, "w")
