"""Samples of the standard ops that are layers of their own: pooling, attention, recurrence, losses, sequences."""

from __future__ import annotations

import numpy as np
from tersor.tests.ir.fx.samples import IMAGE, Sample, X, ints, sample

POOLS: tuple[Sample, ...] = (
    sample("y = MaxPool{kernel_shape=[2, 2], pads=[1, 0, 0, 1]}(x)", x=IMAGE),
    sample("(y, i) = MaxPool{kernel_shape=[2, 2]}(x)", x=IMAGE),
    sample("y = AveragePool{kernel_shape=[2, 2], pads=[1, 0, 0, 1], count_include_pad=0}(x)", x=IMAGE),
    *(sample(f"y = {op}(x)", x=IMAGE) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")),
    sample("y = LpPool{kernel_shape=[2, 2], p=3}(x)", x=IMAGE),
    sample("y = MaxUnpool{kernel_shape=[2], strides=[2]}(x, i)", x="double[1, 1, 2]", i=np.array([[[1, 2]]])),
    sample("y = MaxRoiPool{pooled_shape=[2, 2]}(x, r)", x=IMAGE, r=np.array([[0, 0, 0, 3, 3]], np.float64)),
)
RESIZES: tuple[Sample, ...] = (
    sample("y = Upsample(x, [1.0, 1.0, 2.0, 1.5])", x=IMAGE, opset=9),
    sample("y = Upsample{mode='linear'}(x, [1.0, 1.0, 2.0, 1.5])", x=IMAGE, opset=9),
    sample("y = Resize(x, [1.0, 1.0, 2.0, 1.5])", x=IMAGE, opset=10),
    *(
        sample(f"y = Resize{{mode='{mode}'}}(x, _, [1.0, 1.0, 1.5, 0.75])", x=IMAGE)
        for mode in ("nearest", "linear", "cubic")
    ),
    sample("y = Resize{mode='linear', antialias=1}(x, _, _, [1, 2, 3, 2])", x=IMAGE),
    sample(
        "y = Resize{mode='linear', coordinate_transformation_mode='tf_crop_and_resize'}"
        "(x, [0.0, 0.0, 0.1, 0.2, 1.0, 1.0, 0.9, 1.1], _, [1, 2, 3, 3])",
        x=IMAGE,
    ),
)
_GRID = "double[1, 2, 3, 2] -0.71..0.73"
SPATIAL: tuple[Sample, ...] = (
    *(
        sample(f"y = GridSample{{mode='{mode}', padding_mode='{outside}'}}(x, g)", x=IMAGE, g=_GRID)
        for mode, outside in (("linear", "zeros"), ("cubic", "border"), ("linear", "reflection"))
    ),
    sample("y = AffineGrid(t, [1, 1, 2, 3])", t="double[1, 2, 3]"),
    sample("y = Col2Im(x, [3, 3], [2, 2])", x="double[1, 4, 4]"),
    sample("y = CenterCropPad{axes=[0, 1]}(x, [4, 2])", x=X),
    sample(
        "y = DeformConv{kernel_shape=[2, 2]}(x, w, o, b, m)",
        x="double[1, 1, 3, 3]",
        w="double[1, 1, 2, 2]",
        o="double[1, 8, 2, 2] 0.1..0.4",
        b="double[1]",
        m="double[1, 4, 2, 2]",
    ),
    *(
        sample(
            f"y = RoiAlign{{output_height=2, output_width=2, sampling_ratio=2, mode='{mode}'}}(x, r, i)",
            x=IMAGE,
            r=np.array([[0.1, 0.3, 2.7, 2.9]]),
            i=ints(0),
            opset=opset,
        )
        for mode in ("avg", "max")
        for opset in (10, 16)
    ),
)
_HEADS = dict.fromkeys("qkv", "double[1, 2, 3, 4]")
ATTENTION: tuple[Sample, ...] = (
    sample("y = Attention(q, k, v)", **_HEADS),
    sample("y = Attention{is_causal=1}(q, k, v)", **_HEADS),
    sample("y = Attention{softcap=2.0, scale=0.3}(q, k, v, m)", m="double[3, 3]", **_HEADS),
    sample(
        "(y, pk, pv, s) = Attention{qk_matmul_output_mode=3}(q, k, v, _, k1, v1)",
        k1="double[1, 2, 2, 4]",
        v1="double[1, 2, 2, 4]",
        **_HEADS,
    ),
    *(
        sample(
            f"y = RotaryEmbedding{{interleaved={n}}}(x, c, s, p)",
            x="double[1, 2, 3, 4]",
            c="double[5, 2]",
            s="double[5, 2]",
            p=np.array([[0, 2, 4]]),
        )
        for n in (0, 1)
    ),
    sample(
        "(y, s) = LinearAttention{q_num_heads=2, kv_num_heads=2}(q, k, v, p, d, b)",
        **dict.fromkeys("qkv", "double[1, 3, 4]"),
        p="double[1, 2, 2, 2]",
        d="double[1, 3, 2] -0.9..-0.1",
        b="double[1, 3, 2] 0.1..0.9",
        opset=27,
    ),
    sample(
        "(y, s) = CausalConvWithState{activation='silu'}(x, w, b, p)",
        x="double[1, 2, 4]",
        w="double[2, 1, 3]",
        b="double[2]",
        p="double[1, 2, 2]",
        opset=27,
    ),
)


def _recurrent(op: str, gates: int, outputs: str, states: str, options: str, **more: str) -> Sample:
    """Sequence 3, batch 2, input 2, hidden 2, both directions."""
    return sample(
        f"({outputs}) = {op}{{hidden_size=2, direction='bidirectional'{options}}}(x, w, r, b, n, {states})",
        x="double[3, 2, 2]",
        w=f"double[2, {2 * gates}, 2]",
        r=f"double[2, {2 * gates}, 2]",
        b=f"double[2, {4 * gates}]",
        n=np.array([3, 2], np.int32),
        h="double[2, 2, 2]",
        **more,
    )


RECURRENCE: tuple[Sample, ...] = (
    _recurrent("RNN", 1, "y, z", "h", ""),
    _recurrent("GRU", 3, "y, z", "h", ""),
    _recurrent("GRU", 3, "y, z", "h", ", linear_before_reset=1"),
    _recurrent("LSTM", 4, "y, z, v", "h, c", "", c="double[2, 2, 2]"),
    _recurrent("LSTM", 4, "y, z, v", "h, c, p", ", clip=5.0", c="double[2, 2, 2]", p="double[2, 6]"),
    sample("(y, z, v) = LSTM{hidden_size=2}(x, w, r)", x="double[3, 2, 2]", w="double[1, 8, 2]", r="double[1, 8, 2]"),
)
QUANTIZED: tuple[Sample, ...] = (
    sample(
        "y = DequantizeLinear{axis=1}(q, s, z)",
        q=np.array([[1, -2, 3], [4, 5, -6]], np.int8),
        s="double[3]",
        z=np.array([0, 1, -1], np.int8),
    ),
)
SIGNALS: tuple[Sample, ...] = (
    sample("y = DFT{axis=1}(x)", x="double[1, 4, 1]", opset=17),
    sample("y = DFT{onesided=1}(x, _, 1)", x="double[1, 4, 1]", opset=20),
    sample("y = DFT{inverse=1}(x, _, 1)", x="double[1, 4, 2]", opset=20),
    sample("y = STFT(x, 2, w, 4)", x="double[1, 8, 1]", w="double[4]"),
)
LOSSES: tuple[Sample, ...] = (
    *(
        sample(
            f"y = NegativeLogLikelihoodLoss{{reduction='{how}'}}(x, t, w)", x=X, t=ints(0, 2), w="double[3] 0.2..0.8"
        )
        for how in ("mean", "sum", "none")
    ),
    sample(
        "(y, p) = SoftmaxCrossEntropyLoss{ignore_index=2}(x, t, w)",
        x="double[3, 4]",
        t=ints(0, 2, 3),
        w="double[4] 0.2..0.8",
    ),
)
SEQUENCES: tuple[Sample, ...] = (
    sample(
        "s = SequenceConstruct(a, b)",
        "t = SequenceInsert(s, b, 0)",
        "u = SequenceErase(t, 1)",
        "y = ConcatFromSequence{axis=0}(u)",
        a=X,
        b=X,
    ),
    sample("s = SplitToSequence{axis=1}(x)", "y = SequenceAt(s, 1)", x=X),
    sample("o = Optional(x)", "y = OptionalGetElement(o)", x=X),
)
_TRAINING = "ai.onnx.preview.training"
OPTIMIZERS: tuple[Sample, ...] = (
    sample(
        f"(y, z) = {_TRAINING}.Adagrad{{epsilon=0.1}}(r, t, x, g, s)",
        r="double[] 0.1..0.1",
        t=np.array(2),
        x=X,
        g=X,
        s="double[2, 3] 0.2..0.8",
    ),
    sample(
        f"(y, v, h) = {_TRAINING}.Adam{{epsilon=0.1}}(r, t, x, g, v, h)".replace("v, h) =", "nv, nh) ="),
        r="double[] 0.1..0.1",
        t=np.array(2),
        x=X,
        g=X,
        v=X,
        h="double[2, 3] 0.2..0.8",
    ),
    sample(
        f"(y, z) = {_TRAINING}.Momentum{{alpha=0.9, beta=0.5, mode='nesterov', norm_coefficient=0.1}}(r, t, x, g, v)",
        r="double[] 0.1..0.1",
        t=np.array(2),
        x=X,
        g=X,
        v=X,
    ),
)
_ML = "ai.onnx.ml"
_LINEAR = "coefficients=[0.5, -1.0, 2.0, 1.5, -0.5, 1.0], intercepts=[0.1, 0.2]"
CLASSICAL: tuple[Sample, ...] = (
    sample(f"y = {_ML}.ArrayFeatureExtractor(x, i)", x=X, i=ints(2, 0)),
    sample(f"y = {_ML}.Imputer{{imputed_value_floats=[0.5], replaced_value_float=7.0}}(x)", x=X),
    sample(f"y = {_ML}.FeatureVectorizer{{inputdimensions=[3, 1]}}(a, b)", a=X, b="double[2, 1]"),
    *(sample(f"y = {_ML}.Normalizer{{norm='{norm}'}}(x)", x="double[2, 3] 0.5..0.9") for norm in ("MAX", "L1", "L2")),
    sample(f"y = {_ML}.Scaler{{offset=[0.5, 1.0, 0.0], scale=[2.0, 1.0, 0.5]}}(x)", x=X),
    sample(f"y = {_ML}.LinearRegressor{{{_LINEAR}, targets=2}}(x)", x=X),
    sample(f"(l, y) = {_ML}.LinearClassifier{{{_LINEAR}, classlabels_ints=[0, 1], post_transform='LOGISTIC'}}(x)", x=X),
)
LAYERS = (
    *POOLS,
    *RESIZES,
    *SPATIAL,
    *ATTENTION,
    *RECURRENCE,
    *QUANTIZED,
    *SIGNALS,
    *LOSSES,
    *SEQUENCES,
    *OPTIMIZERS,
    *CLASSICAL,
)
