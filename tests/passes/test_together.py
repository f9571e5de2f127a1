"""Weights that several sites read: taken on by all of them or none, stored once, and fitted to all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.site import Kind, sites
from tersor.ir.text import graph
from tersor.passes.base import Candidate, Context, Miss, Pass
from tersor.passes.choosing import Choice, together
from tersor.passes.edit import constant_of
from tersor.passes.prune.prune_magnitude import PruneMagnitude
from tersor.passes.prune.prune_obs import PruneObs
from tersor.passes.prune.prune_wanda import PruneWanda
from tersor.passes.quantize.cast import Cast
from tersor.passes.quantize.mix_precision import MixPrecision
from tersor.passes.quantize.quantize_binary import QuantizeBinary
from tersor.passes.quantize.quantize_codebook import QuantizeCodebook
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.share.share_hashed import ShareHashed
from tersor.passes.statistics import Calibration
from tersor.passes.weight_pass import reading, taken
from tersor.tests.passes.quantize.holding import normal
from tersor.tests.support import inside_if

X = {"x": "float[batch, 32]"}
W = normal(32, 48)


def left(model: ir.Model, **options: object) -> list[tuple[str, str]]:
    """The rules and values of misses at each site, told together."""
    choice = Choice(kinds=tuple(Kind), smallest=1, tied=True, **options)  # type: ignore[arg-type]
    found = together((site, choice.verdict(site)) for site in sites(model))
    return [("", "") if miss is None else (miss.rule, miss.value) for _, miss in found]


def test_a_weight_that_sites_read_alike_is_taken_on_by_all_or_none() -> None:
    model = graph("v.a = MatMul(x, w)", "v.b = MatMul(v.a, w)", inputs=X, w=normal(32, 32))
    first, second = (site.name for site in sites(model))
    assert left(model) == [("", ""), ("", "")]
    (tied, told), other = left(model, ignore=(second,))
    assert (tied, other) == ("tied", ("ignore", second))
    assert told.startswith(f"{second}, left for ignore: ")
    other, (tied, told) = left(model, ignore=(first,))
    assert (tied, other) == ("tied", ("ignore", first))
    assert told.startswith(f"{first}, left for ignore: ")


_MATRIX, _KERNEL = normal(32, 32), normal(32, 8, 3)
APART = {
    "read elsewhere": (("a = MatMul(x, w)", "b = MatMul(a, w)", "z = Relu(w)"), _MATRIX),
    "read elsewhere before it is turned": (
        ("t = Transpose{perm=[1, 0]}(w)", "a = MatMul(x, t)", "b = MatMul(a, t)", "z = Relu(w)"),
        _MATRIX,
    ),
    "given out": (("a = MatMul(x, w)", "b = MatMul(a, w)", "z = Identity(w)"), _MATRIX),
    "turned for one": (("a = MatMul(x, w)", "t = Transpose{perm=[1, 0]}(w)", "b = MatMul(a, t)"), _MATRIX),
    "the other way around": (("a = Gemm(x, w)", "b = Gemm{transB=1}(a, w)"), _MATRIX),
    "another op": (("a = MatMul(x, w)", "b = Gemm(a, w)"), _MATRIX),
    "the other side": (("a = MatMul(x, w)", "b = MatMul(w, a)"), _MATRIX),
    "twice by a node": (("a = Gemm(x, w, w)",), _MATRIX),
    "a table and a head": (("a = Gather(w, i)", "b = MatMul(x, w)"), _MATRIX),
    "in groups": (("a = Conv(u, w)", "b = Conv{group=4}(v, w)"), _KERNEL),
}


@pytest.mark.parametrize("name", APART)
def test_a_weight_that_is_read_in_two_ways_is_left_alone(name: str) -> None:
    text, weight = APART[name]
    shapes = {"x": "float[32, 32]", "u": "float[1, 8, time]", "v": "float[1, 32, time]", "i": "int64[n]"}
    given = {each: shape for each, shape in shapes.items() if any(f"({each}," in line for line in text)}
    assert {rule for rule, _ in left(graph(*text, inputs=given, w=weight))} == {"tied"}


def test_what_else_reads_a_weight_is_named() -> None:
    model = graph("a = MatMul(x, w)", "b = MatMul(a, w)", "z = Relu(w)", inputs=X, w=_MATRIX)
    names = [node.name for node in model.graph if node.op_type == "Relu"]
    assert [value for _, value in left(model)] == names * 2


def test_a_weight_that_is_an_output_is_left_alone() -> None:
    text = ("t = Transpose{perm=[1, 0]}(w)", "a = MatMul(x, t)", "b = MatMul(a, t)")
    assert left(graph(*text, inputs=X, outputs=["b", "t"], w=_MATRIX)) == [("tied", "an output")] * 2


def test_a_weight_of_two_branches_is_left_alone() -> None:
    model = inside_if(graph("y = MatMul(x, w)", inputs=X, w=W))
    assert [rule for rule, _ in left(model)] == ["tied", "tied"]


def shared(count: int) -> ir.Model:
    """So many layers of one weight."""
    lines = [f"m{number} = MatMul(s{number}, w)" for number in range(count)]
    sums = [f"s{number + 1} = Add(m{number}, x)" for number in range(count)]
    text = [line for pair in zip(lines, sums, strict=True) for line in pair]
    return graph("s0 = Identity(x)", *text, inputs=X, w=np.random.default_rng(3).standard_normal((32, 32), np.float32))


@pytest.mark.parametrize(
    "made",
    [
        QuantizeWeights(bits=3),
        QuantizeWeights(algorithm="hqq"),
        QuantizeBinary(),
        QuantizeCodebook(),
        Cast(),
        PruneMagnitude(sparsity=0.75),
        PruneObs(sparsity=0.75),
        PruneWanda(sparsity=0.75),
        ShareHashed(smallest=1),
        ShareHashed(method="hashed"),
        QuantizeDynamic(),
        QuantizeStatic(),
        QuantizeWeights(algorithm="gptq"),
        QuantizeWeights(algorithm="awq"),
        QuantizeWeights(rank=2),
        MixPrecision(budget="4 bits"),
        MixPrecision(budget="4 bits", sensitivity="alone"),
    ],
    ids=str,
)
def test_what_several_sites_read_alike_is_stored_once(made: Pass) -> None:
    data = Context(calibration=Calibration([{"x": normal(64, 32)} for _ in range(4)]))
    model, alone = shared(2), shared(1)
    found = made.apply(model, data)
    assert (found.matches, found.misses) == (2, ())
    made.apply(alone, data)
    assert weights(model) == weights(alone)


def weights(model: ir.Model) -> list[tuple[object, ...]]:
    """Types and shapes of what is stored, but for numbers of which there is one."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    kinds = [(tensor.dtype.name, *tensor.shape.numpy()) for tensor in tensors if tensor is not None]
    return sorted((each for each in kinds if len(each) > 1), key=str)


def test_where_one_reader_would_be_slower_none_is_taken_on() -> None:
    model = shared(2)
    *_, second = (site.name for site in sites(model))

    def pays(made: Pass, model: ir.Model, candidate: Candidate) -> Miss | None:
        return Miss("speed", "1.5 ms", "less than 1 ms") if candidate.name == second else None

    for made in (QuantizeWeights(), QuantizeDynamic()):
        tied, slower = (finding.miss for finding in made.explain(model, Context(pays=pays)).misses)
        assert slower == Miss("speed", "1.5 ms", "less than 1 ms")
        assert tied is not None and tied.rule == "tied"
        assert tied.value.startswith(f"{second}, left for speed: ")


def test_the_first_site_of_each_weight_stands_for_it() -> None:
    model = shared(3)
    first, *_ = every = sites(model)
    verdicts = [(site, None) for site in every]
    assert (taken(verdicts), reading(verdicts)) == ([first], every)


def test_awq_leaves_what_comes_before_a_shared_weight_as_it_is() -> None:
    text = ("n = LayerNormalization(x, gain)", "a = MatMul(n, w)", "t = Tanh(a)", "y = MatMul(t, w)")
    gain, weight = np.geomspace(0.1, 10, 32).astype(np.float32), _MATRIX
    model = graph(*text, inputs=X, gain=gain, w=weight)
    data = Context(calibration=Calibration([{"x": normal(64, 32)} for _ in range(4)]))
    QuantizeWeights(algorithm="awq").apply(model, data)
    np.testing.assert_array_equal(constant_of(model.graph.initializers["gain"]), gain)


def test_what_is_read_stands_for_all_that_read_it() -> None:
    model = shared(2)
    names = tuple(node.name for node in model.graph if node.op_type == "MatMul")
    for made in (QuantizeWeights(), QuantizeDynamic()):
        after = model.clone()
        made.apply(after, Context())
        (read,) = {site.read for site in sites(after)}
        assert sources(read.producer()) == names


def test_a_weight_of_which_one_reader_is_never_seen_stays() -> None:
    lines = ("a = MatMul(x, w)", "b = MatMul(z, w)", "c = MatMul(x, v)")
    model = graph(*lines, inputs=X | {"z": "float[rows, 32]"}, outputs=["a", "b", "c"], w=_MATRIX, v=normal(32, 32))
    feeds = {"x": normal(8, 32), "z": np.zeros((0, 32), np.float32)}
    found = QuantizeStatic().apply(model, Context(calibration=Calibration([feeds])))
    assert [finding.miss.rule if finding.miss else "" for finding in found.findings] == ["tied", "data", ""]
    assert "w" in model.graph.initializers
    assert [node.op_type for node in model.graph].count("QuantizeLinear") == 1
