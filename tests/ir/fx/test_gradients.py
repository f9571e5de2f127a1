"""Derivatives of every op against finite differences, in float64, by its inputs and by its weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.fx.table import DEVICE
from tersor.tests.ir.fx.samples import Sample
from tersor.tests.ir.fx.samples_contrib import CONTRIB
from tersor.tests.ir.fx.samples_layers import LAYERS
from tersor.tests.ir.fx.samples_standard import STANDARD
from tersor.tests.ir.fx.samples_streams import MORE_CONTRIB

SAMPLES = (*STANDARD, *LAYERS, *CONTRIB, *MORE_CONTRIB)
Op = tuple[str, str]

_MS, _ML = "com.microsoft", "ai.onnx.ml"


def _because(reason: str, ops: str, domain: str = "") -> dict[Op, str]:
    return {(domain, op): reason for op in ops.split()}


NOT_DIFFERENTIABLE: dict[Op, str] = {
    **_because("the result is bool", "And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor"),
    **_because("the result is bool", "OptionalHasElement RegexFullMatch"),
    **_because("the result is bool", "IsAllFinite", _MS),
    **_because("integers only", "BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor ConvInteger MatMulInteger"),
    **_because("integers only", "MatMulInteger16 MulInteger NGramHashMapping ReduceSumInteger", _MS),
    **_because("a file in, bytes out", "ImageDecoder"),
    **_because("the result counts or finds places", "DynamicTimeWarping", _MS),
    **_because("8-bit integers only", "NhwcMaxPool", _MS),
    **_because(
        "the result counts or finds places", "ArgMax ArgMin NonMaxSuppression NonZero SequenceLength Shape Size"
    ),
    **_because("a step function", "Ceil Floor Hardmax Round Sign"),
    **_because("a step function", "Binarizer TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor", _ML),
    **_because("bits read as another type", "BitCast"),
    **_because("only its input's shape counts", "EyeLike RandomNormalLike RandomUniformLike"),
    **_because("no float input", "BlackmanWindow ConstantOfShape HammingWindow HannWindow RandomNormal RandomUniform"),
    **_because("no float input", "MelWeightMatrix SequenceEmpty"),
    **_because("random", "Bernoulli Dropout Multinomial"),
    **_because("rounds", "DynamicQuantizeLinear QLinearConv QLinearMatMul QuantizeLinear"),
    **_because("rounds", "DynamicQuantizeLSTM DynamicQuantizeMatMul QLinearAdd QLinearAveragePool QLinearConcat", _MS),
    **_because("rounds", "QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean", _MS),
    **_because("rounds", "QLinearSigmoid QLinearSoftmax QLinearWhere QuantizeLinear", _MS),
    **_because("strings or counts of them", "StringConcat StringNormalizer StringSplit TfIdfVectorizer"),
    **_because("looks categories up", "CategoryMapper LabelEncoder OneHotEncoder", _ML),
}

#: Elements above which a random direction is taken instead of every element.
_FEW = 40


def _cases() -> list[object]:
    """Each sample with its float inputs fed, and with all but the first as weights."""
    cases = []
    for sample in SAMPLES:
        floats = [name for name, kind in sample.inputs.items() if kind.startswith("double")]
        cases.append(pytest.param(sample, (), id=str(sample)))
        if len(floats) > 1:
            cases.append(pytest.param(sample, tuple(floats[1:]), id=f"{sample} by weights"))
    return cases


def _function(sample: Sample, frozen: tuple[str, ...]) -> tuple[Callable[..., object], list[torch.Tensor]]:
    """The module's float outputs as a function of its weights and float inputs, and where to differentiate it."""
    values = {name: torch.from_numpy(value.copy()) for name, value in sample.values().items()}
    module = to_fx(sample.model(frozen), copy=True)
    weights = dict(module.named_parameters())
    feeds = [values[name] for name in module.meta["inputs"]]

    def function(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(leaves)
        parameters = {name: next(given) for name in weights}
        inputs = tuple(next(given) if feed.is_floating_point() else feed for feed in feeds)
        found = torch.func.functional_call(module, parameters, inputs)
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(out for out in outputs if isinstance(out, torch.Tensor) and out.is_floating_point())

    places = (*weights.values(), *(feed for feed in feeds if feed.is_floating_point()))
    return function, [place.detach().clone().requires_grad_() for place in places]


@pytest.mark.parametrize(("sample", "frozen"), _cases())
def test_derivatives_are_those_of_finite_differences(sample: Sample, frozen: tuple[str, ...]) -> None:
    function, leaves = _function(sample, frozen)
    outputs = function(*leaves)
    assert isinstance(outputs, tuple)
    assert outputs
    assert all(out.requires_grad for out in outputs)
    few = sum(leaf.numel() for leaf in leaves) <= _FEW
    # what ONNX says is float32 rounds too much for small steps
    coarse = any(out.dtype is not torch.float64 for out in outputs)
    steps = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2} if coarse else {}
    assert torch.autograd.gradcheck(function, leaves, fast_mode=not few, **steps)


def test_every_op_is_differentiated_or_says_why_not() -> None:
    ops = {(domain, op) for domain, op, _ in DEVICE}
    sampled = frozenset[Op]().union(*(sample.ops for sample in SAMPLES))
    assert ops - sampled - NOT_DIFFERENTIABLE.keys() == set()
    assert NOT_DIFFERENTIABLE.keys() & sampled == set()
    assert NOT_DIFFERENTIABLE.keys() - ops == set()
