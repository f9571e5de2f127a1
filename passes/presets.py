"""The pipeline that brings an imported model to the semantic level."""

from __future__ import annotations

from .clean.drop_dead_code import DropDeadCode
from .clean.drop_identities import DropIdentities
from .clean.drop_true_masks import DropTrueMasks
from .clean.fold_constants import FoldConstants
from .clean.fold_shapes import FoldShapes
from .clean.infer_shapes import InferShapes
from .clean.inline_branches import InlineBranches
from .clean.inline_functions import InlineFunctions
from .clean.merge_common_subexpressions import MergeCommonSubexpressions
from .clean.simplify_views import SimplifyViews
from .clean.source_shapes import SourceShapes
from .pipeline import Pipeline
from .raising.activation.raise_activation import RaiseActivation
from .raising.activation.raise_gelu import RaiseGelu
from .raising.activation.raise_glu import RaiseGlu
from .raising.attention.raise_attention import RaiseAttention
from .raising.attention.raise_attention_cache import RaiseAttentionCache
from .raising.attention.raise_attention_groups import RaiseAttentionGroups
from .raising.attention.raise_attention_heads import RaiseAttentionHeads
from .raising.attention.raise_causal_mask import RaiseCausalMask
from .raising.contrib.raise_contrib import RaiseContrib
from .raising.embedding.raise_constant_lookup import RaiseConstantLookup
from .raising.embedding.raise_embedding import RaiseEmbedding
from .raising.embedding.raise_row_gather import RaiseRowGather
from .raising.linear.fold_batch_normalization import FoldBatchNormalization
from .raising.linear.raise_einsum import RaiseEinsum
from .raising.linear.raise_linear import RaiseLinear
from .raising.normalization.raise_layer_normalization import RaiseLayerNormalization
from .raising.normalization.raise_normalization_scale import RaiseNormalizationScale
from .raising.normalization.raise_rms_normalization import RaiseRmsNormalization
from .raising.quantized.raise_qdq import RaiseQdq
from .raising.raise_flat_gather import RaiseFlatGather
from .raising.raise_grid_gather import RaiseGridGather
from .raising.recurrence.raise_bidirectional_recurrence import RaiseBidirectionalRecurrence
from .raising.recurrence.raise_looped_recurrence import RaiseLoopedRecurrence
from .raising.recurrence.raise_recurrent_cell import RaiseRecurrentCell
from .raising.recurrence.raise_recurrent_scan import RaiseRecurrentScan
from .raising.recurrence.raise_reversed_recurrence import RaiseReversedRecurrence
from .raising.recurrence.raise_unrolled_recurrence import RaiseUnrolledRecurrence
from .raising.rotary.raise_partial_rotary import RaisePartialRotary
from .raising.rotary.raise_rotary_embedding import RaiseRotaryEmbedding
from .raising.rotary.raise_rotary_heads import RaiseRotaryHeads
from .raising.sentence.raise_l2_normalization import RaiseL2Normalization
from .raising.sentence.raise_mean_pooling import RaiseMeanPooling
from .raising.upgrade_opset import UpgradeOpset
from .share.share_identical import ShareIdentical

#: Clean-up first, so that raising sees known shapes and one spelling of each thing; then the ops that carry meaning.
RAISING = Pipeline(
    label="raise",
    steps=(
        InlineFunctions(),
        UpgradeOpset(),
        RaiseContrib(),
        RaiseQdq(),
        InferShapes(),
        FoldConstants(),
        InlineBranches(),
        DropIdentities(),
        InferShapes(),
        FoldShapes(),
        RaiseGridGather(),
        RaiseFlatGather(),
        InferShapes(),
        SourceShapes(),
        DropTrueMasks(),
        MergeCommonSubexpressions(),
        RaiseEinsum(),
        InferShapes(),
        FoldBatchNormalization(),
        RaiseLinear(),
        RaiseEmbedding(),
        RaiseConstantLookup(),
        RaiseRowGather(),
        RaiseRecurrentScan(),
        RaiseUnrolledRecurrence(),
        RaiseRecurrentCell(),
        RaiseLoopedRecurrence(),
        RaiseReversedRecurrence(),
        RaiseBidirectionalRecurrence(),
        RaiseGelu(),
        RaiseActivation(),
        RaiseGlu(),
        RaiseLayerNormalization(),
        RaiseRmsNormalization(),
        RaiseNormalizationScale(),
        RaiseMeanPooling(),
        RaiseL2Normalization(),
        RaiseRotaryEmbedding(),
        RaisePartialRotary(),
        RaiseRotaryHeads(),
        RaiseAttention(),
        RaiseAttentionGroups(),
        RaiseAttentionCache(),
        RaiseCausalMask(),
        RaiseAttentionHeads(),
        SimplifyViews(),
        SourceShapes(),
        ShareIdentical(),
        MergeCommonSubexpressions(),
        DropDeadCode(),
        InferShapes(),
    ),
)
