"""Differences that are known and not FX's fault, each with its reason.

Where the second oracle sides with FX nothing needs to be known. The rest are differences on which ONNX is silent (each
engine may do as it likes), and faults of the only oracle that runs the op. An entry applies to an exact condition, and
where that is about values of a kind (NaN, infinities, a divisor of zero) the difference must be gone once those values
are replaced: then nothing else can hide behind them. Where both oracles agree against FX, no entry applies but those
that say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tersor.benchmarks import _fuzz_conditions as when
from tersor.benchmarks._fuzz_check import WITH_ORACLE, Difference, Judge
from tersor.benchmarks._fuzz_engines import REFERENCE, RUNTIME


@dataclass(frozen=True)
class Known:
    """A difference of these ops to which all `tests` apply, which `cure` removes, and why it is none of ours."""

    reason: str
    ops: frozenset[str]
    tests: tuple[when.Test, ...]
    cure: when.Cure | None
    against_both: bool

    def explains(self, difference: Difference, judge: Judge) -> bool:
        if difference.op not in self.ops or not all(test(difference) for test in self.tests):
            return False
        if difference.second == WITH_ORACLE and not self.against_both:
            return False
        return self.cure is None or _cured(difference, self.cure, judge)


def _cured(difference: Difference, cure: when.Cure, judge: Judge) -> bool:
    assert difference.node is not None
    names = list(difference.node.input)
    arrays = {
        name: cure(i, value)
        for i, (name, value) in enumerate(zip(names, difference.inputs, strict=True))
        if isinstance(value, np.ndarray)
    }
    changed = any(
        value is not difference.inputs[names.index(name)]
        and not when.equal(value, difference.inputs[names.index(name)])
        for name, value in arrays.items()
    )
    return changed and judge.same_on(difference, arrays)


def known(reason: str, ops: str, *tests: when.Test, cure: when.Cure | None = None, against_both: bool = False) -> Known:
    return Known(reason, frozenset(ops.split()), tests, cure, against_both)


_REDUCTIONS = " ".join(
    f"Reduce{name}" for name in ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
)
_ORDERED = (
    "ArgMax ArgMin TopK Max Min ReduceMax ReduceMin Unique Hardmax Clip MaxPool GlobalMaxPool "
    "DynamicQuantizeLinear QuantizeLinear ScatterElements ScatterND RoiAlign"
)
_WEIGHTED = (
    "Resize Upsample DFT STFT MeanVarianceNormalization GridSample Conv ConvTranspose DeformConv LSTM GRU RNN Attention"
)

KNOWN: tuple[Known, ...] = (
    known("ONNX does not say where NaN is in an order", _ORDERED, when.is_("value", "shape"), cure=when.numbers),
    known("ONNX does not say whether zero times infinity counts", _WEIGHTED, when.is_("value"), cure=when.finite),
    known(
        "torch's fused attention gives zeros where all scores of a row are NaN, ONNX NaN",
        "Attention",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known(
        "the others look for a maximum from the least finite number on, past NaN and infinity; ONNX does not say",
        "MaxPool GlobalMaxPool MaxRoiPool",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known(
        "ONNX does not say what NaN and infinity are quantized to",
        "QuantizeLinear",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known(
        "ONNX does not say which place the extreme of nothing has; FX refuses",
        "ArgMax ArgMin",
        when.is_("refused"),
        when.nothing_along_the_axis,
    ),
    known(
        "ONNX casts fractional places to int64, ONNX Runtime finds nothing there",
        "OneHot",
        when.of(RUNTIME),
        when.is_("value"),
        cure=when.whole_places,
    ),
    known("the reference drops empty strings", "StringNormalizer", when.of(REFERENCE), cure=when.written),
    known(
        "ONNX Runtime's mask before opset 12 is all zeros where nothing is dropped",
        "Dropout",
        when.of(RUNTIME),
        when.is_("value"),
        when.mask_of_ones,
    ),
    known("ONNX does not say how a determinant of infinities is found", "Det", cure=when.finite, against_both=True),
    known(
        "ONNX Runtime has ceil_mode in auto_pad VALID too, where ONNX's formula has no such window",
        "AveragePool MaxPool LpPool",
        when.of(RUNTIME),
        when.is_("shape"),
        when.valid_and_ceil,
    ),
    known(
        "ONNX Runtime puts the only element of an axis at 1, ONNX's function and reference at -1",
        "AffineGrid",
        when.of(RUNTIME),
        when.is_("value"),
        when.lone_corner,
    ),
    known(
        "ONNX does not say what a quantized infinity is",
        "DynamicQuantizeLinear",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known("ONNX does not say what an integer divided by zero is", "Div Mod", cure=when.divisible, against_both=True),
    known(
        "ONNX does not say what an integer power is that does not fit",
        "Pow",
        when.is_("value"),
        when.power_out_of_range,
    ),
    known(
        "ONNX does not say how sums of integers overflow",
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean",
        when.is_("value"),
        cure=when.small,
    ),
    known("ONNX does not say what cropping more than there is leaves", "Pad", when.crops_too_much),
    known("ONNX Runtime draws the opposite", "Bernoulli", when.of(RUNTIME), when.is_("value"), when.as_given),
    known("the reference takes NaN for padding", "AveragePool LpPool", when.of(REFERENCE), cure=when.numbers),
    known("the reference sums small integers as NumPy does, in 64 bits", _REDUCTIONS, when.of(REFERENCE), when.widened),
    known("the reference holds an optional as a list of one", "Optional", when.of(REFERENCE), when.is_("type")),
    known(
        "ONNX Runtime keeps reduced axes of an empty tensor",
        f"{_REDUCTIONS} ArgMax ArgMin",
        when.of(RUNTIME),
        when.is_("shape"),
        when.as_reduced,
    ),
    known(
        "ONNX Runtime looks at no index where there is nothing to read",
        "Gather",
        when.of(RUNTIME),
        when.is_("refused"),
        when.out_of_range,
    ),
    known(
        "the reference's LRN takes the batch's size for the channels'",
        "LRN",
        when.of(REFERENCE),
        when.more_channels_than_images,
    ),
    known(
        "the reference squeezes the axes that it pooled",
        "GlobalMaxPool GlobalAveragePool",
        when.of(REFERENCE),
        when.is_("shape"),
    ),
    known(
        "the reference forgets that statistics are float32 (stash_type)",
        "LayerNormalization",
        when.of(REFERENCE),
        when.is_("type"),
        when.half_statistics,
    ),
    known(
        "the reference joins what a loop gathers, and stacks scalars twice",
        "Loop",
        when.of(REFERENCE),
        when.is_("shape"),
        when.one_axis_apart,
    ),
    known(
        "ONNX Runtime leaves the state unset where each scan of a batch is empty",
        "Scan",
        when.of(RUNTIME),
        when.is_("value"),
        when.scans_nothing,
    ),
    known(
        "torch skips the padding, zeros of which infinity makes NaN",
        "Conv",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known(
        "the reference has an end before the start mean the start",
        "Shape",
        when.of(REFERENCE),
        when.is_("shape"),
        when.ends_before_the_start,
    ),
    known(
        "torch multiplies a first state of zeros, the others leave it out",
        "LSTM GRU RNN",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known("the reference pads both ends alike", "MaxPool", when.of(REFERENCE), when.is_("shape"), when.uneven_pads),
    known(
        "the reference slices as NumPy does, nothing from before the first element",
        "Slice",
        when.of(REFERENCE),
        when.is_("shape"),
        when.backward_from_before_the_first,
    ),
    known(
        "the reference counts places within a channel", "MaxPool", when.of(REFERENCE), when.is_("value"), when.places
    ),
    known(
        "the reference counts rows where it has no axis", "Unique", when.of(REFERENCE), when.is_("shape"), when.empty
    ),
    known("the reference makes a determinant float64", "Det", when.of(REFERENCE), when.is_("type")),
    known(
        "ONNX Runtime rounds each exponential to an integer",
        "ReduceLogSumExp",
        when.of(RUNTIME),
        when.is_("value"),
        when.integers,
        when.log_sum_exp,
    ),
    known(
        "torch multiplies the zeros that stand between strides",
        "ConvTranspose",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known(
        "torch's GELU of infinity is NaN on CPUs with AVX-512",
        "Gelu BiasGelu",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known(
        "torch multiplies a normalization out, and infinities cancel to NaN",
        "GroupNormalization InstanceNormalization LayerNormalization BatchNormalization",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known(
        "ONNX Runtime sums LRN's windows by difference, and NaN stays",
        "LRN",
        when.of(RUNTIME),
        when.is_("value"),
        cure=when.finite,
    ),
    known(
        "ONNX does not say what the mean of no losses is", "NegativeLogLikelihoodLoss", when.is_("value"), when.empty
    ),
    known(
        "the reference pads by less than nothing", "MaxPool AveragePool LpPool", when.of(REFERENCE), when.skips_the_end
    ),
    known(
        "ONNX Runtime reads the greatest end as the least where a step is negative",
        "Slice",
        when.of(RUNTIME),
        when.is_("shape"),
        when.backward_to_the_greatest,
    ),
    known(
        "the reference reads on beyond the end", "LpPool", when.of(REFERENCE), when.is_("value"), when.beyond_the_end
    ),
    known(
        "ONNX does not say whether an element beside the image or the place, of weight zero, is read",
        "RoiAlign GridSample",
        when.is_("value"),
        cure=when.finite,
        against_both=True,
    ),
    known(
        "the reference strips accents as well", "StringNormalizer", when.of(REFERENCE), when.is_("value"), when.accents
    ),
    known(
        "the reference's stop words have case although they should not",
        "StringNormalizer",
        when.of(REFERENCE),
        when.is_("shape", "value"),
        when.stops_in_any_case,
    ),
    known(
        "the reference multiplies integers by alpha as floats",
        "Gemm",
        when.of(REFERENCE),
        when.is_("value"),
        when.integers,
    ),
    known(
        "ONNX's auto_pad SAME is the input's size times the strides",
        "ConvTranspose",
        when.of(RUNTIME),
        when.is_("shape"),
        when.times_the_strides,
    ),
    known(
        "the reference's erf and constants are float32",
        "Erf Gelu HardSwish LRN",
        when.of(REFERENCE),
        when.is_("value"),
        when.in_float32,
    ),
    known(
        "the reference splits without adding the sizes up",
        "Split",
        when.of(REFERENCE),
        when.is_("refused"),
        when.leaves_a_rest,
    ),
    known("the reference finds k of nothing", "TopK", when.of(REFERENCE), when.is_("refused"), when.empty),
    known(
        "ONNX Runtime joins empty tensors of any shape",
        "ConcatFromSequence Concat",
        when.of(RUNTIME),
        when.is_("refused"),
        when.all_empty,
    ),
    known(
        "ONNX divides by alpha; FX refuses one of 0", "Celu", when.is_("refused"), when.without_alpha, against_both=True
    ),
    known(
        "the reference knows these as of opset 13 alone",
        "Softmax LogSoftmax Hardmax",
        when.of(REFERENCE),
        when.is_("value"),
        when.before_13,
    ),
    known("the reference adds the first group's bias to all", "ConvTranspose", when.of(REFERENCE), when.grouped_bias),
    known(
        "the reference sorts unless it is asked for more than the values",
        "Unique",
        when.of(REFERENCE),
        when.in_order_of_occurrence,
    ),
    known(
        "the reference makes every grid float32", "AffineGrid", when.of(REFERENCE), when.is_("type"), when.to_float32
    ),
)


def explained(difference: Difference, judge: Judge) -> str | None:
    """Why the difference is none of ours; None where nothing explains it."""
    return next((entry.reason for entry in KNOWN if entry.explains(difference, judge)), None)
