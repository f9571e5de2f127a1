"""Convolutions, pools and what goes with images: what is free is as good as zero."""

from __future__ import annotations

import pytest
from tersor.tests.ir.axes.support import Case, Run, assert_case, weight
from tersor.tests.support import on_onnxruntime


def case(
    name: str,
    lines: str,
    free: tuple[int, ...],
    weights: tuple[tuple[str, object], ...],
    x: str,
    run: Run | None = None,
) -> Case:
    return Case(name, tuple(lines.split("; ")), {"x": x}, dict(weights), list(free), run)


IMAGE = "float[2, 4, 6, 6]"
CONVOLUTIONS = [
    case(
        "groups of channels",
        "a = Conv(x, k); b = Conv{group=4}(a, l, c); y = Conv(b, m)",
        (2, 3, 4),
        (("k", weight(8, 4, 1, 1)), ("l", weight(12, 2, 3, 3)), ("c", weight(12)), ("m", weight(2, 12, 1, 1))),
        IMAGE,
    ),
    case(
        "transposed, groups of channels",
        "a = Conv(x, k); b = ConvTranspose{group=4}(a, l, c); y = Conv(b, m)",
        (2, 3, 4),
        (("k", weight(8, 4, 1, 1)), ("l", weight(8, 3, 3, 3)), ("c", weight(12)), ("m", weight(2, 12, 1, 1))),
        IMAGE,
        on_onnxruntime,
    ),
    case(
        "transposed",
        "a = ConvTranspose(x, k, c); b = Relu(a); y = Conv(b, m)",
        (8,),
        (("k", weight(4, 8, 3, 3)), ("c", weight(8)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "a multiplier of channels",
        "a = Conv(x, k); b = Conv{group=8}(a, l); y = Conv(b, m)",
        (2, 8),
        (("k", weight(8, 4, 1, 1)), ("l", weight(16, 1, 3, 3)), ("m", weight(2, 16, 1, 1))),
        IMAGE,
    ),
    case(
        "squeeze and excitation",
        "a = Conv(x, k); g = GlobalAveragePool(a); e = Conv(g, l); h = Relu(e); f = Conv(h, m); "
        "s = Sigmoid(f); b = Mul(a, s); y = Conv(b, o)",
        (2, 8),
        (("k", weight(8, 4, 1, 1)), ("l", weight(2, 8, 1, 1)), ("m", weight(8, 2, 1, 1)), ("o", weight(3, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "normalized by groups",
        "a = Conv(x, k); b = GroupNormalization{num_groups=4}(a, g, h); y = Conv(b, m)",
        (4,),
        (("k", weight(8, 4, 1, 1)), ("g", weight(8)), ("h", weight(8)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "a scale for each group, as older opsets have it",
        "a = Conv(x, k); b = GroupNormalization{num_groups=4}(a, g, g); y = Conv(b, m)",
        (),
        (("k", weight(8, 4, 1, 1)), ("g", weight(4)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "normalized by channel",
        "a = Conv(x, k); b = InstanceNormalization(a, g, h); y = Conv(b, m)",
        (8,),
        (("k", weight(8, 4, 1, 1)), ("g", weight(8)), ("h", weight(8)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "numbered by MaxPool",
        "a = Conv(x, k); b, i = MaxPool{kernel_shape=[2, 2]}(a); f = Cast{to=1}(i); c = Add(b, f); y = Conv(c, m)",
        (),
        (("k", weight(8, 4, 1, 1)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "resized to sizes",
        'a = Conv(x, k); b = Resize{mode="nearest"}(a, _, _, [2, 8, 12, 12]); y = Conv(b, m)',
        (8,),
        (("k", weight(8, 4, 1, 1)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "resized along some axes",
        'a = Conv(x, k); b = Resize{axes=[2, 3], mode="nearest"}(a, _, _, [12, 12]); y = Conv(b, m)',
        (8,),
        (("k", weight(8, 4, 1, 1)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "resized itself",
        'a = Conv(x, k); b = Resize{mode="nearest"}(a, _, _, [2, 16, 6, 6]); y = Conv(b, m)',
        (),
        (("k", weight(8, 4, 1, 1)), ("m", weight(2, 16, 1, 1))),
        IMAGE,
    ),
    case(
        "resized to what it is",
        'a = Conv(x, k); b = Resize{axes=[1], mode="nearest"}(a, _, _, [8]); y = Conv(b, m)',
        (),
        (("k", weight(8, 4, 1, 1)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "rows that a weight has",
        "a = Mul(x, p); b = Conv(a, k); c = Relu(b); y = Conv(c, m)",
        (8,),
        (("p", weight(1, 1, 6, 6)), ("k", weight(8, 4, 3, 3)), ("m", weight(2, 8, 1, 1))),
        "float[2, 4, 1, 1]",
    ),
    case(
        "a running mean that is read",
        "a = Conv(x, k); b, r, t = BatchNormalization{training_mode=1}(a, g, h, g, h); "
        "e = Conv(b, m); f = MatMul(r, u); d = ReduceMax(f); y = Add(e, d)",
        (),
        (("k", weight(8, 4, 1, 1)), ("g", weight(8)), ("h", weight(8)), ("u", weight(8, 3)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "local response",
        "a = Conv(x, k); b = LRN{size=3}(a); y = Conv(b, m)",
        (),
        (("k", weight(8, 4, 1, 1)), ("m", weight(2, 8, 1, 1))),
        IMAGE,
    ),
    case(
        "channels into space",
        "a = Conv(x, k); b = DepthToSpace{blocksize=2}(a); y = Conv(b, m)",
        (),
        (("k", weight(8, 4, 1, 1)), ("m", weight(2, 2, 1, 1))),
        IMAGE,
    ),
    case(
        "flattened channels",
        "a = Conv(x, k); b = Flatten(a); y = MatMul(b, v)",
        (8,),
        (("k", weight(8, 4, 1, 1)), ("v", weight(288, 3))),
        IMAGE,
    ),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)
def test_what_is_free_is_as_good_as_zero(case: Case) -> None:
    assert_case(case)
