"""The lowering pipeline of ONNX Runtime's CPU provider: what was timed to be fastest there."""

from __future__ import annotations

from ...passes.clean.drop_dead_code import DropDeadCode
from ...passes.clean.inline_functions import InlineFunctions
from ...passes.clean.merge_common_subexpressions import MergeCommonSubexpressions
from ...passes.fuse.folding import FOLDING
from ...passes.lowering.lower_opset import LowerOpset
from ...passes.pipeline import Pipeline
from ...passes.share.share_identical import ShareIdentical
from .rules.cast_float8 import CastFloat8
from .rules.expand_attention_mask import ExpandAttentionMask
from .rules.expand_rotary_cache import ExpandRotaryCache
from .rules.fuse_bias_gelu import FuseBiasGelu
from .rules.fuse_dynamic_lstm import FuseDynamicLstm
from .rules.fuse_dynamic_matmul import FuseDynamicMatMul
from .rules.fuse_matmul_nbits import FuseMatMulNBits
from .rules.fuse_multi_head_attention import FuseMultiHeadAttention
from .rules.fuse_packed_attention import FusePackedAttention
from .rules.fuse_rounded_matmul import FuseRoundedMatMul
from .rules.fuse_static_matmul import FuseStaticMatMul
from .rules.gather_quantized_blocks import GatherQuantizedBlocks
from .rules.gather_quantized_rows import GatherQuantizedRows
from .rules.keep_residual_sums import KeepResidualSums
from .rules.lift_mask_floor import LiftMaskFloor
from .rules.split_feature_groups import SplitFeatureGroups
from .rules.unsign_activations import UnsignActivations
from .rules.widen_float8 import WidenFloat8

#: Grids of activations, then weights of few bits while they are whole, then what only takes nodes away, then attention,
#: which takes the projections whole, then what is left of the linear layers.
LOWERING = Pipeline(
    label="onnxruntime",
    steps=(
        UnsignActivations(),
        SplitFeatureGroups(),
        FuseMatMulNBits(),
        FuseDynamicLstm(),
        GatherQuantizedBlocks(),
        InlineFunctions(own=True),
        FOLDING,
        MergeCommonSubexpressions(),
        FusePackedAttention(),
        FuseMultiHeadAttention(),
        LiftMaskFloor(),
        ExpandAttentionMask(),
        ExpandRotaryCache(),
        FuseDynamicMatMul(),
        FuseStaticMatMul(),
        FuseRoundedMatMul(),
        WidenFloat8(),
        CastFloat8(),
        GatherQuantizedRows(),
        FuseBiasGelu(),
        KeepResidualSums(),
        ShareIdentical(computed=True),
        MergeCommonSubexpressions(),
        DropDeadCode(),
        LowerOpset(),
    ),
)
