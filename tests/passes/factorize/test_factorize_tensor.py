"""Weights as small tensors: every format on every spelling, what is left alone and why, and what inputs weigh."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.constants import STORED
from tersor.ir.errors import OptionError
from tersor.ir.text import graph, lines
from tersor.passes.base import Candidate, Context, Miss
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.factorize.factorize_tensor import FactorizeTensor
from tersor.passes.statistics import Calibration
from tersor.tests.passes.factorize.few import (
    CLOSE,
    CONVOLUTIONS,
    FORMATS,
    IMAGE,
    LINEAR,
    RNG,
    TABLES,
    WORDS,
    X,
    factorised,
    fed,
    held,
    normal,
    products,
)  # fmt: skip
from tersor.tests.support import apply, misses


@pytest.mark.parametrize("data", [False, True], ids=["plain", "whitened"])
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("format", FORMATS)
def test_every_spelling_of_a_linear_layer(format: str, name: str, data: bool) -> None:
    held(LINEAR[name], FactorizeTensor(format=format, ratio=0.65, smallest=1), data=data)


#: What `kronecker` leaves alone is told by another test.
HELD = [
    (format, name)
    for format in FORMATS
    for name in CONVOLUTIONS
    if format != "kronecker" or not ("groups" in name or "transposed" in name)
]


@pytest.mark.parametrize("data", [False, True], ids=["plain", "whitened"])
@pytest.mark.parametrize(("format", "name"), HELD)
def test_every_kind_of_convolution(format: str, name: str, data: bool) -> None:
    # a depthwise convolution of every axis takes its share of multiply-adds
    ratio = 0.4 if format == "cp" else 0.6
    held(CONVOLUTIONS[name], FactorizeTensor(format=format, ratio=ratio, smallest=1, convolutions=True), data=data)


@pytest.mark.parametrize("data", [False, True], ids=["plain", "whitened"])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("format", FORMATS)
def test_every_table(format: str, name: str, data: bool) -> None:
    # what CP holds of a head takes fewer multiply-adds at few terms alone
    ratio = 0.3 if len(TABLES[name].lines) > 1 and format == "cp" else 0.65
    held(TABLES[name], FactorizeTensor(format=format, ratio=ratio, smallest=1, embeddings=True), data=data)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
def test_factors_are_of_the_type_of_the_weight(format: str, dtype: type) -> None:
    kind = {"x": f"{np.dtype(dtype).name}[batch, 24]"}
    model = graph("y = MatMul(x, w)", inputs=kind, w=products(24, 36).astype(dtype))
    after, outcome = factorised(model, FactorizeTensor(format=format, ratio=0.65, smallest=1))
    assert outcome.matches == 1
    assert {value.dtype.numpy() for name, value in after.graph.initializers.items() if name.startswith("w_")} == {
        np.dtype(dtype)
    }
    # two or three roundings of products of numbers of 8 or 11 bits
    assert compare(model, after, fed(model)).within(8 * float(ml_dtypes.finfo(dtype).eps))


def test_a_kronecker_product_is_two_products() -> None:
    weight = np.kron(normal(4, 6), normal(6, 6))
    model = graph("y = MatMul(x, w)", inputs=X, w=weight)
    assert apply(FactorizeTensor(format="kronecker", terms=1, modes="4x6/6x6", smallest=1), model) == [
        "y/Reshape = Reshape(x, y/shape)",
        "y/MatMul = MatMul(y/Reshape, w_core1)",
        "y/Transpose = Transpose{perm=[0, 1, 3, 2]}(y/MatMul)",
        "y/MatMul_1 = MatMul(y/Transpose, w_core0)",
        "y/Transpose_1 = Transpose{perm=[0, 1, 3, 2]}(y/MatMul_1)",
        "y = Reshape(y/Transpose_1, y/shape_1)",
    ]


def test_a_convolution_is_three() -> None:
    model = graph("y = Conv{pads=[1, 1, 1, 1]}(x, w, b)", inputs=IMAGE, w=products(16, 12, 3, 3), b=normal(16))
    assert apply(FactorizeTensor(format="tucker", rank=2, convolutions=True), model) == [
        "y/Conv = Conv(x, w_0)",
        "y/Conv_1 = Conv{pads=[1, 1, 1, 1]}(y/Conv, w_1)",
        "y = Conv(y/Conv_1, w_2, b)",
    ]


def test_cp_of_a_convolution_goes_along_one_axis_at_a_time() -> None:
    model = graph("y = Conv{strides=[2, 1]}(x, w)", inputs=IMAGE, w=products(16, 12, 3, 3))
    assert apply(FactorizeTensor(format="cp", rank=5, convolutions=True), model) == [
        "y/Conv = Conv(x, w_0)",
        "y/Conv_1 = Conv{group=5, strides=[2, 1]}(y/Conv, w_1)",
        "y/Conv_2 = Conv{group=5, strides=[1, 1]}(y/Conv_1, w_2)",
        "y = Conv(y/Conv_2, w_3)",
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_a_table_is_looked_up_without_being_made(format: str) -> None:
    model = graph("y = Gather(w, ids)", inputs=WORDS, w=products(60, 36, rank=30))
    after, _ = factorised(model, FactorizeTensor(format=format, ratio=0.5, embeddings=True))
    fixed = set(after.graph.initializers.values())
    for node in after.graph:
        if all(value in fixed for value in node.inputs):
            fixed.update(node.outputs)
    assert all(value.shape is not None and np.prod(value.shape.numpy()) < 60 * 36 for value in fixed)


def test_lookups_and_head_read_the_same_cores() -> None:
    model = TABLES["a head"].model
    after, _ = factorised(model, FactorizeTensor(rank=2, smallest=1, embeddings=True))
    cores = [value for name, value in after.graph.initializers.items() if name.startswith("w_core")]
    assert len(cores) > 1 and all(len(value.consumers()) == 2 for value in cores)


def test_what_inputs_weigh_is_lost_least_where_they_are() -> None:
    weight = normal(24, 36)
    scales = np.exp(2 * RNG.standard_normal(24)).astype(np.float32)
    model = graph("y = MatMul(x, w)", inputs=X, w=weight)
    batches = [{"x": normal(4, 16, 24) * scales} for _ in range(8)]

    def error(algorithm: str, format: str) -> float:
        after = model.clone()
        made = FactorizeTensor(format=format, ratio=0.4, algorithm=algorithm, smallest=1)
        made.apply(after, Context(feeds=batches[:1], calibration=Calibration(batches)))
        return max(each.relative_l2 for each in (compare(model, after, feeds) for feeds in batches))

    for format in FORMATS:
        assert error("whitened", format) < error("plain", format), format


def test_ids_that_are_looked_up_often_lose_least() -> None:
    model = graph("y = Gather(w, ids)", inputs=WORDS, w=normal(64, 36))
    often = RNG.integers(0, 8, (4, 200))
    context = Context(calibration=Calibration([{"ids": often}]))
    errors = {}
    for algorithm in ("plain", "whitened"):
        after = model.clone()
        FactorizeTensor(ratio=0.4, algorithm=algorithm, embeddings=True).apply(after, context)
        errors[algorithm] = compare(model, after, {"ids": often}).relative_l2
    assert errors["whitened"] < errors["plain"]


@pytest.mark.parametrize("format", FORMATS)
def test_more_numbers_lose_less(format: str) -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=normal(24, 36))
    made = [FactorizeTensor(format=format, ratio=ratio, smallest=1) for ratio in (0.2, 0.4, 0.6)]
    losses = [compare(model, factorised(model, each)[0], fed(model)).relative_l2 for each in made]
    assert losses == sorted(losses, reverse=True)


def test_factors_are_not_factorised_again_nor_folded() -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=products(24, 36, rank=20))
    made = FactorizeTensor(modes="4x6x1x1/1x1x6x6", rank=3, smallest=1)
    feeds = {"x": normal(64, 64, 24)}
    made.apply(model, Context(feeds=[feeds]))
    before = lines(model)
    # so many rows multiply cores first
    assert any(STORED in node.metadata_props for node in model.graph)
    FoldConstants().apply(model, Context())
    assert lines(model) == before
    assert made.apply(model, Context(feeds=[feeds])).matches == 0 and lines(model) == before


def test_what_is_padded_is_told() -> None:
    _, outcome = factorised(LINEAR["primes"].model, FactorizeTensor(modes="4x6/4x8", ratio=0.2, smallest=1))
    assert "23 padded to 24, 31 padded to 32" in outcome.findings[0].chosen, str(outcome.findings[0].miss)


def test_inputs_that_never_vary_are_no_obstacle() -> None:
    model, feeds = LINEAR["matmul"].model, {"x": np.ones((2, 4, 24), np.float32)}
    after = model.clone()
    outcome = FactorizeTensor(smallest=1).apply(after, Context(calibration=Calibration([feeds])))
    assert outcome.matches == 1 and compare(model, after, feeds).within(CLOSE)


def test_what_is_slower_on_the_target_stays() -> None:
    slow = Miss("speed", "0.5", "a kernel at least as fast")
    model = LINEAR["matmul"].model
    outcome = FactorizeTensor(smallest=1).apply(model, Context(pays=lambda *_: slow))
    assert [finding.miss for finding in outcome.findings] == [slow]
    assert lines(model) == ["y = MatMul(x, w)"]


def test_a_table_with_a_head_that_is_slower_on_the_target_stays() -> None:
    slow, asked = Miss("speed", "0.5", "a kernel at least as fast"), list[str]()

    def pays(_: object, __: ir.Model, found: Candidate) -> Miss:
        asked.append(found.name)
        return slow

    made = FactorizeTensor(embeddings=True, smallest=1)
    model = TABLES["a head"].model
    outcome = made.apply(model, Context(pays=pays))
    assert asked == ["w:embedding"] and [finding.miss for finding in outcome.findings] == [slow]
    assert lines(model) == lines(TABLES["a head"].model)
    # nobody asks about lookups alone
    assert made.apply(TABLES["table"].model, Context(pays=pays)).matches == 1 and len(asked) == 1


_LSTM = graph(
    "(y, _, _) = LSTM{hidden_size=16}(x, w, r)", inputs={"x": "float[time, 2, 32]"}, w=normal(1, 64, 32),
    r=normal(1, 64, 16),
)  # fmt: skip
_PLAIN = graph("y = MatMul(x, w)", inputs=X, w=normal(24, 36))
_CONV = graph("y = Conv(x, w)", inputs=IMAGE, w=normal(16, 12, 3, 3))
LEFT: dict[str, tuple[ir.Model, dict[str, object], str]] = {
    "not asked for": (_PLAIN, {"only": ("other",)}, "only"),
    "ignored": (_PLAIN, {"ignore": ("w",)}, "ignore"),
    "small": (_PLAIN, {"smallest": 5000}, "size"),
    "recurrent": (_LSTM, {}, "recurrent"),
    "a convolution": (_CONV, {"smallest": 1}, "kind"),
    "a table": (TABLES["table"].model, {"smallest": 1}, "kind"),
    "groups by Kronecker products": (
        CONVOLUTIONS["groups"].model, {"format": "kronecker", "convolutions": True, "smallest": 1}, "groups"
    ),
    "a transposed one by Kronecker products": (
        CONVOLUTIONS["transposed"].model, {"format": "kronecker", "convolutions": True, "smallest": 1}, "op"
    ),
    "one channel in a group": (
        graph("y = Conv{group=12}(x, w)", inputs=IMAGE, w=normal(12, 1, 9, 9)[:, :, :3]),
        {"convolutions": True, "smallest": 1}, "channels",
    ),
    "one tap in groups": (
        graph("y = Conv{group=2}(x, w)", inputs=IMAGE, w=normal(12, 6, 1, 1)),
        {"convolutions": True, "smallest": 1}, "taps",
    ),
    "one tap that pads": (
        graph("y = Conv{pads=[1, 1, 1, 1]}(x, w)", inputs=IMAGE, w=normal(96, 12, 1, 1)), {}, "pads"
    ),
    "a given size": (
        graph(
            "y = ConvTranspose{output_shape=[8, 9]}(x, w)", inputs={"x": "float[1, 12, 6, 7]"}, w=normal(12, 8, 3, 3)
        ),
        {"convolutions": True, "smallest": 1}, "output_shape",
    ),
    "no number": (graph("y = MatMul(x, w)", inputs=X, w=np.full((24, 48), np.nan, np.float32)), {}, "finite"),
    "double precision": (
        graph("y = MatMul(x, w)", inputs={"x": "double[4, 24]"}, w=RNG.standard_normal((24, 48))), {}, "dtype"
    ),
    "two layers": (
        graph("a = MatMul(x, w)", "b = MatMul(x, w)", "y = Add(a, b)", inputs=X, w=normal(24, 48)), {}, "tied"
    ),
    "a table that is an output": (
        graph("e = Gather(w, ids)", "y = Neg(e)", inputs=WORDS, outputs=["y", "w"], w=normal(60, 36)),
        {"embeddings": True}, "output",
    ),
    "a table that something else reads": (
        graph("e = Gather(w, ids)", "n = ReduceMax(w)", "y = Mul(e, n)", inputs=WORDS, w=normal(60, 36)),
        {"embeddings": True}, "read",
    ),
    "a ratio below rank one": (_PLAIN, {"ratio": 0.01, "smallest": 1}, "ratio"),
    "a convolution below rank one": (_CONV, {"ratio": 0.01, "convolutions": True}, "ratio"),
    "a rank above full": (_PLAIN, {"rank": 500, "smallest": 1}, "rank"),
    "a rank of CP above full": (_PLAIN, {"format": "cp", "rank": 5000, "smallest": 1}, "rank"),
    "terms above full": (
        _PLAIN, {"format": "kronecker", "terms": 40, "modes": "4x6/6x6", "smallest": 1}, "terms"
    ),
    "terms of a convolution above full": (
        _CONV, {"format": "kronecker", "terms": 5000, "convolutions": True, "smallest": 1}, "terms"
    ),
    "a convolution's terms of as many bytes": (
        _CONV, {"format": "kronecker", "terms": 30, "convolutions": True, "smallest": 1}, "bytes"
    ),
    "a convolution's rank above full": (_CONV, {"rank": 500, "convolutions": True}, "rank"),
    "full rank": (_PLAIN, {"format": "tucker", "rank": 24, "smallest": 1}, "bytes"),
    "stored in half, read whole": (
        graph("c = Cast{to=1}(w)", "y = MatMul(x, c)", inputs=X, w=normal(24, 36).astype(np.float16)),
        {"format": "tucker", "rank": 10, "smallest": 1}, "bytes",
    ),
    "more multiply-adds": (_PLAIN, {"ratio": 0.9, "modes": "4x6/6x6", "smallest": 1}, "multiply-adds"),
    "other modes": (_PLAIN, {"modes": "16x24/16x24", "smallest": 1}, "modes"),
    "a vector": (graph("y = MatMul(x, w)", inputs=X, w=normal(24, 1)), {"smallest": 1}, "multiply-adds"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model, options, rule = LEFT[name]
    found = misses(FactorizeTensor(**options), model)  # type: ignore[arg-type]
    assert {miss.rule for miss in found} == {rule}, [str(miss) for miss in found]


def test_recurrent_weights_are_for_another_pass() -> None:
    assert all("factorize-recurrent" in miss.need for miss in misses(FactorizeTensor(), _LSTM))


def test_a_pattern_that_spares_nothing_is_told() -> None:
    found = misses(FactorizeTensor(ignore=("nothing*",), embeddings=True, smallest=1), TABLES["table"].model)
    assert [miss.rule for miss in found] == ["ignore"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "svd"}, "expected a format of tt, tucker, cp, block-term, kronecker, found svd"),
        ({"algorithm": "fisher"}, "expected the algorithm whitened or plain"),
        ({"ratio": 0.0}, "expected a ratio above 0 and at most 1, found 0"),
        ({"ratio": 1.5}, "expected a ratio above 0 and at most 1"),
        ({"rank": 0}, "expected rank of at least 1, found 0"),
        ({"ratio": 0.5, "rank": 3}, "expected a ratio or rank, found both"),
        ({"format": "kronecker", "ratio": 0.5, "terms": 3}, "expected a ratio or terms, found both"),
        ({"format": "kronecker", "rank": 3}, "kronecker does not take rank=3; it takes ratio, terms"),
        ({"terms": 2}, "tt does not take terms=2; it takes ratio, rank"),
        ({"modes": "16x24"}, "expected modes of inputs and of outputs such as 16x24/32x48"),
        ({"modes": "16x24/384"}, "tt takes as many modes of inputs as of outputs"),
        ({"format": "kronecker", "modes": "2x2x2/2x2x2"}, "two modes of inputs and two of outputs"),
        ({"format": "cp", "modes": "24/36"}, "expected three modes at least"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        FactorizeTensor(**options)  # type: ignore[arg-type]
